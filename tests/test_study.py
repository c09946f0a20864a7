"""Studies: what their tables say, that they go on where they stopped, and that a failure is its run's alone."""

from __future__ import annotations

import csv
import json
import multiprocessing
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from metaimpute.cli import main
from metaimpute.cluster.calls import Reached
from metaimpute.progress import Phase, heard_by, phase
from metaimpute.recipes.source import RecipeError
from metaimpute.rundir.measure import MEASURE
from metaimpute.study.plan import Study, read_study
from metaimpute.study.progress import carry_out, prepare
from metaimpute.study.runs import UNFINISHED, Outcome
from metaimpute.study.tables import csv_table, markdown, markdown_table, summarize, tex, tex_table
from metaimpute.study.workers import Worker, _Telling
from metaimpute.training.session import Session

from .reporting.made import result_with
from .small_study import RECIPE, STUDY

ROOT = Path(__file__).parents[1]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(RECIPE)
    (tmp_path / "s.yaml").write_text(STUDY)
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["study", *arguments], catch_exceptions=False)


def study(text: str) -> Study:
    Path("s.yaml").write_text(text)
    return read_study(Path("s.yaml"))


def outcomes(
    found: Study, values: dict[str, list[float | None]], **others: list[float]
) -> dict[tuple[str, int], Outcome]:
    """Finished runs of a row with these values of the study's metric, seed by seed; None is a run that diverged."""
    same = {"task": "two_moons", "source": "moons", "metric": "error %", "profile": "sample", "test_examples": 9}
    made = {}
    for row in found.rows:
        for number, seed in enumerate(found.seeds):
            value = values[row.name][number]
            beside = {"test_last": others[row.folder][number]} if row.folder in others else {}
            result = result_with(**same | beside | {found.metric: value, "training_seconds": 1.0})
            made[row.name, seed] = (
                Outcome("diverged", "loss is nan") if value is None else Outcome("finished", "", result)
            )
    return made


def runs_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    kept = json.loads((folder / "study.json").read_text())
    return {
        one["name"]: [{k: v for k, v in run.items() if k != "training_seconds"} for run in one["runs"]]
        for one in kept["systems"]
    }


# tables ------------------------------------------------------------------------------------------------------------------


def test_a_table_holds_means_and_paired_differences(here: Path) -> None:
    """none 10, 20, 30; l2i 8, 19, 27: mean 20 and 18, standard deviation 10 and sqrt(91); differences -2, -1, -3."""
    found = study(STUDY.replace("seeds: 2", "seeds: [0, 3, 5]"))
    lines = summarize(found, outcomes(found, {"none": [10, 20, 30], "l2i": [8, 19, 27]}))
    rows = list(csv.DictReader(csv_table(lines).splitlines()))
    assert [rows[0][key] for key in ("row", "n", "mean", "std", "difference", "against")] == [
        "none",
        "3",
        "20",
        "10.0",
        "",
        "",
    ]
    assert rows[1]["row"] == "l2i" and float(rows[1]["mean"]) == 18 and float(rows[1]["std"]) == pytest.approx(91**0.5)
    assert [float(rows[1][key]) for key in ("difference", "lower", "pairs")] == [-2, 3, 3]
    assert [rows[1][key] for key in ("low", "high")] == ["", ""], "of three pairs it would be their range"
    assert rows[1]["p"] == "" and rows[1]["against"] == "none", "three pairs tell nothing"
    text = markdown_table(found, lines, "title").splitlines()
    assert text[4] == "| none | 3 | 20.00 ± 10.00 |  |  |  |  |  |"
    assert text[5] == "| l2i | 3 | 18.00 ± 9.54 | -2.00 | - | - | 3 of 3 |  |"
    assert r"l2i & 3 & 18.00 $\pm$ 9.54 & $-2.00$ & - & - & 3 of 3 &  \\" in tex_table(found, lines, "t").splitlines()
    assert text[-1] == "- interval and p from five seeds on"


