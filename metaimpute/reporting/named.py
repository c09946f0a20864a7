"""What a study says of the runs in its folder: their systems' names, whom they are compared with, and by what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..rundir.measure import MEASURES, Measure
from ..rundir.stored import DamagedFile, read_json

STUDY = "study.json"


@dataclass(frozen=True)
class Named:
    """A run's part in its study.

    Attributes:
        file: of the study. name: its system's, with the point of the grid. place: of that among the study's rows. against: the
            system it is compared with; None for a baseline. measure: what the study compares by.
    """

    file: str
    name: str
    place: int
    against: str | None
    measure: Measure


def named(folder: Path) -> Named | None:
    """What the study that a run's folder, ``STUDY/SYSTEM/seedN``, lies in says of it; None for a run of no study.

    Raises:
        DamagedFile: when there is a ``study.json`` that no study has written.
    """
    here = folder.resolve()
    path = here.parent.parent / STUDY
    try:
        known = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    wanted = f"{here.parent.name}/{here.name}"
    try:
        measure = known["metric"]
        if measure not in MEASURES:
            raise ValueError(f"metric: {measure!r} is none of {', '.join(MEASURES)}")
        for place, system in enumerate(known["systems"]):
            if any(run["folder"] == wanted for run in system["runs"]):
                return Named(str(known["study"]), str(system["name"]), _row(known, place), _text(system), measure)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error}; the study's command writes it again"
        raise DamagedFile(path, reason) from None
    return None


def _row(known: dict[str, Any], place: int) -> int:
    """Place of a system in the study file, where the table has another order."""
    row = known["systems"][place].get("row", place)
    return row if isinstance(row, int) else place


def _text(system: dict[str, Any]) -> str | None:
    found = system["against"]
    return None if found is None else str(found)
