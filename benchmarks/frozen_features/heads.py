"""The bilevel problems of this benchmark: inner losses of heads, the hold-out loss over folds, and the outer loop.

All are sums over draws and inner problems that share nothing but the coupling of a draw, so one call of the engine
differentiates all folds of all draws. Heads are ``{"weight": [R, d, P, C], "bias": [R, P, C]}``; letters as in
``data.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metaimpute import hypergradient
from metaimpute.engine import InnerOptimizer, on_trees

from .data import Draws

Head = dict[str, Tensor]
Coupling = dict[str, Tensor]
Loss = Callable[[Any, Coupling, Draws], Tensor]
Solver = Callable[[Callable[[Any], Any], Any], Any]
BIAS = 1e-6  # penalty of the bias: enough for a unique solution


def no_head(draws: Draws) -> Head:
    count, width = draws.labelled.shape[0], draws.labelled.shape[2]
    problems = (draws.trained.shape[2], draws.targets.shape[2])
    zeros = torch.zeros(count, width + 1, *problems, dtype=torch.float64)
    return _parted(zeros)


def scores(head: Head, rows: Tensor) -> Tensor:
    """Logits ``[R, rows, P, C]``."""
    weight = head["weight"]
    found = rows @ weight.flatten(2)
    return found.unflatten(2, weight.shape[2:]) + head["bias"][:, None]


def fit(head: Head, draws: Draws) -> Tensor:
    """Mean cross-entropy of the labelled rows of each problem, summed over a draw's problems, ``[R]``."""
    logs = scores(head, draws.labelled).log_softmax(-1)
    return -(draws.trained * (draws.targets[:, :, None] * logs).sum(-1)).sum((1, 2))


def held_out(head: Head, draws: Draws) -> Tensor:
    """Cross-fitted loss of each draw, ``[R]``: the mean over labelled rows, each judged by the head that did not see it."""
    logs = scores(head, draws.labelled).log_softmax(-1)
    return -(draws.held * (draws.targets[:, :, None] * logs).sum(-1)).sum((1, 2))


def outer(head: Head, coupling: Coupling, draws: Draws) -> Tensor:
    return held_out(head, draws).sum()


def penalty(head: Head, log_penalty: Tensor, draws: Draws) -> Tensor:
    """Half the squared weights times ``exp(log_penalty)`` (``[R, d]`` or ``[R, 1]``) per labelled row, ``[R]``.

    0 is scikit-learn's C = 1.
    """
    strength = log_penalty.exp()[:, :, None] / draws.count[:, None]
    squares = (strength[..., None] * head["weight"].square()).sum((1, 2, 3)) + BIAS * head["bias"].square().sum((1, 2))
    return 0.5 * squares


def penalised(group: Tensor) -> Loss:
    """Inner loss of a softmax regression; the coupling ``log_penalty`` ``[R, groups]`` holds the penalties of groups of features.

    Args:
        group: the number of each feature's group, ``[d]``.
    """

    def inner(head: Head, coupling: Coupling, draws: Draws) -> Tensor:
        return (fit(head, draws) + penalty(head, coupling["log_penalty"][:, group], draws)).sum()

    return inner


def entropy_and_balance(log_penalty: Tensor, pace: Tensor) -> Loss:
    """Inner loss with unlabelled rows: their predictions are their own labels, sharpened, and their shares are to be the prior's.

    At temperature 1 the first is the entropy (Grandvalet and Bengio, 2005), towards 0 that of pseudo-labels; with the second it
    is the information of Boudiaf et al. (2020) with a prior that need not be even. Coupling: ``log_weight``, ``log_balance``,
    ``log_temperature`` ``[R]`` and ``prior`` ``[R, C]``, which joins the logarithms of the shares that a problem's own labels
    have, each class with one more.

    Args:
        pace: ``[R]``, by which a draw's loss is multiplied: its learning rate where the rule's is 1.
    """

    def inner(head: Head, coupling: Coupling, draws: Draws) -> Tensor:
        counts = ((draws.trained > 0)[..., None] * draws.targets[:, :, None]).sum(1)
        prior = ((counts + 1).log() + coupling["prior"][:, None]).log_softmax(-1)
        found = scores(head, draws.unlabelled)
        logs = found.log_softmax(-1)
        sharp = (found / coupling["log_temperature"].exp()[:, None, None, None]).softmax(-1)
        own = -(sharp * logs).sum(-1).mean(1)
        shares = logs.exp().mean(1)
        apart = (shares * (shares.clamp_min(1e-12).log() - prior)).sum(-1)
        beside = coupling["log_weight"].exp()[:, None] * own + coupling["log_balance"].exp()[:, None] * apart
        return (pace * (fit(head, draws) + penalty(head, log_penalty, draws) + beside.sum(1))).sum()

    return inner


