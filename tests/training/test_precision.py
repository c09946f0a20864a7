"""A training step in low precision: every estimator to its tolerance, the scale of losses, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metaimpute.batches import Batch, Labelled, Unlabelled
from metaimpute.batches.outputs import Classes
from metaimpute.engine import FunctionalModel, get_estimator, parse_memory, sgd
from metaimpute.engine.pytree import norm, tensors
from metaimpute.methods import methods
from metaimpute.problems import Context, Sizes, problems
from metaimpute.training.algorithm import Algorithm1
from metaimpute.training.finite import Diverged
from metaimpute.training.lookahead import OuterSettings
from metaimpute.training.loss_scale import PATIENCE, LossScale
from metaimpute.training.precision import LowPrecision, lowering

LOWER = {"bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCE = {"bf16": 0.1, "fp16": 0.02, "float32": 1e-4}  # relative error of a hypergradient against float64
ROWS, CLASSES = 12, 4


def network() -> nn.Module:
    """Convolutions, batch normalisation, a dropout that drops nothing here, attention and a readout."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.Flatten(2),
        nn.TransformerEncoderLayer(9, 3, 16, dropout=0.0, batch_first=True), nn.Flatten(), nn.Linear(72, CLASSES),
    )  # fmt: skip


class Step:
    """Mean Teacher (or another method) with a problem on random images, in a precision."""

    def __init__(
        self, precision: str, estimator: str = "exact", problem: str = "l2i", method: str = "mean_teacher",
        dtype: torch.dtype = torch.float32, steps: int = 1, memory: str = "store", path: Any = "labels", **outer: Any,
    ) -> None:  # fmt: skip
        self.module = network().to(dtype)
        lower = LOWER.get(precision)
        self.model = FunctionalModel(self.module) if lower is None else LowPrecision(self.module, None, lower)
        rng = torch.Generator().manual_seed(1)

        def images() -> Tensor:
            return torch.randn(ROWS, 2, 8, 8, generator=rng).to(dtype)

        def labels() -> Tensor:
            return torch.randint(0, CLASSES, (ROWS,), generator=rng)

        weak, rows, output = images(), torch.arange(ROWS), Classes(CLASSES)
        self.batch = Batch(Labelled(images(), labels(), rows), Unlabelled(weak, weak + 0.3 * images(), rows), 0.7, 7)
        self.holdout = Labelled(images(), labels(), rows)
        bound, sizes = problems.get(problem)(), Sizes(ROWS, ROWS, CLASSES, ROWS)
        way = methods.get(method)().bind(output)
        bound.bind(Context(self.model, way, output, sizes, path))
        meta = None
        if bound.learns == "own":
            meta = {n: t.to(dtype).requires_grad_() for n, t in bound.init_meta(sizes).items()}
        settings = OuterSettings(get_estimator(estimator), sgd(0.1), parse_memory(memory), steps, **outer)
        base = torch.optim.SGD(self.module.parameters(), lr=0.05, momentum=0.9)
        own = None if meta is None else torch.optim.SGD(list(meta.values()), lr=0.1)
        self.algorithm = Algorithm1(self.model, way, bound, settings, base, own, meta, seed=0)
        for scale in self.algorithm.scales.values():
            scale.value.fill_(2.0**8)  # which training would have come down to

    def hypergradient(self) -> Tensor:
        with lowering(self.model):
            found = self.algorithm.lookahead.estimate(self.algorithm.prepare(self.batch), self.holdout).found
        return torch.cat([leaf.flatten() for leaf in tensors(found)])

    def step(self, **options: Any) -> dict[str, Any]:
        return self.algorithm.step(self.batch, self.holdout, **options)

    def weights(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.module.parameters()]


ESTIMATORS = [
    ("exact", 2), ("mixed", 1), ("mixed", 2), ("truncated(1)", 2), ("approx", 1), ("head", 2), ("forward_gradient(2)", 2),
    ("neumann(2)", 1), ("cg(2)", 1),
]  # fmt: skip


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize(("estimator", "steps"), ESTIMATORS)
@pytest.mark.filterwarnings("ignore:the Neumann series", "ignore:the inner Hessian", "ignore:.*stationary")
def test_every_estimator_gives_the_float64_hypergradient_to_the_precisions_tolerance(
    estimator: str, steps: int, precision: str
) -> None:
    if precision == "fp16" and estimator.startswith(("neumann", "cg")):
        pytest.skip("refused: its Hessian would be scaled with the loss")
    truth = Step("float32", estimator, dtype=torch.float64, steps=steps).hypergradient()
    found = Step(precision, estimator, steps=steps).hypergradient()
    plain = Step("float32", estimator, steps=steps).hypergradient()
    assert found.dtype == torch.float32 and not torch.equal(found, plain), "autocast must have been in force"
    for one, name in ((found, precision), (plain, "float32")):
        assert float((one.double() - truth).norm() / truth.norm()) < TOLERANCE[name], name


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_start_is_differentiated_in_low_precision_too(precision: str) -> None:
    for estimator in ("exact", "mixed", "first_order"):
        options: dict[str, Any] = {"estimator": estimator, "steps": 2, "path": "full"}
        truth = Step("float32", dtype=torch.float64, **options).hypergradient()
        found = Step(precision, **options).hypergradient()
        assert float((found.double() - truth).norm() / truth.norm()) < TOLERANCE[precision]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("memory", ["recompute", "checkpoint(2)", "revolve(2)"])
