"""Columns of dates and times as numbers: the day counted from 1970, and the place in the year, in the week and in the day.

A place in a period is the sine and cosine of its angle, so that December is beside January.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pandas import Series

DATE = re.compile(r"\s*(?:\d{4}[-/.]\d\d?[-/.]\d\d?|(\d\d?)([-/.])(\d\d?)[-/.](?:\d{4}|\d\d))(?!\d)")
NEARLY_ALL = 0.9
YEAR, WEEK, DAY = 365.2425, 7.0, 1.0  # days
MONDAY = 4.0  # days from the first of 1970, a Thursday, to a Monday
NANOSECONDS = 86_400e9


@dataclass(frozen=True)
class DateColumn:
    """How a column of dates is read.

    Attributes:
        name: of the column. day_first: whether 1/2/2020 is in February. time: whether there are times of the day.
    """

    name: str
    day_first: bool = False
    time: bool = False

    def days(self, cells: Series) -> np.ndarray:
        """Days since the first of 1970, ``[n]``; NaN where a cell is no date."""
        import pandas

        if not pandas.api.types.is_datetime64_any_dtype(cells):
            words = ["" if gap else str(cell).strip() for cell, gap in zip(cells, cells.isna(), strict=True)]
            matches = [DATE.match(word) for word in words]
            year_first = [word if match and not match[1] else None for word, match in zip(words, matches, strict=True)]
            year_last = [word if match and match[1] else None for word, match in zip(words, matches, strict=True)]
            cells = _parsed(year_first, False).fillna(_parsed(year_last, self.day_first))
        elif getattr(cells.dt, "tz", None) is not None:
            cells = cells.dt.tz_convert("UTC")
        found = cells.to_numpy(dtype="datetime64[ns]")
        days = found.astype("int64") / NANOSECONDS
        return np.where(np.isnat(found), np.nan, days)

    @property
    def inputs(self) -> list[str]:
        """What the numbers made of it are called; the last two only where there are times."""
        parts = ["day", "year sine", "year cosine", "week sine", "week cosine"]
        return [f"{self.name}\n{part}" for part in (*parts, *(("day sine", "day cosine") if self.time else ()))]

    def __call__(self, cells: Series) -> dict[str, np.ndarray]:
        """The numbers by :attr:`inputs`, ``[n]`` each; where there is no date the day is NaN and the others 0."""
        days = self.days(cells)
        found = [days]
        for period, start in ((YEAR, 0.0), (WEEK, MONDAY), *(((DAY, 0.0),) if self.time else ())):
            angle = 2 * np.pi * ((days if self.time else np.floor(days)) - start) / period
            found += [np.nan_to_num(np.sin(angle)), np.nan_to_num(np.cos(angle))]
        return dict(zip(self.inputs, found, strict=True))


def _parsed(words: list[str | None], day_first: bool) -> Series:
    """Words as dates in UTC; NaT for None and for what is none."""
    import pandas

    text = pandas.Series(words, dtype=object)
    if not any(words):
        return pandas.Series(pandas.NaT, index=text.index, dtype="datetime64[ns, UTC]")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a format was guessed, which day_first decides
        found: Series = pandas.to_datetime(text, errors="coerce", dayfirst=day_first, utc=True)
        if (found.isna() & text.notna()).any():  # written in more than one way
            found = pandas.to_datetime(text, errors="coerce", dayfirst=day_first, utc=True, format="mixed")
    return found


def date_column(cells: Series, name: str) -> DateColumn | None:
    """How a column is read as dates; None where it holds something else.

    ``31/12/2020`` has the day first where a number says so, or where points part them; else the month.
    """
    import pandas

    known = cells.dropna()
    if pandas.api.types.is_datetime64_any_dtype(known):
        found = DateColumn(name)
    elif pandas.api.types.is_numeric_dtype(known) or not len(known):
        return None
    else:
        matches = [DATE.match(word) for word in known.astype(str)]
        if sum(match is not None for match in matches) <= NEARLY_ALL * len(matches):
            return None
        parted = [match.groups() for match in matches if match is not None and match[1]]
        day_first = any(mark == "." or int(first) > 12 for first, mark, _ in parted)
        day_first = day_first and not any(mark != "." and int(second) > 12 for _, mark, second in parted)
        found = DateColumn(name, day_first)
    days = found.days(known)
    days = days[np.isfinite(days)]
    if len(days) <= NEARLY_ALL * len(known):
        return None
    return DateColumn(name, found.day_first, bool((days % 1 != 0).any()))