def imputed(weight: float, start: Tensor, log_penalty: Tensor, pace: Tensor) -> Loss:
    """Inner loss of Learning to Impute: unlabelled rows with imputed labels, at ``weight``.

    Args:
        start: logits of the labels before anything is learned, ``[R, n, P, C]``; those of a fold come from heads that have not
            seen its labels. The coupling changes them, for all folds alike: ``change`` ``[R, n, C]``, free for each row, or
            ``map`` ``[R, d, C]`` and ``shift`` ``[R, C]``, a function of the features.
    """

    def inner(head: Head, coupling: Coupling, draws: Draws) -> Tensor:
        if "change" in coupling:
            change = coupling["change"]
        else:
            change = draws.unlabelled @ coupling["map"] + coupling["shift"][:, None]
        labels = (start + change[:, :, None]).softmax(-1)
        beside = -(labels * scores(head, draws.unlabelled).log_softmax(-1)).sum(-1).mean(1)
        return (pace * (fit(head, draws) + penalty(head, log_penalty, draws) + weight * beside.sum(1))).sum()

    return inner


class Regressions:
    """The softmax regressions of all inner problems, weights and bias in one tensor ``[R, d + 1, P, C]``.

    Args:
        log_penalty: ``[R, d]`` or ``[R, 1]``.
    """

    def __init__(self, log_penalty: Tensor, draws: Draws) -> None:
        self.draws, self.weights = draws, draws.trained[..., None]
        self.rows = torch.cat([draws.labelled, torch.ones_like(draws.labelled[..., :1])], 2)
        strength = log_penalty.exp()[:, :, None] / draws.count[:, None]
        strength = strength.expand(-1, draws.labelled.shape[2], -1)
        self.ridge = torch.cat([strength, torch.full_like(strength[:, :1], BIAS)], 1)[..., None]

    def logits(self, x: Tensor) -> Tensor:
        return (self.rows @ x.flatten(2)).unflatten(2, x.shape[2:])

    def _back(self, x: Tensor) -> Tensor:
        return (self.rows.mT @ x.flatten(2)).unflatten(2, x.shape[2:])

    def value(self, theta: Tensor) -> Tensor:
        """Of each problem, ``[R, P]``."""
        losses = -(self.draws.targets[:, :, None] * self.logits(theta).log_softmax(-1)).sum(-1)
        return (self.draws.trained * losses).sum(1) + 0.5 * (self.ridge * theta.square()).sum((1, 3))

    def slope(self, theta: Tensor) -> Tensor:
        chances = self.logits(theta).softmax(-1)
        return self._back(self.weights * (chances - self.draws.targets[:, :, None])) + self.ridge * theta

    def divided(self, theta: Tensor, b: Tensor, tolerance: float) -> Tensor:
        """``x`` with ``H(theta) x = b``, by conjugate gradients in every problem by itself."""
        chances = self.logits(theta).softmax(-1)
        x, residual, direction = torch.zeros_like(b), b, b
        squared = start = residual.square().sum((1, 3), keepdim=True)
        for _ in range(500):
            if bool((squared <= tolerance**2 * start).all()):
                break
            moved = self.logits(direction)
            turned = chances * (moved - (chances * moved).sum(-1, keepdim=True))
            image = self._back(self.weights * turned) + self.ridge * direction
            step = squared / (direction * image).sum((1, 3), keepdim=True).clamp_min(1e-300)
            x, residual = x + step * direction, residual - step * image
            following = residual.square().sum((1, 3), keepdim=True)
            direction = residual + following / squared.clamp_min(1e-300) * direction
            squared = following
        return x


def _joined(head: Head) -> Tensor:
    return torch.cat([head["weight"], head["bias"][:, None]], 1)


def _parted(theta: Tensor) -> Head:
    return {"weight": theta[:, :-1], "bias": theta[:, -1]}


