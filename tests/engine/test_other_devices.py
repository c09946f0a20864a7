"""What shows on an accelerator alone, imitated: reverse passes in autograd's own threads, and tensors that may not meet the CPU's."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaimpute.engine import Batches, FunctionalModel, hypergradient, momentum
from metaimpute.engine.ambient import double_differentiable, exclusive, holder, waiting
from metaimpute.engine.noise import _others_may_draw, fixed_rng
from metaimpute.engine.operators import in_words
from metaimpute.engine.replay import Replay

ROOT = Path(__file__).parents[2]


class Hooked(nn.Module):
    """Its hook has the engine change the user's module itself, under the lock."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.calls = nn.Linear(4, 5), nn.Linear(5, 3), 0
        self.first.register_forward_hook(lambda *_: None)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.dropout(self.first(x).tanh(), 0.3))


def in_a_thread_of_its_own(work: Any) -> Any:
    kept: list[Any] = []
    thread = threading.Thread(target=lambda: kept.append(work()), daemon=True)
    thread.start()
    thread.join(timeout=30)
    assert not thread.is_alive(), "the two threads wait for each other"
    return kept[0]


@pytest.mark.parametrize("memory", ["recompute", "revolve(2)", "checkpoint(2)"])
def test_a_reverse_pass_in_another_thread_takes_no_lock_and_gives_the_same_bits(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x, y = Hooked().double(), torch.randn(6, 4, dtype=torch.float64), torch.arange(6).remainder(3)
    model = FunctionalModel(net)

    def inner(p: Any, c: Any, b: Any) -> Tensor:
        return (c * F.cross_entropy(model(p, x), y, reduction="none")).mean()

    def run() -> Tensor:
        return hypergradient(inner, lambda p, c, b: F.cross_entropy(model(p, x.flip(0)), y), model.params,
                             torch.ones(6, dtype=torch.float64), Batches([None], None), momentum(0.3), steps=4, seed=0,
                             memory=memory).grad_c  # fmt: skip

    here, backward = run(), Replay.backward
    ran: list[int] = []

    def elsewhere(self: Replay, cotangent: Any, wants_start: bool) -> Any:
        ran.append(1)
        return in_a_thread_of_its_own(lambda: backward(self, cotangent, wants_start))

    monkeypatch.setattr(Replay, "backward", elsewhere)
    assert torch.equal(run(), here) and ran


def test_a_thread_that_another_waits_for_is_a_part_of_its_call_and_no_longer() -> None:
    others = _others_may_draw()  # a thread that another test has left
    with double_differentiable():
        part_of = holder()

        def reverse() -> Any:
            with double_differentiable(part_of), exclusive():
                inside = waiting() == threading.main_thread().ident, _others_may_draw(), holder() is part_of
            return inside, waiting()

        assert in_a_thread_of_its_own(reverse) == ((True, others, True), None)
    free = threading.Event()

    def outsider() -> None:
        with exclusive():
            free.set()

    with double_differentiable():
        threading.Thread(target=outsider, daemon=True).start()
        assert not free.wait(0.2), "another call waits for this one to end"
    assert free.wait(10)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_called_without_cudnn_and_leave_it_on(kind: type[nn.RNNBase]) -> None:
    seen: list[bool] = []

    class Looking(kind):  # type: ignore[valid-type,misc]
        def forward(self, *args: Any) -> Any:
            seen.append(torch.backends.cudnn.enabled)
            return super().forward(*args)

    cell = Looking(4, 5, batch_first=True)
    model, x = FunctionalModel(cell), torch.randn(2, 3, 4)
    found = model(model.params, x)[0]
    assert seen == [False] and torch.backends.cudnn.enabled
    torch.testing.assert_close(found, cell(x)[0])


def test_cudnns_refusal_is_said_in_words() -> None:
    sentence = in_words(
        RuntimeError(
            "the derivative for '_cudnn_rnn_backward' is not implemented. Double backwards is not supported for CuDNN RNNs"
        )
    )
    assert (
        sentence is not None
        and "no second derivative of _cudnn_rnn: use nn.LSTM, nn.GRU or nn.RNN in a FunctionalModel" in sentence
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [
        "test_modules.py",
        "test_default_device.py",
        "test_estimators.py -k 'momentum-1 or (adam-3 and mlp)'",
        "test_noise.py",
    ],
)
def test_the_accelerators_tests_on_a_sham_device(part: str) -> None:
    pytest.importorskip("torch.utils.backend_registration")
    if not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch has no devices written in Python")
    environment = {**os.environ, "METAIMPUTE_TEST_DEVICE": "sham", "PYTHONPATH": str(ROOT)}
    command = f"{sys.executable} -m pytest -q -x -p no:cacheprovider tests/gpu/{part}"
    done = subprocess.run(command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:]


def test_tensors_without_numbers_draw_nothing_where_other_threads_run() -> None:
    """As when a library lays a network out before it loads its weights."""
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        assert _others_may_draw()
        with fixed_rng(3):
            first = torch.rand(4)
        with fixed_rng(3):
            for _ in range(2):
                torch.empty(3, device="meta").normal_()
                assert torch.randn(2, device="meta").is_meta
                assert torch.nn.functional.dropout(torch.empty(3, device="meta")).is_meta
            assert torch.equal(torch.rand(4), first)
    finally:
        done.set()
        other.join()
