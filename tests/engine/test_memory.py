"""Memory policies: plans that are optimal, budgets that are kept, and memory that does not grow."""

from __future__ import annotations

import contextlib
import functools
import gc
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metaimpute.engine import (
    BadMemoryPolicy,
    Batches,
    CannotDifferentiate,
    Compiled,
    FunctionalModel,
    NotRepeatable,
    adam,
    get_estimator,
    hypergradient,
    parse_memory,
    sgd,
    unroll,
)
from metaimpute.engine.live_memory import LiveBytes
from metaimpute.engine.memory import Auto, Footprint
from metaimpute.engine.replay import last_snapshot, repeated, split


@functools.cache
def fewest(groups: int, slots: int) -> int:
    """Fewest repeated groups, by dynamic programming over the place of the next snapshot."""
    if groups <= 1:
        return 0
    if slots == 1:
        return groups * (groups - 1) // 2
    return min(m + fewest(groups - m, slots - 1) + fewest(m, slots) for m in range(1, groups))


def by_splits(groups: int, slots: int) -> int:
    if groups <= 1:
        return 0
    if slots == 1:
        return groups * (groups - 1) // 2
    m = split(groups, slots)
    assert 1 <= m < groups
    return m + by_splits(groups - m, slots - 1) + by_splits(m, slots)


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 9])
def test_snapshots_are_placed_for_the_fewest_repeated_steps(slots: int) -> None:
    for groups in range(1, 40):
        again = repeated(groups, slots) + last_snapshot(groups, slots)  # what the forward pass covers is not repeated
        assert by_splits(groups, slots) == fewest(groups, slots) == again, (groups, slots)


class Counted:
    """A parameter-light, activation-heavy bilevel problem that counts evaluations of its inner loss."""

    def __init__(self, width: int = 32, rows: int = 64) -> None:
        torch.manual_seed(0)
        self.model = FunctionalModel(
            nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))
        )
        self.x, self.y, self.evaluations = torch.randn(rows, 8), torch.randn(rows, 1), 0

    def uncounted(self, th: Any, c: Tensor, b: Any) -> Tensor:
        return (c * (self.model(th, self.x) - self.y).square()[:, 0]).mean()

    def inner(self, th: Any, c: Tensor, b: Any) -> Tensor:
        self.evaluations += 1
        return self.uncounted(th, c, b)

    def outer(self, th: Any, c: Tensor, b: Any) -> Tensor:
        return (self.model(th, self.x) - self.y).square().mean()

    def estimate(self, memory: Any, steps: int) -> Any:
        self.evaluations = 0
        params = self.model.params
        return hypergradient(
            self.inner, self.outer, params, torch.ones(len(self.x)), Batches([None], None), sgd(0.05, momentum=0.9),
            memory=memory, steps=steps,
        )  # fmt: skip


def peak(problem: Counted, memory: Any, steps: int) -> int:
    with LiveBytes() as live:
        problem.estimate(memory, steps)
    return live.peak


def test_revolve_repeats_as_many_steps_as_it_says() -> None:
    problem = Counted()
    for slots in (1, 2, 4, 20):
        problem.estimate(f"revolve({slots})", 20)
        assert problem.evaluations == 20 + 20 + repeated(20, slots)
    problem.estimate("recompute", 20)
    assert problem.evaluations == 40
    problem.estimate("store", 20)
    assert problem.evaluations == 20


def test_peak_memory_orders_the_policies_and_revolve_does_not_grow_with_k() -> None:
    problem = Counted()
    stored, recomputed, revolved = (peak(problem, m, 32) for m in ("store", "recompute", "revolve(4)"))
    assert revolved < recomputed < stored / 2
    assert peak(problem, "revolve(4)", 64) < 1.05 * revolved
    assert peak(problem, "store", 64) > 1.8 * stored


