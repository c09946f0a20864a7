"""From a study to its outcomes: finished runs are kept, those begun go on, the others are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from .plan import Study
from .runs import Job, Outcome, check_folder, jobs_of, outcome_of
from .workers import run_all

Report = Callable[[Job, Outcome], None]


@dataclass
class Progress:
    """The runs of a study and what has become of them so far.

    Attributes:
        outcomes: by row and seed. waiting: runs still to be made, in their order; a run that diverged would do so again.
    """

    jobs: list[Job]
    outcomes: dict[tuple[str, int], Outcome]

    @property
    def waiting(self) -> list[Job]:
        return [job for job in self.jobs if self.outcomes[job.row, job.seed].status in ("unfinished", "failed")]

    def count(self, *statuses: str) -> int:
        return sum(outcome.status in statuses for outcome in self.outcomes.values())


def prepare(study: Study, out: Path, jobs: int = 1, threads: int | None = None) -> Progress:
    """What there is of a study in its folder.

    Args:
        jobs: how many runs share the machine. threads: of each, in the place of the recipe's own; by default the recipe's,
            or else a share of those torch would use.

    Raises:
        RecipeError: when the folder holds runs of other settings, naming them.
    """
    share = max(1, torch.get_num_threads() // max(jobs, 1))
    planned = list(jobs_of(study, out, threads or share, always=threads is not None))
    for job in planned:
        check_folder(job)
    return Progress(planned, {(job.row, job.seed): outcome_of(job) for job in planned})


def carry_out(progress: Progress, workers: int, report: Report) -> None:
    """Makes the runs that are waiting.

    Args:
        workers: processes; 0 makes the runs in this one. report: called when a run is over.

    Raises:
        KeyboardInterrupt: once every run under way has written a checkpoint.
    """

    def done(job: Job, outcome: Outcome) -> None:
        progress.outcomes[job.row, job.seed] = outcome
        report(job, outcome)

    run_all(progress.waiting, workers, done)