def test_five_seeds_have_an_interval(here: Path) -> None:
    found = study(STUDY.replace("seeds: 2", "seeds: 5"))
    lines = summarize(found, outcomes(found, {"none": [10] * 5, "l2i": [9] * 5}))
    row = list(csv.DictReader(csv_table(lines).splitlines()))[1]
    assert [float(row[key]) for key in ("low", "high")] == [-1, -1]
    text = markdown_table(found, lines, "title")
    assert "| -1.00 to -1.00 |" in text and "from five seeds on" not in text


def test_a_failed_run_leaves_its_pair_out_and_gives_its_reason(here: Path) -> None:
    found = study(STUDY.replace("seeds: 2", "seeds: 3"))
    lines = summarize(found, outcomes(found, {"none": [10, 20, 30], "l2i": [8, None, 27]}))
    assert lines[1].failed == {1: "loss is nan"} and lines[1].difference is not None
    assert lines[1].difference.differences == (-2, -3) and lines[1].difference.lower == 2
    assert "- l2i, seed 1: loss is nan" in markdown_table(found, lines, "title")
    none = summarize(found, dict.fromkeys(outcomes(found, {"none": [1, 2, 3], "l2i": [1, 2, 3]}), UNFINISHED))
    assert [line.difference for line in none] == [None, None] and csv_table(none)


def test_points_are_ranked_on_validation_rows_and_the_best_of_each_system_alone_is_tested(here: Path) -> None:
    """none is compared at the same point; l2i's best point on validation rows is not its best on test rows."""
    found = study(STUDY + "grid: {train.ema: [0.5, 0.9]}\n")
    assert found.metric == "validation_last" and not found.warnings
    assert found.baselines["l2i, ema=0.9"] == "none, ema=0.9"
    values = {
        "none, ema=0.5": [30, 32],
        "none, ema=0.9": [20, 22],
        "l2i, ema=0.5": [26, 28],
        "l2i, ema=0.9": [40, None],
    }
    tests = {"none-ema=0.5": [1, 1], "none-ema=0.9": [21, 25], "l2i-ema=0.5": [27, 27], "l2i-ema=0.9": [0, 0]}
    lines = summarize(found, outcomes(found, values, **tests))  # type: ignore[arg-type]
    assert [line.row.name for line in lines] == ["none, ema=0.9", "l2i, ema=0.5", "none, ema=0.5", "l2i, ema=0.9"]
    assert [line.test for line in lines] == [{0: 21, 1: 25}, {0: 27, 1: 27}, {}, {}]
    assert lines[1].difference is not None and lines[1].difference.mean == -4
    assert "| 23.00 ± 2.83 |" in markdown_table(found, lines, "title")
    assert csv.DictReader(csv_table(lines).splitlines()).__next__()["train.ema"] == "0.9"


@pytest.mark.parametrize("metric", ["test_last", "test_median"])
def test_choosing_by_a_test_metric_is_called_tuning_on_test(here: Path, metric: str) -> None:
    done = study(STUDY + f"metric: {metric}\ngrid: {{problem.weight: [1, 2]}}\n")
    assert "tune on the test set" in done.warnings[0] and "validation_last" in done.warnings[0]
    assert (
        study(STUDY + f"metric: {metric}\n").warnings == [] == study(STUDY + "grid: {problem.weight: [2]}\n").warnings
    )


def test_a_study_compares_by_what_its_runs_record_unless_it_names_another_measure(here: Path) -> None:
    assert study(STUDY).metric == MEASURE == "test_last"
    assert study(STUDY + "metric: test_median\n").metric == "test_median"


HARD = r"a_b & 50% {c} | $d$ #1 ~^ \e <f> `g` *h*"


