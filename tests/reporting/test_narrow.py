"""Tables in a terminal that is too narrow for them."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table

from metaimpute.bench.hypergradient import table as bench_table
from metaimpute.reporting.narrow import in_parts, kept


def printed(table: Table, width: int) -> list[list[str]]:
    """Lines of each part."""
    console = Console(file=io.StringIO(), width=width)
    parts = []
    for part in in_parts(table, console):
        at = Console(file=io.StringIO(), width=width)
        at.print(part)
        parts.append(at.file.getvalue().splitlines())  # type: ignore[attr-defined]
    return parts


def measured() -> dict[str, object]:
    row = {"steps": 16, "system": "finite_difference", "wall": 12.34, "wall_low": 10.01, "wall_high": 14.02, "flops": 5.0,
           "peak": 123 * 2**20, "peak_ratio": 2.5, "error": 1e-7, "cosine": 1.0}  # fmt: skip
    return {"model": "mlp", "parameters": 1000, "batch": 32, "optimizer": "sgd", "rows": [row]}


def test_a_wide_table_of_a_benchmark_comes_in_parts_whose_numbers_are_whole() -> None:
    whole = printed(bench_table(measured()), 200)
    assert len(whole) == 1
    parts = printed(bench_table(measured()), 60)
    assert len(parts) > 1 and all(len(line) <= 60 for part in parts for line in part)
    assert all(any("finite_difference" in line for line in part) for part in parts), "each names its rows"
    numbers = {word for part in whole for line in part for word in line.replace("│", " ").split() if "." in word}
    found = {word for part in parts for line in part for word in line.replace("│", " ").split() if "." in word}
    assert numbers <= found and "10.01-14.02" in found


def test_empty_columns_and_the_least_telling_ones_stay_away() -> None:
    header = ["system", "mean", "p", "wins", "failed"]
    rows = [["none", "10.00 ± 1.00", "", "", ""], ["l2i", "9.00 ± 1.00", "0.062", "5 of 5", ""]]
    assert kept(header, rows, 200, ("p", "wins")) == [0, 1, 2, 3], "nothing failed"
    assert kept(header, rows, 38, ("p", "wins")) == [0, 1, 3]
    assert kept(header, rows, 20, ("p", "wins")) == [0, 1]
