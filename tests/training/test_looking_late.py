"""Where a training step reads a number from the device, and what happens where it does not: the path of accelerators, on the CPU."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from metaimpute.training.finite import Diverged, Finite
from metaimpute.training.updates import as_built, decides_itself, looks_late

from ..bound import Bound, bind

pytestmark = pytest.mark.usefixtures("float64")
READS = {"aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::nonzero", "aten::masked_select"}
KINDS = ["none", "l2i", "l2i_learnable", "meta_weight_net", "holdout_supervision", "lookahead_supervision"]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors are on the CPU here, which the look at what a loss reaches must not make use of."""
    monkeypatch.setattr("metaimpute.engine.estimators.reach.at_hand", lambda leaf: False)


class Reads(TorchDispatchMode):
    """Every place at which Python asks for a tensor's value, which on an accelerator waits for all its work."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in READS:
            frames = [f for f in traceback.extract_stack() if "metaimpute" in f.filename and "tests" not in f.filename]
            self.places.append(f"{frames[-1].filename}:{frames[-1].lineno}")
        return func(*args, **(kwargs or {}))


def sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.1, momentum=0.9, fused=True)


def adam(params: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr=0.1, fused=True)


def late(problem: str, estimator: str = "exact", rule: Any = sgd, **options: Any) -> Bound:
    """A step that looks at nothing, as on an accelerator."""
    outer = rule if problem == "meta_weight_net" else None
    bound = bind("mean_teacher", problem, estimator, optimizer=rule, outer_optimizer=outer, **options)
    algorithm = bound.algorithm
    algorithm.finite = algorithm.lookahead.finite = Finite(torch.device("cpu"), waits=True)
    return bound


def copies(bound: Bound) -> list[torch.Tensor]:
    found = [*bound.params.values(), *(bound.algorithm.meta or {}).values()]
    optimizers = [o for o in (bound.algorithm.optimizer, bound.algorithm.outer_optimizer) if o is not None]
    states = [v for o in optimizers for s in o.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    return [leaf.detach().clone() for leaf in [*found, *states]]


def reads(bound: Bound) -> list[str]:
    bound.algorithm.step(bound.batch, bound.holdout)
    with Reads() as seen:
        bound.algorithm.step(bound.batch, bound.holdout)
    return seen.places


@pytest.mark.parametrize("estimator", ["exact", "mixed", "head"])
@pytest.mark.parametrize("problem", KINDS)
def test_a_step_that_is_not_logged_reads_nothing(problem: str, estimator: str) -> None:
    if problem == "meta_weight_net" and estimator == "head":
        pytest.skip("refused: its loss is not factored")
    assert reads(late(problem, estimator)) == []
    if problem == "l2i":
        assert reads(late(problem, estimator, schedule="fused")) == [] == reads(late(problem, estimator, relative=0.5))


def test_on_the_cpu_numbers_are_looked_at_at_once() -> None:
    assert len(reads(bind("mean_teacher", "l2i", "exact"))) == 4


@pytest.mark.parametrize("estimator", ["exact", "mixed"])
@pytest.mark.parametrize("problem", KINDS)
def test_looking_late_changes_no_number(problem: str, estimator: str) -> None:
    outer = sgd if problem == "meta_weight_net" else None
    at_once = bind("mean_teacher", problem, estimator, optimizer=sgd, outer_optimizer=outer)
    at_end = late(problem, estimator)
    for bound in (at_once, at_end):
        for _ in range(3):
            bound.algorithm.step(bound.batch, bound.holdout)
        bound.algorithm.settle()
    for one, other in zip(copies(at_once), copies(at_end), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rule", [sgd, adam])
@pytest.mark.parametrize("schedule", ["algorithm1", "fused"])
@pytest.mark.parametrize("first", [True, False], ids=["in the first step", "later"])
def test_what_is_not_finite_moves_nothing_and_is_named_when_the_run_looks(
    schedule: str, rule: Any, first: bool
) -> None:
    bound = late("l2i", rule=rule, schedule=schedule)
    if not first:
        bound.algorithm.step(bound.batch, bound.holdout)
    before = copies(bound)
    bad = type(bound.batch.labelled)(
        bound.batch.labelled.inputs * torch.nan, *list(vars(bound.batch.labelled).values())[1:]
    )
    spoilt = type(bound.batch)(bad, bound.batch.unlabelled, 0.7, 41)
    bound.algorithm.step(spoilt, bound.holdout)
    for number in (42, 43):  # good again, and left out all the same
        bound.algorithm.step(type(spoilt)(bound.batch.labelled, bound.batch.unlabelled, 0.7, number), bound.holdout)
    after = copies(bound)
    if first:  # the state was made, and is what it begins with
        assert all(not leaf.any() for leaf in after[len(before) :])
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=False))
    where = "hold-out loss after the look-ahead" if schedule == "fused" else "base loss"
    with pytest.raises(Diverged, match=f"^{where} is nan at step 41$") as caught:
        bound.algorithm.settle()
    assert caught.value.step == 41


def test_a_hypergradient_that_is_not_finite_leaves_what_was_learned_as_it_was() -> None:
    bound = late("meta_weight_net")
    before = {name: leaf.detach().clone() for name, leaf in bound.algorithm.meta.items()}  # type: ignore[union-attr]
    spoilt = type(bound.holdout)(bound.holdout.inputs * torch.inf, bound.holdout.targets, bound.holdout.index)
    bound.algorithm.step(bound.batch, spoilt)
    assert all(torch.equal(before[n], leaf) for n, leaf in bound.algorithm.meta.items())  # type: ignore[union-attr]
    with pytest.raises(Diverged, match="^hold-out loss after the look-ahead is nan at step 7$"):
        bound.algorithm.settle()


def test_a_loss_that_does_not_repeat_is_still_found_when_the_run_looks() -> None:
    bound = late("l2i", "mixed")
    calls = iter(range(100))
    inner = bound.algorithm.lookahead.inner
    import dataclasses

    bound.algorithm.lookahead.inner = dataclasses.replace(
        inner, whole=lambda *given: inner.whole(*given) * (1 + next(calls)), split=None, factored=None
    )
    bound.algorithm.step(bound.batch, bound.holdout)
    with pytest.raises(ValueError, match="when it was evaluated again at the same"):
        bound.algorithm.settle()


def test_only_an_accelerator_with_optimisers_that_decide_themselves_looks_late() -> None:
    leaf = [torch.zeros(2, requires_grad=True)]
    fused, plain = sgd(leaf), torch.optim.SGD(leaf, lr=0.1)
    damped = torch.optim.SGD(leaf, lr=0.1, momentum=0.9, dampening=0.5, fused=True)
    assert decides_itself(fused) and not decides_itself(plain) and not decides_itself(damped)
    assert looks_late(torch.device("cuda"), (fused, None)) and not looks_late(torch.device("cuda"), (fused, plain))
    assert not looks_late(torch.device("cpu"), (fused, None))


def test_a_checkpoint_of_another_device_keeps_this_ones_kernels() -> None:
    leaf = [torch.zeros(2, requires_grad=True)]
    saved = torch.optim.Adam(leaf, lr=0.3).state_dict()
    fused = adam(leaf)
    fused.load_state_dict(as_built(fused, saved))
    assert fused.param_groups[0]["fused"] is True and fused.param_groups[0]["lr"] == 0.3
