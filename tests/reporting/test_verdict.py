"""What is said first: which is best, whether that is shown, and what to do; of one run, how much is wrong and how sure that is."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from metaimpute.cli import main
from metaimpute.reporting.console import result_table
from metaimpute.reporting.run_verdict import run_verdict
from metaimpute.reporting.verdict import Standing, listed, verdict
from metaimpute.rundir.measure import interval_of, measure_of, said, value_of, wilson

from .made import made, result_with

METRIC = "error %"


def standing(name: str, *values: float, **options: Any) -> Standing:
    return Standing(name, dict(enumerate(values)), **options)


def test_a_difference_on_every_one_of_eight_seeds_is_shown() -> None:
    base = standing("none", *(30 + seed for seed in range(8)), seconds=4.0)
    best = standing("l2i", *(20 + seed - 0.2 * seed for seed in range(8)), seconds=12.0)
    found = verdict([base, best], "none", METRIC, 500)
    assert found.best == "l2i" and found.lines[0] == "l2i is best: 22.8% of 500 test rows wrong, mean of 8 seeds."
    assert (
        "10.7 points less than the baseline none (33.5% wrong): shown (95% interval: 10.4 to 11.0 less"
        in found.lines[1]
    )
    assert (
        "less on 8 of 8 seeds" in found.lines[1]
        and "A run of l2i took 12 s, 3.0 times as long as none (4.0 s)." in found.lines
    )
    assert "use it" in found.next and found.seeds is None


def test_five_seeds_are_likely_at_best_and_an_interval_with_zero_in_it_shows_nothing() -> None:
    base = standing("none", 10, 11, 12, 13, 14)
    five = verdict([base, standing("a", 8, 9, 9.5, 11, 11)], "none", METRIC)
    assert ": likely (95% interval:" in five.lines[1] and "but p 0.06" in five.lines[1] and five.seeds == 8
    mixed = verdict([base, standing("a", 8, 13, 9, 16, 11)], "none", METRIC)
    assert ": not shown (95% interval: from" in mixed.lines[1] and "less on 3 of 5 seeds" in mixed.lines[1]
    assert mixed.seeds is not None and 5 < mixed.seeds <= 100 and f"about {mixed.seeds} seeds" in mixed.next
    few = verdict([standing("none", 10, 11), standing("a", 8, 9)], "none", METRIC)
    assert "not shown, 2 seeds are too few for an interval" in few.lines[1] and few.seeds == 5


def test_a_baseline_that_is_best_is_called_so_and_a_control_is_named() -> None:
    systems = [standing("l2i", 12, 13), standing("none", 10, 11), standing("sham", 11, 12, control=True)]
    found = verdict(systems, "none", METRIC)
    assert found.lines[0].startswith("none, the baseline, is best: 10.5% wrong")
    best = verdict([standing("l2i", 8, 9), *systems[1:], standing("x", 8.5, 9.5)], "none", METRIC)
    assert best.named == ("l2i", "none", "sham", "x")
    assert any("the best control, sham" in line for line in best.lines)
    assert "the best of 4 by these same numbers, which flatters it" in best.lines[-1]


def test_what_cannot_be_compared_is_no_rival() -> None:
    found = verdict([standing("a", 1, 2), standing("b", 0, 0, fair=False), standing("c", 0)], "a", METRIC)
    assert found.best == "a" and "c has fewer seeds and cannot be best." in found.lines
    assert verdict([standing("a")], None, METRIC).lines == ("No system has a test error to be compared by.",)
    assert "Nothing here to compare it with" in verdict([standing("a", 1, 2)], "a", METRIC).lines[0]


def test_values_are_told_in_their_unit() -> None:
    found = verdict([standing("a", 6.5, 6.7), standing("b", 7.1, 7.0)], "b", "RMSE", 50)
    assert (
        found.lines[0] == "a is best: RMSE 6.6, mean of 2 seeds."
        and "0.45 less than the baseline b (RMSE 7.05)" in found.lines[1]
    )
    assert listed(["a"]) == "a" and listed(["a", "b", "c"]) == "a, b and c" and listed([*"abcde"]) == "a, b and 3 more"


def test_few_test_rows_are_counted_and_have_their_interval() -> None:
    assert [round(end) for end in wilson(0, 6)] == [0, 39] and wilson(6, 6)[1] == 100
    low, high = wilson(10, 100)  # by hand: (0.1 + z2/200) / (1 + z2/100) -+ ...
    assert (low, high) == (pytest.approx(5.5229, abs=1e-3), pytest.approx(17.4366, abs=1e-3))
    six = result_with(test_last=0.0, test_examples=6, confusion=None)
    assert run_verdict(six).lines[0] == (
        "mean_teacher: 0 of 6 test rows wrong (95% interval 0 to 39%); that is too few to tell more."
    )
    at = Console(file=io.StringIO(), width=120)
    at.print(result_table([[six]]))
    assert "0.00 (0 of 6; 0 to 39%)" in at.file.getvalue()  # type: ignore[attr-defined]
    many = run_verdict(
        result_with(test_examples=500, test_last=20.0, confusion=[[250, 0, 0], [0, 150, 0], [100, 0, 0]])
    )
    assert many.lines[:2] == (
        "mean_teacher: 20.0% of 500 test rows wrong (95% interval 17 to 24%).",
        "The most frequent class alone would be 50.0% wrong.",
    )
    none = result_with(test_last=None, test_examples=0, confusion=None)
    assert "not tested" in run_verdict(none).lines[0] and interval_of(none) is None
    value = run_verdict(
        result_with(metric="RMSE", test_last=6.6, test_interval=[5.5, 7.8], confusion=None, test_examples=127)
    )
    assert value.lines[0] == "mean_teacher: RMSE 6.6 over 127 test rows (95% interval 5.5 to 7.8)."


def test_the_measure_is_read_from_the_run_and_older_ones_are_said(tmp_path: Path) -> None:
    assert measure_of(result_with()) == "test_last" and measure_of(result_with(measure="test_median")) == "test_median"
    assert value_of(result_with(measure="test_median", test_median=7.0)) == 7.0
    assert said("test_median", METRIC) == "median test error % of the last evaluations"
    old, new = made(tmp_path / "old"), made(tmp_path / "new", measure="test_last", seed=1)
    done = CliRunner().invoke(main, ["compare", str(old), str(new)])
    assert done.exit_code == 0 and "1 of 2 runs: recorded before runs named the measure" in done.stderr
    assert "recorded before" not in CliRunner().invoke(main, ["compare", str(new)]).stderr


def test_report_and_compare_open_with_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in range(5):
        made(tmp_path / f"r/base{seed}", seed=seed, error=20.0 + seed, test_examples=500)
        made(tmp_path / f"r/l2i{seed}", problem="l2i", seed=seed, error=10.0 + seed + 0.1 * seed, test_examples=500)
    for command in ("report", "compare"):
        done = CliRunner().invoke(main, [command, "r"])
        assert done.stdout.startswith(
            "mean_teacher + l2i (exact) is best: 12.2% of 500 test rows wrong, mean of 5 seeds."
        )
    html = (tmp_path / "report.html").read_text()
    first = html.index("is best: 12.2%")
    assert first < html.index("<table") and first < html.index("<nav"), "nothing stands before it but the title"
    assert re.search(r"mean_teacher \+ l2i \(exact\) \(best\)", html)
