"""A report as one HTML page: nothing to fetch, no script, readable on a phone, in the dark and on paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ...progress import phase
from ..comparison import Compared, compared
from ..runs import Run, titles_of
from . import curves, predictions, repeat, samples, verdicts
from .blocks import Group, Section, System

HERE = Path(__file__).parent
PARTS: tuple[Callable[[Group], Section | None], ...] = (
    verdicts.verdict,
    verdicts.results,
    verdicts.warnings,
    samples.values,
    curves.learning,
    samples.samples,
    predictions.predictions,
    predictions.overlays,
    curves.imputed,
    curves.losses,
    curves.trajectories,
    curves.hypergradients,
    curves.label_updates,
    repeat.cost,
    repeat.repeat,
)
FEATURED = 4  # systems in one chart


def page(runs: Sequence[Run], left_out: Sequence[str] = (), with_samples: bool = True) -> str:
    """The page's HTML. Everything from a run is text in it: names, paths and classes are escaped.

    Args:
        runs: finished runs; those that differ in their seed alone are one system. left_out: why other runs are not here.
        with_samples: whether single test rows are shown.
    """
    groups = [_group(one) for one in compared(runs)]
    parts = [part for part in PARTS if with_samples or part is not samples.samples]
    with phase("drawing", len(parts) * len(groups)) as reached:

        def drawn(group: Group) -> Iterator[Section]:
            for make in parts:
                if section := make(group):
                    yield section
                reached.advance()

        titles = titles_of([group.systems[0].runs[0].kind for group in groups], ", ")
        shown = [(title, list(drawn(group))) for title, group in zip(titles, groups, strict=True)]
    jinja = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = Markup((HERE / "page.css").read_text())
    return jinja.get_template("page.html").render(
        title=_title(groups), lead=_lead(runs), style=style, groups=shown, left_out=left_out
    )


def letter(number: int) -> str:
    """A, B, ... Z, then 27, 28, ..."""
    return chr(ord("A") + number) if number < 26 else str(number + 1)


def _group(found: Compared) -> Group:
    names = list(dict.fromkeys([*found.verdict.named, found.base, *found.systems]))
    many = len(names) > 1
    systems = [
        System(letter(place) if many else "", name, names.index(name), seeds)
        for place, (name, seeds) in enumerate(found.systems.items())
    ]
    return Group(systems, [one for one in systems if one.number < FEATURED], found)


def _title(groups: Sequence[Group]) -> str:
    systems = [system for group in groups for system in group.systems]
    tasks = ", ".join(dict.fromkeys(system.result.task for system in systems))
    return f"{systems[0].name if len(systems) == 1 else f'{len(systems)} systems'} on {tasks}"


def _lead(runs: Sequence[Run]) -> str:
    counted = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    seeds = sorted({run.result.seed for run in runs})
    told = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
    profiles = sorted({run.result.profile for run in runs})
    plural = "s" if len(profiles) > 1 else ""
    return f"{counted}, {told if len(seeds) <= 8 else f'{len(seeds)} seeds'}; {' and '.join(profiles)} profile{plural}."
