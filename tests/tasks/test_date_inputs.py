"""Columns of dates: how they are read, what numbers they become, and that a run reads new ones as it read those of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest

from metaimpute.tasks.date_inputs import DateColumn, date_column
from metaimpute.tasks.own_table import OwnTable

from .. import fake_data


def read(words: list[str]) -> tuple[DateColumn | None, list[str]]:
    cells = pandas.Series(words)
    found = date_column(cells, "when")
    days = [] if found is None else found.days(cells)
    return found, [str(np.datetime64("1970-01-01") + np.timedelta64(int(day), "D")) for day in days]


@pytest.mark.parametrize(
    ("words", "days", "day_first", "time"),
    [
        (["2016-07-02", "2016-12-31"], ["2016-07-02", "2016-12-31"], False, False),
        (["2016/01/01 02:19:34", "2016/02/03 00:00:00"], ["2016-01-01", "2016-02-03"], False, True),
        (["5/28/1992 0:00:00", "6/3/1992 0:00:00"], ["1992-05-28", "1992-06-03"], False, False),
        (["28/5/1992", "3/6/1992"], ["1992-05-28", "1992-06-03"], True, False),
        (["1/2/1992", "3/4/1992"], ["1992-01-02", "1992-03-04"], False, False),
        (["28.5.1992", "3.6.1992"], ["1992-05-28", "1992-06-03"], True, False),
        (["2020-01-01T23:30:00+02:00", "2020-01-02"], ["2020-01-01", "2020-01-02"], False, True),
    ],
    ids=lambda value: str(value)[:24],
)
def test_dates_are_read_as_they_are_written(words: list[str], days: list[str], day_first: bool, time: bool) -> None:
    found, read_as = read(words)
    assert found == DateColumn("when", day_first, time) and read_as == days


@pytest.mark.parametrize(
    "words", [["1.2.3", "4.5.6"], ["12-34-56", "99-88-77"], ["2020-01-01", "none"], ["12345", "20200101"], ["a", "b"]]
)
def test_what_is_no_date_is_none(words: list[str]) -> None:
    assert read(words)[0] is None


def test_columns_that_pandas_knows_as_dates_are_dates() -> None:
    hours = pandas.Series(pandas.date_range("2024-02-28", periods=5, freq="7h", tz="Europe/Paris"))
    found = date_column(hours, "when")
    assert found == DateColumn("when", False, True)
    np.testing.assert_allclose(np.diff(found.days(hours)) * 24, 7)
    seconds = pandas.Series(hours.dt.tz_convert("UTC").dt.tz_localize(None).astype("datetime64[s]"))
    np.testing.assert_allclose(found.days(seconds), found.days(hours))
    assert date_column(pandas.Series([1.5, 2.5]), "when") is None


def test_places_in_a_period_are_near_where_times_are() -> None:
    when = pandas.Series(["2023-12-31 23:00", "2024-01-01 01:00", "2024-07-01 12:00", "2024-01-08 01:00", None])
    found = DateColumn("when", time=True)(when)
    values = np.stack(list(found.values()), 1)
    assert next(iter(found)) == "when\nday" and values.shape == (5, 7)
    year, week, day = (values[:, at : at + 2] for at in (1, 3, 5))
    for place in (year, week, day):
        np.testing.assert_allclose((place[:4] ** 2).sum(1), 1)

    def apart(place: np.ndarray, one: int, other: int) -> float:
        return float(np.linalg.norm(place[one] - place[other]))

    assert apart(year, 0, 1) < 0.01 and apart(year, 0, 2) > 1.99  # half a year is the other side
    assert apart(week, 1, 3) < 1e-9 and apart(day, 1, 3) < 1e-9  # a week later to the hour
    assert apart(day, 0, 1) == pytest.approx(2 * np.sin(np.pi / 12))  # two hours
    monday = DateColumn("when")(pandas.Series(["2024-01-01"]))
    assert monday["when\nweek sine"][0] == pytest.approx(0, abs=1e-9) and monday["when\nweek cosine"][
        0
    ] == pytest.approx(1)
    assert np.isnan(values[4, 0]) and (values[4, 1:] == 0).all()


def table(folder: Path, when: object) -> OwnTable:
    rows = [{"x": (i * 37 % 60) / 7, "when": when(i), "label": "uv"[i % 2] if i < 30 else ""} for i in range(60)]  # type: ignore[operator]
    return OwnTable(file=str(fake_data.write_csv(folder / "t.csv", rows)), target="label", test_share=0)


def test_a_run_reads_new_dates_as_those_of_training(tmp_path: Path) -> None:
    task = table(tmp_path, lambda i: f"{i % 28 + 1}/{i % 12 + 1}/2024 0{i % 9}:00" if i % 20 else "")
    data = task.load(0)
    assert task.columns == ("x", "when") and not any("'when'" in line for line in data.warnings)
    assert task.input_shape == (1 + 8,)  # seven, and a mark where there is none
    folder = tmp_path / "kept"
    folder.mkdir()
    task.save(folder)
    restored = OwnTable(file=task.file, target="label", test_share=0)
    restored.restore(folder)
    assert restored.learnt() == task.learnt()
    new = tmp_path / "new.csv"
    fake_data.write_csv(new, [{"x": 1.0, "when": "2/1/2024 03:00"}, {"x": 2.0, "when": "soon"}])
    _, rows = restored.read(new)
    assert [line for line in restored.read_warnings if "'when'" in line] == [
        "column 'when': 1 of 2 cells are no date and count as blank: 'soon'"
    ]
    inputs = task._inputs
    assert inputs is not None and inputs.dates == (DateColumn("when", True, True),)
    fake_data.write_csv(new, [{"x": 1.0, "when": "2024-01-02 03:00"}])  # the second of January, the day being first
    _, same = restored.read(new)
    np.testing.assert_allclose(rows[0].numpy(), same[0].numpy(), atol=1e-6)
    assert int(inputs.column_of[-1]) == 1 and float(inputs.measured[1:].sum()) == 0


def test_dates_are_words_where_the_user_says_so(tmp_path: Path) -> None:
    task = table(tmp_path, lambda i: f"2024-0{i % 3 + 1}-01")
    assert OwnTable(file=task.file, target="label", words=["when"]).load(0).labelled.inputs.shape[1] == 1 + 3
