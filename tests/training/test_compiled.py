"""Compiled training losses and look-aheads give the uncompiled step's numbers, from one program."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from metaimpute.engine import CannotCompile, fixed_rng
from metaimpute.training import compiled
from metaimpute.training.compiled import CompiledLoss, require_compiler, uncompiled_parts

from ..bound import Bound, bind

pytestmark = pytest.mark.usefixtures("float64")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile's inductor needs a C++ compiler")


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch traces and differentiates as for inductor, without compiling kernels."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")


def both(problem: str, estimator: str = "exact", method: str = "mean_teacher", **options: Any) -> tuple[Bound, Bound]:
    outer = (lambda ps: torch.optim.SGD(ps, lr=0.1)) if problem == "meta_weight_net" else None
    made = [
        bind(method, problem, estimator, norm=True, outer_optimizer=outer, compile=c, **options) for c in (False, True)
    ]
    return made[0], made[1]


def same_after_steps(plain: Bound, fast: Bound, *, rtol: float = 1e-9) -> int:
    """Number of programs that three steps made, at three points of a schedule."""
    torch._dynamo.utils.counters.clear()
    for number, progress in enumerate((0.2, 0.5, 0.8)):
        for bound in (plain, fast):
            batch = dataclasses.replace(bound.batch, progress=progress, step=number)
            bound.algorithm.step(batch, bound.holdout)
    for one, other in zip(plain.module.state_dict().values(), fast.module.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=1e-12)
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.usefixtures("traced")
def test_a_compiled_base_step_is_the_uncompiled_one_with_its_running_statistics() -> None:
    plain, fast = both("none", method_options={"ramp": 0.9})
    assert same_after_steps(plain, fast) == 1
    assert int(fast.module[1].num_batches_tracked) == int(plain.module[1].num_batches_tracked) > 0


@pytest.mark.usefixtures("traced")
def test_a_step_is_compiled_beside_a_thread_that_may_draw() -> None:
    """Then the step's noise comes from generators of its own thread, under which torch would compile nothing."""
    plain, fast = both("none")
    done = threading.Event()
    beside = threading.Thread(target=done.wait)
    beside.start()
    try:
        for bound in (plain, fast):
            with fixed_rng(5):
                assert torch._C._len_torch_dispatch_stack() == 1
                bound.algorithm.step(bound.batch, bound.holdout)
                assert torch._C._len_torch_dispatch_stack() == 1
    finally:
        done.set()
        beside.join()
    for one, other in zip(plain.module.state_dict().values(), fast.module.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("sets", [(), ("problem.estimator=exact",)])
def test_a_recipe_trains_compiled_where_nothing_was_compiled_before(tmp_path: Path, sets: tuple[str, ...]) -> None:
    small = ("model={name: mlp, width: 8}", "train.steps=3", "train.eval_every=3", "train.compile=true", *sets)
    command = [sys.executable, "-m", "metaimpute", "run", "two_moons", "--out", str(tmp_path / "run"),
               *(word for one in small for word in ("--set", one))]  # fmt: skip
    env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "kernels")}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "No CUDA runtime" not in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_a_compiled_look_ahead_gives_the_uncompiled_hypergradient_from_two_programs() -> None:
    assert same_after_steps(*both("l2i", "exact", method_options={"ramp": 0.9})) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_where_the_estimator_differentiates_the_loss_itself_the_base_step_alone_is_compiled() -> None:
    plain, fast = both("l2i", "mixed")
    assert same_after_steps(plain, fast) == 1
    line = uncompiled_parts(fast.algorithm.problem, fast.algorithm.settings.estimator)
    assert line is not None and "the look-ahead is not, since 'mixed' differentiates" in line
    assert (
        uncompiled_parts(fast.algorithm.problem, bind("mean_teacher", "l2i", "exact").algorithm.settings.estimator)
        is None
    )


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("problem", ["l2i_learnable", "meta_weight_net"])
def test_losses_of_every_kind_of_problem_are_compiled(problem: str) -> None:
    assert same_after_steps(*both(problem)) <= 3


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("method", ["supervised", "fixmatch", "mixmatch", "mixup", "pi_model", "pseudo_label", "uda"])
def test_every_methods_loss_is_one_program(method: str) -> None:
    options = {"tsa": "exp"} if method == "uda" else {} if method == "supervised" else {"ramp": 0.9}
    assert same_after_steps(*both("none", method=method, method_options=options)) == 1


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("problem", ["none", "l2i"])
def test_compiled_kernels_give_the_uncompiled_step(problem: str) -> None:
    assert same_after_steps(*both(problem, method_options={"ramp": 0.9})) == (1 if problem == "none" else 2)


@pytest.mark.usefixtures("traced")
def test_what_cannot_be_compiled_is_refused_in_one_line() -> None:
    bound = bind(problem="none")
    model = bound.algorithm.model

    def branching(params: Any, meta: Any, batch: Any) -> torch.Tensor:
        raw = model(params, batch.labelled.inputs)
        return raw.sum() if float(raw.detach().sum()) > 0 else raw.mean()

    loss = CompiledLoss(branching, model, "training loss")
    with pytest.raises(CannotCompile, match=r"^the training loss cannot be compiled \(.*\); leave train.compile out$"):
        loss(bound.params, None, bound.algorithm.prepare(bound.batch), 0)


def test_a_machine_without_a_compiler_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", none)
    said = require_compiler(torch.device("cpu"))
    assert (
        said
        == "compiled steps need a C++ compiler, and none was found; install g++ or clang++, or leave train.compile out"
    )
