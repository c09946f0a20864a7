"""The outer loss as a value: equal to hypergradient(), composed with what is around it, refused where a gradient would be missing."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from metaimpute.engine import (
    Batches,
    CannotDifferentiate,
    Compiled,
    Estimator,
    EstimatorError,
    FunctionalModel,
    InnerOptimizer,
    NotRepeatable,
    NotScalar,
    Transform,
    UnsupportedOptimizer,
    WarmStart,
    adam,
    after_training,
    begin,
    chain,
    clip,
    clip_norm,
    estimators,
    hypergradient,
    momentum,
    on_trees,
    scheduled,
    sgd,
    stack,
    stacked,
    unroll,
)
from metaimpute.engine.given import given_rule, with_fixed
from metaimpute.engine.linear_solvers import GMRES, Direct, NormalCG
from metaimpute.engine.optimizers.base import is_closed
from metaimpute.engine.pytree import tensors
from tests.conformance.problems import make_case

pytestmark = pytest.mark.usefixtures("float64")

START = ("exact", "mixed", "first_order", "forward_gradient(3)", "head", "es(3)")
CONVERGED = ("cg", "neumann")
NO_START = ("forward", "truncated(2)", "finite_difference", "approx", *CONVERGED)


def data() -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    return torch.randn(6, 3), torch.randn(6), torch.randn(5, 3), torch.randn(5)


def inner(p: Any, c: Any, batch: Any) -> Tensor:
    x, y, _, _ = data()
    weights = 1.0 if c is None else c
    return (weights * (torch.tanh(x @ p["w"]) + p["b"] - y).square()).mean() + 0.05 * p["w"].square().sum()


def outer(p: Any, c: Any, batch: Any) -> Tensor:
    _, _, x, y = data()
    direct = 0.0 if c is None else 0.1 * c.square().sum()
    return (torch.tanh(x @ p["w"]) + p["b"] - y).square().mean() + direct


def point(grad: bool = True) -> tuple[dict[str, Tensor], Tensor]:
    torch.manual_seed(2)
    start = {"w": torch.randn(3).requires_grad_(grad), "b": torch.zeros(()).requires_grad_(grad)}
    return start, torch.rand(6).requires_grad_()


def difference(value: Callable[..., Tensor], inputs: list[Tensor], step: float = 1e-5) -> list[Tensor]:
    """Central differences of fourth order of a function of tensors."""
    found = []
    for tensor in inputs:
        slope = torch.zeros_like(tensor)
        flat, at = slope.view(-1), tensor.detach().view(-1)
        for entry in range(flat.numel()):
            kept, values = float(at[entry]), []
            for shift in (1, -1, 2, -2):
                at[entry] = kept + shift * step
                with torch.no_grad():
                    values.append(float(value()))
            at[entry] = kept
            flat[entry] = (8 * (values[0] - values[1]) - (values[2] - values[3])) / (12 * step)
        found.append(slope)
    return found


def close(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# equal to hypergradient() -------------------------------------------------------------------------------------------


def test_every_registered_estimator_is_tried_below() -> None:
    own = {name for name in estimators if estimators.get(name).__module__.startswith("metaimpute.")}
    assert own == {name.partition("(")[0] for name in (*START, *NO_START)}


@pytest.mark.parametrize("name", [*START, *NO_START])
@pytest.mark.parametrize("rule", [sgd, momentum, adam])
@pytest.mark.filterwarnings("ignore:the (inner Hessian|Neumann)")
def test_value_and_gradients_are_those_of_hypergradient(name: str, rule: Any) -> None:
    steps = 1 if name == "approx" else 3
    case = make_case("mlp_dropout", steps=steps)
    start = {n: p.detach().requires_grad_(name in START) for n, p in case.model.params.items()}
    lr, coupling = torch.tensor(0.05).requires_grad_(), {"labels": case.coupling["labels"].clone().requires_grad_()}
    losses = (case.structured_inner, case.structured_outer) if name in ("approx", "head") else (case.inner, case.outer)
    value = after_training(
        *losses, start, coupling, optimizer=rule(lr), steps=steps, batches=case.batches.inner,
        outer_batch=case.batches.outer, estimator=name, seed=4,
    )  # fmt: skip
    expected = hypergradient(*losses, start, coupling, case.batches, rule(lr), name, steps=steps, seed=4)
    assert value.shape == () and value.requires_grad
    (3 * value).backward()
    close(value.detach(), expected.outer_loss)
    close(coupling["labels"].grad, 3 * expected.grad_c["labels"])
    close(lr.grad, 3 * expected.grad_optimizer["lr"])
    for n, p in start.items():
        if name in START:
            close(p.grad, 3 * expected.grad_theta_0[n])
        else:
            assert p.grad is None
    with torch.no_grad():
        plain = after_training(
            *losses, start, coupling, optimizer=rule(lr), steps=steps, batches=case.batches.inner,
            outer_batch=case.batches.outer, estimator=name, seed=4,
        )  # fmt: skip
    assert not plain.requires_grad
    close(plain, expected.outer_loss)


@pytest.mark.parametrize("memory", ["store", "recompute", "checkpoint(2)", "revolve(2)", "auto(100MB)"])
def test_every_memory_policy_gives_the_same_value_and_gradient(memory: str) -> None:
    start, c = point()
    found = [
        torch.autograd.grad(
            after_training(inner, outer, start, c, optimizer=adam(0.1), steps=5, memory=m), [*start.values(), c]
        )
        for m in ("store", memory)
    ]
    close(found[1], found[0])


def test_the_higher_backend_gives_the_same_and_says_what_it_lacks() -> None:
    pytest.importorskip("higher")
    start, c = point()
    lr = torch.tensor(0.1, requires_grad=True)
    found = [
        torch.autograd.grad(after_training(inner, outer, start, c, optimizer=sgd(lr), steps=3, backend=b), [*start.values(), c, lr])
        for b in ("func", "higher")
    ]  # fmt: skip
    close(found[1], found[0], 1e-9)
    with pytest.raises(EstimatorError, match="no gradient with respect to lr; detach it"):
        after_training(inner, outer, start, c, optimizer=sgd(lr), backend="higher", estimator="first_order")


# composition --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["exact", "mixed", "forward"])
@pytest.mark.parametrize("rule", [sgd, lambda lr: momentum(lr, torch.tensor(0.8)), adam])
def test_a_learning_rate_made_from_another_tensor(name: str, rule: Any) -> None:
    start, c = point(grad=name != "forward")
    log_lr = torch.tensor(-1.5).requires_grad_()
    inputs = [log_lr, c, *(start.values() if name != "forward" else [])]

    def value() -> Tensor:
        return after_training(inner, outer, start, c, optimizer=rule(log_lr.exp()), steps=4, estimator=name)

    close(list(torch.autograd.grad(value(), inputs)), difference(value, inputs), 2e-9)


@pytest.mark.parametrize("name", ["exact", "mixed", "forward"])
def test_a_coupling_made_by_a_network(name: str) -> None:
    start, _ = point(grad=False)
    x = data()[0]
    net = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1), nn.Sigmoid())

    def value() -> Tensor:
        return after_training(inner, outer, start, net(x)[:, 0], optimizer=sgd(0.2), steps=3, estimator=name)

    value().backward()
    close([p.grad for p in net.parameters()], difference(value, list(net.parameters())), 2e-9)


@pytest.mark.parametrize("name", ["exact", "mixed"])
def test_a_sum_over_tasks_and_a_term_beside_it(name: str) -> None:
    """MAML: every task's value reaches the one start; the stack of all tasks gives the same."""
    torch.manual_seed(3)
    tasks = [{"x": torch.randn(5, 3), "y": torch.randn(5)} for _ in range(3)]
    start, log_lr = point()[0], torch.tensor(-2.0).requires_grad_()

    def fit(p: Any, c: Any, task: Any) -> Tensor:
        return (torch.tanh(task["x"] @ p["w"]) + p["b"] - task["y"]).square().mean()

    def value() -> Tensor:
        values = [
            after_training(
                fit, fit, start, optimizer=sgd(log_lr.exp()), steps=2, batches=task, outer_batch=task, estimator=name
            )
            for task in tasks
        ]
        return torch.stack(values).sum() ** 2 + start["w"].square().sum()

    def stacked_value() -> Tensor:
        many = {n: p.expand(3, *p.shape) for n, p in start.items()}
        batch = stack(tasks)
        found = after_training(
            stacked(fit), stacked(fit), many, optimizer=sgd(log_lr.exp()), steps=2, batches=batch, outer_batch=batch,
            estimator=name,
        )  # fmt: skip
        return found**2 + start["w"].square().sum()

    inputs = [*start.values(), log_lr]
    found = list(torch.autograd.grad(value(), inputs))
    close(found, difference(value, inputs), 2e-9)
    close(list(torch.autograd.grad(stacked_value(), inputs)), found, 1e-10)


