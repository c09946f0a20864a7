"""Line charts as SVG text: small, self-describing, coloured by the page's style sheet so that they follow its scheme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

Points = Sequence[tuple[float, float]]
Range = tuple[float, float]

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 340, 196, 38, 8, 22
SQUARE = (300, 300)  # of a chart whose axes are alike
LARGE = (520, 280)
STYLES = 6  # of lines, in the style sheet: each its own colour and dashes
MOST = 240  # points of a drawn line, two for three units of the chart's width
LETTER = 6.6  # width of one, about
LONGEST = 14  # label at a line's end, in letters
GAP = 12  # between labels


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        style: number of its colour and dashes. label: written at its end. name: for those who hear the chart; the label
            where empty. faint: drawn thinly behind the others. marks: a dot at every point, of these radii. loose: no line.
    """

    points: Points
    style: int = 0
    label: str = ""
    name: str = ""
    faint: bool = False
    marks: Sequence[float] = ()
    loose: bool = False


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    x: Range | None = None,
    y: Range | None = None,
    x_label: str = "step",
    log: bool = False,
    diagonal: bool = False,
    down: bool = False,
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> Markup:
    """An ``svg`` element with a title and a description of every line's beginning and end.

    Args:
        lines: with at least one point in all. x, y: ranges of the axes, else those of the points. log: of the y axis, for
            positive values alone. diagonal: draw the line of equal coordinates. down: y grows downwards, as in pictures.
        size: width and height, in units of the drawing.
    """
    wide, tall = size
    points = [point for line in lines for point in line.points]
    low_x, high_x = x or _range([p[0] for p in points])
    low_y, high_y = y or (_range([p[1] for p in points]) if log else _padded([p[1] for p in points]))
    marks_y = log_ticks(low_y, high_y) if log else ticks(low_y, high_y)
    right = 10 + LETTER * max((len(shortened(line.label)) for line in lines), default=0)
    bend = math.log10 if log else float

    def across(value: float) -> float:
        return LEFT + (value - low_x) / (high_x - low_x) * (wide - LEFT - right)

    def height(value: float) -> float:
        share = (bend(value) - bend(low_y)) / (bend(high_y) - bend(low_y))
        return TOP + (share if down else 1 - share) * (tall - TOP - BOTTOM)

    parts = [
        Markup('<svg viewBox="0 0 {} {}" role="img"><title>{}</title><desc>{}</desc>').format(
            wide, tall, title, described(lines)
        )
    ]
    for value in marks_y:
        kind, at = "zero" if value == 0 and low_y < 0 else "tick", height(value)
        parts.append(
            Markup('<path class="{}" d="M{} {y}H{}"/><text x="{}" y="{}" text-anchor="end">{}</text>').format(
                kind, LEFT, _short(wide - right), LEFT - 5, _short(at + 3.5), written(value), y=_short(at)
            )
        )
    *before, last = ticks(low_x, high_x)
    name = f"{x_label} {written(last)}"
    end = min(across(last) + LETTER * len(written(last)) / 2, wide)
    parts.append(Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(_short(end), tall - 6, name))
    for value in before:
        if across(value) + LETTER * (len(written(value)) / 2 + 1) < end - LETTER * len(name):
            place = _short(across(value)), tall - 6, written(value)
            parts.append(Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(*place))
    if diagonal:
        ends = max(low_x, low_y), min(high_x, high_y)
        parts.append(Markup('<path class="rule" d="{}"/>').format(_path([(across(e), height(e)) for e in ends])))
    for line in sorted(lines, key=lambda one: not one.faint):
        drawn = [(across(a), height(b)) for a, b in thinned(line.points)]
        kind = f"line s{line.style % STYLES}{' faint' if line.faint else ''}"
        if len(drawn) > 1 and not line.loose:
            parts.append(Markup('<path class="{}" d="{}"/>').format(kind, _path(drawn)))
        for (a, b), radius in zip(line.points, line.marks, strict=False):
            parts.append(
                Markup('<circle class="mark s{}" cx="{}" cy="{}" r="{}"><title>{}: {}</title></circle>').format(
                    line.style % STYLES, _short(across(a)), _short(height(b)), _short(radius), written(a), written(b)
                )
            )
    labelled = [line for line in lines if line.label and line.points]
    for line, at in zip(labelled, _apart([height(line.points[-1][1]) for line in labelled], tall), strict=True):
        parts.append(
            Markup('<text class="label s{}" x="{}" y="{}">{}</text>').format(
                line.style % STYLES, _short(wide - right + 5), _short(at + 3.5), shortened(line.label)
            )
        )
    return Markup("").join([*parts, Markup("</svg>")])


