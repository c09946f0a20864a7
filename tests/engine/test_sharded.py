"""Modules whose parameters are in shards (FSDP2) have the hypergradient that they have whole, and what would not is refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaimpute.engine import (
    Batches,
    CannotDifferentiate,
    EstimatorError,
    Factored,
    FunctionalModel,
    InnerOptimizer,
    LabelRows,
    OtherProgram,
    StructuredLoss,
    UnsupportedOptimizer,
    adam,
    data_parallel,
    estimators,
    get_estimator,
    hypergradient,
    implicit,
    inner,
    momentum,
    muon,
    parse_memory,
    sgd,
    unroll,
)
from metaimpute.engine.live_memory import LiveBytes
from metaimpute.engine.pytree import tensors
from tests.processes import in_processes

fsdp = pytest.importorskip("torch.distributed.fsdp")
if not hasattr(fsdp, "fully_shard"):
    pytest.skip("this torch has no fully_shard", allow_module_level=True)

HEAD = ("2.weight", "2.bias")
TAKEN = [name for name in estimators if estimators.get(name).sharded]  # type: ignore[attr-defined]
OPTIONS: dict[str, dict[str, Any]] = {"head": {"parameters": HEAD}}
ROWS = 6


def off(found: Any, wanted: Any) -> float:
    """The largest difference of two trees, in units of the largest entry."""
    pairs = list(zip(tensors(found), tensors(wanted), strict=True))
    largest = max(float(b.abs().max()) for _, b in pairs)
    return max(float((a - b).abs().max()) for a, b in pairs) / (largest or 1.0)


def network(kind: str = "plain") -> nn.Module:
    """7 rows are no multiple of 2 or 3, and of the 3 outputs one process of four has none."""
    torch.manual_seed(0)
    middle = nn.BatchNorm1d(7) if kind == "normed" else nn.Tanh()
    net = nn.Sequential(nn.Linear(5, 7), middle, nn.Linear(7, 3)).double()
    if kind == "frozen":
        net[0].requires_grad_(False)
    return net


def sharded(net: nn.Module, size: int) -> FunctionalModel:
    """A layer and the rest of it in shards, each on its own."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (size,))
    fsdp.fully_shard(next(iter(net.children())), mesh=mesh)
    fsdp.fully_shard(net, mesh=mesh)
    return FunctionalModel(net)


class Setting:
    """A network whole and in shards, and losses of the joined batch and of one process's rows of it."""

    def __init__(self, rank: int, size: int, kind: str = "plain") -> None:
        self.rank, self.size = rank, size
        self.plain, self.model = FunctionalModel(network(kind)), sharded(network(kind), size)
        torch.manual_seed(1)
        self.rows, self.held = torch.randn(2, ROWS, 5, dtype=torch.float64)
        self.targets, self.labels = torch.randint(3, (ROWS,)), torch.randn(ROWS, 3, dtype=torch.float64)
        self.synchronised = kind == "normed"

    def mine(self, whole: Tensor) -> Tensor:
        each = len(whole) // self.size
        return whole[each * self.rank : each * (self.rank + 1)]

    def losses(self, model: FunctionalModel) -> tuple[StructuredLoss, StructuredLoss]:
        def inner_loss(params: Any, c: Tensor, rows: Tensor) -> Tensor:
            return F.cross_entropy(model(params, rows), c.softmax(-1))

        def outer_loss(params: Any, c: Any, held: tuple[Tensor, Tensor]) -> Tensor:
            penalty = sum(p.square().sum() for p in params.values())  # of whole parameters
            return F.cross_entropy(model(params, held[0]), held[1]) + 0.01 * penalty

        def rows(c: Tensor, features: Tensor, batch: Any) -> LabelRows:
            return LabelRows(c.softmax(-1), torch.full((len(c),), 1 / len(c), dtype=c.dtype), features)

        def at_head(theta: Any, found: Tensor, c: Tensor, batch: Any) -> Tensor:
            return F.cross_entropy(model.readout(theta, found), c.softmax(-1))

        def outer_at_head(theta: Any, found: Tensor, c: Tensor, held: Any) -> Tensor:
            penalty = sum(theta[name].square().sum() for name in HEAD)
            return F.cross_entropy(model.readout(theta, found), held[1]) + 0.01 * penalty

        form = Factored(model.features, at_head, rows)
        outer_form = Factored(lambda theta, held: model.features(theta, held[0]), outer_at_head)
        return StructuredLoss(inner_loss, HEAD, factored=form), StructuredLoss(outer_loss, HEAD, factored=outer_form)

    def joined(self) -> tuple[StructuredLoss, StructuredLoss]:
        how: dict[str, Any] = {"sharded": self.model, "synchronised": self.synchronised}
        first, second = self.losses(self.model)
        return data_parallel(first, coupling="rows", **how), data_parallel(second, **how)

    def batches(self, k: int, own: bool) -> Batches:
        take = self.mine if own else (lambda rows: rows)
        return Batches([take(self.rows + t) for t in range(k)], (take(self.held), take(self.targets)))

    def differences(self, name: str, rule: InnerOptimizer, k: int, memory: str = "store") -> float:
        """How far the result in shards is from that of the whole network in one process."""
        estimator, policy = get_estimator(name, **OPTIONS.get(name, {})), parse_memory(memory)
        one, many = (
            estimator.estimate(*losses, dict(model.params), self.labels, self.batches(k, own), rule, k, policy, seed=3)
            for losses, model, own in (
                (self.losses(self.plain), self.plain, False),
                (self.joined(), self.model, True),
            )
        )
        found = [off(many.grad_c, one.grad_c), off(many.outer_loss, one.outer_loss)]
        found.append(float(many.diagnostics.get("reverse_over_reverse") is not None))
        for mine, theirs in ((many.theta_k, one.theta_k), (many.grad_theta_0, one.grad_theta_0)):
            if theirs is not None:
                found.append(off(self.model.whole(mine), theirs))
        if tensors(rule.hyper):
            found.append(off(many.grad_optimizer, one.grad_optimizer))
        return max(found)


