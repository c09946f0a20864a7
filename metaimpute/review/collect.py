"""What a page of review shows, gathered from a run: doubtful rows, suspicious labels, duplicates, outliers, classes, changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from ..inference import Given, Imputed, given_of, held_out_of, imputed
from ..inference.doubt import advice, confirmed, doubtful, ranks, seldom
from ..rundir.result import Result
from ..showing import watched
from ..tasks.base import Pool
from ..tasks.contents import contents_of, keys_of
from ..tasks.own_data import OwnData
from .alike import alike, nearest
from .changes import Changes, changes_between
from .features import features_of
from .suspects import suspects_of

NEIGHBOURS = 3
FEWEST, MOST = 20, 100  # doubtful rows that are shown where nobody says how many
OTHERS = 50  # rows of the other sections


@dataclass(frozen=True)
class Row:
    """A row of the user's: its name, what it holds (None where that cannot be shown), and its label.

    Attributes:
        label: given or predicted; empty where it is not known. note: what is to be said of it, e.g. how sure the label is.
    """

    id: str
    cells: list[str] | None
    label: str = ""
    note: str = ""


@dataclass(frozen=True)
class Item:
    """A row to look at, and rows to hold it against."""

    row: Row
    beside: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """A section of the page: items, or groups of rows, and what is to be said of them."""

    slug: str
    title: str
    said: list[str]
    items: list[Item] = field(default_factory=list)
    total: int = 0


@dataclass(frozen=True)
class Class:
    """How often a class was given and predicted, its mean confidence, and what is odd about that."""

    name: str
    given: int
    predicted: int
    confidence: float | None
    odd: str


@dataclass(frozen=True)
class Review:
    """Everything the page shows.

    Attributes:
        kind: of the contents: ``text``, ``image``, ``cells``, or None. columns: of a table's cells. names: of the classes; empty
            where values are predicted.
        kept: corrections that the run was made with, by the row's name; the page's file has them too.
    """

    title: str
    run: str
    source: str
    next: str
    kind: str | None
    columns: list[str]
    names: list[str]
    parts: list[Part]
    classes: list[Class]
    changes: Changes | None = None
    kept: dict[str, str] = field(default_factory=dict)


def collect(
    run: str | Path,
    *,
    held_out: np.ndarray | None = None,
    before: str | Path | None = None,
    data: str | Path | None = None,
    device: str = "auto",
    rows: int | None = None,
    verbose: int = 0,
) -> Review:
    """What a person should look at in a finished run's labels.

    Args:
        held_out: probabilities ``[labelled rows, classes]`` of the rows trained on by models that were not trained on them, NaN
            for a row without; None: what the run has kept. before: an earlier run, to say what has changed since. data: the run's
            file or folder, where it has moved. rows: of a section at most; None: the doubtful ones,
            20 to 100 of them, and 50 of the other sections. verbose: 1 shows on the standard error how far the work has come.

    Raises:
        NotExported, MissingData, TaskError: as :func:`metaimpute.inference.imputed` does.
    """
    with watched(verbose):
        return _collected(Path(run), held_out, before, data, device, rows)


def _collected(
    folder: Path,
    held_out: np.ndarray | None,
    before: str | Path | None,
    data: str | Path | None,
    device: str,
    rows: int | None,
) -> Review:
    made = imputed(folder, device, data)
    given = given_of(made, held_out_of(folder, made) if held_out is None else held_out)
    changes = None if before is None else changes_between(Path(before), imputed(before, device, data), made)
    shown = _Shown(made, given)
    doubt, others = made.found.doubt, rows or OTHERS
    most = rows or (MOST if doubt is None else min(max(sum(doubtful(doubt)), FEWEST), MOST))
    parts = [_doubtful(made, shown, most), _suspects(made, given, shown, others), *_alike(made, given, shown, others)]
    of_classes = made.found.probabilities is not None
    following = (
        ""
        if doubt is None
        else advice(doubt, "here, from the top", of_classes, False, most, Result.expected_of(folder))
    )
    return Review(
        made.predictor.recipe.about.title or folder.resolve().name,
        str(folder),
        made.data.source,
        following,
        shown.kind,
        shown.columns,
        made.predictor.label_names if of_classes else [],
        parts,
        _classes(made, given, confirmed(Result.expected_of(folder))) if of_classes else [],
        changes,
        made.task.corrected_labels if isinstance(made.task, OwnData) else {},
    )


class _Shown:
    """Rows as they are shown: those predicted, and those given, of which neighbours are found."""

    def __init__(self, made: Imputed, given: Given) -> None:
        self.made, self.given = made, given
        contents = contents_of(made.task, made.unlabelled.subset(torch.arange(1)))
        self.kind = None if contents is None else contents.kind
        self.columns = [] if contents is None else contents.columns
        labelled = [contents_of(made.task, pool) for pool in made.given]
        self.labelled = [row for one in labelled if one is not None for row in one.rows]
        self.features, *known = features_of(made.task, [made.unlabelled, *made.given])
        self.known = np.concatenate([part for part in known if len(part)])
        self.labels = _labels(made)
        self.keys = _keys(made, [made.unlabelled], self.features)
        self.known_keys = _keys(made, list(made.given), self.known)

    def predicted(self, places: Sequence[int], notes: Sequence[str] | None = None) -> list[Row]:
        """Rows without a given label, at these places."""
        contents = contents_of(
            self.made.task, self.made.unlabelled.subset(torch.tensor(list(places), dtype=torch.long))
        )
        cells = [None] * len(places) if contents is None else contents.rows
        told = [""] * len(places) if notes is None else notes
        return [
            Row(self.made.found.ids[place], row, self.labels[place], note)
            for place, row, note in zip(places, cells, told, strict=True)
        ]

    def of_given(self, place: int, note: str = "") -> Row:
        cells = self.labelled[place] if self.labelled else None
        return Row(self.given.ids[place], cells, self.given.labels[place], note)

    def beside(self, places: Sequence[int]) -> list[list[Row]]:
        """The labelled rows nearest to each of those predicted."""
        found = nearest(self.features[list(places)], self.known, NEIGHBOURS)
        return [[self.of_given(one) for one in row] for row in found.tolist()]


def _keys(made: Imputed, pools: Sequence[Pool], features: np.ndarray) -> list[Hashable]:
    """What is equal where two rows hold the same: their contents, or the features of rows that are nothing to be read."""
    found = [keys_of(made.task, pool) for pool in pools]
    return [key for one in found if one is not None for key in one] or [row.tobytes() for row in features]


def _labels(made: Imputed) -> list[str]:
    found = made.found
    if found.probabilities is not None:
        return found.labels
    assert found.values is not None
    return [" ".join(f"{value:.6g}" for value in row) for row in found.values.tolist()]


def _doubtful(made: Imputed, shown: _Shown, most: int) -> Part:
    found, doubt = made.found, made.found.doubt
    said: list[str] = []
    if doubt is None:
        return Part("doubtful", "Check these first", ["Nothing says how sure these values are."])
    place_of = {rank: place for place, rank in enumerate(ranks(doubt))}
    order = [place_of[rank] for rank in range(1, min(most, len(found)) + 1)]
    if found.probabilities is not None:
        seconds, shares = found.runners_up
        assert found.confidence is not None
        notes = [
            f"{percent(float(found.confidence[at]))}, else {seconds[at]} {percent(float(shares[at]))}" for at in order
        ]
    else:
        assert found.spread is not None
        notes = ["± " + " ".join(f"{value:.3g}" for value in found.spread[at].tolist()) for at in order]
    total = sum(doubtful(doubt))
    said.append(
        f"The least sure rows first. {total:,} of {len(found):,} rows are doubtful: the fewest that together hold three quarters "
        "of the errors that are expected."
    )
    items = [Item(row, beside) for row, beside in zip(shown.predicted(order, notes), shown.beside(order), strict=True)]
    return Part("doubtful", "Check these first", said, items, total)


def _suspects(made: Imputed, given: Given, shown: _Shown, most: int) -> Part:
    found = suspects_of(given, made.predictor.label_names)
    said = [found.said]
    if found.seen and not found.found:
        said.append(f"Of {found.seen:,} given labels that could be looked at none looks wrong.")
    items = []
    for one in found.found[:most]:
        note = f"{percent(one.own)}, more likely {one.other} {percent(one.of_other)}"
        items.append(Item(shown.of_given(one.place, note)))
    torn = [
        group
        for group in _places(shown.known_keys).values()
        if len({given.labels[place] for place in group}) > 1 and given.probabilities is not None  # of classes
    ]
    if torn:
        said.append(
            f"Labelled rows that hold exactly what another one with another label holds: {sum(map(len, torn)):,}."
        )
    for group in torn[: max(most - len(items), 0)]:
        first, *others = (shown.of_given(place) for place in group[: 1 + NEIGHBOURS])
        items.append(Item(replace(first, note="the same row has several labels"), others))
    return Part("suspects", "Given labels that look wrong", said, items, len(found.found) + len(torn))


def _places(keys: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    found: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        found.setdefault(key, []).append(place)
    return found


def _twins(
    made: Imputed, given: Given, shown: _Shown, keys: Sequence[Hashable], most: int
) -> tuple[list[str], list[Item], int]:
    """Rows without label that hold what a labelled one holds: what is said of them, those that were imputed otherwise first."""
    labelled = _places(shown.known_keys)
    pairs = [(place, labelled[key]) for place, key in enumerate(keys) if key in labelled]
    of_classes = made.found.probabilities is not None
    other = {
        place
        for place, known in pairs
        if of_classes and shown.labels[place] not in {given.labels[one] for one in known}
    }
    pairs.sort(key=lambda pair: pair[0] not in other)
    if not pairs:
        return [], [], 0
    said = f"Rows without label that hold exactly what a labelled one holds: {len(pairs):,}"
    said += f"; imputed otherwise: {len(other):,}." if other else "."
    chosen = pairs[:most]
    notes = ["imputed otherwise than a labelled copy" if place in other else "a labelled copy" for place, _ in chosen]
    rows = shown.predicted([place for place, _ in chosen], notes)
    beside = [[shown.of_given(one) for one in known[:NEIGHBOURS]] for _, known in chosen]
    return [said], [Item(row, near) for row, near in zip(rows, beside, strict=True)], len(pairs)


def _alike(made: Imputed, given: Given, shown: _Shown, most: int) -> list[Part]:
    """Duplicates and outliers among the rows without label."""
    keys = shown.keys
    found = alike(shown.features, keys)
    copies = sum(len(group) - 1 for group in found.exact)
    twins, items, count = _twins(made, given, shown, keys, most)
    said = [f"Rows without label that hold exactly what another one holds: {copies:,}.", *twins]
    for group in found.exact[: max(most - len(items), 0)]:
        first, *others = shown.predicted(group[: 1 + NEIGHBOURS])
        items.append(Item(replace(first, note=f"{len(group)} times"), others))
    if found.near:
        said.append(f"Pairs that are nearly the same: {len(found.near):,}.")
    for pair in found.near[: max(most - len(items), 0)]:
        first, other = shown.predicted(pair)
        items.append(Item(replace(first, note="nearly the same"), [other]))
    whole = found.compared >= len(shown.features) - copies
    sampled = [] if whole else [f"Of the rows {found.compared:,} were held against each other."]
    strange, lonely = [Item(row) for row in shown.predicted(found.outliers[:most])], len(found.outliers)
    far = "No row is far from every other."
    if lonely:
        far = f"Far from every other, of {found.compared:,} rows: {lonely:,}. Is that what should be labelled?"
    return [
        Part("duplicates", "Duplicates", [*said, *sampled], items, count + len(found.exact) + len(found.near)),
        Part("outliers", "Unlike all others", [far, *sampled], strange, lonely),
    ]


def _classes(made: Imputed, given: Given, calibrated: bool) -> list[Class]:
    known, found = Counter(given.labels), made.found.counts()
    assert made.found.confidence is not None
    sure: dict[str, list[float]] = {}
    for name, confidence in zip(made.found.labels, made.found.confidence.tolist(), strict=True):
        sure.setdefault(name, []).append(confidence)
    assert made.found.probabilities is not None
    rare = seldom(made.found.probabilities, made.found.names) if calibrated else []
    few = {one.name: one.expected for one in rare}
    rows = []
    for name in made.predictor.label_names:
        odd = "nobody has labelled one" if not known[name] else "never predicted" if not found[name] else ""
        if known[name] and name in few:
            odd = f"{odd or 'seldom predicted'}, about {few[name]:,} are expected"
        mean = sum(sure[name]) / len(sure[name]) if name in sure else None
        rows.append(Class(name, known[name], found[name], mean, odd))
    return rows


def percent(share: float) -> str:
    """A probability for a person; a certainty only where it is one."""
    if 0.9995 <= share < 1:
        return "over 99.9%"
    return f"{100 * share:.0f}%" if 0.1 <= share < 0.99 else f"{100 * share:.1f}%"
