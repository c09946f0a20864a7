"""Several processes with some rows each have the hypergradient that one has of the joined batch."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import metaimpute
from metaimpute.engine import (
    Batches,
    CannotCompile,
    CannotDifferentiate,
    Compiled,
    FunctionalModel,
    LostProcess,
    OtherProgram,
    Split,
    StructuredLoss,
    adam,
    after_training,
    data_parallel,
    estimators,
    get_estimator,
    momentum,
    parse_memory,
    sgd,
    shard_count,
    shard_sum,
    unroll,
)
from metaimpute.engine.across_ranks import Ranks, collective
from metaimpute.engine.distributed import Joined
from metaimpute.engine.pytree import gradient, tensors
from tests.processes import in_processes

HEAD = ("2.weight", "2.bias")
ROWS, HELD = 8, 8  # two for each of four processes, which BatchNorm needs
OPTIONS: dict[str, dict[str, Any]] = {"head": {"parameters": HEAD}, "es": {"n": 2}}
RULES = {"sgd": sgd(0.5), "momentum": momentum(0.3, 0.9), "adam": adam(0.05)}


def off(found: Any, wanted: Any) -> float:
    """The largest difference of two trees, in units of the largest entry."""
    pairs = list(zip(tensors(found), tensors(wanted), strict=True))
    largest = max(float(b.abs().max()) for _, b in pairs)
    return max(float((a - b).abs().max()) for a, b in pairs) / (largest or 1.0)


class Setting:
    """A small network, labels for every row, losses of the joined batch, and one process's rows of it."""

    def __init__(self, rank: int, size: int, norm: bool = False) -> None:
        torch.manual_seed(0)
        layers = [nn.Linear(5, 6), nn.BatchNorm1d(6) if norm else nn.Tanh(), nn.Linear(6, 3)]
        self.net = nn.Sequential(*layers).double()
        self.model = FunctionalModel(self.net)
        self.rank, self.size = rank, size
        self.rows = torch.randn(ROWS, 5, dtype=torch.float64)
        self.held = torch.randn(HELD, 5, dtype=torch.float64), torch.randint(3, (HELD,))
        self.labels = torch.randn(ROWS, 3, dtype=torch.float64)

    def mine(self, whole: Tensor) -> Tensor:
        each = len(whole) // self.size
        return whole[each * self.rank : each * (self.rank + 1)]

    def inner(self, params: Any, c: Tensor, rows: Tensor) -> Tensor:
        return F.cross_entropy(self.model(params, rows), c.softmax(-1))

    def outer(self, params: Any, c: Any, held: tuple[Tensor, Tensor]) -> Tensor:
        size = sum(p.square().sum() for p in params.values())
        return F.cross_entropy(self.model(params, held[0]), held[1]) + 0.01 * size

    def both(
        self, estimator: Any, inner: Any, outer: Any, c: Any, rule: Any, k: int, coupling: Any, **more: Any
    ) -> Any:
        """The result in one process, and that of all, with ``more`` for :func:`data_parallel`."""
        memory = more.pop("memory", None)
        params = dict(self.model.params)
        every = Batches([self.rows + t for t in range(k)], self.held)
        own = Batches([self.mine(rows) for rows in every.inner], tuple(map(self.mine, self.held)))
        one = estimator.estimate(inner, outer, params, c, every, rule, k, memory, seed=3)
        reduction = more.pop("reduction", "mean")
        losses = (
            data_parallel(inner, coupling=coupling, reduction=reduction, **more),
            data_parallel(outer, coupling=coupling, **more),
        )
        return one, estimator.estimate(*losses, params, c, own, rule, k, memory, seed=3)


def differences(one: Any, many: Any) -> float:
    found = [off(many.grad_c, one.grad_c), off(many.outer_loss, one.outer_loss), off(many.theta_k, one.theta_k)]
    if one.grad_theta_0 is not None:
        found.append(off(many.grad_theta_0, one.grad_theta_0))
    return max(found)