def test_every_kind_of_hyperparameter_is_reached() -> None:
    start, c = point()
    names = torch.tensor([0.3, 0.1], requires_grad=True)
    decay, schedule, limit = (
        torch.full((3,), 0.02).requires_grad_(), torch.tensor([1.0, 0.5, 0.2]).requires_grad_(), torch.tensor(0.4).requires_grad_(),
    )  # fmt: skip

    def value() -> Tensor:
        rates = {"w": names[0], "b": names[1]}
        rule = momentum(rates, torch.tensor(0.7), weight_decay={"w": decay, "b": torch.tensor(0.1)})
        return after_training(inner, outer, start, c, optimizer=clip_norm(scheduled(rule, schedule), limit), steps=3)

    inputs = [names, decay, schedule, limit]
    found = list(torch.autograd.grad(value(), inputs))
    assert all(g.abs().min() > 0 for g in found)
    close(found, difference(value, inputs), 2e-9)


def test_complex_parameters_and_couplings_follow_autograd() -> None:
    torch.manual_seed(0)
    start, c = {"w": torch.randn(3, dtype=torch.complex128, requires_grad=True)}, torch.randn(3, dtype=torch.complex128)
    c.requires_grad_()

    def loss(p: Any, c: Any, batch: Any) -> Tensor:
        return (p["w"] * c - 1).abs().square().sum() + (p["w"] ** 2).real.sum()

    value = after_training(loss, loss, start, c, optimizer=sgd(0.05), steps=2)
    reference = loss(unroll(loss, start, c, [None], sgd(0.05), 2).params, c, None)
    inputs = [start["w"], c]
    close(torch.autograd.grad(value, inputs), torch.autograd.grad(reference, inputs))


# nothing more than asked for ----------------------------------------------------------------------------------------


class Seen(Estimator):
    """What the estimator was asked for."""

    name = "exact"
    asked: list[Any] = []

    def differentiate(self, problem: Any) -> Any:
        self.asked.append(problem)
        return estimators.get("exact")().differentiate(problem)

    def plain(self, problem: Any) -> Any:
        self.asked.append("plain")
        return super().plain(problem)


def test_only_what_requires_a_gradient_is_asked_for() -> None:
    start, c = point()
    constant = {n: p.detach() for n, p in start.items()}
    two = {"kept": c, "fixed": torch.ones(6), "count": 3}
    seen = Seen()
    seen.asked.clear()

    def loss(p: Any, c: Any, batch: Any) -> Tensor:
        assert c["count"] == 3 and c["fixed"].shape == (6,)
        return inner(p, c["kept"] * c["fixed"], batch)

    after_training(loss, outer_of(loss), start, two, optimizer=sgd(0.1), estimator=seen)
    after_training(loss, outer_of(loss), constant, two, optimizer=sgd(0.1), estimator=seen)
    free = {**two, "kept": c.detach()}
    after_training(loss, outer_of(loss), constant, free, optimizer=sgd(torch.tensor(0.1)), estimator=seen)
    with torch.no_grad():
        after_training(loss, outer_of(loss), start, two, optimizer=sgd(0.1), estimator=seen)
    first, second, *rest = seen.asked
    assert first.wrt_start and not second.wrt_start and rest == ["plain", "plain"]
    assert first.c["kept"] is c and first.c["fixed"] is None


