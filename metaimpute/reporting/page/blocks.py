"""What a page is made of: systems, and sections of tables, charts, samples, words and commands. The template draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from markupsafe import Markup

from ...rundir.result import Result
from ..comparison import Compared
from ..figures import smoothed
from ..runs import Run
from .svg import HEIGHT, WIDTH, Line, Points, Range, chart

FEW = 60  # measurements up to which a line is drawn as it is
MARKED = 20  # and up to which every one of them is marked
DOT = 2.2
LARGEST = 1e100


@dataclass(frozen=True)
class System:
    """Runs that differ in their seed alone.

    Attributes:
        key: a letter that stands for it in charts, empty where it is the only one. number: of its colour and dashes.
    """

    key: str
    name: str
    number: int
    runs: list[Run]

    @property
    def result(self) -> Result:
        """Of the first seed."""
        return self.runs[0].result

    @property
    def full_name(self) -> str:
        return f"{self.key} {self.name}".strip()

    def titled(self, title: str) -> str:
        """Title of a chart of this system alone."""
        return f"{self.key} · {title}" if self.key else title


@dataclass(frozen=True)
class Group:
    """Systems on one task, metric and data, and what they say together.

    Attributes:
        featured: the best, its baseline and its rivals, in the systems' order: those that charts show. compared: their numbers.
    """

    systems: Sequence[System]
    featured: Sequence[System]
    compared: Compared

    @property
    def best(self) -> System:
        """The best, or the only one, or the first where no best can be named."""
        return next((one for one in self.systems if one.name == self.compared.verdict.best), self.systems[0])

    @property
    def pair(self) -> Sequence[System]:
        """The best and its baseline, or else its nearest rival: those of which everything is drawn."""
        wanted = self.compared.verdict.named[:2] or (self.best.name,)
        return [one for one in self.systems if one.name in wanted]

    @property
    def metric(self) -> str:
        return self.systems[0].result.metric


@dataclass(frozen=True)
class Figure:
    """A chart with its title above it, and a note of what it says."""

    title: str
    drawing: Markup
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """One cell of a table. ``shade``, in [0, 1], fills it; ``kind`` is its class in the style sheet."""

    text: str | Markup
    kind: str = ""
    shade: float | None = None


@dataclass(frozen=True)
class Grid:
    """Charts side by side. ``kind``: ``large`` for at most two in a row, ``pairs`` for an even number."""

    figures: Sequence[Figure]
    heading: str = ""
    kind: str = ""
    block: str = "grid"


@dataclass(frozen=True)
class Table:
    """Rows of cells, the first of each its heading. ``mark``: the number of the row's system, for the sample of its line.

    ``folded``: away under its caption.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    marks: Sequence[System | None] = ()
    kind: str = ""
    note: str = ""
    folded: bool = False
    block: str = "table"


@dataclass(frozen=True)
class Words:
    """Paragraphs; with ``kind="list"`` items of a list, with ``kind="verdict"`` sentences of which the first matters most."""

    lines: Sequence[str]
    kind: str = ""
    heading: str = ""
    block: str = "words"


@dataclass(frozen=True)
class Verbatim:
    """Commands or a file; folded away under its heading when ``folded``."""

    heading: str
    text: str
    folded: bool = False
    block: str = "verbatim"


@dataclass(frozen=True)
class Picture:
    """An image within the page, as a ``data:`` address."""

    source: str
    description: str
    block: str = "picture"


@dataclass(frozen=True)
class Facts:
    """Names and values, one below the other; a value may hold a drawing. Those of ``more`` are folded away."""

    facts: Sequence[tuple[str, str | Markup]]
    more: Sequence[tuple[str, str | Markup]] = ()
    block: str = "facts"


@dataclass(frozen=True)
class Shown:
    """A row of the data: a picture or cells by column, and what is said of it. ``kind``: ``right``, ``wrong`` or neither."""

    name: str
    said: str
    note: str = ""
    cells: Sequence[tuple[str, str]] = ()
    picture: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Samples:
    """Rows side by side."""

    heading: str
    rows: Sequence[Shown]
    block: str = "samples"


Block: TypeAlias = Facts | Grid | Samples | Table | Words | Verbatim | Picture


@dataclass(frozen=True)
class Section:
    """A part of the page. ``systems``: those whose lines its charts show, for the legend. ``folded``: opened by a click."""

    slug: str
    title: str
    blocks: Sequence[Block]
    intro: str = ""
    systems: Sequence[System] = field(default=())
    folded: bool = False


def points_of(run: Run, name: str, factor: float = 1.0) -> list[tuple[float, float]]:
    """A run's measurements of one thing, times ``factor``; those that no chart can show are left out."""
    steps, (values,) = run.series(name)
    return [(step, factor * value) for step, value in zip(steps, values, strict=True) if drawable(value)]


def drawable(value: float) -> bool:
    """Whether a measurement is a number that a chart has room for; NaN is none, nor is what float32 never holds."""
    return abs(value) < LARGEST


def seeds_as_lines(seeds: Sequence[Points], style: int, label: str, name: str = "", plain: bool = False) -> list[Line]:
    """One measurement of a system: every seed faintly, and boldly their mean at the steps all share, smoothed where many.

    Args:
        plain: leave the seeds out, where many systems share a chart.
    """
    known = [points for points in seeds if len(points) > 1]
    if not known:
        return []
    shared = set.intersection(*({step for step, _ in points} for points in known))
    values = {step: [] for step in sorted(shared)}  # type: dict[float, list[float]]
    for points in known:
        for step, value in points:
            if step in shared:
                values[step].append(value)
    means = [sum(found) / len(found) for found in values.values()]
    many = len(means) > FEW
    bold = list(zip(values, smoothed(means, len(means) // 20) if many else means, strict=True))
    faint = [Line(points, style, faint=True) for points in known] if (many or len(known) > 1) and not plain else []
    return [*faint, Line(bold, style, label, name, marks=[DOT] * len(bold) if len(bold) <= MARKED else ())]


def overlay(
    systems: Sequence[System],
    metric: str,
    title: str,
    *,
    y: Range | None = None,
    factor: float = 1.0,
    note: str = "",
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> list[Figure]:
    """One chart of one metric, a line per system; nothing where no run measured it twice."""
    lines = [
        line
        for system in systems
        for line in seeds_as_lines(
            [points_of(run, metric, factor) for run in system.runs],
            system.number,
            system.key,
            system.full_name,
            len(systems) > 2,
        )
    ]
    return [drawn(title, lines, y=y, note=note, size=size)] if lines else []


def drawn(
    title: str,
    lines: Sequence[Line],
    *,
    y: Range | None = None,
    note: str = "",
    log: bool | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> Figure:
    """A chart over steps; logarithmic where positive values differ by more than a factor of thirty."""
    values = [value for line in lines for _, value in line.points]
    if log is None:
        log = y is None and min(values) > 0 and max(values) > 30 * min(values)
    end = max(step for line in lines for step, _ in line.points)
    name = f"{title}, log scale" if log else title
    return Figure(name, chart(title, lines, x=(0, end), y=y, log=log, size=size), note)
