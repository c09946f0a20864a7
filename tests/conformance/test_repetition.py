"""An evaluation that does not repeat the first one is noticed, whatever the learning rate; one that does is never refused."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaimpute.engine import (
    Batches,
    CannotDifferentiate,
    FunctionalModel,
    NotRepeatable,
    adam,
    chain,
    gradient_callback,
    hypergradient,
    momentum,
    scheduled,
    sgd,
    unroll,
)

X, Y = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
REPEATING = [
    ("mixed", "store"), ("forward", "store"), ("cg(3)", "store"), ("neumann(3)", "store"), ("forward_gradient(2)", "store"),
    ("finite_difference", "store"), ("exact", "recompute"), ("exact", "checkpoint(2)"), ("exact", "revolve(2)"),
    ("exact", "auto(100KB)"), ("truncated(3)", "recompute"),
]  # fmt: skip
GENERATOR = torch.Generator()
SOURCES: dict[str, Callable[[], Tensor]] = {
    "numpy": lambda: torch.from_numpy(np.random.standard_normal((6, 4))),
    "random": lambda: torch.full((6, 4), random.random(), dtype=torch.float64),
    "own generator": lambda: torch.randn(6, 4, generator=GENERATOR, dtype=torch.float64),
}


def outer(p: Any, c: Any, b: Any) -> Tensor:
    return F.cross_entropy(X @ p["w"], Y)


def estimate(inner: Any, name: str, memory: str, lr: float = 0.3, steps: int = 6) -> Any:
    weight = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)
    return hypergradient(inner, outer, {"w": weight}, torch.ones(6, dtype=torch.float64), Batches([None], None), sgd(lr), name,
                         steps=steps, memory=memory, seed=0)  # fmt: skip


@pytest.mark.parametrize("lr", [0.3, 1e-4, 1e-9])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("name", "memory"), REPEATING)
def test_noise_that_no_seed_replays_is_refused(name: str, memory: str, source: str, lr: float) -> None:
    def inner(p: Any, c: Any, b: Any) -> Tensor:
        return (c * F.cross_entropy((X + SOURCES[source]()) @ p["w"], Y, reduction="none")).mean()

    with pytest.raises(NotRepeatable, match="noise"):
        estimate(inner, name, memory, lr)


@pytest.mark.parametrize("lr", [0.3, 1e-6])
@pytest.mark.parametrize("source", ["numpy object", "random object", "clock"])
@pytest.mark.parametrize(("name", "memory"), [pair for pair in REPEATING if pair[1] == "store"])
def test_noise_of_objects_that_nobody_knows_is_refused(name: str, memory: str, source: str, lr: float) -> None:
    held, other = np.random.default_rng(0), random.Random(0)
    factor = {
        "numpy object": lambda: float(held.standard_normal()), "random object": other.random,
        "clock": lambda: time.perf_counter() % 1e-3 * 1e3,
    }[source]  # fmt: skip

    def inner(p: Any, c: Any, b: Any) -> Tensor:
        return (c * F.cross_entropy((X + factor()) @ p["w"] * (1 + 0.1 * factor()), Y, reduction="none")).mean()

    with pytest.raises(NotRepeatable):
        estimate(inner, name, memory, lr)


@pytest.mark.parametrize("name", ["mixed", "forward", "finite_difference", "cg(2)"])
def test_a_hook_that_changes_a_gradient_is_refused_and_one_that_looks_is_not(name: str) -> None:
    seen, changes = [], True

    def inner(p: Any, c: Any, b: Any) -> Tensor:
        w = p["w"] * 1
        if w.requires_grad:
            w.register_hook((lambda g: g * 0.5) if changes else lambda g: seen.append(g.norm()))
        return (c * F.cross_entropy(X @ w, Y, reduction="none")).mean()

    with pytest.raises(CannotDifferentiate, match="hook"):
        estimate(inner, name, "store")
    changes = False
    found = estimate(inner, name, "store")
    assert seen and bool(torch.isfinite(found.grad_c).all())


@pytest.mark.parametrize("source", SOURCES)
def test_where_nothing_is_repeated_any_noise_will_do(source: str) -> None:
    def inner(p: Any, c: Any, b: Any) -> Tensor:
        return (c * F.cross_entropy((X + SOURCES[source]()) @ p["w"], Y, reduction="none")).mean()

    for name in ("exact", "first_order"):
        assert bool(torch.isfinite(estimate(inner, name, "store").grad_c).all())


@pytest.mark.parametrize(("name", "memory"), REPEATING)
def test_torchs_own_noise_is_replayed(name: str, memory: str) -> None:
    def inner(p: Any, c: Any, b: Any) -> Tensor:
        noise = torch.randn(6, 4, dtype=torch.float64) + F.dropout(torch.ones(6, 4, dtype=torch.float64), 0.3)
        return (c * F.cross_entropy((X + noise) @ p["w"], Y, reduction="none")).mean()

    found, reference = estimate(inner, name, memory), estimate(inner, "exact", "store")
    if name in ("mixed", "forward", "exact"):
        torch.testing.assert_close(found.grad_c, reference.grad_c, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("where", ["inner", "outer", "between"])
@pytest.mark.parametrize(
    ("name", "memory"), [pair for pair in REPEATING if not pair[0].startswith(("neumann", "forward_g"))]
)
def test_a_mode_changed_on_the_way_is_noticed(name: str, memory: str, where: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    model = FunctionalModel(net)

    def inner(p: Any, c: Any, b: Any) -> Tensor:
        value = (c * F.cross_entropy(model(p, X), Y, reduction="none")).mean()
        if where == "inner":
            net.eval()
        return value

    def switching(p: Any, c: Any, b: Any) -> Tensor:
        if where in ("outer", "between"):
            net.eval()
        value = F.cross_entropy(model(p, X), Y)
        if where == "between":
            net.train()
        return value

    def run() -> Any:
        net.train()
        return hypergradient(inner, switching, model.params, torch.ones(6, dtype=torch.float64), Batches([None], None),
                             sgd(0.3), name, steps=2 if where != "inner" else 1, memory=memory, seed=0)  # fmt: skip

    if where == "between":  # the inner loss sees one mode throughout
        assert bool(torch.isfinite(run().grad_c).all())
    elif name in ("mixed", "cg(3)", "finite_difference") or (
        where == "outer" and memory in ("recompute", "revolve(2)") and name == "exact"
    ):
        with pytest.raises(NotRepeatable, match="another mode"):
            run()


@pytest.mark.parametrize("memory", ["recompute", "checkpoint(2)", "revolve(2)"])
def test_a_batch_that_the_loss_changes_is_noticed(memory: str) -> None:
    batch = X.clone()

    def inner(p: Any, c: Any, b: Any) -> Tensor:
        b.mul_(1.01)
        return (c * F.cross_entropy(b @ p["w"], Y, reduction="none")).mean()

    weight = torch.ones(4, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="evaluated again|in place"):
        hypergradient(inner, outer, {"w": weight}, torch.ones(6, dtype=torch.float64), Batches([batch], None), sgd(0.1), steps=6,
                      memory=memory)  # fmt: skip


# never refused where it repeats ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("memory", ["recompute", "checkpoint(2)", "revolve(2)", "auto(40KB)"])
def test_in_float32_every_memory_policy_gives_the_stored_gradient_to_the_bit(memory: str, rule: str, seed: int) -> None:
    """A bias before a norm has a gradient of rounding errors, which Adam makes into steps of full length."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)
    )
    model, x = FunctionalModel(net), torch.randn(6, 4)
    optimizer = {"sgd": sgd(0.1), "momentum": momentum(0.1), "adam": adam(1e-3)}[rule]

    def inner(p: Any, c: Any, b: Any) -> Tensor:
        return (F.cross_entropy(model(p, x), Y, reduction="none") * c).mean()

    def holdout(p: Any, c: Any, b: Any) -> Tensor:
        return F.cross_entropy(model(p, x.flip(0)), Y)

    found = [
        hypergradient(inner, holdout, model.params, torch.ones(6), Batches([None], None), optimizer, steps=8, memory=m, seed=0)
        for m in ("store", memory)
    ]  # fmt: skip
    if memory in ("recompute", "revolve(2)"):  # the others add the parts of the gradient in another order
        assert torch.equal(found[0].grad_c, found[1].grad_c)
    torch.testing.assert_close(
        found[0].grad_c, found[1].grad_c, rtol=1e-3, atol=1e-5 * float(found[0].grad_c.abs().max())
    )
    for name, value in found[0].theta_k.items():
        assert torch.equal(value, found[1].theta_k[name])


