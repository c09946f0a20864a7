"""Twins of torch.optim take its steps: from any state, with groups, several at once, and under its schedulers."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR

from metaimpute.engine import Batches, UnsupportedOptimizer, from_torch, hypergradient, unroll
from metaimpute.engine.optimizers.torch_twins import IMPLEMENTATION_OPTIONS, TWINS

pytestmark = pytest.mark.usefixtures("float64")
optim = torch.optim
SETTINGS: list[tuple[Any, dict[str, Any]]] = [
    (optim.NAdam, {}),
    (optim.NAdam, {"lr": 0.1, "betas": (0.5, 0.7), "eps": 1e-3, "weight_decay": 0.1, "momentum_decay": 0.1}),
    (optim.NAdam, {"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
    (optim.RAdam, {"lr": 0.05}),
    (optim.RAdam, {"lr": 0.05, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
    (optim.RAdam, {"lr": 0.05, "betas": (0.5, 0.6), "weight_decay": 0.1, "decoupled_weight_decay": True}),
    (optim.Adadelta, {}),
    (optim.Adadelta, {"lr": 0.3, "rho": 0.5, "eps": 0.1, "weight_decay": 0.1, "maximize": True}),
    (optim.Adamax, {}),
    (optim.Adamax, {"lr": 0.1, "betas": (0.5, 0.6), "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
    (optim.Adafactor, {}),
    (optim.Adafactor, {"lr": 2.0, "beta2_decay": -0.5, "eps": (0.01, 0.02), "d": 1.5}),
    (optim.Adafactor, {"lr": 0.1, "weight_decay": 0.1, "maximize": True}),
]
MUON: list[dict[str, Any]] = [
    {"lr": 0.1},
    {"lr": 0.1, "nesterov": False, "momentum": 0.5, "ns_steps": 3, "adjust_lr_fn": "match_rms_adamw"},
    {
        "lr": 0.1,
        "weight_decay": 0.0,
        "adjust_lr_fn": "spectral_unclamped",
        "ns_coefficients": (3.0, -4.0, 2.0),
        "eps": 1.0,
    },
]


class Net(nn.Module):
    """Parameters of one, two and four dimensions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv, self.body, self.head = nn.Conv2d(1, 2, 2), nn.Linear(8, 5), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.body(torch.tanh(self.conv(x)).flatten(1))))


def named(case: Any) -> str:
    return case[0].__name__ + ",".join(f"{k}={v}" for k, v in case[1].items()) if isinstance(case, tuple) else str(case)


def loss_of(net: nn.Module, params: Any, x: torch.Tensor) -> torch.Tensor:
    return (torch.func.functional_call(net, dict(params), (x,)) - 0.3).square().mean()


def train(net: nn.Module, x: torch.Tensor, steps: int, *stock: Any) -> None:
    """Steps of optimisers, and of the schedulers among ``stock``."""
    for _ in range(steps):
        net.zero_grad()
        loss_of(net, net.named_parameters(), x).backward()
        for one in stock:
            one.step()


def inputs() -> torch.Tensor:
    return torch.randn(6, 1, 3, 3)


def assert_same_steps(net: nn.Module, twin: Any, x: torch.Tensor, steps: int, *stock: Any) -> None:
    """The twin's steps end where those of ``stock`` do."""
    start = {name: p.detach().clone() for name, p in net.named_parameters()}
    end = unroll(lambda th, c, b: loss_of(net, th, b), start, None, [x], twin, steps, differentiable=False)
    again = unroll(lambda th, c, b: loss_of(net, th, b), start, None, [x], twin, steps, differentiable=False)
    train(net, x, steps, *stock)
    for name, p in net.named_parameters():
        torch.testing.assert_close(end.params[name], p.detach(), rtol=1e-12, atol=1e-13, msg=name)
        assert torch.equal(end.params[name], again.params[name]), "an unroll must not consume the optimiser's state"


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("case", SETTINGS, ids=named)
def test_twins_take_torchs_steps_from_any_state(case: tuple[Any, dict[str, Any]], before: int) -> None:
    net, x = Net(), inputs()
    stock = case[0](net.parameters(), **case[1])
    train(net, x, before, stock)
    assert_same_steps(net, from_torch(stock, dict(net.named_parameters())), x, 7, stock)


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("options", MUON, ids=str)
def test_muon_with_adamw_for_the_rest_takes_torchs_steps(options: dict[str, Any], before: int) -> None:
    """To the rounding of torch's iteration, which is done in bfloat16."""
    net, x = Net(), inputs()
    matrices = [p for p in net.parameters() if p.ndim == 2]
    stock = [optim.Muon(matrices, **options), optim.AdamW([p for p in net.parameters() if p.ndim != 2], lr=0.05)]
    train(net, x, before, *stock)
    assert_same_steps(net, from_torch(stock, dict(net.named_parameters())), x, 4, *stock)