def outer_of(loss: Any) -> Any:
    return lambda p, c, batch: loss(p, c, batch)


def counted(loss: Any, calls: list[int]) -> Any:
    def counting(p: Any, c: Any, batch: Any) -> Tensor:
        calls[0] += 1
        return loss(p, c, batch)

    return counting


def test_a_detached_start_takes_mixeds_cheap_way_and_forward_has_a_pass_for_what_is_learned_alone() -> None:
    _, c = point()
    start = point(grad=False)[0]
    calls = [0]
    after_training(counted(inner, calls), outer, start, c, optimizer=sgd(0.1), steps=3, estimator="mixed", seed=0)
    assert calls == [6]  # a pass and a product for every step
    calls = [0]
    lr, mass = torch.tensor(0.1, requires_grad=True), torch.tensor(0.5)
    rule = momentum(lr, mass, weight_decay={"w": torch.tensor(0.1), "b": torch.tensor(0.2, requires_grad=True)})
    value = after_training(
        counted(inner, calls), outer, start, c.detach(), optimizer=rule, steps=3, estimator="forward"
    )
    assert calls == [6]  # two scalars, three steps each
    exact = after_training(inner, outer, start, c.detach(), optimizer=rule, steps=3)
    inputs = [lr, rule.hyper["weight_decay"]["b"]]
    close(torch.autograd.grad(value, inputs), torch.autograd.grad(exact, inputs))
    calls = [0]
    value = after_training(counted(inner, calls), outer, start, c.detach(), optimizer=sgd(0.1), steps=3)
    assert calls == [3] and not value.requires_grad


@pytest.mark.parametrize(
    "name", ["exact", "mixed", "forward", "truncated(1)", "finite_difference", "cg(3)", "forward_gradient"]
)
def test_a_part_of_the_coupling_that_needs_no_gradient_stays_what_it_is(name: str) -> None:
    start, c = point(grad=False)[0], point()[1]
    factor = torch.linspace(0.5, 1.5, 6)

    def with_parts(loss: Any) -> Any:
        return lambda p, c, batch: loss(p, c[0] * c[1]["factor"], batch)

    options: Any = {"optimizer": sgd(0.1), "steps": 2, "estimator": name, "seed": 0}
    found = after_training(with_parts(inner), with_parts(outer), start, [c, {"factor": factor}], **options)
    expected = after_training(
        lambda p, c, b: inner(p, c * factor, b), lambda p, c, b: outer(p, c * factor, b), start, c, **options
    )
    close(torch.autograd.grad(found, c), torch.autograd.grad(expected, c))


# refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NO_START)
def test_an_estimator_without_the_starts_gradient_is_refused_for_a_start_that_requires_one(name: str) -> None:
    start, c = point()
    with pytest.raises(
        EstimatorError, match=r"no gradient with respect to the start.*pass them detached .*or take 'exact'"
    ):
        after_training(inner, outer, start, c, optimizer=sgd(0.1), estimator=name)


def test_a_second_derivative_is_refused_with_the_way_out_which_works() -> None:
    start, c = point()
    value = after_training(inner, outer, start, c, optimizer=sgd(0.1), steps=2)
    with pytest.raises(CannotDifferentiate, match=r"differentiated once.*unroll\(\.\.\.\)\.params.*memory 'store'"):
        torch.autograd.grad(value, c, create_graph=True)
    end = outer(unroll(inner, start, c, [None], sgd(0.1), 2).params, c, None)
    close(end, value)
    slope = torch.autograd.grad(end, c, create_graph=True)[0]
    assert torch.autograd.grad(slope.sum(), c)[0].abs().sum() > 0


def test_transforms_and_forward_mode_are_refused() -> None:
    start, c = point()

    def value(c: Tensor) -> Tensor:
        return after_training(inner, outer, start, c, optimizer=sgd(0.1))

    for transform in (torch.func.grad, lambda f: torch.func.vmap(f), lambda f: lambda c: torch.func.jvp(f, (c,), (c,))):
        with pytest.raises(CannotDifferentiate, match=r"torch\.func transforms"):
            transform(value)(c.detach()[None] if transform not in (torch.func.grad,) else c.detach())
    for grad in (True, False):
        at = c.detach().requires_grad_(grad)
        with forward_ad.dual_level(), pytest.raises(CannotDifferentiate, match="no forward-mode tangents"):
            value(forward_ad.make_dual(at, torch.ones(6)))


FOREIGN = "uses a tensor of shape .* that requires a gradient but is in none of params, the coupling"


@pytest.mark.parametrize(
    "name", ["exact", "mixed", "forward", "finite_difference", "cg", "first_order", "truncated(1)"]
)
@pytest.mark.parametrize("which", ["inner", "outer"])
@pytest.mark.parametrize("place", ["closure", "made", "batch", "coupling"])
def test_another_tensor_that_requires_a_gradient_is_refused(name: str, which: str, place: str) -> None:
    start, c = point(grad=False)[0], point()[1]
    foreign = torch.ones(6, requires_grad=True)
    used = {"closure": foreign, "made": foreign.exp(), "batch": None, "coupling": c}[place]

    def reaching(loss: Any) -> Any:
        def reach(p: Any, c: Any, batch: Any) -> Tensor:
            return loss(p, c * (batch if place == "batch" else used), batch)

        return reach

    losses = {"inner": inner, "outer": outer}
    losses[which] = reaching(losses[which])
    with pytest.raises(CannotDifferentiate, match=f"the {which} loss {FOREIGN}"):
        after_training(
            losses["inner"], losses["outer"], start, c, optimizer=sgd(0.1), steps=2, batches=foreign,
            outer_batch=foreign, estimator=name,
        )  # fmt: skip


