"""Where a table can be read in two ways: what decides is named by cell and line, and where both are near, the user is asked.

A question is an error that says which option answers it; a decision is a line among the warnings.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from .base import TaskError
from .files import NA_WORDS
from .quoting import how_many, safe
from .readings import MissingValues, is_float, same_number

FEW = 0.1  # of a column's cells; fewer than that are a slip, or a word for none
PLACEHOLDERS, MANY = 3, 10  # so few distinct words beside so many distinct numbers are words for none
LIKE_NUMBER = re.compile(r"[+-]?[€$£]?\s?(\d{1,3}([,.'\s]\d{3})+|\d+)([.,]\d+)?\s?[%€$£]?")
WORDS_FOR_NONE = {word.lower() for word in NA_WORDS} | {
    "?", "-", "--", ".", "missing", "no label", "not labelled", "not labeled", "nat", "todo", "unknown", "unk", "unlabelled",
    "unlabeled", "tbd",
}  # fmt: skip
# as often a label as none, so that only many of them are asked about
NUMBERS_FOR_NONE = ("-1", "-9", "-99", "-999", "-9999")
SHOWN, LONGEST = 3, 40

Where = Callable[[Sequence[int]], str]


class Doubt(TaskError):
    """A question to the user.

    Args:
        answer: an option that settles it, in a recipe's notation, e.g. ``kind: classes``.
    """

    def __init__(self, message: str, answer: str) -> None:
        super().__init__(message)
        self.answer = answer

    @property
    def setting(self) -> str:
        """The answer as ``--set`` takes it."""
        key, _, value = self.answer.partition(": ")
        return f"task.{key}={value}"


def means_none(column: str, words: Sequence[str]) -> str:
    """The setting under which words of a column mean "none", in a recipe's notation; long ones are left to the user."""
    words = [word for word in words if len(word) <= LONGEST] or ["..."]
    return f"missing_values: {json.dumps({column: list(words)}, ensure_ascii=False)}"


def near(odd: Sequence[str], numbers: Sequence[object]) -> bool:
    """Whether a column of numbers and a few other words may be meant as numbers.

    Args:
        odd: the cells that are no numbers. numbers: the others.
    """
    if len(odd) <= FEW * (len(odd) + len(numbers)):
        return True
    if len(set(odd)) <= PLACEHOLDERS and len(set(numbers)) > MANY:
        return True
    return all(LIKE_NUMBER.fullmatch(word) or is_float(word) for word in odd)


def written_otherwise(odd: Sequence[str]) -> bool:
    """Whether cells are numbers to a person, e.g. ``12,05`` or ``7%``."""
    return all(LIKE_NUMBER.fullmatch(word) for word in odd)


def named(words: Sequence[str], rows: Sequence[int], where: Where) -> str:
    """Cells for a message: each distinct word with the lines it stands in."""
    places: dict[str, list[int]] = {}
    for word, row in zip(words, rows, strict=True):
        places.setdefault(word, []).append(row)
    shown = [f"'{safe(word)}' ({where(at)})" for word, at in list(places.items())[:SHOWN]]
    more = f" and {len(places) - SHOWN:,} other words" if len(places) > SHOWN else ""
    return ", ".join(shown) + more


def counted(count: int, total: int) -> str:
    """A part of a column's cells, in words."""
    return f"{count:,} of {total:,} cells"


def may_mean_none(label: str) -> bool:
    """Whether a label is a usual word or number for "none"."""
    return label.lower() in WORDS_FOR_NONE or any(same_number(label, one) for one in NUMBERS_FOR_NONE)


def words_for_none(labels: Sequence[str], option: str, column: str, given: MissingValues) -> Iterator[str]:
    """Labels that may mean "no label": a warning where one stands in some rows.

    Args:
        labels: of all rows, blank where there is none. given: the option ``missing_values``; what it does not name is a label.

    Raises:
        Doubt: where such a label holds most of the rows, or no row is without label and it is a word or the largest class.
    """
    counts = Counter(label for label in labels if label)
    answered = (isinstance(given, Mapping) and column in given) or (given is not None and not given)
    if answered or len(counts) < 2:
        return
    full = all(labels)
    largest = counts.most_common(1)[0][0]
    for label, count in counts.items():
        if not may_mean_none(label):
            continue
        number = is_float(label) and label not in NA_WORDS
        if len(counts) > 2 and (2 * count > len(labels) or (full and (label == largest or not number))):
            none = means_none(column, [label])
            all_labels = (
                f"missing_values: {json.dumps({column: []}, ensure_ascii=False)}" if given else "missing_values: []"
            )
            raise Doubt(
                f"{option}: '{safe(label)}' stands in {count:,} of {len(labels):,} rows; {none} if it means that there is no "
                f"label, {all_labels} if it is one",
                none,
            )
        if label in NA_WORDS:
            yield (
                f"'{safe(label)}', in {how_many(count, 'row')}, is taken as a label; {means_none(column, [label])} if it means "
                "that there is none"
            )