@pytest.mark.parametrize("share", [0.2, 0.3, 0.6, 1.5])
def test_auto_stays_within_its_budget_and_uses_it(share: float) -> None:
    problem, steps = Counted(), 24
    stored, recomputed = peak(problem, "store", steps), peak(problem, "recompute", steps)
    budget = int(share * stored)
    policy = Auto(budget)
    problem.estimate(policy, steps)
    assert peak(problem, policy, steps) <= budget
    if budget > 1.3 * recomputed:
        problem.estimate(policy, steps)
        assert problem.evaluations < 2 * steps, "never more work than recompute when there is room for more"
    torch.testing.assert_close(problem.estimate(policy, steps).grad_c, problem.estimate("store", steps).grad_c)


def test_auto_sees_that_a_graph_may_be_smaller_than_a_snapshot() -> None:
    """A wide first layer's weights are in no graph: storing is leaner than keeping every step's parameters."""
    torch.manual_seed(0)
    problem = Counted()
    problem.model = FunctionalModel(nn.Sequential(nn.Linear(8, 2000), nn.Tanh(), nn.Linear(2000, 1)))
    problem.x, problem.y = torch.randn(2, 8), torch.randn(2, 1)
    stored, recomputed = peak(problem, "store", 24), peak(problem, "recompute", 24)
    assert stored < recomputed
    policy = Auto(int(0.7 * recomputed))
    problem.estimate(policy, 24)
    problem.estimate(policy, 24)
    assert problem.evaluations == 24 and peak(problem, policy, 24) <= policy.budget


@pytest.mark.parametrize("rule", [sgd(0.05), sgd(0.05, momentum=0.9), adam(0.01)], ids=lambda rule: rule.label)
@pytest.mark.parametrize("rows", [4, 64], ids=lambda rows: f"{rows} rows")
def test_budgets_hold_from_the_first_run_on_where_snapshots_weigh_more_than_activations(rows: int, rule: Any) -> None:
    """Snapshots are set anew in the reverse pass, in the place of those that were given up; measuring two steps may be too much."""
    problem, steps = Counted(width=64, rows=rows), 24

    def peaks(memory: Any) -> int:
        with LiveBytes() as live:
            hypergradient(problem.inner, problem.outer, problem.model.params, torch.ones(rows), None, rule,
                          steps=steps, memory=memory, wrt_start=False)  # fmt: skip
        return live.peak

    with LiveBytes() as live:
        start = {name: leaf.detach().requires_grad_() for name, leaf in problem.model.params.items()}
        torch.autograd.grad(problem.outer(start, None, None), list(start.values()))
    free = Auto(1 << 40)
    peaks(free)
    cost = free.footprint
    assert cost is not None
    callers = max(0, live.peak - cost.working)  # what the outer loss needs is no part of the unroll's budget
    least = cost.first + cost.graph + cost.snapshot + cost.working
    for budget in (int(1.02 * least), int(1.3 * least), 2 * least, 4 * least):
        assert peaks(Auto(budget)) <= budget + callers
    for slots in (1, 2, 5):
        held = cost.first + cost.graph + slots * cost.snapshot + cost.working
        assert (
            peaks(f"revolve({slots})") <= held + callers + cost.snapshot
        )  # the end, which a second reverse pass begins from


