"""What a column of targets is: classes or values, and which cells decided it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from .base import TaskError
from .doubts import Doubt, Where, counted, means_none, named, near, written_otherwise
from .own_data import ordered
from .quoting import quoted
from .readings import NUMBER, as_numbers, is_float, is_number, plain_number

MOST_CLASSES = 20
OWN = 0.8  # of the labels are different ones: hardly a class
AGAIN = 3  # times that each number comes in the mean
CLOSE = 2  # a factor: so many more or fewer different whole numbers are a close decision


def holds_values(
    labels: Sequence[str], kind: str, column: str, where: Where, commas: bool = False
) -> tuple[bool, list[str]]:
    """Whether targets are values of a quantity, and what is to be said of how that was decided.

    Args:
        labels: of all rows, blank where there is none. kind: the option; ``auto`` leaves it to the labels.
        column: the target's name. where: the lines of some rows, for messages. commas: whether numbers have decimal commas.

    Raises:
        TaskError: for ``kind: values`` and labels that are none. Doubt: where a few cells among numbers are none.
    """
    if kind == "classes":
        return False, []
    plain = {label: plain_number(label, commas) for label in set(labels) if label}
    odd = [row for row, label in enumerate(labels) if label and plain[label] is None]
    numbers = [number for label in labels if label and (number := plain[label]) is not None]
    if not numbers and (found := _with_units(labels, commas)) is not None:
        odd, numbers = found
    distinct = ordered(numbers)
    looks_so = are_values(distinct, len(numbers))
    if not odd:
        return kind == "values" or looks_so, list(_close(distinct, looks_so, len(numbers)) if kind == "auto" else ())
    words = [labels[row] for row in odd]
    far = [word for word in words if NUMBER.fullmatch(word)]
    looks_so = looks_so or (len(far) > 0 and _many(ordered([*numbers, *far]), len(numbers) + len(far)))
    shown = named(words, odd, where)
    none = means_none(column, list(dict.fromkeys(words))[:5])
    if kind == "values":
        held = "what cannot be computed with" if all(map(is_float, words)) else "words"
        raise TaskError(
            f"kind: values, but the target holds {held}: {quoted(ordered(words))}; "
            f"{counted(len(odd), len(odd) + len(numbers))} are no number, {shown}; {none} if that means no value"
        )
    if not numbers and kind == "auto" and written_otherwise(words) and are_values(_as_points(words), len(words)):
        raise Doubt(
            f"target: the labels look like numbers and none is one, e.g. {named(words[:1], odd[:1], where)}; write them with a "
            f"decimal point and nothing else, or kind: classes if they are names of classes",
            "kind: classes",
        )
    if looks_so and near(words, numbers):
        mend = written_otherwise(words)
        raise Doubt(
            f"target: {counted(len(odd), len(odd) + len(numbers))} are no number to compute with: {shown}; "
            + ("write them as the others, " if mend else "")
            + f"{none} if that means no value, kind: classes if all are names of classes"
            + ("" if mend else ", or mend the file"),
            "" if mend else none,
        )
    if looks_so and len(numbers) > len(odd):
        return False, [
            f"the target is taken as classes: {counted(len(odd), len(odd) + len(numbers))} are no number: {shown}"
        ]
    return False, list(_of_each_row([label for label in labels if label]))


def _with_units(labels: Sequence[str], commas: bool) -> tuple[list[int], list[str]] | None:
    """Rows whose label is no number where most are numbers with a unit, as ``$1,200``, and those; None where most are not."""
    import pandas

    known = [row for row, label in enumerate(labels) if label]
    read = as_numbers(pandas.Series([labels[row] for row in known], dtype=object), commas=commas)
    if read.example is None or not read.odd:
        return None
    return [known[row] for row in read.odd], [repr(value) for value in read.values.dropna().tolist()]


def are_numbers(labels: Sequence[str]) -> bool:
    return all(map(is_number, labels))


def are_values(labels: Sequence[str], known: int) -> bool:
    """Whether distinct labels are values of a quantity: numbers with decimals, or too many different ones for classes.

    Args:
        known: rows that have a label.
    """
    return bool(labels) and are_numbers(labels) and _many(labels, known)


def _many(labels: Sequence[str], known: int) -> bool:
    """Whether numbers are too many different ones for classes, or have decimals."""
    return any(float(label) % 1 for label in labels) or len(labels) > min(MOST_CLASSES, max(2, known / 2))


def _as_points(words: Sequence[str]) -> list[str]:
    """What numbers written otherwise may be: the last comma or point before the decimals, and digits alone."""
    digits = (re.sub(r"[^\d,.]", "", word) for word in words)
    return ordered(re.sub(r"[,.](?=.*[,.])", "", one).replace(",", ".") for one in digits)


def _of_each_row(labels: Sequence[str]) -> Iterator[str]:
    """A line where nearly every row has a label of its own, as names, dates and numbers of rows are."""
    different = len(set(labels))
    if len(labels) >= MOST_CLASSES and different > OWN * len(labels):
        yield (
            f"the target's {len(labels):,} labels are {different:,} different ones, which no rule can be learnt from; is it the "
            "column that was meant?"
        )


def _close(distinct: Sequence[str], values: bool, known: int) -> Iterator[str]:
    """A line where numbers are nearly as many different ones as make the other reading, or few that come again and again."""
    if not are_numbers(distinct):
        return
    if any(float(label) % 1 for label in distinct):
        if values and 1 < len(distinct) <= MOST_CLASSES / CLOSE and known >= AGAIN * len(distinct):
            yield f"the target's {len(distinct)} different numbers are taken as values; kind: classes if they are names"
        return
    if MOST_CLASSES / CLOSE < len(distinct) <= MOST_CLASSES * CLOSE:
        one, other = ("values", "classes") if values else ("classes", "values")
        yield f"the target's {len(distinct)} different whole numbers are taken as {one}; kind: {other} if they are not"
