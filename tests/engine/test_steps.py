"""What an inner step does in fewer operations is still the rule, its first and its second derivative, and still refused where wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metaimpute.engine import (
    CannotDifferentiate,
    FunctionalModel,
    InnerOptimizer,
    adagrad,
    adam,
    adamw,
    apply_updates,
    clip_norm,
    hypergradient,
    momentum,
    nesterov,
    parameter_groups,
    rmsprop,
    scheduled,
    sgd,
    unroll,
)
from metaimpute.engine.optimizers import take_step
from metaimpute.engine.optimizers.base import Scaled, blend, plus, root
from metaimpute.engine.pytree import filled, leaves_of, tree_map


def tensor(number: float) -> Tensor:
    return torch.tensor(number, dtype=torch.float64)


RULES: dict[str, Any] = {
    "sgd": lambda: sgd(0.1),
    "sgd, decay": lambda: sgd(0.1, weight_decay=0.3),
    "momentum": lambda: momentum(0.1, 0.8, dampening=0.2, weight_decay=0.3),
    "nesterov": lambda: nesterov(0.1, 0.7, maximize=True),
    "adam": lambda: adam(0.1, (0.6, 0.7), eps=0.1),
    "adam, eps_root": lambda: adam(0.1, (0.6, 0.7), eps=0.1, eps_root=0.2, amsgrad=True),
    "adamw": lambda: adamw(0.1, (0.6, 0.7), eps=0.1),
    "rmsprop": lambda: rmsprop(0.1, 0.7, eps=0.1, centered=True),
    "rmsprop, momentum": lambda: rmsprop(0.1, 0.7, eps=0.1, momentum=0.4),
    "adagrad": lambda: adagrad(0.1, lr_decay=0.2, eps=0.1),
    "learned sgd": lambda: sgd(tensor(0.1), tensor(0.6)),
    "learned adam": lambda: adam(tensor(0.1), (tensor(0.6), tensor(0.7)), eps=tensor(0.1)),
    "entries": lambda: sgd({"w": torch.full((3, 2), 0.1, dtype=torch.float64), "b": tensor(0.2)}),
    "groups": lambda: parameter_groups(adam(0.1, eps=0.1), {"w": 0, "b": 0}, {"b": {"lr": 0.3}}),
    "clipped": lambda: clip_norm(momentum(0.1), 0.5),
    "scheduled": lambda: scheduled(sgd(0.1), [1.0, 0.5, 0.25]),
}


def start() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(*shape, generator=generator, dtype=torch.float64) for name, shape in
            (("w", (3, 2)), ("b", (2,)))}  # fmt: skip


@pytest.mark.parametrize("name", list(RULES))
def test_a_step_is_the_update_added_to_the_parameters(name: str) -> None:
    rule, params = RULES[name](), start()
    states = [rule.init(params), rule.init(params)]
    ends = [params, params]
    for _ in range(3):
        grads = {key: p.sin() + 0.3 for key, p in ends[0].items()}
        updates, states[0] = rule.update(grads, states[0], ends[0], rule.hyper)
        flat, states[1] = take_step(rule, leaves_of(grads), states[1], ends[1], rule.hyper)
        ends = [apply_updates(ends[0], updates), filled(params, flat)]
        torch.testing.assert_close(ends[1], ends[0], rtol=1e-13, atol=1e-13)
    for ours, theirs in zip(leaves_of(states[1]), leaves_of(states[0]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", list(RULES))
def test_first_and_second_derivatives_of_two_steps_are_finite_differences(name: str) -> None:
    rule, params = RULES[name](), start()
    hyper = [leaf for leaf in leaves_of(rule.hyper) if isinstance(leaf, Tensor)]

    def after(*leaves: Tensor) -> tuple[Tensor, ...]:
        given = iter(leaves[4:])
        read = tree_map(lambda leaf: next(given) if isinstance(leaf, Tensor) else leaf, rule.hyper)
        theta, state = filled(params, leaves[:2]), rule.init(params)
        for grads in (leaves[2:4], [g * 1.7 - 0.2 for g in leaves[2:4]]):
            flat, state = take_step(rule, list(grads), state, theta, read)
            theta = filled(params, flat)
        return tuple(p.square() for p in leaves_of(theta))  # so that no second derivative is trivially zero

    inputs = [*leaves_of(params), *[p.cos() + 0.4 for p in leaves_of(params)], *hyper]
    inputs = [leaf.clone().requires_grad_() for leaf in inputs]
    assert torch.autograd.gradcheck(after, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(after, inputs)


def test_an_update_of_another_shape_or_precision_takes_the_parameters() -> None:
    param = torch.ones(2, 3, dtype=torch.float32)
    for found in (
        Scaled(-0.5, torch.ones(2, 3, dtype=torch.float64)), Scaled(-0.5, torch.ones(6)), Scaled(tensor(-0.5), torch.ones(2, 3)),
        Scaled(-0.5, torch.ones(2, 3), torch.ones(2, 3, dtype=torch.float64)), Scaled(-0.5, torch.ones(2, 3), torch.ones(2, 3)),
    ):  # fmt: skip
        moved = found.added_to(param)
        assert moved.dtype == torch.float32 and moved.shape == param.shape and bool((moved == 0.5).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_root_has_no_slope_at_zero_and_its_own_elsewhere(dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, 0.25, 4.0], dtype=dtype, requires_grad=True)
    found = root(x)
    (slope,) = torch.autograd.grad(found.sum(), x, create_graph=True)
    assert found.tolist()[1:] == [0.5, 2.0] and float(found[0].detach()) < 1e-18
    assert slope.tolist() == [0.0, 1.0, 0.25]
    assert torch.autograd.grad(slope.sum(), x)[0].tolist()[0] == 0.0


def test_numbers_that_are_no_python_floats_are_as_good() -> None:
    np = pytest.importorskip("numpy")
    a, b = start()["w"], start()["w"].cos()
    torch.testing.assert_close(plus(a, np.float32(0.5), b), a + 0.5 * b)
    torch.testing.assert_close(blend(a, b, np.float32(0.25)), 0.25 * a + 0.75 * b)
    assert hypergradient(_loss, _outer, start(), tensor(0.3), None, sgd(np.float32(0.1)), steps=2).grad_c.isfinite()


def _loss(theta: Any, c: Any, batch: Any) -> Tensor:
    return (theta["w"].sin().sum() * c + theta["b"].square().sum() * theta["w"].cos().mean()).exp() * 0.1


def _outer(theta: Any, c: Any, batch: Any) -> Tensor:
    return theta["w"].square().sum() + theta["b"].sin().sum()


@pytest.mark.parametrize("memory", ["store", "recompute", "checkpoint(2)"])
def test_a_parameter_that_a_step_leaves_is_no_part_of_its_neighbours_gradient(memory: str) -> None:
    """The rule moves ``b`` alone at first; later gradients of ``w`` must not go through what ``b`` became."""

    def update(grads: Any, state: Any, params: Any, hyper: Any) -> Any:
        moves = {"w": None if state < 2 else -hyper["lr"] * grads["w"], "b": -hyper["lr"] * grads["b"]}
        return moves, state + 1

    rule = InnerOptimizer(lambda params: 0, update, {"lr": 0.2}, "late")
    theta, c = start(), tensor(0.3)

    def value(c: Tensor) -> Tensor:
        params, state = {name: p.clone() for name, p in theta.items()}, 0
        for _ in range(4):
            at = {name: p.detach().requires_grad_() for name, p in params.items()}
            grads = dict(zip(at, torch.autograd.grad(_loss(at, c.detach(), None), list(at.values())), strict=True))
            moves, state = update(grads, state, at, {"lr": 0.2})
            params = {name: p.detach() if moves[name] is None else (p + moves[name]).detach() for name, p in at.items()}
        return _outer(params, c, None)

    found = hypergradient(_loss, _outer, theta, c, None, rule, steps=4, memory=memory)
    slope = (value(c + 1e-6) - value(c - 1e-6)) / 2e-6
    torch.testing.assert_close(found.grad_c, slope, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found.outer_loss, value(c), rtol=1e-12, atol=0)


def test_the_start_that_is_the_coupling_too_is_no_part_of_the_inner_gradient() -> None:
    theta = {"w": start()["w"].requires_grad_(), "b": start()["b"]}

    def inner(at: Any, c: Any, batch: Any) -> Tensor:
        return (at["w"] * c["w"].cos()).square().sum() + at["b"].sum() * at["w"].sum()

    end = unroll(inner, theta, {"w": theta["w"]}, None, sgd(0.1), 2)
    (found,) = torch.autograd.grad(_outer(end.params, None, None), theta["w"])
    params, w = dict(theta), theta["w"]
    for _ in range(2):
        at = {name: p.view_as(p) if p.requires_grad else p.detach().requires_grad_() for name, p in params.items()}
        grads = torch.autograd.grad(inner(at, {"w": w}, None), list(at.values()), create_graph=True)
        params = {name: p - 0.1 * g for (name, p), g in zip(at.items(), grads, strict=True)}
    (truth,) = torch.autograd.grad(_outer(params, None, None), theta["w"])
    torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-12)


def test_an_operator_with_a_wrong_second_derivative_is_found_at_whatever_step_it_comes() -> None:
    v, g = start()["w"], torch.ones(3, 1, dtype=torch.float64)

    def inner(theta: Any, c: Any, batch: int) -> Tensor:
        weight = torch._weight_norm(theta["v"], theta["g"], 0) if batch == 2 else theta["v"] * theta["g"]
        return (weight * c).square().sum()

    batches = [0, 1, 2]
    with pytest.raises(CannotDifferentiate, match="weight norm"):
        hypergradient(inner, lambda t, c, b: t["v"].sum(), {"v": v, "g": g}, tensor(0.4), batches, sgd(0.1))
    fine = hypergradient(inner, lambda t, c, b: t["v"].sum(), {"v": v, "g": g}, tensor(0.4), [0, 1, 1], sgd(0.1))
    assert fine.grad_c.isfinite()


LINEAR = {
    "sgd": lambda: sgd(0.1, weight_decay=0.2), "momentum": lambda: momentum(0.1, 0.8, dampening=0.3, weight_decay=0.2),
    "nesterov": lambda: nesterov(0.1, 0.7), "clipped": lambda: clip_norm(momentum(0.1), 0.5),
    "learned": lambda: momentum(tensor(0.1), 0.8), "scheduled": lambda: scheduled(sgd(0.1), [1.0, 0.5, 0.25]),
}  # fmt: skip


@pytest.mark.parametrize("name", list(LINEAR))
def test_mixed_keeps_what_its_rules_derivative_needs(name: str) -> None:
    rule = LINEAR[name]()
    found = {
        how: hypergradient(_loss, _outer, start(), tensor(0.3), None, rule, how, steps=3) for how in ("exact", "mixed")
    }
    for part in ("grad_c", "grad_theta_0", "grad_optimizer", "first_gradient", "theta_k"):
        ours, theirs = getattr(found["mixed"], part), getattr(found["exact"], part)
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def test_a_chain_around_a_linear_rule_is_not_taken_for_linear() -> None:
    assert momentum(0.1).options["linear"] and not clip_norm(momentum(0.1), 0.5).options["linear"]
    assert not adam(0.1).options.get("linear")


class Listed(nn.Module):
    """Reaches its layers through lists, tuples and attributes of each other."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 2)
        vars(self.one)["partners"] = [(1, [self.two])]
        self.sizes = [3] * 10

    def forward(self, x: Tensor) -> Tensor:
        return self.one.partners[0][1][0](torch.tanh(self.one(x)))


def test_a_twin_reaches_its_own_layers_through_containers() -> None:
    module = Listed().double()
    model, x = FunctionalModel(module), torch.randn(4, 3, dtype=torch.float64)
    moved = {name: p + 1 for name, p in model.params.items()}
    found = model(moved, x)
    truth = nn.functional.linear(
        torch.tanh(nn.functional.linear(x, moved["one.weight"], moved["one.bias"])),
        moved["two.weight"],
        moved["two.bias"],
    )
    torch.testing.assert_close(found, truth)