def test_steps_that_are_rebuilt_are_rebuilt_in_the_same_precision(memory: str, precision: str) -> None:
    stored = Step(precision, steps=3).hypergradient()
    assert torch.equal(Step(precision, steps=3, memory=memory).hypergradient(), stored)


@pytest.mark.parametrize("problem", ["l2i", "l2i_learnable", "meta_weight_net", "holdout_supervision", "none"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_step_of_every_kind_of_problem_is_near_that_in_float32(problem: str, precision: str) -> None:
    low, plain = Step(precision, "mixed", problem), Step("float32", "mixed", problem)
    start = low.weights()
    metrics, reference = low.step(measure=True), plain.step(measure=True)
    assert abs(float(metrics["loss"]) - float(reference["loss"])) < 0.02 * float(reference["loss"])
    moved = [(a - b).flatten() for a, b in zip(low.weights(), start, strict=True)]
    wanted = [(a - b).flatten() for a, b in zip(plain.weights(), start, strict=True)]
    assert float(torch.cosine_similarity(torch.cat(moved), torch.cat(wanted), 0)) > 0.99
    held = [*low.module.parameters(), *low.algorithm.state.get("teacher", {}).values()]
    held += [v for s in low.algorithm.optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]
    assert {leaf.dtype for leaf in held} == {torch.float32}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_fused_step_in_low_precision_is_near_that_in_float32(precision: str) -> None:
    low, plain = (Step(p, "exact", schedule="fused") for p in (precision, "float32"))
    start = low.weights()
    for one in (low, plain):
        one.step()
    moved, wanted = (
        torch.cat([(a - b).flatten() for a, b in zip(one.weights(), start, strict=True)]) for one in (low, plain)
    )
    assert float(torch.cosine_similarity(moved, wanted, 0)) > 0.99


@pytest.mark.parametrize("estimator", ["exact", "head"], ids=["one pass", "two passes"])
def test_a_fused_step_in_float16_finds_its_scale(estimator: str) -> None:
    step = Step("fp16", estimator, schedule="fused")
    for scale in step.algorithm.scales.values():
        scale.value.fill_(2.0**22)
    before = step.weights()
    for _ in range(14):
        step.step()
    assert 0 < step.algorithm.skipped < 28 and all(float(s.value) > 1 for s in step.algorithm.scales.values())
    assert all(p.isfinite().all() for p in step.module.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, step.weights(), strict=True))


def test_outside_a_step_the_network_is_in_float32() -> None:
    low, plain = Step("bf16"), Step("float32")
    rows = low.holdout.inputs
    assert torch.equal(low.model(low.model.params, rows), plain.model(plain.model.params, rows))
    with lowering(low.model):
        assert not torch.equal(low.model(low.model.params, rows), plain.model(plain.model.params, rows))
        assert (
            low.model(low.model.params, rows).dtype == low.model.features(low.model.params, rows).dtype == torch.float32
        )


def test_a_step_in_float16_is_left_out_where_its_scaled_gradient_is_not_finite() -> None:
    step = Step("fp16", "mixed")
    scales = step.algorithm.scales
    for scale in scales.values():
        scale.value.fill_(2.0**24)  # above what float16 holds of these
    before = step.weights()
    metrics = step.step(measure=True)
    assert all(torch.equal(a, b) for a, b in zip(before, step.weights(), strict=True))
    assert metrics["skipped_updates"] == 2 == step.algorithm.skipped
    assert {float(scale.value) for scale in scales.values()} == {2.0**23}
    for _ in range(15):
        step.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, step.weights(), strict=True))
    assert step.algorithm.skipped < 30, "it goes on at a smaller scale"


def test_a_gradient_that_no_scale_makes_finite_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step("fp16", problem="none")
    monkeypatch.setattr(
        "metaimpute.training.algorithm.gradient",
        lambda loss, params, **_: {n: torch.full_like(p, torch.inf) for n, p in params.items()},
    )
    with pytest.raises(Diverged, match=r"^loss scale \(the base gradient was not finite down to 1\) is nan at step 7$"):
        for _ in range(30):
            step.algorithm.step(step.batch, None)


def test_gradients_below_what_float16_holds_survive_by_their_scale() -> None:
    """A loss of 1e-7 of its size: unscaled every gradient in the network is zero in float16."""

    def base(precision: str, scaled: bool) -> float:
        step = Step(precision, problem="none")
        if scaled and step.algorithm.scale is not None:
            step.algorithm.scale.value.fill_(2.0**30)
        else:
            step.algorithm.scale = None
        with lowering(step.model):
            loss = 1e-8 * step.algorithm._training_loss(step.model.params, None, step.algorithm.prepare(step.batch))
            return float(norm(step.algorithm._gradient(loss, step.model.params)))

    truth = base("float32", False)
    assert abs(base("fp16", True) / truth - 1) < 0.05
    assert abs(base("fp16", False) / truth - 1) > 0.05


def test_a_loss_scale_grows_and_shrinks_as_torchs_grad_scaler_does() -> None:
    scale, torchs = LossScale(torch.device("cpu")), torch.amp.GradScaler("cpu", growth_interval=PATIENCE)
    torchs.scale(torch.zeros(()))  # begins
    growth: Any = torchs._growth_tracker
    for turn in range(2 * PATIENCE + 10):
        bad = torch.tensor(turn in (3, 4, PATIENCE + 7))
        scale.saw(bad)
        torch._amp_update_scale_(torchs._scale, growth, bad.float(), 2.0, 0.5, PATIENCE)
        assert float(scale.value) == torchs.get_scale(), turn
    assert int(scale.skipped) == 3
