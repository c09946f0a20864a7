"""Inner optimisers are torch.optim's rules; what cannot be honoured is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from metaimpute.engine import (
    Batches,
    Compiled,
    EstimatorError,
    Transform,
    UnsupportedOptimizer,
    adagrad,
    adam,
    adamw,
    after_training,
    begin,
    chain,
    clip,
    clip_by_global_norm,
    clip_norm,
    clip_value,
    from_torch,
    hypergradient,
    momentum,
    nesterov,
    parameter_groups,
    rmsprop,
    scale_by_schedule,
    scheduled,
    sgd,
    unroll,
)

SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
SETTINGS: list[tuple[Any, dict[str, Any]]] = [
    (SGD, {"lr": 0.1}),
    (SGD, {"lr": 0.1, "weight_decay": 0.2}),
    (SGD, {"lr": 0.1, "momentum": 0.9}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (SGD, {"lr": 0.1, "momentum": 0.5, "maximize": True}),
    (ADAM, {}),
    (ADAM, {"lr": 0.1, "betas": (0.5, 0.7), "eps": 1e-3, "weight_decay": 0.1}),
    (ADAM, {"lr": 0.1, "amsgrad": True, "betas": (0.5, 0.7)}),
    (ADAM, {"lr": 0.1, "maximize": True, "weight_decay": 0.1}),
    (ADAM, {"lr": 0.1, "decoupled_weight_decay": True, "weight_decay": 0.1}),
    (ADAMW, {"lr": 0.1}),
    (ADAMW, {"lr": 0.1, "weight_decay": 0.3, "amsgrad": True, "maximize": True}),
    (torch.optim.RMSprop, {"lr": 0.05}),
    (torch.optim.RMSprop, {"lr": 0.05, "alpha": 0.7, "centered": True, "momentum": 0.8, "weight_decay": 0.1}),
    (torch.optim.RMSprop, {"lr": 0.05, "maximize": True}),
    (torch.optim.Adagrad, {"lr": 0.2}),
    (torch.optim.Adagrad, {"lr": 0.2, "lr_decay": 0.3, "initial_accumulator_value": 0.1, "weight_decay": 0.1}),
]


def named(case: tuple[Any, dict[str, Any]]) -> str:
    return case[0].__name__ + ",".join(f"{k}={v}" for k, v in case[1].items())


def network() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def loss_of(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return net(x).square().mean()


def loss_of_params(net: nn.Module, params: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return torch.func.functional_call(net, params, (x,)).square().mean()


def train(net: nn.Module, stock: torch.optim.Optimizer, x: torch.Tensor, steps: int) -> None:
    for _ in range(steps):
        stock.zero_grad()
        loss_of(net, x).backward()
        stock.step()


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("case", SETTINGS, ids=named)
def test_twins_take_torchs_steps_from_any_state(case: tuple[Any, dict[str, Any]], before: int) -> None:
    net, x = network(), torch.randn(6, 3, dtype=torch.float64)
    stock = case[0](net.parameters(), **case[1])
    train(net, stock, x, before)
    params = dict(net.named_parameters())
    start = {name: p.detach().clone() for name, p in params.items()}
    twin = from_torch(stock, params)
    end = unroll(lambda th, c, b: loss_of_params(net, th, b), start, None, [x], twin, 4, differentiable=False)
    again = unroll(lambda th, c, b: loss_of_params(net, th, b), start, None, [x], twin, 4, differentiable=False)
    train(net, stock, x, 4)
    for name, p in params.items():
        torch.testing.assert_close(end.params[name], p.detach(), rtol=1e-12, atol=1e-14)
        assert torch.equal(end.params[name], again.params[name]), "an unroll must not consume the optimiser's state"


@pytest.mark.parametrize("build", [
    adam, lambda lr: adam(lr, amsgrad=True), adamw, rmsprop, lambda lr: rmsprop(lr, centered=True, momentum=0.9), adagrad,
    lambda lr: clip_norm(adam(lr), 1.0), lambda lr: clip_norm(sgd(lr), 1.0),
])  # fmt: skip
def test_derivatives_are_finite_where_second_moments_are_zero(build: Any) -> None:
    """An input that is always zero has a zero gradient: sqrt(0) has no slope, the step has one, lr / eps."""
    weight = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    for steps in (1, 3):
        end = unroll(
            lambda th, c, b: (th["w"] * c).sum() ** 2 + (th["w"] * c).sum(),
            {"w": weight},
            scale,
            [None],
            build(0.1),
            steps,
        )
        for order in torch.autograd.grad(end.params["w"].sum(), [weight, scale]):
            assert bool(torch.isfinite(order).all())


def test_the_slope_of_adams_first_step_at_a_zero_gradient_is_lr_over_eps() -> None:
    grad = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    param = torch.ones(1, dtype=torch.float64)
    for rule in (adam(0.1, eps=1e-3), rmsprop(0.1, eps=1e-3), adagrad(0.1, eps=1e-3)):
        update, _ = rule.update([grad], rule.init([param]), [param], rule.hyper)
        slope = torch.autograd.grad(update[0].sum(), grad)[0]
        torch.testing.assert_close(slope, torch.full((1,), -0.1 / 1e-3, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("largest", [0.05, 100.0])
def test_clipping_is_torchs(largest: float) -> None:
    net, x = network(), torch.randn(6, 3, dtype=torch.float64)
    params = {n: p.detach().clone() for n, p in net.named_parameters()}
    for rule, torchs in (
        (clip_norm(sgd(0.5), largest), torch.nn.utils.clip_grad_norm_),
        (clip_value(sgd(0.5), largest), torch.nn.utils.clip_grad_value_),
    ):
        other = copy.deepcopy(net)
        stock = torch.optim.SGD(other.parameters(), lr=0.5)
        loss_of(other, x).backward()
        torchs(other.parameters(), largest)
        stock.step()
        end = unroll(lambda th, c, b: loss_of_params(net, th, b), params, None, [x], rule, 1, differentiable=False)
        for name, p in other.named_parameters():
            torch.testing.assert_close(end.params[name], p.detach(), rtol=1e-12, atol=1e-14)


def test_schedules_scale_the_rate_of_each_step_and_can_be_learned() -> None:
    def loss(th: Any, c: Any, b: Any) -> torch.Tensor:
        return th["w"].sum()

    start = {"w": torch.zeros(1)}
    listed = unroll(loss, start, None, [None], scheduled(sgd(1.0), [1.0, 0.5, 0.25]), 3, differentiable=False)
    called = unroll(loss, start, None, [None], scheduled(sgd(1.0), lambda t: 0.5**t), 3, differentiable=False)
    assert float(listed.params["w"]) == float(called.params["w"]) == -1.75
    rates = torch.tensor([1.0, 0.5, 0.25], requires_grad=True)
    learned = unroll(loss, start, None, [None], scheduled(sgd({"w": 2.0}), rates), 3)
    torch.testing.assert_close(
        torch.autograd.grad(learned.params["w"].sum(), rates)[0], torch.full((3,), -2.0), rtol=1e-6, atol=0
    )
    with pytest.raises(UnsupportedOptimizer, match="the schedule has 3 values, but step 4"):
        unroll(loss, start, None, [None], scheduled(sgd(1.0), [1.0, 0.5, 0.25]), 4)


@pytest.mark.parametrize("schedule", [[1.0, 0.5], torch.tensor([1.0, 0.5])])
def test_a_schedule_that_is_too_short_is_found_before_the_first_step(schedule: Any) -> None:
    def loss(th: Any, c: Any, b: Any) -> torch.Tensor:
        raise AssertionError("a step was taken")

    start = {"w": torch.zeros(1)}
    rule = scheduled(chain(clip(torch.tensor(1.0)), sgd(0.1), scale_by_schedule([1.0, 0.5, 0.2])), schedule)
    for inner in (loss, Compiled(loss, backend="eager")):
        with pytest.raises(UnsupportedOptimizer, match="the schedule has 2 values, but step 3 was asked for"):
            unroll(inner, start, None, [None], rule, 4)
        for estimator in ("exact", "mixed"):
            with pytest.raises(UnsupportedOptimizer, match="the schedule has 2 values, but step 3 was asked for"):
                after_training(inner, loss, start, optimizer=rule, steps=4, estimator=estimator)


def test_a_chain_is_its_parts_one_after_another() -> None:
    """Clipped twice, by entry and by norm, then Adam, then a factor: against the same written out with torch."""
    start = {"w": torch.tensor([3.0, -0.2, 1.0], dtype=torch.float64), "b": torch.tensor([0.5], dtype=torch.float64)}

    def loss(th: Any, c: Any, b: Any) -> torch.Tensor:
        return (th["w"] ** 2).sum() + (th["b"] - 2).square().sum()

    rule = chain(clip(1.5), clip_by_global_norm(2.0), clip(1.2), adam(0.1), scale_by_schedule([1.0, 0.5, 0.25]))
    assert {"clip_value", "clip_norm", "clip_value_2", "lr"} <= set(rule.hyper)
    end = unroll(loss, start, None, [None], rule, 3, differentiable=False)
    net = [v.clone().requires_grad_() for v in start.values()]
    stock = torch.optim.Adam(net, lr=0.1)
    for factor in (1.0, 0.5, 0.25):
        stock.zero_grad()
        loss(dict(zip(start, net, strict=True)), None, None).backward()
        torch.nn.utils.clip_grad_value_(net, 1.5)
        torch.nn.utils.clip_grad_norm_(net, 2.0)
        torch.nn.utils.clip_grad_value_(net, 1.2)
        stock.param_groups[0]["lr"] = 0.1 * factor
        stock.step()
    for name, p in zip(start, net, strict=True):
        torch.testing.assert_close(end.params[name], p.detach(), rtol=1e-12, atol=0)


def test_a_chain_in_a_chain_and_a_lone_rule() -> None:
    rule = adam(0.1)
    assert chain(rule) is rule
    nested = clip_norm(clip_norm(scheduled(scheduled(sgd(1.0), [0.5, 1.0]), [0.5, 1.0]), 1.0), 0.1)
    assert nested.hyper["clip_norm"] == 1.0 and nested.hyper["clip_norm_2"] == 0.1
    assert nested.with_hyper(clip_norm_2=0.2).hyper["clip_norm_2"] == 0.2

    def loss(th: Any, c: Any, b: Any) -> torch.Tensor:
        return 7 * th["w"].sum()

    found = unroll(loss, {"w": torch.zeros(1, dtype=torch.float64)}, None, [None], nested, 2, differentiable=False)
    assert float(found.params["w"]) == pytest.approx(-0.1 * 0.25 - 0.1, rel=1e-5)


@pytest.mark.parametrize("estimator", ["exact", "mixed", "forward"])
def test_every_part_of_a_chain_is_learned(estimator: str) -> None:
    """Two norms, a rate and a schedule, each a tensor: against finite differences."""
    T = lambda *x: torch.tensor(x if len(x) > 1 else x[0], dtype=torch.float64)  # noqa: E731
    start = {"w": T(3.0, -0.2, 1.0)}
    target = T(1.0, 1.0, 0.0)

    def inner(th: Any, c: Any, b: Any) -> torch.Tensor:
        return ((th["w"] - c) ** 2).sum() + 0.1 * (th["w"] ** 4).sum()

    def outer(th: Any, c: Any, b: Any) -> torch.Tensor:
        return (th["w"] - target).square().sum()

    def rule(values: dict[str, Any]) -> Any:
        parts = [clip_by_global_norm(values["clip_norm"]), clip(values["clip_value"]), adam(values["lr"], eps=0.1),
                 scale_by_schedule(values["schedule"]), clip_by_global_norm(values["clip_norm_2"])]  # fmt: skip
        return chain(*parts)

    values = {
        "clip_norm": T(4.0),
        "clip_value": T(3.5),
        "lr": T(0.3),
        "schedule": T(1.0, 0.7, 0.4),
        "clip_norm_2": T(0.35),
    }
    c = T(0.3, 0.1, -0.4)
    found = hypergradient(inner, outer, start, c, Batches([None], None), rule(values), estimator, steps=3)

    def value(changed: dict[str, Any]) -> float:
        end = unroll(inner, start, c, [None], rule(changed), 3, differentiable=False)
        return float(outer(end.params, c, None))

    for key, now in values.items():
        slope = found.grad_optimizer[key]
        for place in range(now.numel()):
            step = torch.zeros_like(now)
            step.view(-1)[place] = 1e-6
            up, down = value({**values, key: now + step}), value({**values, key: now - step})
            assert float(slope.reshape(-1)[place]) == pytest.approx((up - down) / 2e-6, rel=1e-6, abs=1e-9), key
    assert all(float(found.grad_optimizer[key].abs().max()) > 0 for key in ("clip_norm_2", "lr", "schedule"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: chain(clip(1.0), None, sgd(0.1)),
            "a part of a chain that is no transform is a rule, such as .* not a NoneType",
        ),
        (lambda: chain(clip(1.0), sgd), "sgd makes one when it is called"),
        (lambda: clip_norm(sgd(0.1), {"w": 1.0}), "clip_norm is one number for all parameters, not a dict"),
        (lambda: clip("1"), "clip_value is one number"),
        (lambda: clip_norm(sgd(0.1), torch.tensor(-1.0)), "clip_norm must be above 0, not -1.0"),
        (
            lambda: clip(torch.tensor([1.0, 1.0])),
            r"clip_value is one number for all parameters, not a tensor of shape \[2\]",
        ),
        (lambda: scheduled(sgd(0.1), 0.5), r"a tensor \[steps\], not a float"),
        (lambda: scheduled(sgd(0.1), torch.tensor(0.5)), "not a tensor without steps"),
        (lambda: scheduled(sgd(0.1), (f for f in (1.0, 0.5))), "not a generator"),
        (lambda: parameter_groups(sgd(0.1), {"w": 1}, {"w": 3}), "the group 'w' is a dict of hyperparameters"),
        (
            lambda: parameter_groups(sgd(0.1), {"w": 1}, {"w": {"lr": -3}}),
            "sgd: lr must be a finite number of at least 0",
        ),
        (lambda: parameter_groups(sgd, {"w": 1}, {"w": {"lr": 3}}), "sgd makes one when it is called"),
        (lambda: sgd(0.1).with_hyper(lr=-0.1), "sgd: lr must be a finite number of at least 0, not -0.1"),
        (
            lambda: adam(0.1).with_hyper(betas=(0.9, 0.99)),
            "adam has no hyperparameter 'betas', but 'beta1' and 'beta2'",
        ),
        (lambda: adam(0.1).with_hyper(beta_1=0.9), "adam has no hyperparameter 'beta_1'; did you mean 'beta1'?"),
        (lambda: sgd(0.1).with_hyper(lr="fast"), "sgd: lr is a number, a tensor or a dict"),
        (lambda: adagrad(0.1, initial_accumulator_value=torch.tensor(0.1)), "cannot be learned"),
    ],
)
def test_what_is_no_part_of_a_rule_is_refused_in_words(make: Any, said: str) -> None:
    with pytest.raises(UnsupportedOptimizer, match=said):
        make()


def test_what_is_no_rule_or_no_estimator_is_refused_in_words() -> None:
    def loss(th: Any, c: Any, b: Any) -> torch.Tensor:
        return th["w"].square().sum()

    start: Any = {"w": torch.ones(1)}
    given: list[tuple[Any, str]] = [
        ("sgd", "optimizer is a rule, such as sgd.*, not 'sgd'"),
        (sgd, "optimizer is a rule; sgd makes one when it is called"),
        (torch.optim.SGD([torch.zeros(1)], lr=0.1), r"optimizer is a rule; from_torch\(optimizer, params\) makes one"),
        (None, "optimizer is a rule, .* not a NoneType"),
    ]
    for rule, said in given:
        for use in (
            lambda rule: after_training(loss, loss, start, optimizer=rule),
            lambda rule: begin(start, None, loss, optimizer=rule),
            lambda rule: hypergradient(loss, loss, start, None, Batches([None], None), rule),
            lambda rule: unroll(loss, start, None, [None], rule, 1),
        ):
            with pytest.raises(UnsupportedOptimizer, match=said):
                use(rule)
    with pytest.raises(EstimatorError, match="an estimator is a name, such as 'exact', or an Estimator, not None"):
        after_training(loss, loss, start, optimizer=sgd(0.1), estimator=None)  # type: ignore[call-overload]


def test_a_transform_of_ones_own() -> None:
    """Centralised gradients (Yong et al., 2020) in four lines."""

    def update(grads: Any, state: Any, params: Any, hyper: Any) -> Any:
        return {name: g - g.mean() for name, g in grads.items()}, state

    rule = chain(Transform(lambda params: None, update, {}, "centralise"), sgd(1.0))

    def loss(th: Any, c: Any, b: Any) -> torch.Tensor:
        return (th["w"] * torch.tensor([1.0, 3.0])).sum()

    end = unroll(loss, {"w": torch.zeros(2)}, None, [None], rule, 1, differentiable=False)
    assert end.params["w"].tolist() == [1.0, -1.0]


def test_parameter_groups_by_pattern() -> None:
    params = {"body.weight": 0, "body.bias": 0, "head.weight": 0}
    rule = parameter_groups(adam(0.1), params, {"body.*": {"lr": 0.01}, "*.bias": {"lr": 0.5, "beta1": 0.0}})
    assert rule.hyper["lr"] == {"body.weight": 0.01, "body.bias": 0.5, "head.weight": 0.1}
    assert rule.hyper["beta1"] == {"body.weight": 0.9, "body.bias": 0.0, "head.weight": 0.9}
    with pytest.raises(UnsupportedOptimizer, match="no parameter matches 'tail"):
        parameter_groups(adam(0.1), params, {"tail*": {"lr": 1.0}})
    with pytest.raises(UnsupportedOptimizer, match="no hyperparameter"):
        parameter_groups(adam(0.1), params, {"body*": {"momentum": 1.0}})


def test_twins_with_parameter_groups_of_adam() -> None:
    net, x = network(), torch.randn(6, 3, dtype=torch.float64)
    groups = [{"params": net[0].parameters(), "lr": 0.2}, {"params": net[2].parameters(), "betas": (0.5, 0.6)}]  # type: ignore[index]
    stock = torch.optim.AdamW(groups, lr=0.05, weight_decay=0.1)
    train(net, stock, x, 2)
    params = dict(net.named_parameters())
    twin = from_torch(stock, params)
    assert twin.hyper["beta2"] == {"0.weight": 0.999, "0.bias": 0.999, "2.weight": 0.6, "2.bias": 0.6}
    end = unroll(lambda th, c, b: loss_of_params(net, th, b), params, None, [x], twin, 3, differentiable=False)
    train(net, stock, x, 3)
    for name, p in params.items():
        torch.testing.assert_close(end.params[name], p.detach(), rtol=1e-12, atol=1e-14)


def test_a_tensor_learning_rate_of_torch_is_differentiated() -> None:
    net, x = network(), torch.randn(6, 3, dtype=torch.float64)
    params, rate = dict(net.named_parameters()), torch.tensor(0.1, dtype=torch.float64)
    twin = from_torch(torch.optim.Adam(net.parameters(), lr=rate), params)

    def loss(th: Any, c: Any, b: Any) -> torch.Tensor:
        return loss_of_params(net, th, x)

    found = hypergradient(loss, loss, params, {}, Batches([None], None), twin, steps=2)
    assert set(found.grad_optimizer) == {"lr"} and float(found.grad_optimizer["lr"]) != 0


@pytest.mark.parametrize("resume", [True, False])
def test_from_torch_continues_a_running_optimizer(resume: bool) -> None:
    net, x = network(), torch.randn(6, 3, dtype=torch.float64)
    groups = [{"params": net[0].parameters(), "lr": 0.2}, {"params": net[2].parameters(), "momentum": 0.7}]  # type: ignore[index]
    stock = torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.01)
    train(net, stock, x, 3)
    params = dict(net.named_parameters())
    twin = from_torch(stock, params, resume=resume)
    assert twin.hyper["lr"] == {"0.weight": 0.2, "0.bias": 0.2, "2.weight": 0.05, "2.bias": 0.05}
    end = unroll(lambda th, c, b: loss_of_params(net, th, b), params, None, [x], twin, 4, differentiable=False)
    if not resume:
        stock.state.clear()
    train(net, stock, x, 4)
    for name, p in params.items():
        torch.testing.assert_close(end.params[name], p.detach(), rtol=1e-12, atol=1e-14)


def test_a_parameter_without_gradient_does_not_move_even_under_weight_decay() -> None:
    params = {"used": torch.ones(2), "unused": torch.ones(2)}
    end = unroll(
        lambda th, c, b: th["used"].sum(),
        params,
        None,
        [None],
        sgd(0.1, 0.9, weight_decay=0.5),
        3,
        differentiable=False,
    )
    assert torch.equal(end.params["unused"], params["unused"])
    assert not torch.equal(end.params["used"], params["used"])


def test_impossible_optimizers_are_refused() -> None:
    net = network()
    params = dict(net.named_parameters())
    with pytest.raises(UnsupportedOptimizer, match="no differentiable twin of Rprop; .* per_leaf"):
        from_torch(torch.optim.Rprop(net.parameters()), params)
    with pytest.raises(UnsupportedOptimizer, match="holds no parameter named 2.weight"):
        from_torch(torch.optim.SGD(net[0].parameters(), lr=0.1), params)  # type: ignore[index]
    flags = [{"params": net[0].parameters(), "maximize": True}, {"params": net[2].parameters()}]  # type: ignore[index]
    with pytest.raises(UnsupportedOptimizer, match="differ in"):
        from_torch(torch.optim.SGD(flags, lr=0.1), params)
    with pytest.raises(UnsupportedOptimizer, match="Nesterov"):
        nesterov(0.1, 0.0)
    with pytest.raises(UnsupportedOptimizer, match="no hyperparameter"):
        momentum(0.1).with_hyper(beta=3)
    hooked = torch.optim.Adam(net.parameters())
    hooked.register_step_pre_hook(lambda *_: None)
    with pytest.raises(UnsupportedOptimizer, match="step hooks"):
        from_torch(hooked, params)
    strange = torch.optim.SGD(net.parameters(), lr=0.1)
    strange.param_groups[0]["trust_ratio"] = 1.0
    with pytest.raises(UnsupportedOptimizer, match="trust_ratio"):
        from_torch(strange, params)


def test_with_hyper_changes_values_and_keeps_the_rule() -> None:
    assert momentum(0.1).with_hyper(lr=0.3).hyper["lr"] == 0.3


def test_a_momentum_given_later_is_honoured_by_rmsprop() -> None:
    def end(rule: Any) -> float:
        start = {"w": torch.ones(2, dtype=torch.float64)}
        found = unroll(lambda th, c, b: th["w"].square().sum(), start, None, [None], rule, 4, differentiable=False)
        return float(found.params["w"][0])

    built = end(rmsprop(0.05, momentum=0.9))
    assert end(rmsprop(0.05).with_hyper(momentum=0.9)) == built != end(rmsprop(0.05))
    assert end(parameter_groups(rmsprop(0.05), {"w": 0}, {"w": {"momentum": 0.9}})) == built


def test_leaves_that_are_no_parameters_stay_as_they_are() -> None:
    theta = {"w": torch.ones(2), "n": torch.tensor(7), "k": 5}
    c = {"z": torch.ones(2), "mask": torch.tensor([True, False])}

    def loss(th: Any, c: Any, b: Any) -> torch.Tensor:
        return (th["w"] * c["z"] * c["mask"]).square().sum()

    for rule in (sgd(0.1, 0.9), adam(0.1)):
        for name in ("exact", "mixed", "forward", "finite_difference", "neumann(2)"):
            found = hypergradient(loss, loss, theta, c, Batches([None], None), rule, name, steps=2)
            assert int(found.theta_k["n"]) == 7 and found.theta_k["k"] == 5
            assert found.grad_c["mask"] is None and found.grad_c["z"].shape == (2,)
            assert found.grad_theta_0 is None or found.grad_theta_0["n"] is None


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: chain(clip(1.0), clip(2.0)), "one rule among its parts, such as adam\\(0.1\\), not 0"),
        (lambda: chain(sgd(0.1), adam(0.1)), "not 2"),
        (lambda: parameter_groups(chain(clip(1.0), clip(2.0), sgd(0.1)), {"w": 0}, {"w": {"clip_value_2": 2.0}}), "clip_value_2 is one for all"),
        (lambda: clip_norm(sgd(0.1), -0.1), "clip_norm must be above 0"), (lambda: clip_value(sgd(0.1), 0), "above 0"),
        (lambda: adam(betas=(0.9, 1.0)), r"betas must lie in \[0, 1\)"),
        (lambda: parameter_groups(clip_norm(sgd(0.1), 1.0), {"w": 0}, {"w": {"clip_norm": 2.0}}), "one for all parameters"),
        (lambda: unroll(lambda th, c, b: th["w"].sum(), {"w": torch.ones(1)}, None, [None], sgd({"v": 0.1}), 1), "no value for"),
        (lambda: unroll(lambda th, c, b: th["a"]["w"].sum(), {"a": {"w": torch.ones(1)}}, None, [None], sgd({"w": 0.1}), 1), "no value for"),
    ],
)  # fmt: skip
def test_rules_that_would_be_something_else_are_refused(build: Any, message: str) -> None:
    with pytest.raises(UnsupportedOptimizer, match=message):
        build()


def test_the_higher_backend_refuses_what_it_would_ignore() -> None:
    from metaimpute.engine import Batches, EstimatorError, hypergradient

    def loss(th: Any, c: Any, b: Any) -> torch.Tensor:
        return (th["w"] * c).square().sum()

    for rule in (clip_norm(sgd(0.1), 0.01), clip_value(sgd(0.1), 0.01), scheduled(sgd(0.1), [1.0])):
        with pytest.raises(EstimatorError, match="backend 'higher' cannot carry out"):
            hypergradient(
                loss, loss, {"w": torch.ones(2)}, torch.ones(2), Batches([None], None), rule, backend="higher"
            )