def test_a_foreign_tensor_is_refused_without_any_other_and_in_a_later_step_and_not_under_no_grad() -> None:
    start, c = point(grad=False)[0], torch.rand(6)
    foreign = torch.ones(6, requires_grad=True)

    def late(p: Any, c: Any, batch: Any) -> Tensor:
        return inner(p, c * foreign if batch else c, batch)

    for losses in ((late, outer), (inner, lambda p, c, b: outer(p, c * foreign, b))):
        for recorded in (False, True):
            with pytest.raises(CannotDifferentiate, match=FOREIGN):
                if recorded:
                    begin(start, c, losses[0], optimizer=sgd(0.1)).step(False).step(True).value(losses[1])
                else:
                    after_training(*losses, start, c, optimizer=sgd(0.1), steps=2, batches=[False, True])
        with torch.no_grad():
            after_training(*losses, start, c, optimizer=sgd(0.1), steps=2, batches=[False, True])


def test_parameters_left_to_the_module_are_refused_until_they_are_frozen_or_passed() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    model = FunctionalModel(net)
    x, y, xv, yv = data()
    head = {n: p for n, p in model.params.items() if n.startswith("2.")}
    body = {n: p for n, p in model.params.items() if n.startswith("0.")}

    def alone(p: Any, c: Any, batch: Any) -> Tensor:
        return (model(p, x)[:, 0] - y).square().mean()

    def whole(p: Any, c: Any, batch: Any) -> Tensor:
        return (model({**c, **p}, xv)[:, 0] - yv).square().mean()

    with pytest.raises(CannotDifferentiate, match=FOREIGN):
        after_training(alone, alone, head, optimizer=sgd(0.1))
    inputs = [*head.values(), *body.values()]

    def value() -> Tensor:
        return after_training(whole, whole, head, body, optimizer=sgd(0.1), steps=2)

    close(list(torch.autograd.grad(value(), inputs)), difference(value, inputs), 2e-9)  # ANIL
    net[0].requires_grad_(False)
    assert after_training(alone, alone, head, optimizer=sgd(0.1)).requires_grad


@pytest.mark.parametrize("name", ["head", "approx"])
@pytest.mark.parametrize("member", ["features", "readout"])
def test_members_of_structured_losses_are_watched_too(name: str, member: str) -> None:
    case = make_case("mlp_dropout")
    foreign = torch.ones((), requires_grad=True)

    known: Any = case.structured_inner.factored

    def scaled(*args: Any) -> Any:
        found = getattr(known, member)(*args)
        return (found[0] * foreign, found[1]) if member == "features" else found * foreign

    loss = dataclasses.replace(case.structured_inner, factored=dataclasses.replace(known, **{member: scaled}))
    start = {n: p.detach() for n, p in case.model.params.items()}
    c = {"labels": case.coupling["labels"].requires_grad_()}
    options: Any = {"batches": case.batches.inner, "outer_batch": case.batches.outer, "estimator": name}
    assert after_training(
        case.structured_inner, case.structured_outer, start, c, optimizer=sgd(0.1), **options
    ).requires_grad
    with pytest.raises(CannotDifferentiate, match="the inner loss uses a tensor of shape"):
        after_training(loss, case.structured_outer, start, c, optimizer=sgd(0.1), **options)


def test_a_rule_that_uses_another_tensor_is_refused() -> None:
    start, c = point()
    table = torch.tensor([1.0, 0.5], requires_grad=True)
    with pytest.raises(
        CannotDifferentiate, match="sgd uses a tensor that requires a gradient but is none of its hyper"
    ):
        after_training(inner, outer, start, c, optimizer=scheduled(sgd(0.1), lambda t: table[t]), steps=2)
    value = after_training(inner, outer, start, c, optimizer=scheduled(sgd(0.1), table), steps=2)
    assert torch.autograd.grad(value, table)[0].abs().min() > 0


UNGIVEN = "uses a tensor that requires a gradient but is none of its hyper"


def rules_with_a_tensor_of_their_own(v: Tensor) -> dict[str, Any]:
    """Rules that use ``v`` where it is none of their hyperparameters, and not at the first step with a gradient of zero."""

    def once_it_moves(updates: Any, state: Any, params: Any, hyper: Any) -> Any:
        return {name: u * (v if float(u.detach().abs().max()) > 0 else 1.0) for name, u in updates.items()}, state

    def held(grads: Any, state: Any, params: Any, hyper: Any) -> Any:
        return {name: -v * g if state else -0.1 * g for name, g in grads.items()}, state + 1

    return {
        "schedule": scheduled(sgd(0.1), lambda s: 1.0 if s == 0 else v),
        "schedule beside a learned rate": scheduled(sgd(torch.tensor(0.1, requires_grad=True)), lambda s: v if s == 2 else 1.0),
        "transform": chain(sgd(0.1), Transform(lambda params: None, once_it_moves, {}, "once it moves")),
        "rule": InnerOptimizer(lambda params: 0, held, {}, "held"),
        "replaced update": dataclasses.replace(sgd(0.1), init=lambda params: 0, update=held),
        "init": dataclasses.replace(
            momentum(0.1), init=lambda params: [v * torch.ones(()), *[None] * (len(params) - 1)]
        ),
    }  # fmt: skip


@pytest.mark.parametrize("estimator", ["exact", "mixed", "forward", "finite_difference", "cg", "truncated(1)"])
@pytest.mark.parametrize("kind", rules_with_a_tensor_of_their_own(torch.ones(())))
def test_a_tensor_that_a_rule_uses_at_a_later_step_is_refused(kind: str, estimator: str) -> None:
    v = torch.tensor(0.5, requires_grad=True)
    rule = rules_with_a_tensor_of_their_own(v)[kind]
    start, c = point(grad=False)
    options: Any = {"optimizer": rule, "steps": 4, "estimator": estimator}
    with pytest.raises(CannotDifferentiate, match=UNGIVEN):
        after_training(inner, outer, start, c, **options)
    with pytest.raises(CannotDifferentiate, match=UNGIVEN):
        hypergradient(inner, outer, start, c, Batches([None], None), rule, estimator, steps=4)
    fixed = rules_with_a_tensor_of_their_own(v.detach())[kind]
    with torch.no_grad():
        value = after_training(inner, outer, start, c, **options)
    assert torch.equal(value, after_training(inner, outer, start, c, **{**options, "optimizer": fixed}).detach())