def every_estimator(rank: int, size: int) -> dict[str, float]:
    """Labels of rows, by every estimator of plain losses, for one and three steps."""
    setting, found = Setting(rank, size), {}
    for name, k in itertools.product([name for name in estimators if name != "approx"], (1, 3)):
        estimator = get_estimator(name, **OPTIONS.get(name, {}))
        for label in ("sgd", "adam") if name in ("exact", "mixed") else ("sgd",):
            one, many = setting.both(
                estimator, setting.inner, setting.outer, setting.labels, RULES[label], k, coupling="rows"
            )
            found[f"{name}, {label}, k = {k}"] = differences(one, many)
            found[f"{name}: as fast"] = float(
                many.diagnostics.get("reverse_over_reverse") != one.diagnostics.get("reverse_over_reverse")
            )
    return found


def every_kind(rank: int, size: int) -> dict[str, float]:
    """Couplings, reductions, memory policies, normalisation and derivatives of other orders."""
    setting, found = Setting(rank, size), {}
    exact, mixed = get_estimator("exact"), get_estimator("mixed")
    for policy in ("recompute", "checkpoint(2)", "revolve(2)"):
        one, many = setting.both(
            exact,
            setting.inner,
            setting.outer,
            setting.labels,
            RULES["momentum"],
            3,
            "rows",
            memory=parse_memory(policy),
        )
        found[policy] = differences(one, many)

    def whole(params: Any, c: Tensor, rows: Tensor) -> Tensor:  # weights that the whole batch's sum divides
        each = setting.model(params, rows).square().mean(1)
        weights = (c[0] * each.detach() + c[1]).sigmoid()
        return (weights * each).sum() * shard_count() / shard_sum(weights.sum())

    def summing(params: Any, c: Any, rows: Tensor) -> Tensor:
        return 0.1 * (c["weights"] * setting.model(params, rows).square().mean(1)).sum() * c["scale"]

    split = Split(lambda params, rows: 0.1 * setting.model(params, rows).square().mean(), setting.inner)
    parted = StructuredLoss(lambda p, c, rows: split.free(p, rows) + split.coupled(p, c, rows), split=split)
    one, many = setting.both(mixed, parted, setting.outer, setting.labels, RULES["sgd"], 3, "rows")
    found["a loss in parts"] = differences(one, many)
    scalars = torch.tensor([0.3, -0.2], dtype=torch.float64)
    parts = {"weights": torch.rand(ROWS, dtype=torch.float64), "scale": torch.tensor(1.3, dtype=torch.float64)}
    for estimator in (exact, mixed):
        one, many = setting.both(estimator, whole, setting.outer, scalars, RULES["sgd"], 3, "whole")
        found[f"{estimator.name}: a sum over rows in a loss"] = differences(one, many)
        kinds = {"weights": "rows", "scale": "whole"}
        one, many = setting.both(estimator, summing, setting.outer, parts, RULES["sgd"], 3, kinds, reduction="sum")
        found[f"{estimator.name}: a sum, rows beside a scalar"] = differences(one, many)
        normed = Setting(rank, size, norm=True)
        one, many = normed.both(
            estimator, normed.inner, normed.outer, normed.labels, RULES["sgd"], 3, "rows", synchronised=True
        )
        found[f"{estimator.name}: synchronised BatchNorm"] = differences(one, many)
        one, many = normed.both(estimator, normed.inner, normed.outer, normed.labels, RULES["sgd"], 1, "rows")
        found[f"{estimator.name}: BatchNorm of its own rows is another loss"] = float(differences(one, many) < 1e-3)
    found["a sum over uneven rows"] = _uneven_sum(setting)
    found["rows of which some are constants"] = _constant_rows(setting)
    found["a third derivative"] = _third(setting)
    found["under torch.func"] = _under_func(setting)
    return found


