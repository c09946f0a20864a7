"""Noise on the device: a step that is taken again sees what it saw before, under every memory policy, and no generator is moved."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metaimpute.engine import Batches, fixed_rng, hypergradient, momentum, unroll

from ..conformance.problems import make_case
from ..conformance.test_estimators import estimate, inner_optimizer
from .cases import assert_near, assert_same_bits
from .conftest import needs_whole_device

POLICIES = (
    "checkpoint(2)", "recompute", "revolve(2)", "auto(1GB)", "checkpoint(2, offload)", "recompute(offload)",
    "revolve(2, offload)",
)  # fmt: skip


def generator_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        module = torch.get_device_module(device)
        count = torch.accelerator.device_count() if hasattr(module, "default_generators") else 1
        states += [module.get_rng_state(n) if count > 1 else module.get_rng_state() for n in range(count)]
    return states


def drawn(device: torch.device) -> list[Tensor]:
    x = torch.ones(40, 7, device=device)
    return [
        torch.rand(5, device=device), torch.randn(3, 2, device=device), torch.randperm(9, device=device),
        torch.randint(0, 99, (6,), device=device), torch.bernoulli(torch.full_like(x, 0.4)), F.dropout(x, 0.3),
        torch.multinomial(x, 3), torch.rand_like(x), torch.empty_like(x).exponential_(), torch.rand(4),
    ]  # fmt: skip


def test_noise_is_a_function_of_the_seed_on_the_device_and_the_cpu_together(device: torch.device) -> None:
    before = generator_states(device)
    with fixed_rng(5):
        first = drawn(device)
    drawn(device)
    with fixed_rng(5):
        again = drawn(device)
    with fixed_rng(6):
        other = drawn(device)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first[:2], other[:2], strict=True))
    with fixed_rng(5):
        drawn(device)
        inside = generator_states(device)
    assert not any(torch.equal(a, b) for a, b in zip(before, inside, strict=True)), "the check would be vacuous"


def test_noise_of_a_threads_own_is_the_shared_generators_number_by_number(device: torch.device) -> None:
    needs_whole_device()
    with fixed_rng(3):
        expected = drawn(device)
    before, found = generator_states(device), []

    def work() -> None:
        with fixed_rng(3):
            found.extend(drawn(device))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert all(torch.equal(a, b) for a, b in zip(before, generator_states(device), strict=True))
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert torch.equal(one, other), number


@pytest.mark.parametrize(("name", "memory"), [("exact", "store"), ("exact", "recompute"), ("mixed", "store")])
def test_threads_that_draw_at_once_get_their_numbers(name: str, memory: str, device: torch.device) -> None:
    """Two have hypergradients of a loss with dropout, while a bystander draws from the device's generator."""
    needs_whole_device()
    case, rule = (
        make_case("transformer_dropout", steps=3, device=device, dtype=torch.float32),
        inner_optimizer("momentum"),
    )
    reference, found, done = estimate(case, rule, 3, name, memory), [], threading.Event()

    def bystander() -> None:
        while not done.wait(1e-4):
            torch.rand(8, device=device)
            torch.rand(8)

    def work() -> None:
        found.extend(estimate(case, rule, 3, name, memory) for _ in range(4))

    threads = [threading.Thread(target=one) for one in (bystander, work, work)]
    for thread in threads:
        thread.start()
    for thread in threads[1:]:
        thread.join()
    done.set()
    threads[0].join()
    assert len(found) == 8
    for one in found:
        assert_near(one, reference, rtol=1e-4, atol=1e-6)


def test_reverse_passes_leave_no_thread_in_pythons_list(device: torch.device) -> None:
    """One that is left would be taken for one that may draw, and noise be drawn the slow way from then on."""
    needs_whole_device()
    case, done, before = make_case("mlp_dropout", steps=3, device=device), threading.Event(), threading.enumerate()
    thread = threading.Thread(target=done.wait)
    thread.start()
    estimate(case, inner_optimizer("sgd"), 3, "exact", "recompute")
    done.set()
    thread.join()
    assert threading.enumerate() == before


