"""Numbers as they are written for a person: which are read, and which are not, because they may mean something else."""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest

from metaimpute.batches.outputs import Quantities
from metaimpute.tasks.doubts import Doubt
from metaimpute.tasks.own_table import OwnTable
from metaimpute.tasks.readings import as_numbers


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["$1,200", "$950.50", "$12"], [1200, 950.5, 12]),
        (["-$3", "+$4.5", "$ 5"], [-3, 4.5, 5]),
        (["7%", "12.5 %", "-1%"], [7, 12.5, -1]),
        (["1200 €", "3 €"], [1200, 3]),
        (["1,234,567", "12,000", "999"], [1234567, 12000, 999]),
        (["$1,200", "$1200"], [1200, 1200]),  # the unit says that it is money
        (["1'200.50", "3\u2019000", "12"], [1200.5, 3000, 12]),
        (["12\u00a0000", "3\u202f000"], [12000, 3000]),
        (["\u22125%", "5%"], [-5, 5]),
        (["5%", "7"], [5, 7]),
        (["$-3.50", "$ -1,000", "($5)", "(1,200.25 $)", "$2"], [-3.5, -1000, -5, -1200.25, 2]),
    ],
)
def test_one_unit_and_groups_of_digits_are_read(cells: list[str], values: list[float]) -> None:
    read = as_numbers(pandas.Series([*cells, None]))
    assert read.odd == [] and read.values.tolist()[:-1] == values and read.values.isna().tolist()[-1]
    assert read.example is not None and read.said.startswith("read '")


@pytest.mark.parametrize(
    "cells",
    [
        ["$1", "1 €"],  # two units
        ["$5 €", "$5"],
        ["1,200", "1200"],  # a comma before thousands here, and none there
        ["1,20", "3,50"],  # decimals, or a slip
        ["0,123", "0,456"],
        ["12,34,567", "1"],
        ["1,2000"],
        ["$1,200", "about $900"],
        ["$", "$5"],
        ["5%%"],
        ["1.2.3", "4.5.6"],
        ["020'123", "4'5"],
        ["12 000", "13 000"],  # a code, or a telephone number
        ["A5%", "5%"],
    ],
)
def test_what_may_mean_something_else_is_not(cells: list[str]) -> None:
    read = as_numbers(pandas.Series(cells))
    assert read.odd and read.example is None


ODD = ["n/a ?", "1 €", "about $9", "(5)", "$1.069,72", "-$-5"]


@pytest.mark.parametrize("odd", ODD)
def test_one_cell_that_is_none_is_that_cell_alone(odd: str) -> None:
    read = as_numbers(pandas.Series([*(f"${1000 + i:,}.50" for i in range(30)), odd]))
    assert read.odd == [30] and read.values[:2].tolist() == [1000.5, 1001.5] and read.example == ("$1,000.50", 1000.5)


@pytest.mark.parametrize("odd", ODD)
def test_a_column_with_one_such_cell_is_asked_about(odd: str, tmp_path: Path) -> None:
    rows = pandas.DataFrame({"price": [odd, *(f"${1000 + 37 * i:,}" for i in range(59))], "y": ["a", "b", ""] * 20})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(Doubt, match=r"column 'price': 1 of 60 cells are no number.*\(line 2 of"):
        OwnTable(file=str(tmp_path / "rows.csv"), target="y").load(0)


@pytest.mark.parametrize("odd", ["n/a ?", "about $9"])
def test_values_with_a_unit_and_a_few_other_labels_are_asked_about(odd: str, tmp_path: Path) -> None:
    values = [*(f"${1000 + 37 * i:,}" for i in range(20)), *[odd] * 10, *[""] * 30]
    with pytest.raises(Doubt, match=r"target: 10 of 30 cells are no number.*kind: classes"):
        written(tmp_path, values).load(0)


def test_a_target_with_a_unit_says_so(tmp_path: Path) -> None:
    task = written(tmp_path, [*(f"${1000 + 37 * i:,}" for i in range(20)), "$-5", *[""] * 39])
    assert "target 'y': read '$1,000' as 1000" in task.load(0).warnings


def test_plain_numbers_have_no_example() -> None:
    assert as_numbers(pandas.Series(["1", "2.5", "x"])).example is None
    assert as_numbers(pandas.Series(["1", "2.5"])).said == ""


def test_commas_stand_before_decimals_where_the_file_has_other_separators() -> None:
    read = as_numbers(pandas.Series(["1.200,50 €", "3,5 €"]), commas=True)
    assert read.commas and read.values.tolist() == [1200.5, 3.5] and read.odd == []
    assert as_numbers(pandas.Series(["$1,200.50"]), commas=True).odd == [0]


def written(folder: Path, target: list[str], separator: str = ",") -> OwnTable:
    rows = pandas.DataFrame({"price": [f"${1000 + 37 * i:,}" for i in range(60)], "y": target})
    rows.to_csv(folder / "rows.csv", index=False, sep=separator)
    task = OwnTable(file=str(folder / "rows.csv"), target="y")
    task.check()
    return task


def test_a_table_says_how_it_read_them_and_reads_new_rows_alike(tmp_path: Path) -> None:
    task = written(tmp_path, ["a", "b"] * 10 + [""] * 40)
    data = task.load(0)
    assert "column 'price': read '$1,000' as 1000" in data.warnings and task.input_shape == (1,)
    (tmp_path / "new.csv").write_text('price\n"$1,037"\n1037\n')
    _, rows = task.read(tmp_path / "new.csv")
    assert float(rows[0]) == float(rows[1]) == pytest.approx(float(data.labelled.inputs[data.labelled.ids == 1]))


def test_a_target_of_values_may_have_a_unit_and_classes_keep_their_names(tmp_path: Path) -> None:
    values = written(tmp_path, [f"${1000 + i:,}.50" for i in range(40)] + [""] * 20)
    data = values.load(0)
    assert isinstance(values.output, Quantities) and 1000 < values.output.mean[0] < 1041
    assert len(data.labelled) + len(data.test) == 40
    classes = written(tmp_path, ["5%", "10%"] * 20 + [""] * 20)
    classes.load(0)
    assert classes.label_names == ["10%", "5%"]


def test_a_few_other_cells_are_asked_about(tmp_path: Path) -> None:
    rows = pandas.DataFrame({"share": [f"{i}" for i in range(59)] + ["about 7%"], "y": ["a", "b"] * 30})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(Doubt, match="about 7%"):
        OwnTable(file=str(tmp_path / "rows.csv"), target="y").load(0)