def strip(title: str, values: Sequence[float], span: Range, style: int) -> Markup:
    """Seeds as dots and their mean as a bar on an axis that a whole column of a table shares."""
    low, high = span

    def across(value: float) -> str:
        return _short(8 + 144 * ((value - low) / (high - low) if high > low else 0.5))

    head = Markup('<svg class="strip" viewBox="0 0 160 18" role="img"><title>{}</title>').format(title)
    dots = [
        Markup('<circle class="mark s{}" cx="{}" cy="9" r="3.5"/>').format(style % STYLES, across(v)) for v in values
    ]
    bar = Markup('<path class="mean s{}" d="M{} 2V16"/></svg>').format(
        style % STYLES, across(sum(values) / len(values))
    )
    return Markup("").join([head, Markup('<path class="tick" d="M2 9H158"/>'), *dots, bar])


def shares_bar(shares: Sequence[float]) -> Markup:
    """Parts of a whole as a bar, in their order."""
    total, at = sum(shares) or 1.0, 0.0
    said = ", ".join(f"{value / total:.0%}" for value in shares)
    parts = [Markup('<svg class="strip" viewBox="0 0 160 18" role="img"><title>shares: {}</title>').format(said)]
    for number, value in enumerate(shares):
        width = 160 * value / total
        place = f"{1 - 0.7 * number / len(shares):.2f}", _short(at), _short(max(width - 1, 0))
        parts.append(Markup('<rect class="part" opacity="{}" x="{}" y="2" width="{}" height="14"/>').format(*place))
        at += width
    return Markup("").join([*parts, Markup("</svg>")])


def shortened(label: str) -> str:
    """A label that leaves room for its line."""
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"


def described(lines: Sequence[Line]) -> str:
    """Where each line begins and ends, in words."""
    found = []
    for line in lines:
        if line.points and not line.faint:
            (a, b), (c, d) = line.points[0], line.points[-1]
            name = line.name or line.label
            found.append(f"{name + ': ' if name else ''}{b:.4g} at {written(a)} to {d:.4g} at {written(c)}")
    return "; ".join(found)


def thinned(points: Points, most: int = MOST) -> list[tuple[float, float]]:
    """Every k-th point and the last, so that no more than about ``most`` are left."""
    every = -(-len(points) // most)
    return [*points[::every], *([points[-1]] if every > 1 and (len(points) - 1) % every else [])]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers within the range."""
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = unit * next(m for m in (1, 2, 5, 10) if m * unit >= rough * 0.999)
    return [round(n * step, 12) for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within the range, thinned to at most five; 1, 2 and 5 times them where there are fewer than three."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = [10.0**n for n in range(first, last + 1) if low <= 10.0**n <= high]
    if len(decades) < 3:
        return [m * 10.0**n for n in range(first, last + 1) for m in (1, 2, 5) if low <= m * 10.0**n <= high]
    return decades[:: -(-len(decades) // 5)]


def written(value: float) -> str:
    """A number as an axis has it: ``0.25``, ``15,000``, ``1e-06``."""
    return f"{value:,.0f}" if abs(value) >= 1000 and value == round(value) else f"{value:.4g}"


def _range(values: Sequence[float]) -> Range:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5))


def _padded(values: Sequence[float]) -> Range:
    """The range with air around it, down to zero where that is near."""
    low, high = _range(values)
    air = 0.05 * (high - low)
    return (0.0 if 0 <= low < 0.4 * high else low - air), high + air


def _apart(places: Sequence[float], tall: int = HEIGHT) -> list[float]:
    """Heights of labels, moved so that no two overlap and all stay within the chart."""
    order = sorted(range(len(places)), key=lambda n: places[n])
    gap = min(GAP, (tall - BOTTOM - TOP) / max(len(places) - 1, 1))
    found, floor = list(places), float(TOP)
    for n in order:
        found[n] = floor = max(places[n], floor)
        floor += gap
    ceiling = float(tall - BOTTOM)
    for n in reversed(order):
        found[n] = ceiling = min(found[n], ceiling)
        ceiling -= gap
    return found


def _path(points: Points) -> str:
    return "M" + "L".join(f"{_short(a)} {_short(b)}" for a, b in points)


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