def test_auto_plans() -> None:
    cost = Footprint(snapshot=10, graph=95, first=5, working=50)
    assert Auto(10**6).plan(20, cost).tail == 20
    tight = Auto(170).plan(20, cost)
    assert (tight.group, tight.slots, tight.tail) == (1, 2, 1)
    middle = Auto(50 + 500 + 200).plan(20, cost)
    assert middle.tail >= 4 and 5 + middle.group * 95 + middle.slots * 10 <= 700
    with pytest.raises(BadMemoryPolicy, match=r"auto\(100B\) is too little for one step; it needs 160B"):
        Auto(100).plan(20, cost)
    problem = Counted()
    with pytest.raises(BadMemoryPolicy, match="too little for one step"):
        problem.estimate("auto(1KB)", 5)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("store", "store"), ("checkpoint", "checkpoint(1)"), (" checkpoint( 4 ) ", "checkpoint(4)"), ("recompute", "recompute"),
        ("revolve(6, offload)", "revolve(6, offload)"), ("recompute(offload)", "recompute(offload)"),
        ("auto(512MB)", "auto(488.3MiB)"), ("auto(2GiB)", "auto(2GiB)"), ("auto(1.5 kib)", "auto(1.5KiB)"),
    ],
)  # fmt: skip
def test_policies_are_read_from_text(text: str, shown: str) -> None:
    assert str(parse_memory(text)) == shown
    assert parse_memory(parse_memory(text)) is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sotre", "did you mean 'store'"), ("store(3)", "takes no argument"), ("checkpoint(0)", "at least 1"),
        ("revolve(x)", "needs a whole number, not 'x'"), ("revolve(2MB)", "a whole number"), ("auto", "needs a budget"),
        ("auto(12parsecs)", "a number of bytes"), ("auto(0)", "positive number of bytes"), ("checkpoint(1, 2)", "takes one"),
        ("recompute(3)", "no argument but offload"), ("revolve(-1)", "at least 1"), ("", "unknown memory policy"),
    ],
)  # fmt: skip
def test_policies_that_cannot_be_read_say_why(text: str, message: str) -> None:
    with pytest.raises(BadMemoryPolicy, match=message):
        parse_memory(text)


@pytest.mark.parametrize("memory", ["recompute", "revolve(2)", "checkpoint(2)"])
def test_a_dependence_that_a_rebuilt_graph_would_lose_is_refused(memory: str) -> None:
    hidden = torch.ones(3, requires_grad=True)
    policy = parse_memory(memory)

    def inner(th: Any, c: Any, b: Any) -> Tensor:
        return (th * hidden * c).square().sum()

    start = torch.ones(3, requires_grad=True)
    with pytest.raises(BadMemoryPolicy, match=r"shape \[3\] that requires a gradient but is in none of"):
        end = unroll(inner, start, torch.ones(3, requires_grad=True), [None], sgd(0.1), 4, memory=policy)
        end.params.sum().backward()
    stored = unroll(inner, start, torch.ones(3, requires_grad=True), [None], sgd(0.1), 4)
    stored.params.sum().backward()
    assert hidden.grad is not None and bool((hidden.grad != 0).all()), "'store' carries it"


def test_unroll_is_differentiable_under_every_policy() -> None:
    start, c, rate = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.5, 1.5, 0.1))
    reference = None
    for memory in ("store", "recompute", "revolve(2)", "checkpoint(3)", "auto(1MB)"):
        end = unroll(lambda th, k, b: (k * th - 1).pow(4), start, c, [None], sgd(rate), 6, memory=parse_memory(memory))
        found = torch.stack(torch.autograd.grad(end.params * 2, [start, c, rate]))
        reference = found if reference is None else reference
        torch.testing.assert_close(found, reference, rtol=1e-12, atol=0)


REPLAYED = ("recompute", "revolve(2)", "checkpoint(2)")


