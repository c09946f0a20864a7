"""Inner steps that the caller takes one at a time, recorded, so that the outer loss after them is a differentiable value.

A step is a plain training step, with no graph kept. The value takes the steps again, from the same start with the same batches
and noise, under the estimator's derivative; every loss, and where the steps end, is held against what was recorded. ``exact``
with memory ``recompute`` need not: that policy keeps the parameters of every step, which are there, and goes back from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, TypeVar, overload

import torch
from torch import Tensor

from .ambient import CannotDifferentiate, double_differentiable
from .arguments import ordinary
from .compiled import Compiled
from .estimators import Estimator, EstimatorError
from .estimators.base import said_in_words
from .estimators.exact import Exact
from .given import Watch, given_rule, require_closed_program
from .linear_solvers import Solving
from .losses import Loss, LossWithAux
from .memory import MemoryPolicy, Recompute, Store, parse_memory
from .optimizers import InnerOptimizer
from .pytree import Tree, detach, tensors
from .repetition import Ledger, attributes_restored
from .replay import Plan, Step, replayed
from .unroll import Batches, BilevelMap, run
from .value import method, require_plain, value_of


@dataclass(frozen=True)
class Taken:
    """The memory policy of steps that were taken already: what they led through is there, and none is run forward again."""

    carries: tuple[Tree, ...]

    def scan(self, step: Step, carry: Tree, steps: int, closure: Tree) -> Tree:
        return replayed(step, carry, steps, closure, Plan(1, steps), self.carries)

    def __str__(self) -> str:
        return "recompute"


Versions = tuple[tuple[Tensor, int], ...]
Value = TypeVar("Value")  # a scalar tensor, or the pair of it and the outer loss's aux


def versions(tree: Tree) -> Versions:
    """How often each tensor of the tree has been changed in place."""
    return tuple((leaf, leaf._version) for leaf in tensors(tree) if not leaf.is_inference())


@dataclass(frozen=True)
class Recording(Generic[Value]):
    """Inner steps taken so far. A step gives a new recording and leaves this one, so that paths may part.

    Attributes:
        params: where the steps have led, without graph. state: the optimiser's.
        losses: each step's inner loss before the step, scalars. aux: what the last step's loss returned beside it.
        batches: one per step.
    """

    start: Tree
    coupling: Tree
    inner_loss: LossWithAux
    optimizer: InnerOptimizer
    estimator: Estimator
    memory: MemoryPolicy
    seed: int
    has_aux: bool
    params: Tree
    state: Tree = None
    losses: tuple[Tensor, ...] = ()
    batches: tuple[Any, ...] = ()
    aux: Any = None
    _carries: tuple[Tree, ...] = field(default=(), repr=False)
    _ledgers: tuple[Ledger, ...] = field(default=(), repr=False)
    _versions: Versions = field(default=(), repr=False)

    def step(self, batch: Any = None) -> Recording[Value]:
        """The recording with one more inner step on ``batch``.

        Raises:
            CannotDifferentiate, NotScalar: for a loss that cannot be differentiated through, as in the reverse pass.
        """
        self._require_untouched()
        t, watch = len(self.batches), Watch(checks=int(torch.is_grad_enabled()), has_aux=self.has_aux)
        if isinstance(self.inner_loss, Compiled) and self.estimator.unrolls and watch.checks:
            require_closed_program(self.inner_loss, self.params, self.coupling, batch)
        loss = self.inner_loss
        if isinstance(loss, Compiled) and not self.estimator.unrolls:
            loss = loss.loss
        with torch.enable_grad(), double_differentiable(), attributes_restored():
            theta, c, data = ordinary((detach(self.params), detach(self.coupling), batch))
            rule = replace(self.optimizer, hyper=ordinary(detach(self.optimizer.hyper)))
            rule = given_rule(rule) if watch.checks else rule
            problem = BilevelMap(
                watch.loss(loss, "inner"),
                _no_loss,
                theta,
                c,
                Batches([data], None),
                rule,
                t + 1,
                Store(),
                self.seed,
                False,
            )
            with said_in_words(self.estimator.name):
                # 'exact' differentiates twice, and torch has other formulas for a gradient that is to be differentiated
                end = run(
                    problem,
                    theta,
                    c,
                    rule.hyper,
                    mode="full" if self.estimator.uses_memory else "none",
                    start=t,
                    stop=t + 1,
                    state=self.state,
                )
        carry = detach((end.params, end.state))
        return replace(
            self,
            params=carry[0],
            state=carry[1],
            losses=(*self.losses, end.losses[0]),
            batches=(*self.batches, batch),
            aux=watch.aux.last,
            _carries=(*self._carries, carry) if self._keeps_carries else (),
            _ledgers=(*self._ledgers, problem.ledger),
            _versions=(*self._versions, *versions((batch, carry))),
        )

    def value(self, outer_loss: LossWithAux, outer_batch: Any = None) -> Value:
        """The outer loss at :attr:`params` as a differentiable value; see :func:`~metaimpute.engine.after_training`.

        Raises:
            EstimatorError: before the first step. NotRepeatable: when a step taken again is another one.
        """
        if not self.batches:
            raise EstimatorError(
                "there is no step to differentiate yet; take one with recording = recording.step(batch)"
            )
        self._require_untouched()
        ledger = Ledger()
        for step in self._ledgers:
            ledger.seen |= step.seen
            ledger.values.update(step.values)
            ledger.modes.update(step.modes)
        memory = Taken(self._carries) if self._keeps_carries else self.memory
        found: Value = value_of(
            self.estimator,
            self.inner_loss,
            outer_loss,
            self.start,
            self.coupling,
            self.optimizer,
            Batches(list(self.batches), outer_batch),
            len(self.batches),
            memory,
            self.seed,
            self.has_aux,
            ledger,
            self.params,
        )
        return found

    @property
    def _keeps_carries(self) -> bool:
        return type(self.estimator) is Exact and self.memory == Recompute()

    def _require_untouched(self) -> None:
        for leaf, version in self._versions:
            if leaf._version != version:
                raise CannotDifferentiate(
                    f"a tensor of shape {list(leaf.shape)} among the start, the coupling, the hyperparameters, the batches and "
                    "what the steps led to was changed in place after a step was recorded with it; begin() again, or record "
                    "copies"
                )


def _no_loss(*_: Any) -> Tensor:
    return torch.zeros((), device="cpu")


@overload
def begin(
    params: Tree,
    coupling: Tree,
    inner_loss: Loss,
    *,
    optimizer: InnerOptimizer,
    estimator: str | Estimator = "exact",
    memory: str | MemoryPolicy = "store",
    backend: str = "func",
    seed: int | None = None,
    aux: Literal[False] = False,
    solve: Solving | None = None,
) -> Recording[Tensor]: ...


@overload
def begin(
    params: Tree,
    coupling: Tree,
    inner_loss: LossWithAux,
    *,
    optimizer: InnerOptimizer,
    estimator: str | Estimator = "exact",
    memory: str | MemoryPolicy = "store",
    backend: str = "func",
    seed: int | None = None,
    aux: Literal[True],
    solve: Solving | None = None,
) -> Recording[tuple[Tensor, Any]]: ...


def begin(
    params: Tree,
    coupling: Tree,
    inner_loss: LossWithAux,
    *,
    optimizer: InnerOptimizer,
    estimator: str | Estimator = "exact",
    memory: str | MemoryPolicy = "store",
    backend: str = "func",
    seed: int | None = None,
    aux: bool = False,
    solve: Solving | None = None,
) -> Recording[Any]:
    """Inner steps that the caller takes: ``recording = recording.step(batch)``, in the end ``recording.value(outer_loss)``.

    The value is that of :func:`~metaimpute.engine.after_training` with the same batches and seed, to the bit, at its price: the
    recorded steps are taken once more, but for ``exact`` with memory ``recompute``, which goes back over them. Between steps
    anything may happen (stopping early, looking at :attr:`Recording.params`), but nothing recorded may be changed in place.

    Args:
        params: the start. coupling: a tree of tensors or None. inner_loss: ``(params, coupling, batch) -> scalar``.
        optimizer, estimator, memory, backend, seed, aux, solve: as in :func:`~metaimpute.engine.after_training`; with ``aux``
            each recording has its last step's in :attr:`Recording.aux`.

    Raises:
        EstimatorError: for ``head`` and ``approx``, which take steps of their own. CannotDifferentiate: for arguments without a
            gradient.
    """
    how = method(estimator, backend, solve)
    if not how.moves_all:
        raise EstimatorError(f"'{how.name}' moves the last layer alone, and step() moves all; use after_training()")
    require_plain(params, coupling, optimizer)
    if seed is None:
        seed = int(torch.randint(2**62, (), dtype=torch.int64, device="cpu"))
    return Recording(
        params,
        coupling,
        inner_loss,
        optimizer,
        how,
        parse_memory(memory),
        seed,
        aux,
        detach(params),
        _versions=versions((params, coupling, optimizer.hyper)),
    )
