"""A run of several processes that was stopped and resumed ends in the bits of one that was not, BatchNorm's statistics included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from metaimpute.engine.across_ranks import ranks_of
from metaimpute.recipes.recipe import load
from metaimpute.rundir.checkpoint import latest
from metaimpute.training.assemble import assemble
from metaimpute.training.processes import SAID, Several
from metaimpute.training.session import Interrupted, Session
from tests.processes import in_processes

RECIPE = """
about: {title: statistics}
task: {name: digits, labels: 40, validation: 20}
model: {name: cnn, width: 2}
method: {name: mean_teacher}
problem: {name: l2i, estimator: approx, inner: {lr: 0.1}}
train: {steps: 4, batch: 6, unlabelled_batch: 6, eval_every: 4, checkpoint_every: 4, log_every: 4, threads: 1, ema: 0.5}
"""
OFTEN = ("train.checkpoint_every=1", "train.eval_every=1", "train.log_every=1")


class Staying(Several):
    """Processes that are there for the next run when one is over."""

    def end(self, word: str = SAID) -> None:
        dist.barrier()


def session_of(folder: Path, *sets: str) -> Session:
    recipe = load(folder.parent / "recipe.yaml", "sample", sets)
    return Session(recipe, folder, say=lambda line: None, processes=Staying(ranks_of()))


def trained(session: Session) -> None:
    if session.processes.leads:
        session.run()
    else:
        session.follow()


def stopped(folder: Path, *sets: str) -> None:
    session = session_of(folder, *sets)
    session.stop()
    with pytest.raises(Interrupted):
        trained(session)


def ends(rank: int, size: int, place: Path, sets: tuple[str, ...]) -> dict[str, tuple[dict[str, Any], str]]:
    """What runs end in that go through, are stopped after a step and resumed, and are saved, evaluated and logged often."""
    folders = {way: place / way for way in ("whole", "resumed", "often")}
    trained(session_of(folders["whole"], *sets))
    trained(session_of(folders["often"], *sets, *OFTEN))
    stopped(folders["resumed"], *sets)
    again = session_of(folders["resumed"], *sets)
    again.resume()
    assert again.step == 1
    trained(again)
    return {way: (latest(folder)[0], exported(folder)) for way, folder in folders.items()} if rank == 0 else {}


def exported(folder: Path) -> str:
    return str(json.loads((folder / "result.json").read_text())["weights_sha256"])


def bits(state: dict[str, Any]) -> dict[str, Any]:
    """Weights and statistics of a checkpoint: the network's, the average's and each process's own."""
    return {"model": state["model"], "averaged": state["averaged"], "own": state.get("buffers")}


@pytest.mark.parametrize(
    ("size", "sets", "differing"),
    [(2, (), 2), (3, ("train.sync_batchnorm=true",), 0)],
    ids=["of own rows", "of all rows, in three"],
)
def test_a_resumed_run_ends_in_the_bits_of_the_whole_one(
    size: int, sets: tuple[str, ...], differing: int, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    assemble(load(tmp_path / "recipe.yaml", "sample"), lambda line: None)  # imports what each fork would have to
    found = in_processes(size, tmp_path, ends, tmp_path, sets)[0]
    whole, weights = found["whole"]
    for way in ("resumed", "often"):
        state, also = found[way]
        torch.testing.assert_close(bits(state), bits(whole), rtol=0, atol=0, msg=lambda said, way=way: f"{way}: {said}")
        assert also == weights, way
    own = whole["buffers"]
    assert len(own) == differing, "statistics of own rows differ, those of all rows do not"
    for place, kept in (("model", "running_mean"), ("averaged", "running_var")):
        names = [key for key in whole[place] if key.endswith(kept)]
        assert names
        for key in names if own else ():
            mean = torch.stack([one[f"{place}.{key}"] for one in own]).mean(0)
            assert torch.equal(whole[place][key], mean), "what is saved for another number of processes is the mean"