def _uneven_sum(setting: Setting) -> float:
    """The first process has all rows but one for each of the others."""
    first = ROWS - setting.size + 1
    own = setting.rows[:first] if setting.rank == 0 else setting.rows[first + setting.rank - 1 : first + setting.rank]
    scale, exact = torch.tensor(0.7, dtype=torch.float64), get_estimator("exact")

    def summing(params: Any, c: Tensor, rows: Tensor) -> Tensor:
        return 0.1 * c * setting.model(params, rows).square().mean(1).sum()

    ends = []
    for inner, outer, rows in (
        (summing, summing, setting.rows),
        (data_parallel(summing, reduction="sum"), data_parallel(summing, reduction="sum"), own),
    ):
        batches = Batches([rows, rows + 1], rows)
        ends.append(exact.estimate(inner, outer, dict(setting.model.params), scale, batches, sgd(0.5), 2))
    return differences(*ends)


def _constant_rows(setting: Setting) -> float:
    """Weights by row that no gradient is asked for, beside labels by row."""
    weights, found = torch.rand(ROWS, dtype=torch.float64, generator=torch.Generator().manual_seed(2)), []

    def weighed(params: Any, c: Any, rows: Tensor) -> Tensor:
        each = F.cross_entropy(setting.model(params, rows), c["labels"].softmax(-1), reduction="none")
        return (c["weights"] * each).mean()

    start = {name: p.detach() for name, p in setting.model.params.items()}
    for inner, outer, take in (
        (weighed, setting.outer, lambda whole: whole),
        (data_parallel(weighed, coupling="rows"), data_parallel(setting.outer), setting.mine),
    ):
        c = {"labels": setting.labels.clone().requires_grad_(), "weights": weights}
        held = tuple(map(take, setting.held))
        value = after_training(inner, outer, start, c, optimizer=sgd(0.5), batches=take(setting.rows), outer_batch=held)
        found.append(gradient(value, c["labels"]))
    return off(found[1], found[0])


def _third(setting: Setting) -> float:
    """The gradient of a hypergradient's length."""

    def length(inner: Any, outer: Any, rows: Tensor, held: Any) -> Tensor:
        c = setting.labels.clone().requires_grad_()
        end = unroll(inner, dict(setting.model.params), c, (rows,), RULES["sgd"], 2).params
        slope = gradient(outer(end, c, held), c, create_graph=True)
        return gradient(slope.square().sum(), c)

    one = length(setting.inner, setting.outer, setting.rows, setting.held)
    inner, outer = data_parallel(setting.inner, coupling="rows"), data_parallel(setting.outer)
    return off(length(inner, outer, setting.mine(setting.rows), tuple(map(setting.mine, setting.held))), one)


def _under_func(setting: Setting) -> float:
    """A Hessian-vector product by torch.func's own transforms, mapped over directions."""
    at = {name: p.detach() for name, p in setting.model.params.items()}
    along = {
        name: torch.randn(2, *p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(1))
        for name, p in at.items()
    }

    def products(loss: Any, rows: Tensor) -> Any:
        def one(v: Any) -> Any:
            return torch.func.jvp(torch.func.grad(lambda p: loss(p, setting.labels, rows)), (at,), (v,))[1]

        return torch.vmap(one)(along)

    wanted = products(setting.inner, setting.rows)
    return off(products(data_parallel(setting.inner, coupling="rows"), setting.mine(setting.rows)), wanted)


def everything(rank: int, size: int) -> tuple[str, dict[str, float], dict[str, str]]:
    return apart(rank, size), every_estimator(rank, size) | every_kind(rank, size), unequal(rank, size)