def every_estimator(rank: int, size: int) -> dict[str, float]:
    rules = {
        "sgd": sgd(0.5),
        "momentum": momentum(0.3, 0.9),
        "adam": adam(0.05),
        "a learned rate": sgd(torch.tensor(0.5, dtype=torch.float64)),
    }
    setting, found = Setting(rank, size), {}
    for name, k, label in itertools.product(TAKEN, (1, 3), rules):
        if name != "approx" or k == 1:
            found[f"{name}, {label}, k = {k}"] = setting.differences(name, rules[label], k)
    for memory in ("recompute", "checkpoint(2)", "revolve(2)"):
        found[memory] = setting.differences("exact", rules["momentum"], 3, memory)
    for kind in ("frozen", "normed"):
        other = Setting(rank, size, kind)
        for name in ("exact", "mixed"):
            found[f"{kind}, {name}"] = other.differences(name, rules["adam"], 3)
    found["an unroll"] = unrolled(setting)
    return found


def unrolled(setting: Setting) -> float:
    """Autograd's gradient through an unroll of shards, and its gradient again."""
    found = []
    for losses, model, own in (
        (setting.losses(setting.plain), setting.plain, False),
        (setting.joined(), setting.model, True),
    ):
        c = setting.labels.clone().requires_grad_()
        batches = setting.batches(2, own)
        end = unroll(losses[0], dict(model.params), c, list(batches.inner), sgd(0.5), 2)
        first = torch.autograd.grad(losses[1](end.params, c, batches.outer), c, create_graph=True)[0]
        found.append((first, torch.autograd.grad(first.square().sum(), c)[0]))
    return off(found[1], found[0])


def held_bytes(rank: int, size: int) -> dict[str, int]:
    """Bytes at the peak of a loss and its gradient, with parameters whole all the time and whole as they are used."""
    torch.manual_seed(0)
    layers = [layer for _ in range(8) for layer in (nn.Linear(64, 64), nn.Tanh())]
    model = sharded(nn.Sequential(*layers), size)
    rows, params = torch.randn(2, 64), model.params
    found = {}

    def loss(params: Any, c: Any, rows: Tensor) -> Tensor:
        return model(params, rows).square().mean()

    with LiveBytes() as live:
        whole = {name: p.detach().requires_grad_() for name, p in model.whole(params).items()}
        torch.autograd.grad(loss(whole, None, rows), list(whole.values()))
        found["whole"] = live.peak
    with LiveBytes() as live:
        torch.autograd.grad(data_parallel(loss, sharded=model)(params, None, rows), list(params.values()))
        found["in shards"] = live.peak
    return found