@pytest.mark.parametrize("name", ["mixed", "forward", "cg(2)", "finite_difference"])
def test_in_float32_products_are_not_refused(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    model, x = FunctionalModel(net), torch.randn(6, 4)

    def inner(p: Any, c: Any, b: Any) -> Tensor:
        return F.cross_entropy(model(p, x), Y) * c

    def holdout(p: Any, c: Any, b: Any) -> Tensor:
        return F.cross_entropy(model(p, x.flip(0)), Y)

    found = hypergradient(
        inner, holdout, model.params, torch.tensor(1.0), Batches([None], None), adam(1e-3), name, steps=20
    )
    assert bool(torch.isfinite(found.grad_c))


def test_a_loss_that_is_not_a_number_is_not_called_unrepeatable() -> None:
    def inner(p: Any, c: Any, b: Any) -> Tensor:
        return (c * (X @ p["w"])).sum() * float("nan")

    for name, memory in (
        ("finite_difference", "store"),
        ("mixed", "store"),
        ("cg(2)", "store"),
        ("exact", "recompute"),
    ):
        c = torch.ones(6, 3, dtype=torch.float64)
        found = hypergradient(inner, outer, {"w": torch.ones(4, 3, dtype=torch.float64)}, c, Batches([None], None), sgd(0.1), name,
                              steps=2, memory=memory)  # fmt: skip
        assert not bool(torch.isfinite(found.grad_c).any()), name


# statistics --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(("name", "memory"), [("exact", "store"), ("first_order", "store"), *REPEATING])
def test_statistics_are_updated_once_a_step(name: str, memory: str, steps: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    model, found = FunctionalModel(net), {}

    def inner(p: Any, c: Any, b: Any) -> Tensor:
        with model.updating_buffers():
            return (c * F.cross_entropy(model(p, X), Y, reduction="none")).mean()

    for chosen, policy in (("exact", "store"), (name, memory)):
        net[1].reset_running_stats()
        hypergradient(inner, lambda p, c, b: F.cross_entropy(model(p, X), Y), model.params, torch.ones(6, dtype=torch.float64),
                      Batches([None], None), sgd(0.3), chosen, steps=steps, memory=policy, seed=0)  # fmt: skip
        assert int(net[1].num_batches_tracked) == steps
        found[chosen] = net[1].running_mean.clone()
        assert net[1].running_mean.grad_fn is None
    torch.testing.assert_close(found[name], found["exact"], rtol=1e-10, atol=1e-12)


def test_a_plain_unroll_checks_its_reverse_pass_too() -> None:
    def inner(p: Any, c: Any, b: Any) -> Tensor:
        return (c * F.cross_entropy((X + SOURCES["own generator"]()) @ p["w"], Y, reduction="none")).mean()

    weight = torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
    end = unroll(inner, {"w": weight}, torch.ones(6, dtype=torch.float64), [None], sgd(1e-6), 4, memory="recompute")
    with pytest.raises(NotRepeatable, match="own"):
        end.params["w"].sum().backward()


# the rule ------------------------------------------------------------------------------------------------------------


def with_callback(function: Callable[[Any], Any], name: str, memory: str, lr: float, seed: int = 0) -> Tensor:
    rule = chain(gradient_callback(function), sgd(lr, momentum=0.9))
    weight = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)

    def inner(p: Any, c: Any, b: Any) -> Tensor:
        return (c * F.cross_entropy(X @ p["w"], Y, reduction="none")).mean()

    found = hypergradient(inner, outer, {"w": weight}, torch.ones(6, dtype=torch.float64), Batches([None], None), rule, name,
                          steps=5, memory=memory, seed=seed)  # fmt: skip
    assert isinstance(found.grad_c, Tensor)
    return found.grad_c


THROUGH_THE_RULE = [
    ("exact", "recompute"), ("exact", "recompute(offload)"), ("exact", "checkpoint(1)"), ("exact", "checkpoint(2)"),
    ("exact", "revolve(1)"), ("exact", "revolve(3)"), ("mixed", "store"), ("forward", "store"), ("finite_difference", "store"),
]  # fmt: skip


@pytest.mark.parametrize("lr", [0.3, 1e-6])
@pytest.mark.parametrize("source", ["counter", "numpy"])
@pytest.mark.parametrize(("name", "memory"), THROUGH_THE_RULE)
def test_a_callback_that_is_another_when_called_again_is_refused(
    name: str, memory: str, source: str, lr: float
) -> None:
    calls = [0]

    def function(grads: Any) -> Any:
        calls[0] += 1
        factor = 1 / calls[0] if source == "counter" else float(np.random.standard_normal())
        return {key: (factor * g).tanh() for key, g in grads.items()}

    with pytest.raises(NotRepeatable, match=r"gradient_callback|evaluated again"):
        with_callback(function, name, memory, lr)
    assert bool(with_callback(function, "exact", "store", lr).isfinite().all())


@pytest.mark.parametrize(("name", "memory"), THROUGH_THE_RULE)
def test_torchs_noise_in_a_callback_is_replayed(name: str, memory: str) -> None:
    def function(grads: Any) -> Any:
        return {key: (g + 0.1 * torch.randn(4, 3, dtype=torch.float64)).tanh() for key, g in grads.items()}

    found, reference = with_callback(function, name, memory, 0.3), with_callback(function, "exact", "store", 0.3)
    other = with_callback(function, name, memory, 0.3, seed=1)
    if name != "finite_difference":
        torch.testing.assert_close(found, reference, rtol=1e-10, atol=1e-13)
    assert not torch.allclose(found, other, rtol=1e-3), "it is noise"


@pytest.mark.parametrize("memory", ["recompute", "checkpoint(2)", "revolve(2)"])
def test_a_table_that_is_changed_before_the_reverse_pass_is_refused(memory: str) -> None:
    table, c = torch.linspace(1, 0.2, 5, dtype=torch.float64), torch.ones(6, dtype=torch.float64, requires_grad=True)

    def inner(p: Any, c: Any, b: Any) -> Tensor:
        return (c * F.cross_entropy(X @ p["w"], Y, reduction="none")).mean()

    start = {"w": torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)}
    rule = scheduled(sgd(0.3), lambda step: table[step])
    for change in (False, True):
        end = unroll(inner, start, c, None, rule, 5, memory=memory).params
        if change:
            table[-1] = 0.9
            with pytest.raises(NotRepeatable, match=r"led elsewhere .* or use memory 'store'"):
                torch.autograd.grad(outer(end, c, None), c)
        else:
            torch.autograd.grad(outer(end, c, None), c)