@pytest.mark.parametrize("architecture", ["mlp_dropout", "transformer_dropout"])
@pytest.mark.usefixtures("float64")
def test_generators_of_every_device_are_left_as_they_were(architecture: str, device: torch.device) -> None:
    case, before = make_case(architecture, steps=3, device=device), generator_states(device)
    for name in ("exact", "mixed", "first_order", "finite_difference"):
        estimate(case, inner_optimizer("momentum"), 3, name, wrt_start=False)
        assert all(torch.equal(a, b) for a, b in zip(before, generator_states(device), strict=True)), name


@pytest.mark.parametrize("memory", POLICIES)
@pytest.mark.parametrize("architecture", ["mlp_dropout", "transformer_dropout", "lstm"])
@pytest.mark.usefixtures("float64")
def test_every_memory_policy_replays_the_devices_dropout(architecture: str, memory: str, device: torch.device) -> None:
    if architecture == "lstm":
        needs_whole_device()
    case, rule = make_case(architecture, steps=5, device=device), inner_optimizer("adam")
    stored = estimate(case, rule, 5, "exact")
    torch.rand(3, device=device)
    assert_near(estimate(case, rule, 5, "exact", memory), stored, rtol=1e-10, atol=1e-12, what=memory)


@pytest.mark.parametrize("memory", POLICIES)
@pytest.mark.usefixtures("reproducible")
def test_a_policy_that_offloads_gives_the_same_bits(memory: str, device: torch.device) -> None:
    """Also in float32, where another order of sums would be seen."""
    case = make_case("mlp_dropout", steps=5, device=device, dtype=torch.float32)
    first, again = (estimate(case, inner_optimizer("momentum"), 5, "exact", memory) for _ in range(2))
    assert_same_bits(again, first, memory)
    if "offload" in memory:
        kept = memory.replace(", offload", "").replace("(offload)", "")
        assert_same_bits(first, estimate(case, inner_optimizer("momentum"), 5, "exact", kept), memory)


def test_another_seed_draws_other_noise(device: torch.device) -> None:
    case = make_case("mlp_dropout", steps=3, device=device, dtype=torch.float32)
    arguments = (case.inner, case.outer, case.model.params, case.coupling, case.batches, inner_optimizer("sgd"))
    one, other = (hypergradient(*arguments, steps=3, seed=seed).grad_c["labels"] for seed in (1, 2))
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("memory", ["store", *POLICIES])
def test_a_coupling_and_a_model_on_two_devices_meet_in_the_loss(memory: str, device: torch.device) -> None:
    """Example weights on the CPU, the network on the device, noise on both."""
    net = torch.nn.Linear(4, 3).to(device)
    theta = {name: p.detach() for name, p in net.named_parameters()}
    x, y = torch.randn(6, 4).to(device), torch.arange(6).remainder(3).to(device)

    def inner(p: Any, c: Any, b: Any) -> Tensor:
        raw = F.linear(F.dropout(x, 0.2), p["weight"], p["bias"])
        noisy = c * torch.rand(6, device=c.device)
        return (noisy.to(device) * F.cross_entropy(raw, y, reduction="none")).mean()

    def outer(p: Any, c: Any, b: Any) -> Tensor:
        return F.cross_entropy(F.linear(x.flip(0), p["weight"], p["bias"]), y)

    weights = torch.ones(6, device="cpu")
    found = hypergradient(
        inner, outer, theta, weights, Batches([None], None), momentum(0.3), steps=4, seed=3, memory=memory
    )
    stored = hypergradient(inner, outer, theta, weights, Batches([None], None), momentum(0.3), steps=4, seed=3)
    assert found.grad_c.device.type == "cpu" and float(found.grad_c.norm()) > 0
    torch.testing.assert_close(found.grad_c, stored.grad_c, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("memory", ["recompute", "revolve(2)"])
def test_a_users_own_backward_pass_replays_noise(memory: str, device: torch.device) -> None:
    """The reverse pass is the user's, outside the engine, and on an accelerator in a thread of autograd's."""
    case = make_case("mlp_dropout", steps=3, device=device, dtype=torch.float32)
    found = []
    for policy in ("store", memory):
        labels = case.coupling["labels"].clone().requires_grad_()
        end = unroll(case.inner, case.model.params, {"labels": labels}, list(case.batches.inner), inner_optimizer("sgd"), 3,
                     memory=policy, seed=2)  # fmt: skip
        with fixed_rng(4):
            loss = case.outer(end.params, {"labels": labels}, case.batches.outer)
        loss.backward()
        found.append(labels.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-7)
