"""Calls on a cluster: answered, sent again where a worker died, given up, refused by a node that is not fit, and stopped."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from metaimpute.cluster.archive import pack, unpack
from metaimpute.cluster.calls import Call, ClusterError, Reached
from metaimpute.cluster.driver import carry_out
from metaimpute.cluster.node import Sent, refusal
from metaimpute.cluster.same import difference, versions

from .made import Made


def call(number: int) -> Call:
    return Call(f"call {number}", "tests.cluster.made:double", lambda: (number,))


class Ends:
    """What a driver said."""

    def __init__(self) -> None:
        self.answers, self.deaths, self.heard = dict[str, Any](), list[tuple[str, str]](), list[tuple[str, Reached]]()

    def run(self, cluster: Made, count: int = 3, retries: int = 1) -> None:
        carry_out(
            [call(number) for number in range(count)], cluster, lambda one, found: self.answers.update({one.name: found}),
            lambda one, lost, then: self.deaths.append((one.name, then)),
            lambda one, reached: self.heard.append((one.name, reached)), retries, grace=1,
        )  # fmt: skip


def test_every_call_is_answered_and_heard_of() -> None:
    found = Ends()
    found.run(Made())
    assert found.answers == {"call 0": 0, "call 1": 2, "call 2": 4} and not found.deaths
    assert ("call 0", Reached("doubling", 1, 1)) not in found.heard, "its word came with its answer"


def test_a_call_whose_worker_dies_is_sent_again_and_in_the_end_given_up() -> None:
    found = Ends()
    found.run(Made({"call 0": 1, "call 2": 2}))
    assert found.answers == {"call 0": 0, "call 1": 2}
    assert found.deaths == [("call 0", "again"), ("call 2", "again"), ("call 2", "given up")]
    none = Ends()
    none.run(Made({"call 0": 1}), retries=0)
    assert none.deaths == [("call 0", "given up")]


def test_a_node_with_other_packages_ends_the_work_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Made()
    submitted = cluster.submit

    def other(one: Call) -> int:
        handle = submitted(one)
        cluster.handles[handle] = dataclasses.replace(cluster.handles[handle], versions=versions() | {"torch": "0.1"})
        return handle

    monkeypatch.setattr(cluster, "submit", other)
    with pytest.raises(ClusterError, match=r"node .* has torch \d.* and not 0\.1: install the same on both"):
        Ends().run(cluster)
    assert cluster.stopped
    assert (
        refusal(versions()) is None
        and difference({"torch": "1", "timm": "1"}, {"torch": "1"}) == "timm not at all and not 1"
    )


def test_ctrl_c_takes_what_ends_in_time_and_drops_what_had_not_begun() -> None:
    cluster, found = Made(interrupt=1), Ends()

    def begun(work: Sent) -> None:
        cluster.words.append(("call 1", Reached("starting", 0, None)))

    cluster.before = begun
    with pytest.raises(KeyboardInterrupt):
        found.run(cluster)
    assert cluster.stopped and cluster.dropped == ["call 2"]
    assert found.answers == {"call 0": 0, "call 1": 2}, "the one that was under way"


def test_a_death_after_ctrl_c_is_no_failure() -> None:
    cluster, found = Made({"call 1": 1}, interrupt=1), Ends()
    cluster.before = lambda work: cluster.words.append(("call 1", Reached("starting", 0, None)))
    with pytest.raises(KeyboardInterrupt):
        found.run(cluster)
    assert found.deaths == [("call 1", "stopped")]


def test_a_folder_comes_back_whole_and_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/step-1.pt").write_bytes(b"\0" * 5000)
    (tmp_path / "run/result.json").write_text("{}")
    (tmp_path / "run/half.1.part").write_text("no")
    (tmp_path / "run/link").symlink_to(tmp_path)
    content = pack(tmp_path / "run")
    (tmp_path / "there").mkdir()
    (tmp_path / "there/old").write_text("old")
    unpack(content, tmp_path / "there")
    files = {
        path.relative_to(tmp_path / "there").as_posix() for path in (tmp_path / "there").rglob("*") if path.is_file()
    }
    assert files == {"checkpoints/step-1.pt", "result.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"run", "there"}, "nothing is left over"


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out"])
def test_an_archive_that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    (tmp_path / "there").mkdir()
    (tmp_path / "there/old").write_text("old")
    with pytest.raises(ValueError, match="no file below the folder"):
        unpack(stream.getvalue(), tmp_path / "there")
    assert (tmp_path / "there/old").read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["there"]