def unequal(rank: int, size: int) -> dict[str, str]:
    """What is said where the processes have not the same, or have not dealt it out evenly; and a seed of one's own."""
    setting, said = Setting(rank, size), {}
    exact, params = get_estimator("exact"), dict(setting.model.params)
    own = Batches([setting.mine(setting.rows)], tuple(map(setting.mine, setting.held)))

    def note(what: str, start: Any = params, c: Any = setting.labels, batches: Any = own, both: bool = True) -> None:
        outer = data_parallel(setting.outer) if both else setting.outer
        try:
            exact.estimate(data_parallel(setting.inner, coupling="rows"), outer, start, c, batches, sgd(0.1))
        except OtherProgram as error:
            said[what] = str(error)

    note("parameters", start={name: p.detach() + rank for name, p in params.items()})
    note("coupling", c=setting.labels + rank)
    note("rows", batches=Batches([setting.rows[: 2 + rank]], own.outer))
    note("outer", both=False)
    said.update(told_later(setting))
    torch.manual_seed(rank)
    directions = get_estimator("es", n=2)
    losses = data_parallel(setting.inner, coupling="rows"), data_parallel(setting.outer)
    found = directions.estimate(*losses, params, setting.labels, own, sgd(0.1))
    said["a seed of one's own"] = str(found.grad_c.tolist())
    return said


def told_later(setting: Setting) -> dict[str, str]:
    """What is said of a later batch, of what does not go by row, and of parameters that move apart between calls."""
    said, rank = {}, setting.rank
    params = {name: p.detach() for name, p in setting.model.params.items()}
    held, labels = tuple(map(setting.mine, setting.held)), setting.labels
    even, uneven = setting.mine(setting.rows), setting.mine(setting.rows)[: None if rank == 0 else -1]
    beside = {"labels": labels, "bias": torch.zeros(setting.size, dtype=torch.float64)}
    moved = {name: p + rank for name, p in params.items()}

    def note(what: str, work: Any) -> None:
        try:
            work()
        except OtherProgram as error:
            said[what] = str(error)

    def plain(at: Any, c: Any, rows: Tensor) -> Tensor:
        return setting.model(at, rows).square().mean()

    def biased(at: Any, c: Any, rows: Tensor) -> Tensor:
        return F.cross_entropy(setting.model(at, rows) + c["bias"].sum(), c["labels"].softmax(-1))

    def estimate(
        inner: Any, rows: Tensor, at: Any = params, c: Any = labels, held: Any = held, outer: Any = None
    ) -> Any:
        exact, outer = get_estimator("exact"), outer or data_parallel(setting.outer)
        return exact.estimate(inner, outer, at, c, Batches([rows], held), sgd(0.1), seed=0)

    by_row = data_parallel(setting.inner, coupling="rows")
    for _ in range(2):
        estimate(by_row, even)
    note("a later batch", lambda: estimate(by_row, uneven))
    note("a later outer batch", lambda: estimate(by_row, even, held=(uneven, held[1][: len(uneven)])))
    mean = data_parallel(plain)
    mean(params, labels, even)
    note("a batch of a call", lambda: mean(params, labels, uneven))
    note("a batch of an unroll", lambda: unroll(mean, params, labels, [even, uneven], sgd(0.1), 2))
    note("one under torch.func", lambda: torch.func.grad(lambda at: mean(at, labels, uneven))(params))
    summed = data_parallel(plain, reduction="sum", synchronised=True)
    note("a sum under BatchNorm", lambda: summed(params, labels, uneven))
    note(
        "no rows",
        lambda: data_parallel(lambda at, c, x: at["0.bias"].sum() * x["by"])(params, None, {"by": 1.0 + rank}),
    )
    note("beside rows", lambda: estimate(data_parallel(biased, coupling="rows"), even, c=beside))
    parts: Any = {"labels": "rows", "bias": "whole"}
    note("named", lambda: estimate(data_parallel(biased, coupling=parts), even, c=beside))
    alone = torch.zeros(setting.size * (len(even) + 1), dtype=torch.float64)
    note("another length", lambda: data_parallel(plain, coupling="rows")(params, alone, even))
    for what, calls in (("moved, second call", 1), ("moved, third call", 2), ("moved, fourth call", 3)):
        again, outer = data_parallel(setting.inner, coupling="rows"), data_parallel(setting.outer)
        for _ in range(calls):
            estimate(again, even, outer=outer)
        note(what, lambda again=again, outer=outer: estimate(again, even, at=moved, outer=outer))
    note("moved, unrolled", lambda: unroll(data_parallel(plain), moved, labels, even, sgd(0.1)))
    note("another coupling", lambda: data_parallel(plain)(params, labels + rank, even))
    return said


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return in_processes(2, tmp_path_factory.mktemp("two"), everything)


