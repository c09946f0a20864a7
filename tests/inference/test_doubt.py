"""The least sure rows, the errors expected among them, and probabilities that are written as they are."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from metaimpute.inference import Predictions
from metaimpute.inference.doubt import advice, beyond_zero, doubtful, ranks, seldom, to_check, written
from metaimpute.rundir.result import Estimated


def test_the_least_sure_row_has_rank_1_and_equals_keep_their_order() -> None:
    assert ranks(torch.tensor([0.1, 0.4, 0.1, 0.3])) == [3, 1, 4, 2]


def test_doubtful_rows_are_the_fewest_that_hold_three_quarters_of_the_expected_errors() -> None:
    assert doubtful(torch.tensor([0.1, 0.4, 0.1, 0.4])) == [False, True, False, True]  # 0.8 of 1.0
    assert doubtful(torch.tensor([0.25, 0.25, 0.25, 0.25])) == [True, True, True, False]
    assert doubtful(torch.zeros(3)) == [False, False, False]
    assert doubtful(torch.zeros(0)) == []


def test_what_to_check_is_bounded_and_says_what_share_of_the_wrong_ones_it_holds() -> None:
    doubt = torch.cat([torch.full((10,), 0.4), torch.full((90,), 0.01)])
    count, share = to_check(doubt)
    assert count == 10 and share == pytest.approx(4 / 4.9)
    assert (
        "check the 10 least sure rows: about 82% of the wrong ones are expected there (l.csv, column rank)"
        in advice(doubt, "l.csv", True)
    )
    assert to_check(torch.full((1000,), 0.4), 50) == (50, pytest.approx(0.05))
    assert "less than one wrong label" in advice(torch.full((3,), 0.01), "l.csv", True)
    assert "equally sure" in advice(torch.zeros(3), "l.csv", False)


def test_classes_that_are_expected_more_often_than_they_are_imputed_are_named() -> None:
    shares = torch.tensor(
        [[0.7, 0.3, 0.0]] * 20 + [[0.1, 0.0, 0.9]] * 5
    )  # 6 of the second are expected, and none is imputed
    (found,) = seldom(shares, ["a", "rare\x1b", "c"])
    assert (found.count, found.expected) == (0, 6)
    assert found.said() == (
        "no row is labelled 'rare\\x1b', and about 6 are expected to be; the most probable ones have the largest p(rare\\x1b)"
    )
    assert found.said(columns=False).endswith("about 6 are expected to be")
    one = seldom(torch.cat([shares, torch.tensor([[0.0, 1.0, 0.0]])]), ["a", "b", "c"])
    assert one[0].said(columns=False) == "1 row is labelled 'b', and about 7 are expected to be"
    assert not seldom(shares[:9], ["a", "b", "c"]), "2.7 expected rows are too few to miss"
    assert not seldom(torch.tensor([[0.6, 0.4], [0.4, 0.6]] * 9), ["a", "b"])


def test_values_on_the_other_side_of_zero_than_every_given_one_are_told() -> None:
    values = torch.tensor([-1.0, 2.0, -3.0])
    assert beyond_zero(values, [0.5, 9.0]).startswith("2 values lie below zero, and no given one does; ")
    assert beyond_zero(values, [-0.5, -9.0]).startswith("1 value lies above zero")
    assert beyond_zero(values, [-0.5, 9.0]) == beyond_zero(values, [0.0, 9.0]) == beyond_zero(values.abs(), [1.0]) == ""
    assert beyond_zero(values, []) == ""


def estimated(error: float | None, high: float | None) -> Estimated:
    return {"name": "mean", "error": error, "low": error, "high": high, "weight": 1.0, "seconds": 0.0}


def test_where_no_label_was_held_out_nothing_is_said_to_be_expected() -> None:
    doubt = torch.cat([torch.full((10,), 0.4), torch.full((90,), 0.01)])
    said = advice(doubt, "l.csv", True, expected=estimated(None, None))
    assert said.startswith("check the 10 least sure rows (l.csv, column rank)") and "no label held out" in said
    assert "%" not in said and "%" in advice(doubt, "l.csv", True, expected=estimated(5.0, 20.0))


def test_a_negligible_sum_of_doubts_is_said_beside_the_interval_of_the_expected_error() -> None:
    sure = torch.full((60,), 0.001)
    assert "up to 12 by the expected error's interval" in advice(sure, "l.csv", True, expected=estimated(0.0, 20.8))
    assert "interval" not in advice(sure, "l.csv", True, expected=estimated(0.0, 1.0))


@pytest.mark.parametrize(
    ("probability", "shown"), [(0.99973, "0.99973"), (1 - 1e-9, "0.999999999"), (0.5, "0.5"), (1.0, "1.0"), (0.0, "0.0"),
                               (1 / 3, "0.333333"), (1.25e-12, "1.25e-12")],
)  # fmt: skip
def test_probabilities_are_short_and_no_certainties_that_they_are_not(probability: float, shown: str) -> None:
    assert repr(written(probability)) == shown


def test_a_file_of_labels_holds_everything_a_reviewer_sorts_by(tmp_path: Path) -> None:
    shares = torch.tensor([[0.7, 0.2, 0.1], [1e-9, 1 - 2e-9, 1e-9], [0.3, 0.3, 0.4]], dtype=torch.float64)
    Predictions(["a", "b", "c"], ["x", "y", "z"], shares).write(tmp_path / "l.csv")
    with (tmp_path / "l.csv").open() as stream:
        rows = {row["id"]: row for row in csv.DictReader(stream)}
    assert [rows[name]["rank"] for name in "abc"] == ["2", "3", "1"]
    assert rows["b"]["confidence"] == "0.999999998" and rows["b"]["doubtful"] == "false"
    assert (rows["a"]["runner_up"], rows["a"]["runner_up_confidence"]) == ("y", "0.2")
    assert sum(float(rows["c"][f"p({name})"]) for name in "xyz") == pytest.approx(1)


def test_values_are_ranked_by_their_spread_in_the_units_of_each_output() -> None:
    spread = torch.tensor([[1.0, 100.0], [1.0, 300.0], [4.0, 100.0]])
    found = Predictions(["a", "b", "c"], ["u", "v"], values=torch.zeros(3, 2), spread=spread)
    assert [row[found.header.index("rank")] for row in found.rows()] == [3, 2, 1]
    assert Predictions(["a"], ["u"], values=torch.zeros(1, 1)).header == ["id", "value"]
    same = Predictions(["a", "b"], ["u"], values=torch.zeros(2, 1), spread=torch.ones(2, 1))
    assert same.doubt is None and same.header == ["id", "value", "value_spread"] and same.rows()[1] == ["b", 0.0, 1.0]
    unknown = Predictions(["a", "b"], ["u"], values=torch.zeros(2, 1), spread=torch.full((2, 1), float("nan")))
    assert unknown.doubt is None and len(unknown.rows()[0]) == len(unknown.header)