@pytest.mark.parametrize("memory", ["store", "recompute"])
def test_a_tensor_that_a_rule_uses_at_a_later_step_is_refused_at_that_step(memory: str) -> None:
    v = torch.tensor(0.5, requires_grad=True)
    rule = scheduled(sgd(0.1), lambda s: 1.0 if s < 2 else v)
    start, c = point()
    trajectory = begin(start, c, inner, optimizer=rule, memory=memory).step().step()
    assert trajectory.value(outer).requires_grad
    with pytest.raises(CannotDifferentiate, match=UNGIVEN):
        trajectory.step()
    with pytest.raises(CannotDifferentiate, match=UNGIVEN):
        after_training(inner, outer, start, c, optimizer=rule, steps=3, memory=memory)
    after_training(inner, outer, start, c, optimizer=rule, steps=2, memory=memory).backward()


def test_a_tensor_in_the_rule_of_a_compiled_step_is_refused() -> None:
    v = torch.tensor(0.5, requires_grad=True)
    start, c = point()

    def plain(p: Any, c: Any, batch: Any) -> Tensor:
        return (p["w"].square() * c[:3]).sum() + p["b"].square()

    def own(updates: Any, state: Any, params: Any, hyper: Any) -> Any:
        return {name: v * u for name, u in updates.items()}, state

    rule = chain(sgd(0.1), Transform(lambda params: None, own, {}, "own"))
    with pytest.raises(CannotDifferentiate, match=UNGIVEN):
        after_training(Compiled(plain, backend="aot_eager"), outer, start, c, optimizer=rule, steps=2)


def test_a_list_of_factors_holds_no_learned_tensor() -> None:
    v = torch.tensor(0.5, requires_grad=True)
    with pytest.raises(UnsupportedOptimizer, match=r"pass one tensor of all factors, such as torch.stack"):
        scheduled(sgd(0.1), [1.0, v, v, 1.0])
    start, c = point(grad=False)
    one = torch.ones(())

    def value() -> Tensor:
        return after_training(
            inner, outer, start, c, optimizer=scheduled(sgd(0.1), torch.stack([one, v, v, one])), steps=4
        )

    torch.testing.assert_close(torch.autograd.grad(value(), v)[0], difference(value, [v])[0], rtol=1e-7, atol=1e-10)
    scheduled(sgd(0.1), [1.0, v.detach()])


def test_a_rule_of_the_package_is_not_watched() -> None:
    """It is known to use its arguments alone, so that nothing is looked for at any step."""
    learned = torch.tensor(0.1, requires_grad=True)
    for rule in (
        adam(learned),
        clip_norm(scheduled(sgd(learned), [1.0, 0.5]), learned),
        scheduled(sgd(0.1), learned[None]),
    ):
        assert given_rule(rule) is rule and is_closed(with_fixed(rule).update)
    assert given_rule(scheduled(sgd(0.1), lambda t: 1.0)) is not rule


def test_changed_arguments_and_loaders_and_wrong_lengths_are_refused() -> None:
    start, c = point()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4)))
    for batches in (loader, iter(loader)):
        with pytest.raises(CannotDifferentiate, match="of a loader take list"):
            after_training(inner, outer, start, c, optimizer=sgd(0.1), batches=batches)
    with pytest.raises(EstimatorError, match="2 inner batches for 3 steps"):
        after_training(inner, outer, start, c, optimizer=sgd(0.1), batches=[1, 2], steps=3)
    for bad in (0, 1.5, True):
        with pytest.raises(EstimatorError, match="inner steps must be"):
            after_training(inner, outer, start, c, optimizer=sgd(0.1), steps=bad)  # type: ignore[arg-type]
    with pytest.raises(CannotDifferentiate, match="coupling is a float"):
        after_training(inner, outer, start, 0.5, optimizer=sgd(0.1))

    def changing(p: Any, c: Any, batch: Any) -> Tensor:
        c["fixed"].mul_(0.5)
        return inner(p, c["c"] * c["fixed"], batch)

    with pytest.raises(CannotDifferentiate, match="changes a tensor of the coupling in place"):
        after_training(changing, lambda *_: outer(_[0], None, None), start, {"c": c, "fixed": torch.ones(6)}, optimizer=sgd(0.1))  # fmt: skip


@pytest.mark.slow
def test_a_compiled_loss_is_the_same_and_its_closure_is_looked_at() -> None:
    start, c = point()
    x, y, xv, yv = data()
    foreign = torch.ones(6, requires_grad=True)

    def plain(p: Any, c: Any, batch: Any) -> Tensor:
        return (c * (torch.tanh(x @ p["w"]) + p["b"] - y).square()).mean()

    found = [
        torch.autograd.grad(after_training(loss, outer, start, c, optimizer=sgd(0.1), steps=2), [*start.values(), c])
        for loss in (plain, Compiled(plain, backend="aot_eager"))
    ]
    close(found[1], found[0])
    reaching = Compiled(lambda p, c, b: plain(p, c * foreign, b), backend="aot_eager")
    for losses in ((reaching, outer), (inner, reaching)):
        for name in ("exact", "mixed", "first_order"):
            with pytest.raises(CannotDifferentiate, match=FOREIGN):
                after_training(*losses, start, c, optimizer=sgd(0.1), estimator=name)
    with pytest.raises(NotScalar, match="a compiled inner loss returns its value alone"):
        after_training(Compiled(lambda p, c, b: (plain(p, c, b), 1)), outer, start, c, optimizer=sgd(0.1), aux=True)


# aux ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["exact", "mixed", "forward", "cg", "finite_difference", "first_order"])
@pytest.mark.parametrize("grad", [True, False])
def test_aux_of_the_outer_loss_comes_along_detached(name: str, grad: bool) -> None:
    start, c = point(grad=False)[0], torch.rand(6, requires_grad=grad)

    def with_aux(loss: Any) -> Any:
        return lambda p, c, batch: (loss(p, c, batch), {"w": p["w"] * 1, "words": "kept", "c": c})

    options: Any = {"optimizer": sgd(0.1), "steps": 2, "estimator": name}
    value, aux = after_training(with_aux(inner), with_aux(outer), start, c, aux=True, **options)
    expected = after_training(inner, outer, start, c, **options)
    close(value, expected)
    end = unroll(inner, start, c.detach(), [None], sgd(0.1), 2, differentiable=False).params
    close(aux["w"], end["w"])
    assert aux["words"] == "kept" and not aux["w"].requires_grad and not aux["c"].requires_grad
    value, aux = after_training(with_aux(inner), outer, start, c, aux=True, **options)
    assert aux is None
    with pytest.raises(NotScalar, match=r"inner loss returned a tuple of 2; with aux=True"):
        after_training(with_aux(inner), outer, start, c, **options)


