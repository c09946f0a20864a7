"""Imputed labels and finished runs as a notebook shows them: HTML in which everything that the user wrote is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from ..rundir.result import Result
from ..terminal import spelled
from .console import by_weight, error_shown, unit_of
from .run_verdict import run_verdict

if TYPE_CHECKING:
    from pandas import DataFrame


def page(sentence: str, warnings: Sequence[str], result: Result, rows: DataFrame, most: int) -> str:
    """The sentence, warnings as a list, the systems as a table, and at most so many rows."""
    listed = "".join(f"<li>{_text(line)}</li>" for line in warnings)
    more = f"<p>{len(rows) - most:,} more rows: to_frame()</p>" if len(rows) > most else ""
    return (
        f"<div><p>{_text(sentence)}</p>{f'<ul>{listed}</ul>' if listed else ''}{systems(result)}"
        f"{_table(['', *rows.columns], ([name, *cells] for name, *cells in rows.head(most).itertuples()))}{more}</div>"
    )


def run_page(result: Result) -> str:
    """A run in a few sentences, the first one bold, with its systems where several were combined."""
    first, *others = run_verdict(result).lines
    more = "".join(f"<br>{_text(line)}" for line in others)
    return f"<div><p><b>{_text(first)}</b>{more}</p>{systems(result)}</div>"


def systems(result: Result) -> str:
    """A table of the systems, the heaviest first."""
    found, unit = by_weight(result.candidates or ()), unit_of(result)
    rows = ((one["name"], error_shown(one, unit, level=False), f"{one['weight']:.2f}") for one in found)
    return _table(["system", "error (90% interval)", "weight"], rows) if found else ""


def _table(header: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{_text(_short(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _short(cell: Any) -> Any:
    return f"{cell:.4g}" if isinstance(cell, float) else cell


def _text(text: Any) -> str:
    return escape(spelled(text))