def test_names_are_shown_as_they_are_in_every_form(here: Path) -> None:
    found = study(STUDY.replace("  none:", f"  {json.dumps(HARD)}:").replace("seeds: 2", "seeds: 3"))
    lines = summarize(found, outcomes(found, {HARD: [1, 2, 3], "l2i": [1, None, 2]}))
    assert next(csv.DictReader(csv_table(lines).splitlines()))["row"] == HARD
    row = markdown_table(found, lines, HARD).splitlines()[4]
    assert len(re.findall(r"(?<!\\)\|", row)) == 9, "as many bars as the table has borders"
    assert re.sub(r"\\(.)", r"\1", re.split(r"(?<!\\)\|", row)[1]).strip() == HARD
    body = tex_table(found, lines, HARD)
    assert r"a\_b \& 50\% \{c\} \textbar{} \$d\$ \#1 \textasciitilde{}\textasciicircum{} \textbackslash{}e" in body
    line = next(one for one in body.splitlines() if one.startswith(r"a\_b"))
    assert len(re.findall(r"(?<!\\)&", line)) == 7 and line.endswith(r"\\")
    assert (markdown("a\nb"), tex("a\nb"), tex("-1.5 of e-3")) == ("a b", "a b", "$-1.5$ of e-3")
    assert re.fullmatch(r"[\w.+=-]+", found.rows[0].folder)


def test_systems_whose_folders_would_be_one_have_two(here: Path) -> None:
    found = study("recipe: small.yaml\nsystems: {A/b: [], a-b: [], ..: [], 'é': []}\n")
    assert [row.folder for row in found.rows] == ["A-b", "a-b-2", "system", "system-2"]


# running -----------------------------------------------------------------------------------------------------------------


def test_a_study_is_made_of_ordinary_runs(here: Path) -> None:
    done = call("s.yaml", "--out", "o", "--jobs", "0")
    assert done.exit_code == 0, done.output
    assert "2 systems x 2 seeds = 4 runs in o; 0 finished, 4 to run" in done.output
    said = [line.split(":")[0] for line in done.output.splitlines() if line.startswith("seed ")]
    assert said == ["seed 0, none", "seed 0, l2i", "seed 1, none", "seed 1, l2i"], "seed by seed"
    assert {path.name for path in (here / "o").iterdir()} == {
        "none",
        "l2i",
        "study.json",
        "table.csv",
        "table.md",
        "table.tex",
        "run.lock",
    }
    kept = json.loads((here / "o/study.json").read_text())
    for one in kept["systems"]:
        results = [json.loads((here / "o" / run["folder"] / "result.json").read_text()) for run in one["runs"]]
        errors = [result[result["measure"]] for result in results]
        assert one["mean"] == sum(errors) / 2 and one["std"] == pytest.approx(abs(errors[0] - errors[1]) / 2**0.5)
    assert kept["machine"]["packages"]["torch"] and kept["finished"] and kept["metric"] == "test_last"
    again = CliRunner().invoke(main, ["compare", "o"])
    assert again.exit_code == 0 and "mean_teacher" not in again.output and "differences to none" in again.output
    alone = CliRunner().invoke(main, ["run", "small.yaml", "--seed", "1", "--out", "alone"])
    assert alone.exit_code == 0
    assert json.loads((here / "alone/result.json").read_text())["evaluations"] == results[1]["evaluations"]


NUMBER = r"-?\d+\.\d+"


def shown_by(command: str, *arguments: str) -> dict[str, Any]:
    """What a command's JSON says of each system: mean, difference, and the baseline."""
    found = json.loads(CliRunner().invoke(main, [command, "--json", *arguments]).stdout)
    (one,) = found["comparisons"]
    systems = {
        each["name"]: (statistics.mean(each["errors"].values()), each["difference"] and each["difference"]["mean"])
        for each in one["systems"]
    }
    return {"systems": systems, "against": one["against"], "verdict": one["verdict"]}