def test_aux_of_a_stack_has_a_row_for_every_task() -> None:
    start = {"w": torch.randn(4, 3, requires_grad=True)}
    targets = torch.randn(4, 3)

    def loss(p: Any, c: Any, goal: Any) -> Any:
        error = p["w"] - goal
        return error.square().sum(), {"largest": error.abs().amax()}

    many = stacked(loss)
    value, aux = after_training(
        many, many, start, optimizer=sgd(0.1), steps=2, batches=targets, outer_batch=targets, aux=True
    )
    left = 0.8**2 * (start["w"] - targets)
    close(aux["largest"], left.detach().abs().amax(1))
    close(value, left.square().sum())


# solve --------------------------------------------------------------------------------------------------------------

Q = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
QUADRATIC = {"w": torch.zeros(2), "v": torch.zeros(1, 1), "unused": torch.ones(2)}


def joined(p: Any) -> Tensor:
    return torch.cat([p["w"], p["v"].flatten()])


def quadratic(p: Any, c: Any, batch: Any) -> Tensor:
    return 0.5 * joined(p) @ Q @ joined(p) - c @ joined(p)


def target(p: Any, c: Any, batch: Any) -> Tensor:
    return (joined(p) - 1).square().sum() + p["unused"].sum()


def dense(matvec: Any, b: Tensor) -> Tensor:
    """The matrix column by column, then one solve."""
    columns = [matvec(unit) for unit in torch.eye(len(b), dtype=b.dtype)]
    return torch.linalg.solve(torch.stack(columns, 1), b)


def by_descent(matvec: Any, b: Any) -> Any:
    x = {name: torch.zeros_like(leaf) for name, leaf in b.items()}
    for _ in range(300):
        image = matvec(x)
        x = {name: x[name] - 0.3 * (image[name] - b[name]) for name in b}
    return x


@pytest.mark.parametrize("name", ["cg", "neumann"])
@pytest.mark.parametrize("solve", [dense, on_trees(by_descent), GMRES(), Direct(), NormalCG(), WarmStart("cg")])
def test_a_solver_of_ones_own_gives_the_closed_form(name: str, solve: Any) -> None:
    start = {n: p.double() for n, p in QUADRATIC.items()}
    c = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    decay = torch.tensor(0.25, requires_grad=True)
    value = after_training(
        quadratic, target, start, c, optimizer=sgd(0.3, weight_decay=decay), steps=400, estimator=name, solve=solve
    )
    inverse = torch.linalg.inv(Q + decay * torch.eye(3))
    end = inverse @ c
    expected = (end - 1).square().sum() + 2
    close(value.detach(), expected.detach(), 1e-10)
    close(torch.autograd.grad(value, [c, decay]), torch.autograd.grad(expected, [c, decay]), 1e-10)
    found = hypergradient(
        quadratic, target, start, c, Batches([None], None), sgd(0.3, weight_decay=0.25), name, steps=400, solve=solve
    )
    assert float(found.diagnostics["residual"]) < 1e-10


def test_solvers_are_refused_or_warned_of_where_they_cannot_be_right() -> None:
    start, c = {n: p.double() for n, p in QUADRATIC.items()}, torch.ones(3, requires_grad=True)

    def call(solve: Any, name: str = "cg") -> Tensor:
        return after_training(quadratic, target, start, c, optimizer=sgd(0.3), steps=50, estimator=name, solve=solve)

    with pytest.raises(EstimatorError, match="'exact' solves no linear system; solve= is for 'cg' and 'neumann'"):
        call(dense, "exact")
    with pytest.raises(EstimatorError, match=r"solve= takes a function"):
        call("dense")
    with pytest.raises(EstimatorError, match=r"vectors of shape \[3\], not \[2\]"):
        call(lambda matvec, b: b[:2])
    with pytest.raises(EstimatorError, match=r"vectors of shape \[3\], not dict"):
        call(by_descent_wrongly_marked)
    with pytest.raises(EstimatorError, match="in the shape of the parameters"):
        call(on_trees(lambda matvec, b: b["w"]))
    with pytest.raises(EstimatorError, match="not finite"):
        call(lambda matvec, b: b / 0)
    with pytest.raises(CannotDifferentiate, match=r"torch\.func"):
        call(lambda matvec, b: torch.func.vmap(matvec)(torch.eye(3))[0])
    with pytest.warns(UserWarning, match="left a relative residual of 1,"):
        call(lambda matvec, b: 0 * b)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(dense)


def by_descent_wrongly_marked(matvec: Any, b: Any) -> Any:
    return matvec({"w": b})


def test_a_complex_unknown_is_two_real_ones() -> None:
    start = {"w": torch.zeros(2, dtype=torch.complex128)}
    c = torch.tensor([1.0 + 2j, -0.5j], requires_grad=True)

    def loss(p: Any, c: Any, batch: Any) -> Tensor:
        return 0.5 * (p["w"] - c).abs().square().sum() + 0.2 * (p["w"] ** 2).real.sum()

    def goal(p: Any, c: Any, batch: Any) -> Tensor:
        return (p["w"] - 1).abs().square().sum()

    found = [
        torch.autograd.grad(
            after_training(loss, goal, start, c, optimizer=sgd(0.4), steps=300, estimator=name, solve=solve), c
        )[0]
        for name, solve in (("exact", None), ("cg", dense))
    ]
    close(found[1], found[0], 1e-10)


# one step at a time -------------------------------------------------------------------------------------------------

RECORDED = (
    "exact",
    "mixed",
    "first_order",
    "forward_gradient(2)",
    "forward",
    "truncated(2)",
    "finite_difference",
    "cg",
)


