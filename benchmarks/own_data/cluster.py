"""Own data on a Ray cluster: each draw of each system is a call of its own, with this folder's modules sent along.

Data and features are loaded, or made, on the nodes. What a cell says of seconds is its node's, which it names.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metaimpute.cluster.calls import Call, Cluster, Desk, Lost, Reached
from metaimpute.cluster.driver import Next, carry_out

RETRIES = 2
FOLDER = "benchmarks/own_data"


class Cell(NamedTuple):
    """A system on one draw of a task."""

    task: str
    system: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.task}, draw {self.seed}, {self.system}"


def measured_on(
    cluster: Cluster, cells: Sequence[Cell], keep: Callable[[Cell, dict[str, Any]], None], say: Callable[[str], None]
) -> None:
    """Sends the cells, and keeps each once it is measured; one whose node dies again and again is left for the next command."""
    of = {cell.name: cell for cell in cells}
    files = {f"{FOLDER}/{path.name}": path.read_bytes() for path in Path(__file__).parent.glob("*.py")}
    calls = [_call(name, cell, files) for name, cell in of.items()]

    def died(call: Call, lost: Lost, then: Next) -> None:
        say(f"{call.name}: {lost.reason}; {'tried again' if then == 'again' else 'left out'}")

    def heard(call: Call, reached: Reached) -> None:
        return

    carry_out(calls, cluster, lambda call, outcome: keep(of[call.name], outcome), died, heard, RETRIES)


def _call(name: str, cell: Cell, files: dict[str, bytes]) -> Call:
    return Call(name, f"{FOLDER.replace('/', '.')}.cluster:measured", lambda: tuple(cell), files)


def measured(task: str, system: str, seed: int, desk: Desk) -> dict[str, Any]:
    """One cell, on a node: what ``one_draw`` returns, or ``unavailable`` with what the node lacks."""
    from .draws import features_of, one_draw
    from .rivals import systems
    from .sets import BY_NAME, Absent

    data_set = BY_NAME[task]
    try:
        data = data_set.load()
    except Absent as error:
        return {"unavailable": f"{error} on {platform.node()}"}
    features, _, lacking = features_of(data_set, data)
    known = systems(data_set.form, data_set.values, data_set.arrays)
    if lacking and system.split(", ")[-1] in " ".join(lacking):
        return {"unavailable": "; ".join(lacking)}
    return one_draw(data_set, data, features, known[system], seed) | {"node": platform.node()}