@pytest.mark.parametrize("metric", ["test_last", "test_median"])
def test_study_compare_and_report_say_the_same_of_the_same_runs(here: Path, metric: str) -> None:
    """By the study's names, against its baseline, which is not its first system, and by its measure."""
    text = STUDY.replace("  none: {problem.name: none}\n  l2i: []", "  mine: []\n  base line: {problem.name: none}")
    (here / "s.yaml").write_text(text + f"against: base line\nmetric: {metric}\n")
    assert call("s.yaml", "--out", "o", "--jobs", "0").exit_code == 0
    kept = json.loads((here / "o/study.json").read_text())
    told = {one["name"]: (one["mean"], one["difference"]) for one in kept["systems"]}
    assert list(told) == ["mine", "base line"]
    for one in (shown_by("compare", "o"), shown_by("report", "o"), shown_by("compare", "o/mine", "o/base-line")):
        assert one["systems"] == {name: pytest.approx(pair) for name, pair in told.items()}
        assert one["against"] == "base line" and one["verdict"]["lines"] == kept["verdict"]["lines"]
    tables = CliRunner().invoke(main, ["report", "o"]).stdout.split("What now", 1)[1]
    assert re.search(r"system .* mine .* base line ", tables) and "with problem.name" not in tables
    page = (here / "report.html").read_text()
    assert "minus base line" in page and kept["verdict"]["lines"][0] in page


def test_what_is_chosen_on_validation_rows_shows_its_test_error_alone(here: Path) -> None:
    (here / "s.yaml").write_text(STUDY + "grid: {train.ema: [0.5, 0.9]}\n")
    assert call("s.yaml", "--out", "o", "--jobs", "0").exit_code == 0
    done = CliRunner().invoke(main, ["report", "o"])
    assert done.exit_code == 0 and "validation error %" in done.stdout and "test error" not in done.stdout
    page = (here / "report.html").read_text()
    more = page[page.index("More numbers") :]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", more[: more.index("</table>")])
    columns = len(cells) // 4
    assert sum(bool(cell) for cell in cells[::columns]) == 1, "of one row in four"
    assert "Test error" not in page


def test_a_damaged_study_is_said_and_how_to_mend_it(here: Path) -> None:
    call("s.yaml", "--out", "o", "--jobs", "0")
    (here / "o/study.json").write_text("{}")
    done = CliRunner().invoke(main, ["compare", "o/none/seed0"])
    assert done.exit_code == 2 and "study.json is damaged: 'metric'; the study's command writes it again" in done.stderr


def test_a_study_opens_with_its_verdict_and_passes_on_what_its_runs_warn_of(here: Path) -> None:
    (here / "s.yaml").write_text(
        STUDY.replace("  l2i: []", "  l2i: {problem.estimator: first_order, train.log_every: 1}")
    )
    done = call("s.yaml", "--out", "o", "--jobs", "0")
    lines = [line for line in done.stdout.splitlines() if not line.startswith("seed ")]
    assert re.match(r"(none|l2i).* is best: \d", lines[0]) and "test rows wrong, mean of 2 seeds." in lines[0]
    assert any(line.startswith("What now: run at least 5 seeds") for line in lines)
    assert "warning: l2i, seeds 0, 1: the hypergradient is exactly zero in 3 measured steps" in done.stderr
    assert len(json.loads((here / "o/study.json").read_text())["run_warnings"]) == done.stderr.count("warning: ")
    assert (here / "o/table.md").read_text().startswith(lines[0].split(" is best")[0])


