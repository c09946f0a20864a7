"""What has changed between the labels of two runs on the same rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..inference import Imputed, given_of
from ..tasks.own_data import OwnData

LISTED = 50


@dataclass(frozen=True)
class Changes:
    """Labels of two runs on the rows that both know.

    Attributes:
        before: the earlier run's folder. shared: rows of both. moved: from one label to another, and how many, the most frequent
            first. rows: id, earlier label and later one, of the first changed rows. corrected: id, what the earlier run had, and
            the label that was given since; ``agreed``: how many of them the earlier run had right.
        given: how many ``corrected`` would hold in all. withdrawn: corrections that the earlier run was made with and the later
            one without.
    """

    before: str
    shared: int
    changed: int
    moved: list[tuple[str, str, int]]
    rows: list[tuple[str, str, str]]
    corrected: list[tuple[str, str, str]]
    agreed: int
    withdrawn: int = 0
    given: int = 0


def changes_between(folder: Path, earlier: Imputed, later: Imputed) -> Changes:
    """How labels moved from one run to the next; a value has moved where its first three digits have."""
    old, new = _every(earlier), _every(later)
    shared = [name for name in new if name in old]
    moved = [(name, old[name], new[name]) for name in shared if old[name] != new[name]]
    counts = Counter((before, after) for _, before, after in moved)
    listed = later.task.corrected_labels if isinstance(later.task, OwnData) else {}
    told = earlier.task.corrected_labels if isinstance(earlier.task, OwnData) else {}
    fresh = {name: label for name, label in listed.items() if told.get(name) != label}
    corrected = [(name, old[name], new[name]) for name in fresh if name in old and name in new]
    values = earlier.found.probabilities is None
    return Changes(
        str(folder),
        len(shared),
        len(moved),
        [] if values else [(before, after, count) for (before, after), count in counts.most_common()],
        moved[:LISTED],
        corrected[:LISTED],
        sum(before == after for _, before, after in corrected),
        sum(name not in listed for name in told),
        len(corrected),
    )


def _every(made: Imputed) -> dict[str, str]:
    """Label of every row by name, the one that a person gave where there is one."""
    given = given_of(made)
    if made.found.probabilities is not None:
        labels = made.found.labels
    else:
        assert made.found.values is not None
        labels = [" ".join(f"{value:.3g}" for value in row) for row in made.found.values.tolist()]
    return dict(zip(made.found.ids, labels, strict=True)) | dict(zip(given.ids, given.labels, strict=True))