@pytest.mark.parametrize("memory", [*REPLAYED, Auto(1500)])
def test_the_reverse_pass_can_be_taken_twice(memory: Any) -> None:
    """Row by row, as a Jacobian is."""
    x, y = torch.randn(6, 3), torch.randn(6)
    w, c = torch.randn(3, requires_grad=True), torch.ones(6, requires_grad=True)

    def rows(policy: Any) -> list[Tensor]:
        end = unroll(
            lambda th, k, b: (k * (x @ th - y).square()).mean(), w, c, [None], sgd(0.1), 5, memory=policy
        ).params
        return [torch.cat(torch.autograd.grad(end[i], [w, c], retain_graph=True)) for i in range(3)]

    for found, expected in zip(rows(memory), rows("store"), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_a_coupling_that_depends_on_the_start_is_no_part_of_the_inner_gradient() -> None:
    x, w = torch.randn(6, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64, requires_grad=True)

    def ends(coupling: Any, start: Any) -> list[Tensor]:
        def inner(th: Any, c: Any, b: Any) -> Tensor:
            return (x @ th["w"] - c).square().mean() + (th["v"].sum() if "v" in th else 0.0)

        found = [unroll(inner, start, coupling, [None], sgd(0.2), 3, memory=m).params for m in ("store", *REPLAYED)]
        found.append(unroll(inner, start, coupling, [None], sgd(0.2), 3, differentiable=False).params)
        return [end["w"] for end in found]

    for coupling, start in (
        (torch.tanh(x @ w), {"w": w}),
        (x @ w, {"w": w}),
        (torch.zeros(6).double(), {"w": w, "v": w}),
    ):
        first, *others = ends(coupling, start)
        for other in others:
            torch.testing.assert_close(other, first, rtol=1e-12, atol=0)


@pytest.mark.parametrize("memory", REPLAYED)
def test_a_step_that_cannot_be_repeated_is_refused(memory: str) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    model, x = FunctionalModel(net), torch.randn(6, 3)

    def inner(th: Any, c: Any, b: Any) -> Tensor:
        return model(th, x).square().mean()

    start = {n: p.detach().clone().requires_grad_() for n, p in model.params.items()}
    end = unroll(inner, start, None, [None], sgd(0.1), 3, memory=memory)
    net.eval()
    with pytest.raises(NotRepeatable, match="another mode"):
        sum(p.sum() for p in end.params.values()).backward()  # type: ignore[union-attr]


@pytest.mark.parametrize("memory", REPLAYED)
def test_steps_are_rebuilt_under_the_forward_passes_autocast_and_attention(memory: str) -> None:
    torch.manual_seed(0)
    net = nn.MultiheadAttention(8, 2, batch_first=True)
    model, x = FunctionalModel(net), torch.randn(2, 3, 8)
    found = []
    for policy in ("store", memory):
        start = {n: p.detach().clone().requires_grad_() for n, p in model.params.items()}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            end = unroll(
                lambda th, c, b: model(th, x, x, x)[0].float().square().mean(),
                start,
                None,
                [None],
                sgd(0.5),
                3,
                memory=policy,
            )
        sum(p.square().sum() for p in end.params.values()).backward()  # type: ignore[union-attr]
        found.append(start["in_proj_weight"].grad)
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("memory", ["store", *REPLAYED, "auto(1MB)"])
def test_statistics_are_updated_once_per_step_whatever_is_repeated(memory: str) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model, x = FunctionalModel(net), torch.randn(6, 3)

    def inner(th: Any, c: Any, b: Any) -> Tensor:
        with model.updating_buffers():
            return (c * model(th, x)).square().mean()

    hypergradient(inner, lambda th, c, b: model(th, x).square().mean(), model.params, torch.ones(4), Batches([None], None),
                  sgd(0.1), steps=3, memory=memory)  # fmt: skip
    assert int(net[1].num_batches_tracked) == 3  # type: ignore[arg-type]


def test_estimators_may_use_other_tensors_that_require_a_gradient() -> None:
    """A body that the inner steps leave alone (as in ANIL): no estimator returns a gradient for it."""
    body, head = nn.Linear(3, 4), {"w": torch.randn(4)}
    x = torch.randn(5, 3)

    def inner(th: Any, c: Any, b: Any) -> Tensor:
        return (c * (body(x) @ th["w"])).square().mean()

    found = [hypergradient(inner, inner, head, torch.ones(5), Batches([None], None), sgd(0.1), steps=3, memory=m).grad_c
             for m in ("store", *REPLAYED)]  # fmt: skip
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


@pytest.mark.parametrize("memory", REPLAYED)
def test_a_replayed_unroll_whose_gradient_is_differentiated_again_is_refused(memory: str) -> None:
    """Its gradient would be a constant to the second derivative."""
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    end = unroll(lambda p, c, b: p["w"].pow(4).sum(), {"w": w}, None, [None], sgd(0.01), 3, memory=memory).params["w"]
    with pytest.raises(CannotDifferentiate, match="memory 'store'"):
        torch.autograd.grad(end.sum(), w, create_graph=True)

    def nested(p: Any, c: Any, b: Any) -> Tensor:
        inside = unroll(
            lambda q, k, a: (q["w"] - k).square().sum(), {"w": p["w"]}, c, [None], sgd(0.1), 3, memory=memory
        )
        return inside.params["w"].pow(4).sum()

    for name in ("exact", "mixed"):
        with pytest.raises(CannotDifferentiate, match="memory 'store'"):
            hypergradient(nested, lambda p, c, b: p["w"].sum(), {"w": torch.ones(3)}, torch.ones(()), Batches([None], None),
                          sgd(0.1), name)  # fmt: skip


def live_bytes() -> int:
    gc.collect()
    seen = {}
    for o in gc.get_objects():
        if type(o) is Tensor or type(o) is nn.Parameter:
            with contextlib.suppress(
                RuntimeError
            ):  # other tests' tensors without storage: sparse, meta, of a transform
                seen[o.untyped_storage().data_ptr()] = o.untyped_storage().nbytes()
    return sum(seen.values())


@pytest.mark.parametrize("memory", ["store", "recompute", "revolve(3)", "auto(1MB)", "store, step compiled"])
def test_memory_does_not_grow_over_200_outer_steps(memory: str) -> None:
    problem, policy = Counted(rows=8), parse_memory(memory.split(",")[0])
    if memory.endswith("compiled"):
        problem.inner = Compiled(problem.uncounted, "aot_eager")  # type: ignore[method-assign,assignment]
    sizes = []
    for step in range(200):
        result = problem.estimate(policy, 4)
        with torch.no_grad():
            for p, g in zip(problem.model.params.values(), result.grad_theta_0.values(), strict=True):
                p -= 0.01 * g
        del result
        if step in (20, 199):
            sizes.append(live_bytes())
    assert sizes[1] <= sizes[0]


@pytest.mark.parametrize("name", ["mixed", "first_order", "truncated(2)", "neumann(2)", "cg(2)", "finite_difference"])
def test_no_estimator_keeps_what_it_computed(name: str) -> None:
    problem = Counted(rows=8)
    estimator = get_estimator(name)
    sizes = []
    for step in range(30):
        hypergradient(
            problem.inner, problem.outer, problem.model.params, torch.ones(8), Batches([None], None), sgd(0.05), estimator,
            steps=3, wrt_start=False,
        )  # fmt: skip
        if step in (5, 29):
            sizes.append(live_bytes())
    assert sizes[1] <= sizes[0]


def test_live_bytes_counts_storages_once_and_lets_go() -> None:
    outside = torch.zeros(100)
    with LiveBytes() as live:
        a = torch.zeros(1000)
        view = a[10:]
        assert live.now == 4000
        b = outside + 1
        assert live.now == 4400
        del a
        assert live.now == 4400, "the view keeps its storage"
        del view, b
        assert live.now == 0 and live.peak == 4400
        outside.add_(1)
        assert live.now == 0
    assert math.isclose(live.peak, 4400)


@pytest.mark.skipif(
    not torch.accelerator.is_available(), reason="offloading moves tensors from an accelerator; none here"
)
@pytest.mark.parametrize("memory", ["recompute(offload)", "checkpoint(2, offload)", "revolve(3, offload)"])
def test_offloaded_snapshots_leave_the_accelerator_and_give_the_same_gradient(memory: str) -> None:
    device = torch.accelerator.current_accelerator()
    problem = Counted()
    problem.model = FunctionalModel(problem.model.module.to(device))
    problem.x, problem.y = problem.x.to(device), problem.y.to(device)

    def estimate(policy: str) -> Any:
        return hypergradient(
            problem.inner, problem.outer, problem.model.params, torch.ones(len(problem.x), device=device),
            Batches([None], None), sgd(0.05, momentum=0.9), memory=policy, steps=12,
        )  # fmt: skip

    kept, moved = estimate(memory.replace(", offload", "").replace("(offload)", "")), estimate(memory)
    assert moved.grad_c.device.type == device.type
    torch.testing.assert_close(moved.grad_c, kept.grad_c, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(moved.theta_k, kept.theta_k, rtol=1e-5, atol=1e-7)
