"""Several processes take the step that one takes on the joined batch: methods, problems, schedules, and what is logged."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from metaimpute.engine.across_ranks import Ranks, ranks_of
from metaimpute.engine.pytree import map_tensors, tensors
from metaimpute.recipes.recipe import Recipe, load
from metaimpute.recipes.source import RecipeError
from metaimpute.training.assemble import Parts, assemble, take_step
from metaimpute.training.dealing import check_dealable
from metaimpute.training.processes import ALONE, LAUNCHERS, Processes, Several, Unequal, mean_of, started_apart
from tests.processes import in_processes

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = ("train.unlabelled_batch=12", "model.width=6", "train.ema=null", "task.size=200")
STEPS = 2

L2I = {
    "exact, three steps": (),
    "exact, one step": ("problem.inner.steps=1",),
    "mixed": ("problem.estimator=mixed",),
    "mixed, one step": ("problem.estimator=mixed", "problem.inner.steps=1"),
    "approx": ("problem.estimator=approx", "problem.inner.steps=1"),
    "approx, released": ("problem.estimator=approx", "problem.inner.steps=1", "problem.form=released"),
    "head": ("problem.estimator=head", "problem.form=paper"),
    "first_order, full path": ("problem.estimator=first_order", "problem.path=full"),
    "mixed, full path": ("problem.estimator=mixed", "problem.path=full"),
    "head, full path": ("problem.estimator=head", "problem.path=full"),
    "finite_difference": ("problem.estimator=finite_difference",),
    "neumann": ("problem.estimator=neumann",),
    "fused": ("problem.schedule=fused",),
    "psi recomputed": ("problem.psi=recomputed", "problem.memory=recompute"),
    "relative": ("problem.scale=relative(0.5)", "train.clip_norm=0.1", "problem.outer_optimizer=separate"),
    "folds": ("problem.holdout=folds(3)",),
    "trust": ("problem.inner.rate=trust(0.1)",),
    "line_search": ("problem.inner.rate=line_search",),
    "learned rate": ("problem.inner.rate=learned",),
}
OTHERS = {
    name: (f"problem={{name: {name}, inner: {{lr: 0.1, steps: 2}}}}",)
    for name in (
        "none", "l2i_learnable", "l2i_implicit", "zero_hypergradient", "random_direction", "holdout_supervision",
        "lookahead_supervision", "ds3l", "meta_weight_net", "unlabelled_weights", "hyper_cleaning", "label_correction",
        "learned_rates", "learned_scalars", "meta_pseudo_labels", "dataset_distillation",
    )
}  # fmt: skip
OTHERS["learning_to_reweight"] = ("problem={name: learning_to_reweight, inner: {lr: 0.1, steps: 1}}",)
OTHERS["l2i_learnable, sum"] = ("problem={name: l2i_learnable, form: paper, inner: {lr: 0.1}}",)
OTHERS["meta_weight_net, fused"] = (
    "problem={name: meta_weight_net, schedule: fused, estimator: mixed, inner: {lr: 0.1}}",
)
METHODS = {
    name: (f"method={{name: {name}{more}}}",)
    for name, more in (
        ("supervised", ""), ("pseudo_label", ", threshold: 0.5"), ("pi_model", ""), ("fixmatch", ", threshold: 0.5"),
        ("vat", ""), ("uda", ", tsa: linear, threshold: 0.5"),
    )
}  # fmt: skip
UDA_LATE = {"uda: some labelled rows dropped": ("method={name: uda, tsa: exp}", "problem.estimator=mixed")}
OTHERS["l2i_implicit"] = ("method={name: fixmatch, threshold: 0.5}", *OTHERS["l2i_implicit"])
VARIANTS = L2I | OTHERS | METHODS | UDA_LATE
FEW = (
    "exact, three steps", "mixed, one step", "approx, released", "head, full path", "l2i_learnable, sum", "meta_weight_net",
    "unlabelled_weights", "learning_to_reweight", "meta_pseudo_labels", "vat", "uda",
)  # fmt: skip


def recipe_of(*sets: str) -> Recipe:
    return load(RECIPES / "two_moons.yaml", "sample", (*SMALL, *sets))


def parts_of(recipe: Recipe, processes: Processes) -> Parts:
    """A run's parts in float64, its examples too."""
    parts = assemble(recipe, lambda line: None, processes=processes)
    view, batches, algorithm = parts.batches._view, parts.batches, parts.algorithm
    parts.module.double()
    algorithm.state = map_tensors(torch.Tensor.double, algorithm.state)
    for leaf in (algorithm.meta or {}).values():
        leaf.data = leaf.data.double()
    batches._view = lambda *args: map_tensors(torch.Tensor.double, view(*args))  # type: ignore[method-assign]
    return parts


def trained(sets: tuple[str, ...], processes: Processes) -> tuple[Any, list[dict[str, float]]]:
    """What the run has after a few steps, and what it measured."""
    recipe = recipe_of(*sets)
    parts = parts_of(recipe, processes)
    measured = [take_step(parts, recipe, step, measure=True) for step in range(STEPS)]
    algorithm = parts.algorithm
    ended = {"params": dict(parts.module.named_parameters()), "meta": algorithm.meta, "state": algorithm.state}
    return ended, [{name: float(value) for name, value in one.items()} for one in measured]