def refusals(rank: int, size: int) -> dict[str, str]:
    """What is said of everything that would be wrong."""
    setting = Setting(rank, size)
    losses, model, said = setting.joined(), setting.model, {}
    batches = setting.batches(1, own=True)

    def note(what: str, work: Any) -> None:
        try:
            work()
        except (CannotDifferentiate, EstimatorError, OtherProgram, UnsupportedOptimizer) as error:
            said[what] = str(error)

    def estimate(name: str = "exact", rule: InnerOptimizer | None = None, both: Any = losses) -> Any:
        return hypergradient(*both, dict(model.params), setting.labels, batches, rule or sgd(0.5), name)

    for name in estimators:
        if name not in TAKEN:
            note(name, lambda name=name: estimate(name))
    note("muon", lambda: estimate(rule=muon(0.1)))
    note("a rate per entry", lambda: estimate(rule=sgd({n: torch.ones_like(p) for n, p in model.params.items()})))
    note(
        "an unknown rule", lambda: estimate(rule=InnerOptimizer(lambda p: None, lambda g, s, p, h: (g, s), {}, "mine"))
    )
    note("shards in no loss", lambda: model(model.params, setting.rows))
    note("one loss alone", lambda: estimate(both=(losses[0], data_parallel(setting.losses(model)[1]))))
    note("not by name", lambda: losses[0](list(model.params.values()), setting.labels, batches.inner[0]))
    note("a bare module", lambda: data_parallel(losses[0].whole, sharded=model.module))  # type: ignore[arg-type]
    laid_out = dict(model.module.named_parameters())
    note("DTensors", lambda: hypergradient(*losses, laid_out, setting.labels, batches, sgd(0.5), "exact"))
    note("DTensors, unrolled", lambda: unroll(losses[0], laid_out, setting.labels, batches.inner[0], sgd(0.1)))
    note("DTensors in no loss", lambda: model(laid_out, setting.rows))
    note("a block", lambda: inner(model.module, torch.optim.SGD(model.module.parameters(), 0.1)).__enter__())

    def solved() -> None:
        solution = {name: p.detach() for name, p in model.params.items()}
        end = implicit(solution, setting.labels.clone().requires_grad_(), batches.inner[0], objective=losses[0])
        sum(p.sum() for p in end.values()).backward()

    note("implicit", solved)

    def swapped(params: Any, c: Any, batch: Any) -> Tensor:
        first, second = ("0.bias", "2.bias") if rank else ("2.bias", "0.bias")
        return params[first].sum() + params[second].sum()

    note("another order", lambda: data_parallel(swapped, sharded=model)(dict(model.params), None, None))
    wrapped = [lambda p, c, b, one=one: one(p, c, b) + 0.0 for one in losses]
    note("a loss in another", lambda: estimate("cg", both=wrapped))
    note(
        "a loss in another, unrolled",
        lambda: unroll(wrapped[0], dict(model.params), setting.labels, batches.inner[0], sgd(0.1)),
    )
    note(
        "a scaled loss",
        lambda: hypergradient(
            *losses, dict(model.params), setting.labels, batches, muon(0.1), "exact", loss_scale=16.0
        ),
    )
    partly = network()
    fsdp.fully_shard(partly[0])  # type: ignore[index]
    apart = FunctionalModel(partly)
    one, two = setting.losses(apart)
    both = data_parallel(one, coupling="rows", sharded=apart), data_parallel(two, sharded=apart)
    rate = sgd(torch.tensor(0.5, dtype=torch.float64))
    note(
        "a rate for shards and whole parameters",
        lambda: hypergradient(*both, dict(apart.params), setting.labels, batches, rate, "exact"),
    )
    half = network()
    fsdp.fully_shard(half, mp_policy=fsdp.MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    note("mixed precision", lambda: FunctionalModel(half))
    offloaded = network()
    fsdp.fully_shard(offloaded, offload_policy=fsdp.CPUOffloadPolicy(pin_memory=False))
    note("offloading", lambda: FunctionalModel(offloaded))
    return said


def oddities(rank: int, size: int) -> dict[str, float]:
    """Programs beside the usual ones: differences from the whole network's gradient."""
    found = {}

    def compared(what: str, build: Any, call: Any, how: Any = torch.autograd.grad) -> None:
        torch.manual_seed(0)
        rows = torch.randn(4, 5, dtype=torch.float64)
        plain = FunctionalModel(build())
        model = sharded(build(), size)
        mine = rows[2 * rank : 2 * rank + 2]
        ends = []
        for one, data in ((plain, rows), (model, mine)):
            loss = lambda p, c, x, one=one: call(one(p, x))  # noqa: E731
            whole = loss if one is plain else data_parallel(loss, sharded=model)
            params = dict(one.params)
            if how is torch.func.grad:
                ends.append(torch.func.grad(lambda p, whole=whole, data=data: whole(p, None, data))(params))
            else:
                ends.append(dict(zip(params, how(whole(params, None, data), list(params.values())), strict=True)))
        found[what] = off(model.whole(ends[1]), ends[0])

    class Conjugate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(5, 7, dtype=torch.complex128)
            self.second = nn.Parameter(torch.randn(7, 3, dtype=torch.complex128))

        def forward(self, x: Tensor) -> Tensor:
            return self.first(x.to(torch.complex128)) @ self.second.conj()

    def hooked() -> nn.Module:
        net = network()
        net.register_forward_hook(lambda part, inputs, output: 2 * output)
        return net

    def seeded(kind: Any) -> Any:
        def build() -> nn.Module:
            torch.manual_seed(3)
            return kind()

        return build

    compared("conjugates", seeded(Conjugate), lambda out: out.abs().square().mean())
    compared("a user's hook on what is sharded", seeded(hooked), lambda out: out.square().mean())
    compared("torch.func.grad", seeded(network), lambda out: out.square().mean(), torch.func.grad)
    return found


def after_fsdps_own_pass(rank: int, size: int) -> float:
    """Where FSDP's forward pass has left the module's parameters whole, they are put back into shards first."""
    setting = Setting(rank, size)
    setting.model.module(setting.rows)
    return setting.differences("mixed", sgd(0.5), 1)


def everything(rank: int, size: int) -> tuple[dict[str, float], dict[str, int], dict[str, str], float]:
    found = every_estimator(rank, size) | oddities(rank, size)
    return found, held_bytes(rank, size), refusals(rank, size), after_fsdps_own_pass(rank, size)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return in_processes(2, tmp_path_factory.mktemp("two"), everything)


def test_shards_over_two_processes_have_the_hypergradient_of_the_whole(two: list[Any]) -> None:
    for found, *_ in two:
        wrong = {what: size for what, size in found.items() if not size < 1e-9}
        assert not wrong
        assert {"mixed, adam, k = 3", "approx, sgd, k = 1", "head, a learned rate, k = 3"} <= found.keys()


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, pytest.param(6, id="6: four of them without a row of the last layer")])
def test_shards_of_uneven_sizes_and_of_none(tmp_path: Path, size: int) -> None:
    for found in in_processes(size, tmp_path, every_estimator):
        assert not {what: size for what, size in found.items() if not size < 1e-9}