def test_no_line_of_a_study_is_wider_than_the_terminal(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = {"lookahead_supervision": "[]", "holdout_supervision": "{problem.name: holdout_supervision}"}
    systems = "".join(f"  {name}: {sets}\n" for name, sets in names.items())
    (here / "s.yaml").write_text(
        STUDY.replace("  none: {problem.name: none}\n  l2i: []\n", systems).replace("seeds: 2", "seeds: 5")
    )
    done = call("s.yaml", "--out", "o", "--jobs", "0")
    table = [line for line in done.stdout.splitlines() if "│" in line or "┃" in line]
    assert len(table) == 3 and max(map(len, table)) <= 80, "no cell is folded"
    assert "lookahead_supervision" in table[1] and re.search(rf"{NUMBER} to", table[2])


class Killed(BaseException):
    """As sudden as a signal."""


def test_a_study_goes_on_where_it_was_killed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call("s.yaml", "--out", "whole", "--jobs", "0")
    steps, original = [0], Session._one_step

    def one_step(self: Session, log: Any) -> None:
        steps[0] += 1
        if steps[0] == 6 + 5:  # in the second run, past its checkpoint at step 4
            raise Killed
        original(self, log)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_one_step", one_step)
        with pytest.raises(Killed):
            call("s.yaml", "--out", "o", "--jobs", "0")
    first = (here / "o/none/seed0/result.json").stat().st_mtime_ns
    assert not (here / "o/l2i/seed0/result.json").exists() and list(
        (here / "o/l2i/seed0/checkpoints").glob("step-*4.pt")
    )
    with monkeypatch.context() as patch:
        steps[0] = -100
        patch.setattr(Session, "_one_step", one_step)
        done = call("s.yaml", "--out", "o", "--jobs", "0")
        assert steps[0] == -100 + 2 + 6 + 6, "the last two steps of one run, and two more runs"
    assert done.exit_code == 0 and "1 finished, 3 to run" in done.output
    assert (here / "o/none/seed0/result.json").stat().st_mtime_ns == first
    assert runs_of(here / "o") == runs_of(here / "whole")


def test_a_run_that_diverges_is_kept_apart(here: Path) -> None:
    text = STUDY.replace(
        "  l2i: []", "  l2i: []\n  boom: {problem.name: none, train.optimizer: {name: sgd, lr: 1.0e+36}}"
    )
    (here / "s.yaml").write_text(text)
    done = call("s.yaml", "--out", "o", "--jobs", "0")
    assert done.exit_code == 4 and "2 of 6 runs failed, 2 of them by divergence" in done.stderr
    assert "boom, seed 1: base loss is nan at step" in done.output and "Traceback" not in done.output
    runs = runs_of(here / "o")
    assert [run["status"] for run in runs["boom"]] == ["diverged"] * 2 and "nan at step" in runs["boom"][0]["reason"]
    assert [run["status"] for run in runs["none"] + runs["l2i"]] == ["finished"] * 4
    again = call("s.yaml", "--out", "o", "--jobs", "0")
    assert again.exit_code == 4 and "4 finished, 0 to run" in again.output, "it would do so again"


def test_a_run_that_fails_is_tried_again(here: Path) -> None:
    (here / "s.yaml").write_text(STUDY.replace("  l2i: []", "  l2i: []\n  many: {task.labels: 4000}"))
    done = call("s.yaml", "--out", "o", "--jobs", "0")
    assert done.exit_code == 1 and "2 of 6 runs failed; see the table" in done.stderr
    assert [run["status"] for run in runs_of(here / "o")["many"]] == ["failed"] * 2
    assert "4 finished, 2 to run" in call("s.yaml", "--out", "o", "--jobs", "0").output


def test_a_changed_study_does_not_mix_with_old_runs(here: Path) -> None:
    assert call("s.yaml", "--out", "o", "--jobs", "0").exit_code == 0
    (here / "s.yaml").write_text(STUDY + "set: {train.steps: 8}\n")
    done = call("s.yaml", "--out", "o", "--jobs", "0")
    assert (
        done.exit_code == 2 and "o/none/seed0 holds a run of other settings (train.steps was 6 and is 8)" in done.stderr
    )
    assert "another --out" in done.stderr
    (here / "s.yaml").write_text(
        STUDY.replace("seeds: 2", "seeds: [1, 7]").replace("l2i: []", "l2i: []\n  more: {problem.weight: 2}")
    )
    done = call("s.yaml", "--out", "o", "--jobs", "0", "--threads", "1")
    assert done.exit_code == 0 and "2 finished, 4 to run" in done.output, "seeds and systems may be added"


FATAL = """\
import os
import signal
from dataclasses import dataclass
from metaimpute.tasks.base import register_task
from metaimpute.tasks.two_moons import TwoMoons


@register_task("fatal_moons")
@dataclass
class FatalMoons(TwoMoons):
    fatal: int = -1

    def load(self, seed):
        if seed == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().load(seed)
"""


def test_worker_processes_give_the_same_results_and_one_that_dies_takes_its_run_alone(here: Path) -> None:
    (here / "fatal_moons.py").write_text(FATAL)
    (here / "small.yaml").write_text(RECIPE.replace("name: two_moons", "name: fatal_moons"))
    (here / "one.yaml").write_text(STUDY)
    (here / "two.yaml").write_text(STUDY.replace("  l2i: []", "  l2i: []\n  fatal: {task.fatal: 0}"))
    one = call("one.yaml", "--out", "one", "--jobs", "0", "--import", "fatal_moons.py")
    two = call("two.yaml", "--out", "two", "--jobs", "2", "--import", "fatal_moons.py")
    assert one.exit_code == 0 and two.exit_code == 1, two.output
    runs = runs_of(here / "two")
    died, lived = runs.pop("fatal")
    assert died["status"] == "failed" and "ended by SIGKILL" in died["reason"] and lived["status"] == "finished"
    assert runs == runs_of(here / "one")


class Heard:
    """Keeps what phases there were."""

    def __init__(self) -> None:
        self.phases: list[Phase] = []
        self.seen: list[tuple[str, str, float, int | None]] = []

    def moved(self) -> None:
        self.seen += [(one.name, one.note, one.done, one.total) for one in self.phases]


def test_a_run_with_cores_to_itself_may_prepare_its_batches_in_processes_of_its_own(tmp_path: Path) -> None:
    module = tmp_path / "says_it.py"
    module.write_text(
        "import pathlib\nfrom metaimpute.training.ahead import has_workers_of_its_own\n"
        "mark = pathlib.Path(__file__).with_name(f'{__import__(\"os\").getpid()}.part')\n"
        "mark.write_text(str(has_workers_of_its_own()))\nmark.rename(mark.with_suffix('.txt'))\n"
    )
    started = {alone: Worker([str(module)], alone=alone) for alone in (True, False)}
    try:
        for alone, worker in started.items():
            assert worker.process.daemon  # ends with this process
            mark, until = tmp_path / f"{worker.process.pid}.txt", time.monotonic() + 120
            while not mark.exists() and worker.process.is_alive() and time.monotonic() < until:
                time.sleep(0.1)
            assert mark.read_text() == str(alone)
    finally:
        for worker in started.values():
            worker.end()


def test_what_several_runs_at_once_leave_out_is_said(here: Path) -> None:
    (here / "s.yaml").write_text(STUDY + "set: {train.workers: 1}\n")
    done = call("s.yaml", "--jobs", "2", "--check")
    assert done.exit_code == 0 and "train.workers" not in call("s.yaml", "--check").stderr
    assert "train.workers is left out, as 2 runs share the cores; --jobs 1 and --ray keep it" in done.stderr


def test_the_steps_of_workers_runs_are_phases(here: Path) -> None:
    found, listener = study(STUDY), Heard()
    progress = prepare(found, Path("o"))

    def some(jobs: Any, done: Any, heard: Any) -> None:
        heard(jobs[0], Reached("loading data", 0, None))
        heard(jobs[0], Reached("training", 3, 6))
        done(jobs[0], Outcome("finished"))

    with heard_by(listener):
        carry_out(progress, some, lambda job, outcome: None)
    assert {("none, seed 0", "training", 3, 6), ("runs", "", 0.45, 4), ("runs", "", 1, 4)} <= set(listener.seen)
    assert not listener.phases


def test_a_worker_tells_of_its_outermost_phase() -> None:
    ours, theirs = multiprocessing.Pipe()
    with heard_by(_Telling(theirs)), phase("training", 6, 2), phase("testing", 9):
        pass
    assert ours.recv() == Reached("training", 2, 6) and not ours.poll(), "no more than a word in a while"


@pytest.mark.slow
def test_ctrl_c_stops_every_run_at_a_checkpoint(here: Path) -> None:
    (here / "s.yaml").write_text(
        STUDY + "set: {train.steps: 4000, train.eval_every: 1000, train.checkpoint_every: 1000}\n"
    )
    command = [sys.executable, "-m", "metaimpute", "study", "s.yaml", "--out", "o", "--jobs", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(list((here / "o").glob("*/seed0/checkpoints/*.pt"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in said and "Traceback" not in said, said
    for name in ("none", "l2i"):
        steps = [int(path.stem[5:]) for path in (here / f"o/{name}/seed0/checkpoints").glob("*.pt")]
        assert 0 < max(steps) < 4000, "not at its beginning and not at its end"
    assert "0 finished, 4 to run" in call("s.yaml", "--out", "o", "--check").output


# mistakes ----------------------------------------------------------------------------------------------------------------

MISTAKES = [
    ("recipe: small.yaml", "recipe: smal.yaml", r"s\.yaml:1: recipe: no file 'smal\.yaml' beside the study"),
    ("recipe: small.yaml", "recipe: two_mons", r"s\.yaml:1: recipe: no file 'two_mons' here, .* did you mean 'two_moons'\?"),
    ("recipe: small.yaml", "recipe: [a]", r"s\.yaml:1: recipe: should be a valid string"),
    ("recipe: small.yaml\n", "", r"s\.yaml: recipe: field required"),
    ("seeds: 2", "seed: 2", r"s\.yaml:5: seed: unknown key; did you mean 'seeds'\?"),
    ("seeds: 2", "seeds: 0", r"s\.yaml:5: seeds: write how many"),
    ("seeds: 2", "seeds: true", r"s\.yaml:5: seeds: write how many"),
    ("seeds: 2", "seeds: [1, x]", r"s\.yaml:5: seeds: write how many .* not \[1, 'x'\]"),
    ("seeds: 2", "seeds: [1, -1]", r"s\.yaml:5: seeds\.1: should be from 0"),
    ("seeds: 2", "seeds: [1, 1]", r"s\.yaml:5: seeds\.1: 1 is there twice"),
    ("seeds: 2", "seeds: 9999", r"s\.yaml:5: seeds: 2 systems with 9999 seeds are more than 10,000 runs"),
    ("seeds: 2", "profile: papr", r"s\.yaml:5: profile: should be 'auto', 'paper' or 'sample', not 'papr'"),
    ("seeds: 2", "profile: paper", r"s\.yaml:5: profile: .*no profile 'paper'; it has sample"),
    ("seeds: 2", "metric: test", r"s\.yaml:5: metric: should be 'test_last', 'test_median' or 'validation_last'"),
    ("seeds: 2", "set: {task.validation: 0}\nmetric: validation_last", r"s\.yaml:6: metric: needs validation rows, .* 'none'"),
    ("seeds: 2", "against: nne", r"s\.yaml:5: against: no system is called 'nne'; did you mean 'none'\?"),
    ("  l2i: []", "  l2i: {problem.weigth: 1}", r"s\.yaml:4: systems\.l2i\.problem\.weigth: .* did you mean 'weight'\?"),
    ("  l2i: []", "  l2i: [problem.weigth=1]", r"s\.yaml:4: systems\.l2i\.0: problem\.weigth: .* did you mean 'weight'\?"),
    ("  l2i: []", "  l2i: [problem.weight]", r"s\.yaml:4: systems\.l2i\.0: write it as key=value"),
    ("  l2i: []", "  l2i: 3", r"s\.yaml:4: systems\.l2i: write \{key: value\}, or a list of key=value"),
    ("  l2i: []", "  l2i: {a..b: 3}", r"s\.yaml:4: systems\.l2i\.a\.\.b: a key is words"),
    ("  l2i: []", "  l2i: {train.seed: 3}", r"s\.yaml:4: systems\.l2i\.train\.seed: every system has the same seeds"),
    ("  l2i: []", "  l2i: {problem.inner.lr: [1}", r"s\.yaml:4: not valid YAML"),
    ("  l2i: []", "  l2i: {task.name: digits, task.labels: 10}", r"s\.yaml:4: systems\.l2i: has the task 'digits', but 'none' has 'two_moons'"),
    ("  l2i: []", "  ' ': []", r"s\.yaml:4: systems\.: a system's name"),
    ("  l2i: []", "  none: []", r"s\.yaml:4: systems\.none: written twice"),
    ("systems:\n  none: {problem.name: none}\n  l2i: []\n", "", r"s\.yaml: systems: name systems"),
    ("seeds: 2", "set: {train.steps: many}", r"s\.yaml:5: set\.train\.steps: .*valid integer"),
    ("seeds: 2", "grid: {problem.weight: 3}", r"s\.yaml:5: grid\.problem\.weight: write the values as a list, not 3"),
    ("seeds: 2", "grid: {problem.weight: []}", r"s\.yaml:5: grid\.problem\.weight: write the values as a list"),
    ("seeds: 2", "grid: {problem.weight: [1, x]}", r"s\.yaml:5: grid\.problem\.weight\.1: .*valid number"),
    ("seeds: 2", "grid: {problem.weight: [1, 1]}", r"s\.yaml:5: grid\.problem\.weight\.1: 1 is there twice"),
    ("seeds: 2", "grid: [problem.weight]", r"s\.yaml:5: grid: write keys with their values"),
    ("{problem.name: none}\n  l2i: []\nseeds: 2", "{grid: {problem.weight: [1, 2]}}\n  l2i: []\nagainst: none",
     r"s\.yaml:5: against: 'none' has several points; name one: 'none, weight=1', 'none, weight=2'"),
    (STUDY, "- a\n", r"s\.yaml:1: a study is a mapping with the keys recipe, systems, grid"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES, ids=[m[1].replace("\n", " ")[:50] for m in MISTAKES])
def test_mistakes_are_refused_before_anything_runs(here: Path, old: str, new: str, message: str) -> None:
    assert old in STUDY
    (here / "s.yaml").write_text(STUDY.replace(old, new, 1))
    done = call("s.yaml", "--out", "o")
    assert done.exit_code == 2 and re.match(f"error: {message}", done.stderr), done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (here / "o").exists()


def test_a_mistake_in_the_recipe_names_the_recipe_and_the_system(here: Path) -> None:
    (here / "small.yaml").write_text(RECIPE.replace("width", "widht"))
    with pytest.raises(
        RecipeError, match=r"s\.yaml:3: systems\.none: small\.yaml:3: model\.widht: .*did you mean 'width'"
    ):
        study(STUDY)


def test_missing_data_is_said_before_anything_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METAIMPUTE_DATA", raising=False)
    monkeypatch.setenv("METAIMPUTE_CACHE", str(here))
    (here / "s.yaml").write_text("recipe: own_table\nsystems: {a: []}\n")
    done = call("s.yaml", "--out", "o")
    assert done.exit_code == 3 and "my_table.csv" in done.stderr and not (here / "o").exists()


def test_the_studies_of_the_benchmarks_are_valid() -> None:
    for path in sorted((ROOT / "benchmarks" / "studies").glob("*.yaml")):
        assert read_study(path).rows and not read_study(path).warnings


def test_a_study_and_a_recipe_are_told_apart(here: Path) -> None:
    found = CliRunner().invoke(main, ["run", "s.yaml"])
    assert found.exit_code == 2 and "s.yaml:1: recipe: this is a study of a recipe; run it with metaimpute study" in (
        found.output
    )
    found = call("small.yaml")
    assert found.exit_code == 2 and "small.yaml:2: task: this is a recipe, not a study; run it with metaimpute run" in (
        found.output
    )