def differences(rank: int, size: int, variants: dict[str, tuple[str, ...]]) -> dict[str, float]:
    found = {}
    for name, sets in variants.items():
        one, measured = trained(sets, ALONE)
        many, seen = trained(sets, Several(ranks_of()))
        far = max(
            float((a - b).detach().abs().max()) for a, b in zip(tensors(many), tensors(one), strict=True) if a.numel()
        )
        for before, after in zip(measured, seen, strict=True):
            assert before.keys() == after.keys(), name
            far = max(far, *(abs(after[key] - value) / max(abs(value), 1e-3) for key, value in before.items()))
        found[name] = far
    return found


def unlike(found: list[dict[str, float]]) -> list[dict[str, float]]:
    """Of each process what differs by more than rounding, of all that was compared."""
    assert all(found), "nothing was compared"
    return [{name: value for name, value in one.items() if not value < 1e-9} for one in found]


def moved_in_bf16(rank: int, size: int) -> dict[str, float]:
    """How far the way that two steps in bf16 go is from that of one process, in units of its length; 0 is in float32."""
    found = {}
    for name in ("mixed", "approx, released", "meta_weight_net"):
        for precision in ("bf16", "float32"):
            ways = []
            for processes in (ALONE, Several(ranks_of())):
                recipe = recipe_of(*VARIANTS[name], f"train.precision={precision}")
                parts = assemble(recipe, lambda line: None, processes=processes)
                before = torch.cat([p.detach().flatten().clone() for p in parts.module.parameters()])
                for step in range(STEPS):
                    take_step(parts, recipe, step)
                ways.append(torch.cat([p.detach().flatten() for p in parts.module.parameters()]) - before)
            found[f"{name}, {precision}"] = float((ways[1] - ways[0]).norm() / ways[0].norm())
    return found


def all_of_it(rank: int, size: int) -> tuple[str, dict[str, float], dict[str, float]]:
    variants = VARIANTS if size > 2 else {name: VARIANTS[name] for name in FEW}
    return come_apart(rank, size), differences(rank, size, variants), moved_in_bf16(rank, size)


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return in_processes(2, tmp_path_factory.mktemp("two"), all_of_it)


def test_two_processes_take_the_steps_of_one(of_two: Any) -> None:
    assert not any(unlike([found for _, found, _ in of_two]))


@pytest.mark.slow
def test_four_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    assert not any(unlike([found for _, found, _ in in_processes(4, tmp_path, all_of_it)]))


def come_apart(rank: int, size: int) -> str:
    several = Several(ranks_of())
    module = torch.nn.BatchNorm1d(2)
    module.running_mean += float(rank)
    several.compare(module, None)
    own = several.unlike(dict(module.named_buffers()))
    assert [one.keys() for one in own] == [{"running_mean"}] * size
    assert torch.equal(own[rank]["running_mean"], module.running_mean)
    assert mean_of(own)["running_mean"].tolist() == [(size - 1) / 2] * 2
    with torch.no_grad():
        module.weight += rank
    try:
        several.compare(module, None)
    except Unequal as error:
        return str(error)
    return ""


def test_statistics_are_averaged_and_other_parameters_noticed(of_two: Any) -> None:
    assert all("process 1 holds other parameters" in said for said, *_ in of_two)


def test_in_bf16_two_processes_go_the_way_of_one_to_its_rounding(of_two: Any) -> None:
    for *_, far in of_two:
        coarse, fine = ({n: x for n, x in far.items() if n.endswith(end)} for end in ("bf16", "float32"))
        assert coarse and all(x < 0.02 for x in coarse.values()), coarse
        assert fine and all(x < 1e-4 for x in fine.values()), fine
        assert max(coarse.values()) > 10 * max(fine.values())  # it is bf16 that was compared


TWO = Several(Ranks(0, 2))


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (("method={name: mixup}",), r"method\.name: 'mixup' does not say that it works row by row"),
        (("problem={name: robust_ssl}",), r"problem\.name: 'robust_ssl' does not say how its coupling is dealt out"),
        (("train.batch=7", "problem.holdout_batch=8"), r"train\.batch: 7 rows .* over 2 processes; write 8"),
        (("problem.holdout_batch=3",), r"problem\.holdout_batch: 3 rows"),
        (("train.watch_test=5",), r"train\.watch_test: watches the rows of one process"),
        (("train.compile=true",), r"train\.compile: the loss of several processes cannot be compiled"),
        (("train.precision=fp16",), r"train\.precision: its loss scales .* take bf16 or float32"),
        (("train.device=cuda:1",), r"each process has its own; write cuda"),
    ],
)
def test_what_cannot_be_dealt_out_is_refused_with_the_way_out(sets: tuple[str, ...], told: str) -> None:
    recipe = recipe_of(*sets)
    check_dealable(recipe, ALONE)
    with pytest.raises(RecipeError, match=told):
        check_dealable(recipe, TWO)


