"""What is extrapolated: its counts are torch's, its passes are those that were measured, and its page says what the file says."""

from __future__ import annotations

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.extrapolation import __main__ as extrapolation
from benchmarks.extrapolation import lora, steps, tables
from benchmarks.extrapolation.counts import Operation, Pass, wrn

FOUND = tables.everything()


def test_the_page_has_the_tables_of_the_file() -> None:
    page = tables.PAGE.read_text()
    assert tables.filled(page, FOUND) == page
    parts = page.split("<!-- end -->")[:3]
    assert all("| extrapolated" in one for one in parts), "each figure that was not measured is marked"


def test_flops_are_those_of_torchs_counter_on_a_real_pass() -> None:
    from metaimpute.models.wrn import WideResNet

    net, x = WideResNet(10, 1, 3, 10), torch.randn(2, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        net(x).sum().backward()
    assert wrn(10, 1).run(2, True).flops == counter.get_total_flops() > 0


def test_kept_bytes_grow_with_the_rows_and_are_none_without_a_backward_pass() -> None:
    net = wrn(10, 1)
    two, four = net.run(2, True).kept, net.run(4, True).kept
    assert 1.8 < four / two < 2.0 and net.run(2, False).kept == 0


def test_an_operation_takes_its_longest_part() -> None:
    one = Pass((Operation(10, 1), Operation(1, 30), Operation(0, 0)), 0)
    assert one.seconds(launch=2, flops=1, bandwidth=1) == 10 + 30 + 2


LIMITS = [
    (row["method"], row["estimator"], row["mu"], row["limit"])
    for row in json.loads((steps.RESULTS / "step.json").read_text())["rows"]
    if row["inner"] == "unlabelled" and row["limit"] and row["schedule"] == "algorithm1"
]


@pytest.mark.parametrize(("method", "estimator", "mu", "limit"), LIMITS)
def test_passes_are_those_of_the_measured_steps(method: str, estimator: str, mu: int, limit: float) -> None:
    base = steps.method_passes(method, 8, 8 * mu)
    added = steps.added_passes(estimator, 1, 8 * mu, 8)
    assert steps.units(base + added) / steps.units(base) == pytest.approx(limit)


def test_the_file_is_of_what_has_been_measured_and_of_every_row_with_a_recipe() -> None:
    assert FOUND["overhead"] == extrapolation._short(steps.overhead())
    assert FOUND["peaks"] == extrapolation._short(steps.peaks())
    assert FOUND["lora"]["measured_peaks"] == extrapolation._short(lora.peaks_of_steps())
    rows = {(one["table"], one["row"], one["data"], one["recipe"]) for one in extrapolation.runs()}
    assert {(one["table"], one["row"], one["data"], one["recipe"]) for one in FOUND["rows"]} == rows
    assert all(one["H100"]["hours"][0] <= one["H100"]["hours"][1] for one in FOUND["rows"])


def test_eight_cards_take_at_least_an_eighth_and_at_least_the_longest_run() -> None:
    for name, of in FOUND["tables"].items():
        for card, one in of.items():
            longest = [
                max(row[card]["hours"][end] for row in FOUND["rows"] if str(row["table"]) == name) for end in (0, 1)
            ]
            for end in (0, 1):
                least = max(one["one_hours"][end] / 8, longest[end])
                assert least * 0.999 <= one["eight_hours"][end] <= one["one_hours"][end]


def test_ranges_are_said_in_two_digits() -> None:
    span = tables.span
    assert [span([1234.0, 5678.0]), span([12.34, 1.04]), span([0.0123, 0.0123])] == [
        "1,200 to 5,700",
        "1.0 to 12",
        "0.012",
    ]
