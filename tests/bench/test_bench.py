"""The benchmark commands at toy size: what they measure, write, skip and refuse. No timing is asserted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from metaimpute.bench import step as step_bench
from metaimpute.bench.hypergradient import accuracy, configurations
from metaimpute.bench.measure import flops, machine, paired_times, peak_bytes, ratio
from metaimpute.bench.peers import PEERS, installed
from metaimpute.bench.problems import build
from metaimpute.cli import main


class Tiny(nn.Module):
    """A model of a user's own, found as module:Class."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["bench", *arguments])


def test_a_users_model_from_table_to_json_and_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = invoke(
        "hypergradient", "--model", "tests.bench.test_bench:Tiny", "--input", "3,2,2", "--steps", "1,3", "--batch", "4",
        "--repeats", "1", "--threads", "1", "--backend", "func,higher", "--out", str(tmp_path / "r.json"), "--plot",
        str(tmp_path / "r.png"), "--memory", "store,recompute,auto(10MB)", "--estimator", "exact,mixed,truncated(1),first_order",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "r.json").read_text())
    rows = {(r["system"], r["steps"]): r for r in result["rows"]}
    for k in (1, 3):
        for name in ("exact", "exact / recompute", "exact / auto(10MB)", "mixed", "higher's unroll, exact"):
            assert rows[name, k]["error"] < 1e-5 and rows[name, k]["cosine"] > 0.99999, name
        assert rows["first_order", k]["error"] == pytest.approx(1.0)
        assert rows["truncated(1)", k]["error"] < 1e-5 if k == 1 else rows["truncated(1)", k]["error"] > 1e-3
        assert all(r["wall"] > 0 and r["peak"] > 0 and r["flops"] > 0 for r in result["rows"])
    assert rows["exact", 3]["flops"] == pytest.approx(3, abs=0.7)
    assert rows["exact / recompute", 3]["flops"] > rows["exact", 3]["flops"]
    assert result["machine"]["threads"] == 1 and (tmp_path / "r.png").stat().st_size > 5000
    for name in PEERS:
        skipped = [s for s in result["skipped"] if s["system"] == name]
        assert installed(name) or (skipped and skipped[0]["why"] == "not installed")


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile's inductor needs a C++ compiler")
def test_a_compiled_step_stands_beside_the_uncompiled_one(tmp_path: Path) -> None:
    done = invoke(
        "hypergradient", "--model", "tests.bench.test_bench:Tiny", "--input", "3,2,2", "--steps", "1", "--batch", "4",
        "--repeats", "1", "--threads", "1", "--backend", "func,compiled", "--estimator", "exact", "--memory", "store",
        "--peers", "", "--out", str(tmp_path / "r.json"), "--plot", str(tmp_path / "r.png"),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = {r["system"]: r for r in json.loads((tmp_path / "r.json").read_text())["rows"]}
    assert rows["compiled, exact"]["error"] < 1e-5 and rows["compiled, exact"]["wall"] > 0
    assert rows["compiled, exact"]["peak"] is None, "torch does not look into a compiled program"


@pytest.mark.parametrize("peer", list(PEERS))
@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
def test_peers_compute_the_same_gradient(peer: str, optimizer: str) -> None:
    if not installed(peer):
        pytest.skip(f"{peer} is not installed")
    problem = build("cnn", 4, torch.float64, "cpu")
    from metaimpute.bench.hypergradient import inner_rule, ours

    steps = 1 if peer == "betty" else 3
    if peer == "betty" and optimizer != "sgd":
        pytest.skip("Betty's estimate has no optimiser in it")
    estimator = "finite_difference" if peer == "betty" else "exact"
    truth = ours(problem, inner_rule(optimizer, 0.05), steps, estimator, "store")()
    found = PEERS[peer](problem, optimizer, 0.05, steps)()
    assert accuracy(found, truth)[0] < (0.05 if peer == "betty" else 1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet"], "unknown model 'resnet'"), (["--model", "no.such:Net", "--input", "3"], "No module named"),
        (["--model", "torch.nn:Linear"], "needs --input"), (["--steps", "0"], "at least 1"), (["--steps", "a"], "whole numbers"),
        (["--estimator", "exat"], "did you mean 'exact'"), (["--memory", "strore"], "did you mean 'store'"),
        (["--peers", "hihger"], "did you mean 'higher'"), (["--backend", "jax"], "unknown 'jax'"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line(arguments: list[str], message: str) -> None:
    done = invoke("hypergradient", *arguments)
    assert done.exit_code == 2 and message in done.stderr, done.output


def test_the_step_benchmark_and_its_limits(tmp_path: Path) -> None:
    def limit(*options: str) -> float | None:
        return step_bench.limit_of(step_bench.Config("mean_teacher", "l2i", *options))

    assert limit("approx", "algorithm1", "kept", "unlabelled") == pytest.approx(12 / 7)
    assert limit("mixed", "algorithm1", "kept", "unlabelled") == pytest.approx(19 / 7)
    assert limit("mixed", "algorithm1") == pytest.approx(22 / 7) and limit("exact") is None
    assert limit("mixed", "fused") == pytest.approx(16 / 7)
    bench = step_bench.Bench(2, 1, side=8)
    for config in [*step_bench.configurations("mean_teacher", 1), *step_bench.configurations("fixmatch", 2)]:
        metrics = bench.work(config)()
        assert torch.isfinite(torch.as_tensor(metrics["loss"])), config.name
    assert invoke("step", "--method", "mixmatch:x").exit_code == 2


def test_recomputing_psi_changes_memory_and_not_the_step() -> None:
    bench, peaks, weights = step_bench.Bench(4, 2, side=16), [], []
    for psi in ("kept", "recomputed"):
        config = step_bench.Config("mean_teacher", "l2i", "mixed", psi=psi)
        algorithm, batch, holdout = bench.algorithm(config)
        peaks.append(peak_bytes(lambda a=algorithm, b=batch, h=holdout: a.step(b, h)))
        weights.append({n: p.detach().clone() for n, p in algorithm.model.params.items()})
    assert peaks[1] < 0.9 * peaks[0]
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-6, atol=1e-7)


def test_measures() -> None:
    x = torch.randn(8, 4)
    assert flops(lambda: x @ x.T) == 2 * 8 * 8 * 4
    assert peak_bytes(lambda: (x + 1).sum()) == 8 * 4 * 4 + 4
    times = paired_times({"a": lambda: None, "b": lambda: None}, 3)
    assert [len(v) for v in times.values()] == [3, 3]
    assert ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0]) == (2.0, 2.0, 3.0)
    assert configurations(["exact", "mixed"], ["store", "recompute"], ["func", "higher"]) == [
        ("exact", "store", "func"), ("exact", "recompute", "func"), ("mixed", "store", "func"), ("exact", "store", "higher"),
    ]  # fmt: skip


def test_a_device_is_asked_for_by_name_and_one_that_is_not_here_is_refused() -> None:
    for command in (("step", "--method", "mean_teacher:1"), ("hypergradient",)):
        done = invoke(*command, "--device", "sycophant")
        assert done.exit_code == 2 and "device 'sycophant' is not available" in done.output
    assert machine("cpu")["device"].startswith("cpu (")
