"""What benchmark commands print, and the JSON that they write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..output import done, in_json, next_step, note, plain_width, print_json, screen

if TYPE_CHECKING:
    from rich.table import Table


def show(table: Callable[[dict[str, Any]], Table], result: dict[str, Any]) -> None:
    if in_json():
        print_json(result)
    else:
        from ...reporting.narrow import in_parts

        console = screen(width=plain_width())
        for part in in_parts(table(result), console):
            console.print(part)


def finish(result: dict[str, Any], out: Path | None) -> None:
    for row in result.get("skipped", []):
        note(f"skipped {row['system']} at k = {row['steps']}: {row['why']}")
    if out is None:
        next_step(f"{click.get_current_context().command_path} ... --out FILE.json")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    done(f"wrote {out}")
