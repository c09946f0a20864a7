"""What a program that asked for it sees of a run: phases, a bar on a terminal, warnings; all on the standard error."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console

from ..batches.outputs import Output
from ..reporting.console import TrainingProgress
from ..terminal import cell

Report = Callable[[int, dict[str, float]], None]


def silent(step: int, values: dict[str, float]) -> None:
    """Reports nothing."""


def unheard(name: str, done: int, of: int) -> None:
    """Reports nothing of a system."""


@dataclass
class Told:
    """Where a run reports to: messages, steps, and fits of a system."""

    say: Callable[[str], None] = lambda line: None
    report: Report = silent
    report_system: Callable[[str, int, int], None] = unheard


def console() -> Console:
    """The standard error as rich writes to it, long lines whole where no terminal is."""
    return Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=not sys.stderr.isatty())


@contextlib.contextmanager
def telling(verbose: int, steps: int, output: Output) -> Iterator[Told]:
    """Reports on the standard error while the block lasts; nothing where ``verbose`` is 0.

    Args:
        steps: of the network's training; 0 where it takes no part.
    """
    if not verbose:
        yield Told()
        return
    with TrainingProgress(console(), output.metric) as progress:
        begun: list[str] = []

        def system(name: str, done: int, of: int) -> None:
            if not begun:
                begun.append(name)
                progress.say("measuring systems on folds of the labels")
            if done == of:
                progress.say(f"measured {name}")

        if steps:
            progress.say(f"training the network, {steps:,} steps")
        yield Told(progress.say, progress.report, system)


def conclude(verbose: int, sentence: str) -> None:
    """Says the last line."""
    if verbose:
        console().print(cell(sentence))
