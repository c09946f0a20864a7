"""A report as one HTML page: nothing to fetch, no script, readable on a phone, in the dark and on paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ...progress import phase
from ..runs import Kind, Run, by_kind, names_of, titles_of
from . import curves, numbers, predictions, repeat
from .blocks import Section, System

HERE = Path(__file__).parent
PARTS: tuple[Callable[[Sequence[System]], Section | None], ...] = (
    numbers.results,
    numbers.warnings,
    curves.learning,
    curves.imputed,
    curves.trajectories,
    curves.hypergradients,
    curves.label_updates,
    predictions.predictions,
    predictions.overlays,
    repeat.cost,
    repeat.repeat,
)


def page(runs: Sequence[Run], left_out: Sequence[str] = ()) -> str:
    """The page's HTML. Everything from a run is text in it: names, paths and classes are escaped.

    Args:
        runs: finished runs; those that differ in their seed alone are one system. left_out: why other runs are not here.
    """
    kinds = {kind: _systems(found) for kind, found in by_kind(runs).items()}
    with phase("drawing", len(PARTS) * len(kinds)) as reached:

        def drawn(systems: Sequence[System]) -> Iterator[Section]:
            for make in PARTS:
                if section := make(systems):
                    yield section
                reached.advance()

        groups = [
            (title, list(drawn(systems))) for title, systems in zip(titles_of(kinds, ", "), kinds.values(), strict=True)
        ]
    jinja = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = Markup((HERE / "page.css").read_text())
    return jinja.get_template("page.html").render(
        title=_title(kinds), lead=_lead(runs), style=style, groups=groups, left_out=left_out
    )


def letter(number: int) -> str:
    """A, B, ... Z, then 27, 28, ..."""
    return chr(ord("A") + number) if number < 26 else str(number + 1)


def _systems(found: Sequence[list[Run]]) -> list[System]:
    return [
        System(letter(number) if len(found) > 1 else "", name, number, seeds)
        for number, (name, seeds) in enumerate(zip(names_of(found), found, strict=True))
    ]


def _title(kinds: dict[Kind, list[System]]) -> str:
    systems = [system for group in kinds.values() for system in group]
    tasks = ", ".join(dict.fromkeys(kind.task for kind in kinds))
    return f"{systems[0].name if len(systems) == 1 else f'{len(systems)} systems'} on {tasks}"


def _lead(runs: Sequence[Run]) -> str:
    counted = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    seeds = sorted({run.result.seed for run in runs})
    told = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
    profiles = sorted({run.result.profile for run in runs})
    plural = "s" if len(profiles) > 1 else ""
    return f"{counted}, {told if len(seeds) <= 8 else f'{len(seeds)} seeds'}; {' and '.join(profiles)} profile{plural}."