def test_every_option_of_a_class_is_read_or_known_to_say_nothing_of_the_steps() -> None:
    for kind, twin in TWINS.items():
        options = set(inspect.signature(kind).parameters) - {"params"}
        assert options <= twin.keys | set(twin.flags) | IMPLEMENTATION_OPTIONS, kind.__name__


@pytest.mark.parametrize("kind", [optim.NAdam, optim.RAdam, optim.Adadelta, optim.Adamax, optim.Adafactor])
def test_groups_have_numbers_of_their_own(kind: Any) -> None:
    net, x = Net(), inputs()
    groups = [
        {"name": "body", "params": net.body.parameters(), "lr": 0.2},
        {"name": "rest", "params": [*net.conv.parameters(), *net.head.parameters()]},
    ]
    stock = kind(groups, lr=0.05, weight_decay=0.1)
    train(net, x, 2, stock)
    twin = from_torch(stock, dict(net.named_parameters()))
    assert twin.hyper["lr"]["body.weight"] == 0.2 and twin.hyper["lr"]["head.weight"] == 0.05
    assert_same_steps(net, twin, x, 3, stock)


def test_names_given_to_the_optimizer_are_its_parameters_names() -> None:
    net, x = Net(), inputs()
    stock = optim.Adamax(net.named_parameters(), lr=0.1)
    assert_same_steps(net, from_torch(stock), x, 2, stock)
    halves = [optim.Adamax(net.body.named_parameters()), optim.SGD(net.head.named_parameters(), lr=0.1)]
    assert sorted(from_torch(halves).hyper) == ["beta1", "beta2", "dampening", "eps", "lr", "lr_2", "momentum",
                                                "weight_decay", "weight_decay_2"]  # fmt: skip


def one_cycle(o: Any) -> Any:
    return schedulers.OneCycleLR(o, max_lr=0.3, total_steps=9, pct_start=0.4)


SCHEDULERS: list[tuple[str, Any, Any]] = [
    ("one cycle, momentum", lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), one_cycle),
    ("one cycle, betas", lambda p: optim.NAdam(p, lr=0.1), one_cycle),
    ("cyclic, momentum", lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
     lambda o: schedulers.CyclicLR(o, 0.05, 0.2, step_size_up=2, mode="exp_range", gamma=0.9)),
    ("cyclic", lambda p: optim.RAdam(p, lr=0.1), lambda o: schedulers.CyclicLR(o, 0.05, 0.2, step_size_up=2)),
    ("swa", lambda p: optim.SGD(p, lr=0.1), lambda o: SWALR(o, swa_lr=0.02, anneal_epochs=3)),
    ("swa linear", lambda p: optim.Adadelta(p), lambda o: SWALR(o, swa_lr=0.02, anneal_epochs=3, anneal_strategy="linear")),
    ("cosine restarts", lambda p: optim.Adafactor(p, lr=0.1), lambda o: schedulers.CosineAnnealingWarmRestarts(o, 3)),
    ("lambda", lambda p: optim.Adam(p, lr=0.1), lambda o: schedulers.LambdaLR(o, lambda t: 1 / (1 + t))),
    ("sequence", lambda p: optim.SGD(p, lr=0.1), lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, total_iters=2), schedulers.ExponentialLR(o, 0.8)], milestones=[2])),
    ("chained", lambda p: optim.SGD(p, lr=0.1), lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, 0.5, total_iters=3), schedulers.StepLR(o, 2)])),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step:UserWarning")
@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize(("name", "build", "schedule"), SCHEDULERS, ids=[row[0] for row in SCHEDULERS])
def test_a_schedulers_coming_steps_are_taken_over(name: str, build: Any, schedule: Any, before: int) -> None:
    net, x = Net(), inputs()
    stock = build([{"params": net.body.parameters()}, {"params": [*net.conv.parameters(), *net.head.parameters()]}])
    scheduler = schedule(stock)
    train(net, x, before, stock, scheduler)
    groups = [{k: v for k, v in group.items() if k != "params"} for group in stock.param_groups]
    kept = copy.deepcopy({k: v for k, v in scheduler.state_dict().items() if k != "_schedulers"})
    twin = from_torch(stock, dict(net.named_parameters()), scheduler=scheduler, steps=6)
    assert [{k: v for k, v in group.items() if k != "params"} for group in stock.param_groups] == groups
    assert {k: v for k, v in scheduler.state_dict().items() if k != "_schedulers"} == kept, "the scheduler took a step"
    assert_same_steps(net, twin, x, 6, stock, scheduler)
    with pytest.raises(UnsupportedOptimizer, match="the schedule has 6 values, but step 7 was asked for"):
        unroll(lambda th, c, b: loss_of(net, th, b), dict(net.named_parameters()), None, [x], twin, 7)


