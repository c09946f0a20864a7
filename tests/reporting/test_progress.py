"""Progress in narrow and wide terminals, in a notebook and where there is no terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from metaimpute import progress
from metaimpute import showing as shown
from metaimpute.progress import Phase, counted, heard_by, phase
from metaimpute.reporting.console import TrainingProgress
from metaimpute.showing import Shown, clock, line_of, plain_line


class Watch:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    found = Watch()
    monkeypatch.setattr(progress.time, "monotonic", found)
    return found


def console(width: int, terminal: bool = True) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None, _environ={})


def printed(at: Console) -> str:
    return at.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def under_way(watch: Watch, name: str, total: int | None, done: int, note: str = "") -> Phase:
    """A phase of ten seconds."""
    with heard_by(Shown(console(80), hidden=True)), phase(name, total) as found:
        watch.now += 10
        found.to(done, note=note)
    return found


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 120])
def test_bar_count_and_time_are_the_last_to_go(width: int, watch: Watch) -> None:
    for name in ("training", "choosing systems: gradient boosting on the spelling of every column"):
        line = line_of(under_way(watch, name, 12_000, 3_000), width, watch.now).plain
        assert len(line) <= max(width, 24) and line.endswith("3,000/12,000  0:30 left")
        assert width < 60 or (line.startswith(name[:8]) and line.count("━") >= 2 and "─" in line)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_measurements_have_a_line_of_their_own(width: int, watch: Watch) -> None:
    at = console(width)
    found = TrainingProgress(at, "error %")
    values = {
        "loss": 0.2,
        "mask_rate": 1.0,
        "imputed_accuracy": 0.8,
        "holdout_before": 0.1,
        "holdout_after": 0.2,
        "cosine": 0.5,
    }
    with heard_by(found), phase("training", 500) as reached:
        watch.now = 10.0
        reached.to(100)
        found.report(100, values)
        at.print(found)
        with phase("testing", 64):
            watch.now += 1
            at.print(found)
    lines = printed(at).splitlines()
    assert lines[0].startswith("training  ━") and lines[0].endswith("100/500  0:40 left")
    assert lines[1].startswith("  loss 0.200, mask 100%, imputed right 80%, hold-out 0.100")
    assert len(lines) == 5 and lines[3].startswith("testing ") and lines[3].endswith("0/64  0:01 so far")
    assert max(map(len, lines)) <= width and not found.phases and not found.note


def test_a_line_of_progress_fits_a_pipe_of_eighty_cells(watch: Watch) -> None:
    at = console(200, terminal=False)
    values = dict.fromkeys(
        ["loss", "mask_rate", "imputed_accuracy", "holdout_before", "holdout_after", "cosine"], 0.123456
    )
    TrainingProgress(at, "landmark error %").report(12_000, values | {"validation_error": 12.34, "test_error": 23.45})
    (line,) = printed(at).splitlines()
    assert line.startswith("step 12000: landmark error %: validation 12.34, test 23.45; loss 0.123") and len(line) < 80


def test_an_inner_phase_is_seen_when_it_lasts(watch: Watch) -> None:
    found = Shown(console(80))
    with heard_by(found), phase("training", 5), phase("testing", 64):
        assert [one.name for one in found.visible(watch.now)] == ["training"]
        assert [one.name for one in found.visible(watch.now + 1)] == ["training", "testing"]


def test_without_a_terminal_there_is_a_line_now_and_then(watch: Watch) -> None:
    at = console(80, terminal=False)
    with Shown(at) as found, phase("encoding texts", 100) as reached:
        found.say("data: ...")
        for _ in range(100):
            watch.now += 1
            reached.advance()
    lines = printed(at).splitlines()
    assert lines[:2] == ["data: ...", "encoding texts: 10/100, 1:30 left"]
    assert len(lines) == 5 and "\x1b" not in printed(at)


def test_a_notebook_has_one_line_that_is_written_over(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "in_notebook", lambda: True)
    at = console(80, terminal=False)
    with Shown(at), phase("training", 4) as reached:
        for _ in range(4):
            watch.now += 1
            reached.advance()
    parts = printed(at).split("\r")
    assert [part.strip() for part in parts if part.strip()][1] == "training: 1/4, 0:03 left" and "\n" not in printed(at)


def test_hidden_progress_says_warnings_alone() -> None:
    at = console(80, terminal=False)
    with TrainingProgress(at, "error %", hidden=True) as found:
        found.say("data: ...")
        found.say("warning: of it")
        found.report(3, {"test_error": 1.0})
    assert printed(at) == "warning: of it\n"


def test_work_that_nobody_listens_to_goes_on_and_phases_end_with_it() -> None:
    assert list(counted("ab", "letters")) == ["a", "b"]
    listener = Shown(console(80), hidden=True)
    with heard_by(listener):
        for _ in counted("ab", "letters", 2):
            assert [one.name for one in listener.phases] == ["letters"]
        with pytest.raises(KeyError), phase("one"):
            raise KeyError
    assert not listener.phases


def test_times_and_names_are_plain(watch: Watch) -> None:
    assert [clock(seconds) for seconds in (0, 59.6, 3599, 3600)] == ["0:00", "1:00", "59:59", "1:00:00"]
    assert plain_line(under_way(watch, "fetching", None, 0), watch.now) == "fetching: 0:10 so far"
    assert "\x1b" not in line_of(under_way(watch, "a\x1b[31m", 3, 1), 80, watch.now).plain