def _apart(found: Any) -> dict[str, float]:
    """What differs from one process by more than rounding, in any of them."""
    assert all(len(one) > 30 for _, one, _ in found)
    return {name: value for _, one, _ in found for name, value in one.items() if not value < 1e-9}


def test_two_processes_have_the_hypergradient_of_the_joined_batch(of_two: Any) -> None:
    assert _apart(of_two) == {}


def test_what_differs_between_processes_is_named_at_the_first_use(of_two: Any) -> None:
    for *_, said in of_two:
        assert said["parameters"].startswith("the parameters differ between processes; begin with the same seed")
        assert said["coupling"].startswith("the coupling differs between processes")
        assert said["rows"].startswith("the inner batches' rows differ between processes")
        assert said["outer"].startswith("the outer batch differs between processes; join its loss")


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        (
            "a later batch",
            "the rows of a batch differ between processes (4, 3), so that they would not count alike; leave",
        ),
        ("a later outer batch", "the rows of a batch differ between processes (4, 3)"),
        ("a batch of a call", "(drop_last=True), or weigh the rows yourself with data_parallel(loss, reduction='sum')"),
        ("a batch of an unroll", "the rows of a batch differ between processes (4, 3)"),
        ("one under torch.func", "the rows of a batch differ between processes (4, 3)"),
        ("a sum under BatchNorm", "the rows of a batch differ between processes (4, 3)"),
        ("no rows", ""),
        (
            "beside rows",
            "has tensors of 2 and of 8 rows, which are not those of one batch; say what goes by row, coupling={'",
        ),
        ("named", ""),
        (
            "another length",
            "dealt out by row, 5 for each process, and the batch has no tensor of as many rows; say what",
        ),
        ("moved, second call", "the parameters differ between processes; begin with the same seed"),
        ("moved, third call", ""),
        ("moved, fourth call", "the parameters differ between processes"),
        ("moved, unrolled", "the parameters differ between processes"),
        ("another coupling", "the coupling differs between processes; it is the whole one"),
    ],
)
def test_what_differs_later_is_told_on_every_process(of_two: Any, what: str, sentence: str) -> None:
    for *_, said in of_two:
        assert sentence in said.get(what, "")
        assert (what in said) == bool(sentence)


def test_processes_with_seeds_of_their_own_draw_the_same_directions(of_two: Any) -> None:
    assert of_two[0][2]["a seed of one's own"] == of_two[1][2]["a seed of one's own"]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"reduction": "average"}, "no reduction is called 'average'"),
        ({"coupling": "row"}, "no coupling is called 'row'; did you mean 'rows'?"),
        ({"coupling": {"weights": "row"}}, "no coupling is called 'row'"),
    ],
)
def test_a_misspelt_setting_is_one_line(how: dict[str, Any], said: str) -> None:
    with pytest.raises(OtherProgram, match=said):
        data_parallel(lambda p, c, b: p.sum(), **how)


@pytest.mark.slow
def test_four_processes_have_the_hypergradient_of_the_joined_batch(tmp_path: Path) -> None:
    assert _apart(in_processes(4, tmp_path, everything)) == {}


def apart(rank: int, size: int) -> str:
    """One process leaves a parameter out that the other one's loss depends on."""
    params = {"a": torch.ones(2, requires_grad=True), "b": torch.ones(3, requires_grad=True)}
    loss = data_parallel(lambda p, c, batch: p["a"].sum() if rank else p["a"].sum() + p["b"].sum())
    try:
        gradient(loss(params, None, None), params, unused="none")
    except OtherProgram as error:
        return str(error)
    return ""