def test_parameters_are_whole_only_while_they_are_used(two: list[Any]) -> None:
    for _, held, *_ in two:
        layer = 4 * 64 * 64
        assert held["whole"] > 15 * layer  # eight of them, and their gradients
        assert (
            held["in shards"] < 6 * layer
        )  # gradients of half the rows, and a layer; 8.3 if autograd kept what it was given


def test_fsdps_own_forward_pass_in_between_changes_nothing(two: list[Any]) -> None:
    assert all(after < 1e-9 for *_, after in two)


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        (
            "cg",
            "'cg' takes inner products over parameters, of which each process has a part; for parameters in shards there are",
        ),
        ("finite_difference", "'finite_difference' takes inner products over parameters"),
        ("muon", "'muon' is not known to treat each entry of a parameter by itself"),
        ("a rate per entry", "a learned hyperparameter of parameters in shards is one number"),
        ("an unknown rule", "'mine' is not known to treat each entry"),
        ("shards in no loss", "is this process's shard of a parameter; join the losses over the processes"),
        ("one loss alone", "pass data_parallel(loss, sharded=model) for both"),
        ("not by name", "parameters in shards are a dict by name"),
        (
            "a bare module",
            "takes the FunctionalModel of a sharded module, not FSDPSequential; pass model = FunctionalModel(",
        ),
        ("DTensors", "are DTensors, as the sharded module has them; pass model.params of model = FunctionalModel(net)"),
        ("DTensors, unrolled", "these parameters are DTensors"),
        ("DTensors in no loss", "these parameters are DTensors"),
        ("a block", "the module's parameters are in shards, which an inner block does not know of"),
        ("implicit", "implicit() takes inner products over parameters"),
        ("a loss in another", "is wrapped in another function, so that nothing could be checked"),
        ("a loss in another, unrolled", "is wrapped in another function"),
        ("a scaled loss", "loss_scale takes plain losses"),
        ("another order", "the processes use the parameters, which are in shards, in another order"),
        (
            "a rate for shards and whole parameters",
            "is not in shards while others are; shard all parameters that are moved",
        ),
        ("mixed precision", "take autocast in the loss"),
        ("offloading", "shard without offload_policy"),
    ],
)
def test_what_would_be_wrong_is_refused(two: list[Any], what: str, sentence: str) -> None:
    for _, _, said, _ in two:
        assert sentence in said.get(what, "nothing")


def test_every_other_estimator_is_refused(two: list[Any]) -> None:
    assert set(estimators) - set(TAKEN) <= two[0][2].keys()