def test_a_scheduled_twin_is_differentiated() -> None:
    net, x = Net(), inputs()
    params = {name: p.detach() for name, p in net.named_parameters()}
    stock = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    twin = from_torch(stock, dict(net.named_parameters()), scheduler=one_cycle(stock), steps=3)

    def inner(th: Any, c: Any, b: Any) -> torch.Tensor:
        return c * loss_of(net, th, x)

    def outer(th: Any, c: Any, b: Any) -> torch.Tensor:
        return loss_of(net, th, -x)

    def value(c: torch.Tensor) -> float:
        end = unroll(inner, params, c, [None], twin, 3, differentiable=False)
        return float(outer(end.params, c, None))

    c, step = torch.tensor(1.3), 1e-5
    found = hypergradient(inner, outer, params, c, Batches([None], None), twin, "mixed", steps=3)
    slope = (value(c + step) - value(c - step)) / (2 * step)
    assert float(found.grad_c) == pytest.approx(slope, rel=1e-7) and slope != 0


def refusals() -> list[tuple[Any, str]]:
    net = Net()
    params = dict(net.named_parameters())
    sgd, other = optim.SGD(net.parameters(), lr=0.1, momentum=0.9), optim.SGD(net.parameters(), lr=0.1)
    cycled = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    one_cycle(cycled)
    tensor = optim.Adam(net.parameters(), lr=torch.tensor(0.1))
    flags = [{"params": net.body.parameters(), "maximize": True}, {"params": net.head.parameters()}]
    return [
        (lambda: from_torch(cycled, params), r"a scheduler moves .* of this SGD .*scheduler=scheduler, steps=k"),
        (lambda: from_torch(sgd, params, scheduler=one_cycle(sgd)), "needs steps, .* not None"),
        (lambda: from_torch(sgd, params, scheduler=one_cycle(sgd), steps=11), "the scheduler has no 11 steps to come: .* 9"),
        (lambda: from_torch(sgd, params, scheduler=schedulers.StepLR(other, 1), steps=2), "the scheduler is of another optimizer"),
        (lambda: from_torch(sgd, params, scheduler=schedulers.ReduceLROnPlateau(sgd), steps=2), "waits for a metric"),
        (lambda: from_torch(sgd, params, scheduler=[0.1, 0.2], steps=2), r"not a list; .*per_step\(rule, lr=\[...\]\)"),
        (lambda: from_torch(tensor, params, scheduler=schedulers.StepLR(tensor, 1), steps=2), "learning rate that is a tensor"),
        (lambda: from_torch(sgd), "does not know its parameters' names; pass params"),
        (lambda: from_torch([sgd, "adam"], params), "a list of them, not a str"),
        (lambda: from_torch([sgd, other], params, scheduler=[None], steps=2), "2 optimizers and 1 schedulers"),
        (lambda: from_torch([], params), "0 optimizers"),
        (lambda: from_torch([sgd, optim.SGD([torch.zeros(1)], lr=0.1)], params), "this SGD holds none of the parameters"),
        (lambda: from_torch(optim.Adamax(flags), params), "holds no parameter named conv.weight"),
        (lambda: from_torch(optim.Adamax(flags), {n: p for n, p in params.items() if "conv" not in n}),
         "differ in 'maximize' .* pass a list of them"),
        (lambda: from_torch(optim.ASGD(net.parameters()), params), r"no differentiable twin of ASGD; .* per_leaf\(...\)"),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(15))
def test_what_cannot_be_taken_over_is_refused_with_a_way_out(number: int) -> None:
    make, said = refusals()[number]
    with pytest.raises(UnsupportedOptimizer, match=said):
        make()


def test_there_is_a_case_for_every_refusal() -> None:
    assert len(refusals()) == 15


@pytest.mark.parametrize("orthogonal", [True, False])
def test_muons_rounding_is_a_constant_to_the_derivative(orthogonal: bool) -> None:
    """The value in bfloat16, the slope of the unrounded iteration at the same matrix."""
    from metaimpute.engine import muon

    grad, param = torch.randn(3, 4, requires_grad=True), {"w": torch.randn(3, 4)}
    steps = [muon(1.0, 0.0, bfloat16=rounded, ns_steps=5 if orthogonal else 1) for rounded in (True, False)]
    found = [rule.update({"w": grad}, rule.init(param), param, rule.hyper)[0]["w"] for rule in steps]
    assert 1e-5 < float((found[0] - found[1]).abs().max()) < 0.05
    slopes = [torch.autograd.grad((step * param["w"]).sum(), grad)[0] for step in found]
    torch.testing.assert_close(*slopes, rtol=1e-13, atol=0)