@pytest.mark.parametrize("memory", ["store", "recompute", "checkpoint(2)", "revolve(2)", "auto(100MB)"])
@pytest.mark.parametrize("architecture", ["mlp_dropout", "transformer_dropout"])
def test_steps_one_at_a_time_are_after_training_to_the_bit(architecture: str, memory: str) -> None:
    same_to_the_bit(architecture, "exact", memory)


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.filterwarnings("ignore:the inner Hessian")
def test_every_estimator_goes_back_over_recorded_steps(name: str) -> None:
    same_to_the_bit("mlp_dropout", name, "store")


def same_to_the_bit(architecture: str, name: str, memory: str) -> None:
    case = make_case(architecture, steps=4)
    start = {n: p.detach().requires_grad_(name in START or "gradient" in name) for n, p in case.model.params.items()}
    c, lr = {"labels": case.coupling["labels"].requires_grad_()}, torch.tensor(0.1, requires_grad=True)
    if name == "forward":
        c["labels"] = c["labels"].detach()
    options: Any = {
        "optimizer": momentum(lr) if name == "cg" else adam(lr),
        "estimator": name,
        "memory": memory,
        "seed": 9,
    }
    inputs = [p for p in [*start.values(), c["labels"], lr] if p.requires_grad]
    value = after_training(
        case.inner, case.outer, start, c, steps=4, batches=case.batches.inner, outer_batch=case.batches.outer, **options
    )
    trajectory = begin(start, c, case.inner, **options)
    for batch in case.batches.inner:
        before = trajectory
        trajectory = trajectory.step(batch)
    again = trajectory.value(case.outer, case.batches.outer)
    assert torch.equal(again, value)
    first, second = (torch.autograd.grad(v, inputs, allow_unused=True) for v in (value, again))
    assert all(a is b or torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert len(before.batches) == 3 and len(trajectory.batches) == 4
    assert any(not torch.equal(before.params[n], trajectory.params[n]) for n in start)
    with torch.no_grad():
        assert torch.equal(trajectory.value(case.outer, case.batches.outer), value)


def test_where_the_steps_lead_is_where_the_reverse_pass_starts_from() -> None:
    """SiLU's gradient has another formula when it is to be differentiated: the recorded steps take that one."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Dropout(0.3), nn.Linear(8, 1)).float()
    model, (x, y, xv, yv) = FunctionalModel(net), (t.float() for t in data())
    ends = []

    def fit(p: Any, c: Any, batch: Any) -> Tensor:
        return (c * (model(p, x)[:, 0] - y).square()).mean()

    def hold(p: Any, c: Any, batch: Any) -> Tensor:
        ends.append({n: v.detach().clone() for n, v in p.items()})
        return (model(p, xv)[:, 0] - yv).square().mean()

    trajectory = begin(model.params, torch.ones(6, dtype=torch.float32, requires_grad=True), fit, optimizer=adam(0.01))
    for _ in range(20):
        trajectory = trajectory.step()
    trajectory.value(hold).backward()
    assert all(torch.equal(ends[0][n], trajectory.params[n]) for n in ends[0])
    assert all(p.grad is not None for p in net.parameters())


def test_paths_part_and_any_python_stands_between_steps() -> None:
    start, c = point()

    def fit(p: Any, c: Any, batch: Any) -> Tensor:
        return inner(p, c, None) * batch

    trajectory = begin(start, c, fit, optimizer=momentum(0.1), seed=0)
    while len(trajectory.losses) < 10 and not (
        trajectory.losses and trajectory.losses[-1] < 0.9 * trajectory.losses[0]
    ):
        trajectory = trajectory.step(1.0)
    steps = len(trajectory.losses)
    left, right = trajectory.step(1.0), trajectory.step(-2.0)
    for path, last in ((left, 1.0), (right, -2.0)):
        options: Any = {"optimizer": momentum(0.1), "steps": steps + 1, "batches": [*[1.0] * steps, last]}
        expected = after_training(fit, outer, start, c, **options)
        assert torch.equal(path.value(outer), expected)
        close(torch.autograd.grad(path.value(outer), c), torch.autograd.grad(expected, c))
    twice = left.value(outer) + left.value(lambda p, c, b: p["w"].sum())
    assert torch.autograd.grad(twice, c)[0].abs().sum() > 0


def test_aux_of_a_step_is_there_at_once() -> None:
    start, c = point()
    trajectory = begin(start, c, lambda p, c, b: (inner(p, c, b), p["w"] * b), optimizer=sgd(0.1), aux=True).step(2.0)
    close(trajectory.aux, 2 * start["w"].detach())
    value, aux = trajectory.value(lambda p, c, b: (outer(p, c, b), p["w"] * b), 3.0)
    close(aux, 3 * trajectory.params["w"])
    assert value.requires_grad and not trajectory.aux.requires_grad


def test_statistics_are_updated_by_the_step_and_not_by_the_value() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
    model, (x, y, xv, yv) = FunctionalModel(net), data()

    def fit(p: Any, c: Any, batch: Any) -> Tensor:
        with model.updating_buffers():
            return (model(p, x)[:, 0] - y).square().mean()

    trajectory = begin(model.params, None, fit, optimizer=sgd(0.1))
    for done in range(1, 4):
        trajectory = trajectory.step()
        assert int(net[1].num_batches_tracked) == done
        trajectory.value(lambda p, c, b: (model(p, xv)[:, 0] - yv).square().mean()).backward()
        assert int(net[1].num_batches_tracked) == done


def test_recompute_goes_back_over_the_recorded_steps_and_takes_none_again() -> None:
    start, c = point()
    lr = torch.tensor(0.1, requires_grad=True)
    inputs = [*start.values(), c, lr]
    for memory, calls_of_the_value in (("recompute", 5), ("store", 5), ("revolve(5)", 10)):
        calls = [0]
        trajectory = begin(start, c, counted(inner, calls), optimizer=adam(lr), memory=memory)
        for _ in range(5):
            trajectory = trajectory.step()
        assert calls == [5]
        expected = after_training(inner, outer, start, c, optimizer=adam(lr), steps=5, memory=memory)
        for again in (1, 2):
            value = trajectory.value(outer)
            assert calls == [5 + again * calls_of_the_value] and torch.equal(value, expected)
            found = torch.autograd.grad(value, inputs)
            assert all(map(torch.equal, found, torch.autograd.grad(expected, inputs, retain_graph=True)))


@pytest.mark.parametrize("memory", ["store", "recompute"])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", ["exact", "mixed", "first_order"])
def test_a_step_that_is_not_repeated_is_refused(name: str, steps: int, memory: str) -> None:
    if name != "exact" and memory != "store":
        pytest.skip("memory is exact's")
    start, c = point()
    generator = torch.Generator().manual_seed(0)
    grows = [0.0]

    def noisy(p: Any, c: Any, batch: Any) -> Tensor:
        return inner(p, c * torch.rand(6, generator=generator), batch)

    def hidden(p: Any, c: Any, batch: Any) -> Tensor:
        grows[0] += 1.0  # the same value, another gradient
        return inner(p, c, batch) + grows[0] * (p["w"] - p["w"].detach()).sum()

    def shifted(p: Any, c: Any, batch: Any) -> Tensor:
        return inner(p, c, batch) + torch.rand((), generator=generator)  # the same gradient, another value

    for loss in (noisy, hidden, shifted):
        with pytest.raises(NotRepeatable):
            trajectory = begin(start, c, loss, optimizer=sgd(0.1), estimator=name, memory=memory)
            for _ in range(steps):
                trajectory = trajectory.step()
            trajectory.value(outer)


@pytest.mark.parametrize("what", ["start", "coupling", "lr", "batch", "params", "state"])
def test_what_was_recorded_must_not_be_changed_in_place(what: str) -> None:
    start, c = point()
    lr, batch = torch.tensor(0.1, requires_grad=True), torch.ones(6)
    trajectory = begin(start, c, lambda p, c, b: inner(p, c * b, None), optimizer=momentum(lr)).step(batch)
    led = {"params": trajectory.params["w"], "state": tensors(trajectory.state)[0]}
    changed = {"start": start["w"], "coupling": c, "lr": lr, "batch": batch, **led}[what]
    with torch.no_grad():
        changed.mul_(1.0)
    for call in (lambda: trajectory.step(batch), lambda: trajectory.value(outer)):
        with pytest.raises(CannotDifferentiate, match="changed in place after a step was recorded"):
            call()


def test_a_value_needs_a_step_and_an_estimator_of_plain_steps() -> None:
    start, c = point()
    with pytest.raises(EstimatorError, match="no step to differentiate yet"):
        begin(start, c, inner, optimizer=sgd(0.1)).value(outer)
    for name in ("head", "approx"):
        with pytest.raises(EstimatorError, match="moves the last layer alone"):
            begin(start, c, inner, optimizer=sgd(0.1), estimator=name)
    with pytest.raises(EstimatorError, match="no gradient with respect to the start"):
        begin(start, c, inner, optimizer=sgd(0.1), estimator="forward").step().value(outer)


def test_dropout_draws_the_same_noise_in_step_and_reverse_pass_and_leaves_the_generator_alone() -> None:
    start, c = point()

    def fit(p: Any, c: Any, batch: Any) -> Tensor:
        return inner({**p, "w": nn.functional.dropout(p["w"], 0.5)}, c, batch)

    def value(seed: int = 3) -> Tensor:
        return after_training(fit, outer, start, c, optimizer=sgd(0.2), steps=6, estimator="mixed", seed=seed)

    before = torch.get_rng_state()
    close(list(torch.autograd.grad(value(), [c])), difference(value, [c]), 2e-9)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(value(3), value(4))
    trajectory = begin(start, c, fit, optimizer=sgd(0.2), estimator="mixed", seed=3)
    for _ in range(6):
        trajectory = trajectory.step()
    assert torch.equal(trajectory.value(outer), value())


@pytest.mark.parametrize(
    "estimator", ["exact", "mixed", "neumann(3)", "truncated(1)", "first_order", "cg", "finite_difference"]
)
def test_problems_in_one_stack_are_those_of_each_alone_or_refused(estimator: str) -> None:
    x, y, _, _ = data()
    starts = [{"w": 0.3 * (i + 1) * torch.ones(3), "b": torch.zeros(())} for i in range(3)]
    couplings = [torch.rand(6) for _ in starts]

    def loss(p: Any, c: Any, batch: Any) -> Tensor:
        return (c * (x @ p["w"] + p["b"] - y).square()).mean() + 0.1 * p["w"].square().sum()

    def grad(rule: InnerOptimizer, inner: Any, start: Any, c: Any) -> Any:
        return hypergradient(inner, inner, start, c, Batches([None], None), rule, estimator, steps=2).grad_c

    def entry_by_entry(updates: Any, state: Any, params: Any, hyper: Any) -> Any:
        return {name: 0.5 * u for name, u in updates.items()}, state

    halved = Transform(lambda params: None, entry_by_entry, {}, "halved", per_entry=True)
    rule = chain(clip(0.2), sgd(0.1), halved)
    many, c = stack(starts), stack(couplings)
    if estimator in ("cg", "finite_difference"):
        with pytest.raises(EstimatorError, match=f"'{estimator}' mixes the problems of a stacked loss; take each by"):
            grad(rule, stacked(loss), many, c)
        return
    alone = [grad(rule, loss, *one) for one in zip(starts, couplings, strict=True)]
    close(grad(rule, stacked(loss), many, c), torch.stack(alone))
    for mixing in (clip_norm(sgd(0.1), 0.05), chain(sgd(0.1), dataclasses.replace(halved, per_entry=False))):
        for inner in (stacked(loss), Compiled(stacked(loss))):
            with pytest.raises(EstimatorError, match="'(clip_norm|halved)' mixes the problems of a stacked loss"):
                grad(mixing, inner, many, c)
        with pytest.raises(EstimatorError, match="mixes the problems of a stacked loss"):
            after_training(
                stacked(loss), stacked(loss), many, c.requires_grad_(), optimizer=mixing, estimator=estimator
            )