def solved(log_penalty: Tensor, draws: Draws, head: Head | None = None, tolerance: float = 1e-8) -> Head:
    """The softmax regressions at their minimum, by Newton's method with a step length for each problem.

    Args:
        log_penalty: ``[R, d]`` or ``[R, 1]``. head: where to start. tolerance: of the largest entry of the gradient.

    Raises:
        ArithmeticError: where the minimum is not reached.
    """
    problems, theta = Regressions(log_penalty, draws), _joined(no_head(draws) if head is None else head)
    for _ in range(60):
        slope = problems.slope(theta)
        if float(slope.abs().max()) < tolerance:
            return _parted(theta)
        step = problems.divided(theta, slope, 1e-3)
        size = torch.ones(theta.shape[0], 1, theta.shape[2], 1, dtype=torch.float64)
        before, gain = problems.value(theta), (slope * step).sum((1, 3))
        for _ in range(30):
            enough = problems.value(theta - size * step) <= before - 1e-4 * size[:, 0, :, 0] * gain + 1e-13
            if bool(enough.all()):
                break
            size = torch.where(enough[:, None, :, None], size, 0.5 * size)
        theta = theta - size * step
    raise ArithmeticError(f"the head's gradient is still {float(slope.abs().max()):.1e} after 60 Newton steps")


def curvature(log_penalty: Tensor, draws: Draws, head: Head) -> Solver:
    """For the engine's implicit differentiation: ``H x = b`` at the minimum. The engine measures the residual."""
    problems = Regressions(log_penalty, draws)
    return on_trees(lambda matvec, b: _parted(problems.divided(_joined(head), _joined(b), 1e-8)))


# the outer loop ------------------------------------------------------------------------------------------------------


def learned(
    coupling: Coupling,
    differentiate: Callable[[Coupling], Coupling],
    steps: int,
    lr: float,
    pull: Tensor,
    way: str = "hypergradient",
    seed: int = 0,
) -> Coupling:
    """The coupling after Adam's steps along hypergradients, or along what a control puts in their place.

    Args:
        pull: how strongly it is held to where it starts, ``[R]``: that much times half the squared distance joins the outer loss.
        way: ``hypergradient``; ``zero``: the same loop, its hypergradient replaced by 0; ``random``: by a random direction of the
            same length in every draw.
    """
    leaves = {name: leaf.clone() for name, leaf in coupling.items()}
    rule = torch.optim.Adam(list(leaves.values()), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        found = differentiate({name: leaf.clone() for name, leaf in leaves.items()})
        if way == "random":
            found = _of_equal_length(found, generator)
        for name, leaf in leaves.items():
            found[name] = torch.zeros_like(leaf) if way == "zero" else found[name]
            leaf.grad = found[name] + pull.view(-1, *[1] * (leaf.dim() - 1)) * (leaf - coupling[name])
        rule.step()
    return leaves


def _of_equal_length(found: Coupling, generator: torch.Generator) -> Coupling:
    drawn = {name: torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype) for name, leaf in found.items()}
    ratio = _lengths(found) / _lengths(drawn)
    return {name: leaf * ratio.view(-1, *[1] * (leaf.dim() - 1)) for name, leaf in drawn.items()}


def _lengths(tree: Coupling) -> Tensor:
    return torch.stack([leaf.reshape(len(leaf), -1).square().sum(1) for leaf in tree.values()]).sum(0).sqrt()


def through(inner: Loss, draws: Draws, start: Callable[[Coupling], Any], rule: InnerOptimizer, steps: int, estimator: str,
            loss: Loss = outer, solve: Callable[[Coupling], Solver] | None = None) -> Callable[[Coupling], Coupling]:  # fmt: skip
    """The hypergradient of the cross-fitted loss after inner steps, as a function of the coupling.

    Args:
        start: where the inner steps start, a constant of the coupling. solve: what solves the linear system of ``cg`` instead.
    """

    def differentiate(coupling: Coupling) -> Coupling:
        result = hypergradient(
            inner, loss, start(coupling), coupling, [draws], rule, estimator, steps=steps, outer_batch=draws, seed=0,
            wrt_start=False, solve=None if solve is None else solve(coupling),
        )  # fmt: skip
        found: Coupling = result.grad_c
        return found

    return differentiate