def test_a_problem_derived_from_one_that_says_so_says_so_itself() -> None:
    recipe = recipe_of()
    recipe.problem = type("Own", (type(recipe.problem),), {"name": "own"})()
    with pytest.raises(RecipeError, match=r"'own' does not say"):
        check_dealable(recipe, TWO)


# whole runs -------------------------------------------------------------------------------------------------------------


def torchrun(count: int, *words: str, wait: bool = True) -> Any:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={count}",
        "-m",
        "metaimpute",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    process = subprocess.Popen(
        [*command, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    if not wait:
        return process
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


RUN = (
    "run",
    "two_moons",
    *(word for text in (*SMALL, "train.steps=40", "train.eval_every=20") for word in ("--set", text)),
)


def exit_of_the_first(err: str) -> int:
    """Exit code of the process that leads, in torchrun's report of what failed first."""
    found = re.search(r"Root Cause .*\n.*\n.*\n.*\n *rank *: 0 .*\n *exitcode *: (-?\d+)", err)
    assert found, err
    return int(found[1])


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_of_two_processes_ends_as_that_of_one_and_goes_on_with_another_number(tmp_path: Path) -> None:
    one, two, changed = (tmp_path / name for name in ("one", "two", "changed"))
    subprocess.run([sys.executable, "-m", "metaimpute", *RUN, "--out", str(one)], check=True, capture_output=True)
    code, _, err = torchrun(2, *RUN, "--out", str(two))
    assert code == 0, err
    assert err.count("run directory") == 1
    code, _, err = torchrun(
        2,
        *RUN,
        "--out",
        str(changed),
        "--set",
        "train.steps=40",
        "--set",
        "train.checkpoint_every=10",
        "--time-limit",
        "0.01s",
    )
    assert (code, exit_of_the_first(err)) == (1, 130)
    assert err.count("the time limit of 0.01s is over") == 1
    subprocess.run(
        [sys.executable, "-m", "metaimpute", "run", "--resume", str(changed)], check=True, capture_output=True
    )
    for folder in (two, changed):
        pairs = list(zip(metrics(one), metrics(folder), strict=True))
        assert len(pairs) > 4
        for before, after in pairs:
            assert after == pytest.approx(before, rel=1e-3, abs=1e-4)
    result = json.loads((two / "result.json").read_text())
    assert result["environment"]["processes"] == 2
    assert result["test_last"] == pytest.approx(json.loads((one / "result.json").read_text())["test_last"], abs=1e-4)


@pytest.mark.slow
def test_a_mistake_is_said_once(tmp_path: Path) -> None:
    code, _, err = torchrun(2, *RUN, "--out", str(tmp_path / "run"), "--set", "train.batch=7")
    assert (code, exit_of_the_first(err)) == (1, 2)
    assert err.count("error: --set train.batch=7: train.batch: 7 rows cannot be dealt out") == 1


@pytest.mark.slow
def test_a_divergence_is_said_once(tmp_path: Path) -> None:
    code, _, err = torchrun(2, *RUN, "--out", str(tmp_path / "run"), "--set", "train.optimizer.lr=1e30")
    assert (code, exit_of_the_first(err)) == (1, 4)
    assert err.count("error: training diverged: ") == 1
    assert "another process" not in err


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_when_a_process_dies_the_others_end_with_a_line(rank: int, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = torchrun(2, *RUN, "--out", str(folder), "--set", "train.steps=100000", wait=False)
    children: list[int] = []
    until = time.monotonic() + 120
    while time.monotonic() < until and not (folder / "metrics.jsonl").exists():
        time.sleep(0.2)
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True)
    children = [int(word) for word in found.stdout.split()]
    assert len(children) == 2
    os.kill(children[rank], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert err.count("another process of this group has ended") == 1


def test_a_study_is_not_started_by_torchrun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from metaimpute.cli import main

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, said in (("0", "torchrun starts the processes of one run"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        found = CliRunner().invoke(main, ["study", str(tmp_path / "study.yaml")])
        assert found.exit_code == 2
        assert said in found.output and (said or not found.output), rank


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"SLURM_STEP_NUM_TASKS": "4", "PMI_SIZE": "4"}, "srun started 4 processes"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "mpirun started 2 processes"),
        ({"WORLD_SIZE": "3"}, "a launcher started 3 processes"),
        ({"SLURM_STEP_NUM_TASKS": "1", "WORLD_SIZE": "none"}, None),
        ({"SLURM_STEP_NUM_TASKS": "4", "WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "x"}, None),
        ({}, None),
    ],
)
def test_who_started_runs_of_their_own_is_said(
    names: dict[str, str], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*LAUNCHERS, "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    assert started_apart() == said


def test_batchnorm_of_all_rows_without_batchnorm_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    assemble(load(RECIPES / "two_moons.yaml", "sample", ("train.sync_batchnorm=true",)), said.append)
    assert said[-1] == "note: train.sync_batchnorm=true changes nothing: the network has no BatchNorm"
