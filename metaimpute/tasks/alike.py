"""Labels that a slip of the keyboard makes two: they differ by blanks or by capitals alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from .quoting import safe

NAMED = 3  # pairs that are told, at most


def alike_said(labels: Iterable[str]) -> Iterator[str]:
    """A line for labels that differ only by blanks around them, which count as one, and one for those that differ by blanks
    inside or by capitals, which do not.

    Args:
        labels: as they are written.
    """
    written = [label for label in dict.fromkeys(labels) if label.strip()]
    around = _pairs(written, str.strip)
    if around:
        yield f"labels: {_shown(around)} differ only by blanks around them and are taken as one class"
    inside = _pairs(list(dict.fromkeys(map(str.strip, written))), lambda label: " ".join(label.casefold().split()))
    if inside:
        yield f"labels: {_shown(inside)} differ only by blanks or capitals and are taken as two classes"


def _pairs(labels: list[str], reduced: Callable[[str], str]) -> list[tuple[str, str]]:
    first: dict[str, str] = {}
    found = [(first.setdefault(reduced(label), label), label) for label in labels]
    return [(one, other) for one, other in found if one != other]


def _shown(pairs: list[tuple[str, str]]) -> str:
    more = f" (and {len(pairs) - NAMED:,} more such pairs)" if len(pairs) > NAMED else ""
    return ", ".join(f"'{safe(one)}' and '{safe(other)}'" for one, other in pairs[:NAMED]) + more
