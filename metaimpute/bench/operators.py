"""Every operator of torch's own test database, and some that are not in it, under every estimator that claims to be exact.

For a sample of an operator f with floating-point inputs v the bilevel problem is one SGD step on

    L(theta, c) = <r, f(theta + c)> + <q, f(theta + c)^2> / 2         r, q random

so that the hypergradient in c is ``-lr H w`` with the Hessian H of L and the outer gradient w: every second derivative of the
operator along one direction, with the coupling on the way into it. The reference is the central difference of L's gradient.
Samples at which torch's own first derivative is not the slope of L (kinks, repeated indices) or the difference is not settled
are left out and counted.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

from ..engine import Batches, BilevelMap, double_differentiable, get_estimator, sgd
from ..engine.estimators.forward import push_forward
from ..engine.operators import in_words
from ..engine.pytree import Tree, as_leaves, dot, filled, gradient, leaves_of, norm, tensors, with_tensors
from ..progress import counted
from .measure import machine
from .problems import BenchError

ESTIMATORS = ("exact", "mixed", "mixed, labels only", "forward")
LARGEST, LR, TOLERANCE = 3000, 0.5, 1e-4

Sample = tuple[Callable[..., Any], list[Tensor]]


@dataclass
class Tally:
    """Of one operator: samples by estimator and outcome, the reasons of refusals, and samples without a reference."""

    outcomes: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in ESTIMATORS})
    reasons: Counter[str] = field(default_factory=Counter)
    unusable: int = 0

    @property
    def samples(self) -> int:
        return self.outcomes["exact"].total()


def database(most: int) -> Iterator[tuple[str, list[Sample]]]:
    """Operators and their samples in float64.

    Raises:
        BenchError: where torch's test database cannot be imported.
    """
    try:
        from torch.testing._internal.common_methods_invocations import op_db
    except ImportError as error:
        reason = f"torch's operator database needs a package that is not here ({error}); pip install expecttest"
        raise BenchError(reason) from None
    for op in op_db:
        if not op.supports_autograd or torch.float64 not in op.dtypes:
            continue
        torch.manual_seed(0)
        try:
            found = list(op.sample_inputs("cpu", torch.float64, requires_grad=True))
        except Exception:
            continue
        if len(found) > most:
            rng = random.Random(0)
            found = [*found[: most // 3], *rng.sample(found[most // 3 :], most - most // 3)]
        yield op.formatted_name, [_sample(op, one) for one in found]
    yield from _others()


def _sample(op: Any, sample: Any) -> Sample:
    """The operator as a function of the floating-point tensors that require a gradient among its arguments."""
    from torch.utils._pytree import tree_flatten, tree_unflatten

    leaves, spec = tree_flatten((sample.input, sample.args, sample.kwargs))
    moving = [n for n, x in enumerate(leaves) if isinstance(x, Tensor) and x.requires_grad and x.dtype == torch.float64]

    def call(*values: Tensor) -> Any:
        given = list(leaves)
        for n, value in zip(moving, values, strict=True):
            given[n] = value
        first, args, words = tree_unflatten(given, spec)
        if op.gradcheck_wrapper is None:
            return sample.output_process_fn_grad(op.op(first, *args, **words))
        return sample.output_process_fn_grad(op.gradcheck_wrapper(op.op, first, *args, **words))

    return call, [leaves[n].detach().clone() for n in moving]


def _others() -> Iterator[tuple[str, list[Sample]]]:
    """What is in no database: fused weight norm, recurrent layers, a transformer layer."""
    torch.manual_seed(0)
    g, v, x = (torch.randn(*shape, dtype=torch.float64) for shape in ((5, 1), (5, 4), (3, 2, 4)))
    yield "_weight_norm", [(lambda v, g: torch._weight_norm(v, g, 0), [v, g])]
    yield "rms_norm", [(lambda x, w: F.rms_norm(x, (4,), w), [x, v[0]])]
    for kind in (torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN):
        layer = kind(4, 3).double()
        names = [n for n, _ in layer.named_parameters()]

        def call(x: Tensor, *weights: Tensor, layer: Any = layer, names: list[str] = names) -> Any:
            return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,))[0]

        yield kind.__name__, [(call, [x, *(p.detach().clone() for p in layer.parameters())])]
    yield (
        "multi_head_attention",
        [
            (
                lambda q, w, b: F.multi_head_attention_forward(
                    q,
                    q,
                    q,
                    4,
                    2,
                    torch.cat([w, w, w]),
                    torch.cat([b, b, b]),
                    None,
                    None,
                    False,
                    0.0,
                    w,
                    b,
                    need_weights=False,
                )[0],
                [x, torch.randn(4, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)],
            )
        ],
    )


def _loss(call: Callable[..., Any]) -> Callable[[Tree, Tree, Any], Tensor]:
    def loss(theta: Tree, c: Tree, batch: Any) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        moved = [a + b for a, b in zip(theta["v"], c["v"], strict=True)]
        for number, out in enumerate(_real(call(*moved))):
            rng = torch.Generator(device="cpu").manual_seed(number)
            r, q = (torch.randn(out.shape, generator=rng, dtype=torch.float64, device="cpu") for _ in range(2))
            total = total + (out * (r.abs() + 0.5)).sum() + (out.square() * q).sum() / 2
        return total

    return loss


def _real(result: Any) -> list[Tensor]:
    found = []
    for x in leaves_of(list(result) if isinstance(result, tuple) else result):
        if isinstance(x, Tensor) and x.is_complex():
            found += [x.real, x.imag]
        elif isinstance(x, Tensor) and x.is_floating_point():
            found.append(x)
    return found


def _outer(theta: Tree, c: Tree, batch: Any) -> Tensor:
    return sum((0.5 * (x - 0.3).square().sum() for x in theta["v"]), start=torch.zeros((), dtype=torch.float64))


def problem_of(sample: Sample) -> BilevelMap | None:
    """The bilevel problem of a sample; None where it is empty or large."""
    call, values = sample
    if not values or not 0 < sum(v.numel() for v in values) <= LARGEST:
        return None
    zeros = {"v": [torch.zeros_like(v) for v in values]}
    return BilevelMap(_loss(call), _outer, {"v": values}, zeros, Batches([None], None), sgd(LR))


def reference(problem: BilevelMap) -> tuple[Tree, Tree] | None:
    """``(-lr H w, d)`` with the outer gradient w and a random direction d; None where no reference can be had."""

    def slope(theta: Tree) -> tuple[Tensor, Tree]:
        at = as_leaves(theta)
        loss = problem.inner(0, at, problem.c, point=None)
        return loss.detach(), gradient(loss, at)

    try:
        loss, first = slope(problem.theta_0)
        pairs = zip(tensors(problem.theta_0), tensors(first), strict=True)
        w = with_tensors(problem.theta_0, [x - LR * g - 0.3 for x, g in pairs])
        size = float(norm(w))

        def moved(h: float) -> tuple[Tensor, Tree]:
            step = zip(tensors(problem.theta_0), tensors(w), strict=True)
            return slope(with_tensors(problem.theta_0, [x + h / size * d for x, d in step]))

        differences = []
        for h in (1e-5, 1e-6):
            up, down = moved(h), moved(-h)
            middle = zip(tensors(up[1]), tensors(down[1]), strict=True)
            differences.append([size * (a - b) / (2 * h) for a, b in middle])
            rise = float(up[0] - down[0]) / (2 * h)
        direction = float(dot(first, w)) / size
    except Exception:
        return None
    finite = all(bool(torch.isfinite(x).all()) for x in [loss, *differences[0], *differences[1]])
    if not finite or abs(rise - direction) > 1e-3 * abs(direction) + 1e-5 * max(1.0, abs(float(loss))):
        return None
    scale = float(norm(differences[0])) + 1e-3 * size
    if float(norm([a - b for a, b in zip(*differences, strict=True)])) > 5e-5 * scale:
        return None
    return {"v": [-LR * d for d in differences[1]]}, with_tensors(
        problem.theta_0, [torch.randn_like(x) for x in tensors(w)]
    )


def judge(problem: BilevelMap, name: str, expected: Tree, direction: Tree) -> tuple[str, str]:
    """``right``, ``wrong``, ``not finite``, ``refused`` or ``error``, and the reason of the last two."""
    try:
        if name == "forward":
            with torch.enable_grad(), double_differentiable():
                found: Any = push_forward(problem, {"c": direction}).slope
            wanted: Any = dot(expected, direction)
        else:
            result = get_estimator(name.split(",")[0]).estimate(
                problem.inner_loss,
                problem.outer_loss,
                problem.theta_0,
                problem.c,
                problem.batches,
                problem.optimizer,
                1,
                seed=problem.seed,
                wrt_start="labels" not in name,
            )
            found, wanted = result.grad_c, expected
    except ValueError as refusal:
        return "refused", str(refusal)
    except Exception as error:
        sentence = in_words(error)
        return ("refused", sentence) if sentence else ("error", f"{type(error).__name__}: {error}")
    if not all(bool(torch.isfinite(x).all()) for x in tensors(found)):
        return "not finite", ""
    gap = float(norm([a - b for a, b in zip(tensors(found), tensors(wanted), strict=True)]))
    scale = float(norm(expected)) * (float(norm(direction)) if name == "forward" else 1.0)
    return ("right" if gap <= TOLERANCE * scale + 1e-7 else "wrong"), ""


def sweep(most: int = 40, only: str = "", say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """All operators whose name contains ``only``, at most so many samples of each."""
    tallies: dict[str, Tally] = {}
    for name, samples in counted(database(most), "operators"):
        if only not in name:
            continue
        tally = tallies.setdefault(name, Tally())
        for sample in samples:
            problem = problem_of(sample)
            known = None if problem is None else reference(problem)
            if problem is None or known is None:
                tally.unusable += 1
                continue
            expected = filled(problem.theta_0, leaves_of(known[0]))
            for estimator in ESTIMATORS:
                outcome, reason = judge(problem, estimator, expected, known[1])
                tally.outcomes[estimator][outcome] += 1
                if reason:
                    tally.reasons[f"{outcome}: {reason.splitlines()[0][:160]}"] += 1
        bad = {e: dict(c) for e, c in tally.outcomes.items() if c["wrong"] or c["error"]}
        if bad:
            say(f"{name}: {bad}")
    rows = [
        {
            "operator": name,
            "samples": t.samples,
            "unusable": t.unusable,
            "reasons": list(t.reasons),
            **{estimator: dict(counts) for estimator, counts in t.outcomes.items()},
        }
        for name, t in tallies.items()
    ]
    return {"machine": machine(), "samples_at_most": most, "tolerance": TOLERANCE, "rows": rows}


def totals(result: dict[str, Any]) -> dict[str, Counter[str]]:
    """Samples by estimator and outcome over all operators."""
    found: dict[str, Counter[str]] = {name: Counter() for name in ESTIMATORS}
    for row in result["rows"]:
        for name in ESTIMATORS:
            found[name].update(row[name])
    return found


def table(result: dict[str, Any]) -> Table:
    """One row an estimator: operators of which every sample is right, some refused, some wrong; and the samples."""
    usable = [row for row in result["rows"] if row["samples"]]
    samples = sum(row["samples"] for row in usable)
    shown = Table(title=f"{len(usable)} operators, {samples:,} samples: operators all right, or some not; then samples")
    columns = ("right", "refused", "not finite", "wrong", "error")
    for heading in ("estimator", *columns, *columns):
        shown.add_column(heading, justify="left" if heading == "estimator" else "right")
    for name, counts in totals(result).items():
        operators = Counter(outcome for row in usable for outcome in columns[1:] if row[name].get(outcome, 0))
        operators["right"] = sum(row[name].get("right", 0) == row["samples"] for row in usable)
        shown.add_row(name, *(f"{c[outcome]:,}" for c in (operators, counts) for outcome in columns))
    return shown
