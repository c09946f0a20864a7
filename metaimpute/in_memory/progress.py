"""What a program that asked for it sees of a run: phases, a bar on a terminal, warnings; all on the standard error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..batches.outputs import Output
from ..reporting.console import TrainingProgress
from ..showing import standard_error
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


@contextlib.contextmanager
def shown(verbose: int) -> Iterator[TrainingProgress | None]:
    """Shows phases on the standard error while the block lasts; nothing, and None, where ``verbose`` is 0."""
    if not verbose:
        yield None
        return
    with TrainingProgress(standard_error(), "error") as progress:
        yield progress


def telling(progress: TrainingProgress | None, steps: int, output: Output) -> Told:
    """What a run reports to.

    Args:
        steps: of the network's training; 0 where it takes no part.
    """
    if progress is None:
        return Told()
    progress.metric = output.metric
    begun: list[str] = []

    def system(name: str, done: int, of: int) -> None:
        if not begun:
            begun.append(name)
            progress.say("measuring systems on folds of the labels")
        if done == of:
            progress.say(f"measured {name}")

    if steps:
        progress.say(f"training the network, {steps:,} steps")
    return Told(progress.say, progress.report, system)


def conclude(verbose: int, sentence: str) -> None:
    """Says the last line."""
    if verbose:
        standard_error().print(cell(sentence))
