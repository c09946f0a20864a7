"""Whatever mode torch is in when an estimator is called, its numbers are the same, or it says that it cannot; and the mode is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from metaimpute.engine import (
    Batches,
    CannotDifferentiate,
    FunctionalModel,
    derive_seed,
    fixed_rng,
    hypergradient,
    momentum,
    sgd,
    unroll,
)

EVERY = (
    "exact", "mixed", "forward", "forward_gradient(2)", "finite_difference", "cg(3)", "neumann(3)", "first_order",
    "truncated(2)", "es(2)",
)  # fmt: skip
X, Y = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
ONES = torch.ones(6, dtype=torch.float64)


def network() -> FunctionalModel:
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.2, batch_first=True)
    return FunctionalModel(
        nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Flatten(), Tokens(layer), nn.Linear(4, 3)).double()
    )


class Tokens(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[:, None, :])[:, 0]


def estimate(name: str, model: FunctionalModel | None = None, **options: Any) -> Any:
    model = network() if model is None else model

    def inner(p: Any, c: Any, b: Any) -> Tensor:
        return (c * F.cross_entropy(model(p, X), Y, reduction="none")).mean()

    def outer(p: Any, c: Any, b: Any) -> Tensor:
        return F.cross_entropy(model(p, X.flip(0)), Y)

    options = {"steps": 2, "seed": 0, **options}
    return hypergradient(inner, outer, model.params, ONES, Batches([None], None),
                         momentum(0.2), name, **options)  # fmt: skip


class Inside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, call: Callable[[], Any], kept: list[Any]) -> Tensor:
        kept.append(call())
        return anchor.clone()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
        return cotangent, None, None


def inside_a_function(call: Callable[[], Any]) -> Any:
    kept: list[Any] = []
    Inside.apply(torch.ones(1, requires_grad=True), call, kept)
    return kept[0]


def in_inference_mode(call: Callable[[], Any]) -> Any:
    with torch.inference_mode():
        return call()


def without_grad(call: Callable[[], Any]) -> Any:
    with torch.no_grad():
        return call()


def with_forward_mode_off(call: Callable[[], Any]) -> Any:
    with forward_ad._set_fwd_grad_enabled(False):
        return call()


def inside_a_forward_level(call: Callable[[], Any]) -> Any:
    with forward_ad.dual_level():
        return call()


def with_another_default_type(call: Callable[[], Any]) -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        return call()
    finally:
        torch.set_default_dtype(before)


def with_another_default_device(call: Callable[[], Any]) -> Any:
    with torch.device("meta"):
        return call()


def in_autocast_region(call: Callable[[], Any]) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):  # leaves float64 alone
        return call()


def with_anomaly_detection(call: Callable[[], Any]) -> Any:
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        return call()


def with_saved_tensors_on_cpu(call: Callable[[], Any]) -> Any:
    with torch.autograd.graph.save_on_cpu():
        return call()


def deterministically(call: Callable[[], Any]) -> Any:
    torch.use_deterministic_algorithms(True)
    try:
        return call()
    finally:
        torch.use_deterministic_algorithms(False)


def in_a_thread(call: Callable[[], Any]) -> Any:
    kept: list[Any] = []
    thread = threading.Thread(target=lambda: kept.append(call()))
    thread.start()
    thread.join()
    return kept[0]


MODES = {
    mode.__name__: mode
    for mode in (
        in_inference_mode, without_grad, inside_a_function, with_forward_mode_off, inside_a_forward_level,
        with_another_default_type, with_another_default_device, in_autocast_region, with_anomaly_detection,
        with_saved_tensors_on_cpu, deterministically, in_a_thread,
    )
}  # fmt: skip


def switches() -> tuple[Any, ...]:
    return (
        torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(), torch.backends.cuda.math_sdp_enabled(), torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(), torch.is_autocast_cache_enabled(), forward_ad._current_level,
        torch._C._is_fwd_grad_enabled(), torch.utils.checkpoint.CheckpointFunction, torch.get_default_dtype(),
    )  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", EVERY)
def test_an_estimator_gives_the_same_numbers_in_every_mode(name: str, mode: str) -> None:
    model, kept = network(), []
    reference = estimate(name, model)

    def call() -> Any:
        before, state = switches(), torch.get_rng_state()
        result = estimate(name, model)
        kept.append((before, switches()))
        assert torch.equal(state, torch.get_rng_state())
        return result

    if mode == "inside_a_forward_level" and name.startswith("forward"):
        with pytest.raises(CannotDifferentiate, match="open already"):
            MODES[mode](call)
        return
    found = MODES[mode](call)
    assert kept[0][0] == kept[0][1]
    for field in ("grad_c", "grad_theta_0", "theta_k"):
        torch.testing.assert_close(getattr(found, field), getattr(reference, field), rtol=1e-9, atol=1e-12)
    assert not found.grad_c.is_inference()


@pytest.mark.parametrize("name", EVERY)
def test_tensors_made_under_inference_mode_are_taken(name: str) -> None:
    with torch.inference_mode():
        w, c = torch.full((4, 3), 0.3, dtype=torch.float64), torch.ones(6, dtype=torch.float64)

        def inner(p: Any, c: Any, b: Any) -> Tensor:
            return (c * (X @ p["w"]).square().mean(1)).mean()

        found = hypergradient(
            inner, lambda p, c, b: p["w"].sum(), {"w": w}, c, Batches([None], None), sgd(0.1), name, seed=0
        )
    reference = hypergradient(inner, lambda p, c, b: p["w"].sum(), {"w": w.clone()}, c.clone(), Batches([None], None), sgd(0.1),
                              name, seed=0)  # fmt: skip
    torch.testing.assert_close(found.grad_c, reference.grad_c)
    assert name == "first_order" or float(reference.grad_c.norm()) > 0


@pytest.mark.parametrize("name", ["exact", "mixed", "forward", "truncated(2)", "finite_difference"])
def test_autocast_gives_nearly_the_float32_gradient(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
    model, x = FunctionalModel(net), torch.randn(24, 4)
    y = torch.randint(0, 3, (24,))

    def run(enabled: bool) -> Any:
        def inner(p: Any, c: Any, b: Any) -> Tensor:
            return (c * F.cross_entropy(model(p, x).float(), y, reduction="none")).mean()

        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            return hypergradient(inner, lambda p, c, b: F.cross_entropy(model(p, x).float(), y), model.params, torch.ones(24),
                                 Batches([None], None), sgd(0.5), name, steps=2, seed=0).grad_c  # fmt: skip

    reference, found = run(False), run(True)
    assert found.dtype == torch.float32
    assert float(F.cosine_similarity(found, reference, dim=0)) > 0.99


# differentiation from outside --------------------------------------------------------------------------------------------


def test_an_outer_level_of_forward_mode_sees_through_an_unroll() -> None:
    def inner(p: Any, c: Any, b: Any) -> Tensor:
        return (c * (X @ p["w"] - 1).square().mean(1)).mean() + p["w"].pow(4).sum()

    w, c = torch.full((4, 3), 0.2, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    v, u = torch.randn_like(w), torch.randn_like(c)

    def end(w: Tensor, c: Tensor) -> Tensor:
        return unroll(inner, {"w": w}, c, [None], momentum(0.1), 3).params["w"].square().sum()

    for along in ((v, None), (None, u), (v, u)):
        with forward_ad.dual_level():
            pair = [x if d is None else forward_ad.make_dual(x, d) for x, d in zip((w, c), along, strict=True)]
            slope = forward_ad.unpack_dual(end(*pair)).tangent
        h = 1e-6
        moved = [[x if d is None else x + s * h * d for x, d in zip((w, c), along, strict=True)] for s in (1, -1)]
        expected = (end(*moved[0]) - end(*moved[1])) / (2 * h)
        torch.testing.assert_close(slope, expected.detach(), rtol=1e-7, atol=1e-10)


def test_a_hypergradient_of_dual_numbers_is_refused() -> None:
    w = torch.ones(4, 3, dtype=torch.float64)
    with forward_ad.dual_level(), pytest.raises(CannotDifferentiate, match=r"unroll\(\)"):
        hypergradient(
            lambda p, c, b: (p["w"] * c).sum(), lambda p, c, b: p["w"].sum(), {"w": forward_ad.make_dual(w, w)},
            torch.ones((), dtype=torch.float64), Batches([None], None), sgd(0.1),
        )  # fmt: skip


@pytest.mark.parametrize("transform", ["grad", "vmap", "jvp"])
def test_inside_a_transform_of_torch_func_it_is_refused(transform: str) -> None:
    def loss(w: Tensor) -> Tensor:
        inner = lambda p, c, b: (p["w"] * c).square().sum()  # noqa: E731
        end = unroll(inner, {"w": w}, torch.ones(3, dtype=torch.float64), [None], sgd(0.1), 2)
        return end.params["w"].sum()

    w = torch.ones(3, dtype=torch.float64)
    calls = {
        "grad": lambda: torch.func.grad(loss)(w), "vmap": lambda: torch.vmap(loss)(w[None]),
        "jvp": lambda: torch.func.jvp(loss, (w,), (w,)),
    }  # fmt: skip
    with pytest.raises(CannotDifferentiate, match=r"stacked\(\)"):
        calls[transform]()


# cuts --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ["detach", "no_grad", "data", "set_grad_enabled"])
@pytest.mark.parametrize("name", ["mixed", "forward", "cg(8)", "neumann(4)"])
def test_a_gradient_cut_on_purpose_is_cut_in_forward_mode_too(name: str, cut: str) -> None:
    """Torch carries tangents through no_grad, so forward mode alone would see a target move that the loss holds fixed."""

    def target(p: Any) -> Tensor:
        raw = X @ p["w"]
        if cut == "no_grad":
            with torch.no_grad():
                return (X @ p["w"]).softmax(1)
        if cut == "set_grad_enabled":
            torch.set_grad_enabled(False)
            found = (X @ p["w"]).softmax(1)
            torch.set_grad_enabled(True)
            return found
        return (raw.detach() if cut == "detach" else raw.data).softmax(1)

    def inner(p: Any, c: Any, b: Any) -> Tensor:
        return (c * (X @ p["w"] * 1.3 - target(p)).square().sum(1)).mean() + 0.5 * p["w"].square().sum()

    w = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)
    outer = lambda p, c, b: F.cross_entropy(X.flip(0) @ p["w"], Y)  # noqa: E731
    steps = 200 if name.startswith(("cg", "neumann")) else 3

    def run(estimator: str) -> Tensor:
        return hypergradient(inner, outer, {"w": w}, torch.ones(6, dtype=torch.float64), Batches([None], None), sgd(0.1),
                             estimator, steps=steps, seed=0).grad_c  # fmt: skip

    if steps == 3:
        torch.testing.assert_close(run(name), run("exact"), rtol=1e-9, atol=1e-12)
    else:  # the same system, solved with products by reverse over reverse
        with forward_ad.dual_level():
            reference = run(name)
        torch.testing.assert_close(run(name), reference, rtol=1e-9, atol=1e-12)


def test_a_cut_under_finite_difference_is_refused_where_it_matters_and_not_where_it_does_not() -> None:
    w = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)
    seen: list[float] = []

    def run(inner: Any) -> Any:
        return hypergradient(inner, lambda p, c, b: F.cross_entropy(X.flip(0) @ p["w"], Y), {"w": w},
                             torch.ones(6, dtype=torch.float64), Batches([None], None), sgd(0.1), "finite_difference",
                             seed=0)  # fmt: skip

    def detached(p: Any, c: Any, b: Any) -> Tensor:
        return (c * (X @ p["w"] - (X @ p["w"]).detach().softmax(1)).square().sum(1)).mean()

    def written_down(p: Any, c: Any, b: Any) -> Tensor:
        value = (c * F.cross_entropy(X @ p["w"], Y, reduction="none")).mean()
        seen.append(value.detach().item())
        return value

    with pytest.raises(CannotDifferentiate, match=r"cuts their gradient \(detach"):
        run(detached)
    assert bool(torch.isfinite(run(written_down).grad_c).all()) and seen


# threads -----------------------------------------------------------------------------------------------------------------


def in_threads(count: int, work: Callable[[int], None]) -> list[BaseException]:
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


@pytest.mark.parametrize("name", ["exact", "mixed", "forward_gradient(2)"])
def test_threads_get_the_right_numbers_and_leave_every_switch_as_it_was(name: str) -> None:
    model, before = network(), switches()
    reference, found = estimate(name, model).grad_c, []

    def work(number: int) -> None:
        found.extend(estimate(name, model).grad_c for _ in range(10))

    assert in_threads(4, work) == []
    assert len(found) == 40
    for one in found:
        torch.testing.assert_close(one, reference, rtol=1e-10, atol=1e-13)
    assert switches() == before


def test_a_bystanders_random_numbers_are_its_own() -> None:
    model = network()
    torch.manual_seed(7)
    expected = torch.rand(3000)
    torch.manual_seed(7)
    drawn: list[float] = []
    done = threading.Event()

    def bystander() -> None:
        while not done.is_set() and len(drawn) < 3000:
            drawn.append(float(torch.rand(1)))

    thread = threading.Thread(target=bystander)
    thread.start()
    for _ in range(15):
        estimate("mixed", model)
    done.set()
    thread.join()
    assert len(drawn) > 50
    assert torch.equal(torch.tensor(drawn), expected[: len(drawn)])


def draws() -> list[Tensor]:
    x = torch.ones(5, 4)
    return [
        torch.rand(3), torch.randn(2, 2), torch.randint(0, 9, (4,)), torch.randperm(6), torch.bernoulli(torch.full((9,), 0.4)),
        F.dropout(x, 0.4), F.alpha_dropout(x, 0.4, training=True), F.feature_alpha_dropout(x, 0.4, training=True),
        F.dropout1d(x[None], 0.4), torch.rand_like(x), torch.randn_like(x), torch.randint_like(x, 5), torch.multinomial(x, 2),
        torch.normal(x, 1.0), torch.empty(3).uniform_(), torch.empty(3).normal_(), torch.empty(3).exponential_(),
        torch.empty(3).cauchy_(), torch.empty(3).geometric_(0.3), torch.empty(3).log_normal_(), torch.poisson(x),
        F.rrelu(-x, training=True), F.gumbel_softmax(x), torch.distributions.Beta(2.0, 3.0).sample((3,)),
        torch.distributions.Dirichlet(torch.ones(3)).sample((2,)), torch.empty(3).random_(), torch.rand(2, dtype=torch.float64),
        F.scaled_dot_product_attention(x[None], x[None], x[None], dropout_p=0.4),
        torch.vmap(lambda r: F.dropout(r, 0.5, training=True), randomness="different")(x),
    ]  # fmt: skip


def test_noise_of_a_threads_own_is_the_shared_generators_number_by_number() -> None:
    torch.manual_seed(3)
    expected = draws()
    torch.manual_seed(4)
    before, found = torch.get_rng_state(), []

    def work(number: int) -> None:
        with fixed_rng(3):
            found.extend(draws())

    assert in_threads(1, work) == []
    assert torch.equal(before, torch.get_rng_state())
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert torch.equal(one, other), number


def test_the_generator_is_restored_after_an_exception_and_an_interrupt() -> None:
    before = torch.get_rng_state()
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), fixed_rng(derive_seed(1)):
            torch.rand(3)
            raise error
        assert torch.equal(before, torch.get_rng_state())