def test_processes_that_compute_different_things_are_told(of_two: Any) -> None:
    assert "took part in the loss of another process" in of_two[1][0]


def test_a_joined_loss_is_not_compiled() -> None:
    joined = StructuredLoss(lambda params, c, batch: params["a"].sum(), joined=Joined(Ranks(0, 2)))
    with pytest.raises(CannotCompile, match="joined over processes"):
        Compiled(joined)
    with pytest.raises(CannotDifferentiate, match="compiled loss cannot be joined"):
        data_parallel(Compiled(lambda params, c, batch: params["a"].sum()))


def test_without_a_group_it_says_what_to_call() -> None:
    with pytest.raises(OtherProgram, match=r"init_process_group"):
        data_parallel(lambda params, c, batch: params["a"].sum())


def test_a_module_of_ddp_names_the_way_out() -> None:
    class Fake(nn.parallel.DistributedDataParallel):
        def __init__(self) -> None:
            nn.Module.__init__(self)

    with pytest.raises(CannotDifferentiate, match=r"data_parallel\(inner_loss\)"):
        FunctionalModel(Fake())


def test_outside_several_processes_sums_are_ones_own() -> None:
    value = torch.tensor(3.0)
    assert shard_sum(value) is value
    assert shard_count() == 1


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (RuntimeError("[/gloo/transport/tcp/pair.cc:561] Connection closed by peer [10.0.0.1]:1"), LostProcess, "its own last"),
        (RuntimeError("Read error [10.0.0.1]:1: Connection reset by peer"), LostProcess, "has ended or does not answer"),
        (RuntimeError("Timed out waiting 5000ms for recv operation to complete"), LostProcess, "Timed out waiting"),
        (dist.DistNetworkError("Failed to recv, got 0 bytes"), LostProcess, "has ended"),
        (dist.DistStoreError("wait timeout after 5000ms"), LostProcess, "has ended"),
        (dist.DistBackendError("NCCL error in: x.cpp:1\nncclRemoteError: A call failed"), LostProcess, "NCCL error"),
        (dist.DistBackendError("NCCL error in: x.cpp:1, unhandled system error"), LostProcess, "has ended"),
        (dist.DistBackendError("ncclInvalidUsage: Duplicate GPU detected"), dist.DistBackendError, "Duplicate GPU"),
        (torch.OutOfMemoryError("CUDA out of memory. Connection reset"), torch.OutOfMemoryError, "out of memory"),
        (RuntimeError("Tensors must be contiguous"), RuntimeError, "must be contiguous"),
        (RuntimeError("No backend type associated with device type cpu"), OtherProgram, "no backend for tensors on 'cpu'"),
    ],
)  # fmt: skip
def test_only_a_process_that_is_gone_is_called_so(error: RuntimeError, kind: type[BaseException], said: str) -> None:
    def call() -> None:
        raise error

    with pytest.raises(kind, match=said) as caught:
        collective(call)
    assert type(caught.value) is kind


def test_the_pages_examples_import_what_they_use() -> None:
    page = (Path(__file__).parents[2] / "docs" / "howto" / "several_processes.md").read_text()
    examples = [text for text in re.findall(r"```text\n(.*?)```", page, re.DOTALL) if "hypergradient(" in text]
    assert len(examples) == 2
    for text in examples:
        nodes = list(ast.walk(ast.parse(text)))
        for node in nodes:
            if isinstance(node, ast.ImportFrom):
                exec(ast.unparse(node), {})
        imported = {name.name for node in nodes if isinstance(node, ast.ImportFrom) for name in node.names}
        used = {node.id for node in nodes if isinstance(node, ast.Name)}
        assert used & {*metaimpute.__all__, "fully_shard"} <= imported
        assert imported <= used
