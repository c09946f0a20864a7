"""From a study to its outcomes: finished runs are kept, those begun go on, the others are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..cluster.calls import Reached
from ..progress import Phase, begin, phase
from ..training.session import TRAINING
from .plan import Study
from .runs import Job, Outcome, check_folder, jobs_of, outcome_of
from .workers import Place

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


def prepare(study: Study, out: Path, jobs: int = 1, threads: int | None = None, cores: int | None = None) -> Progress:
    """What there is of a study in its folder.

    Args:
        jobs: how many runs share the machine. threads: of each, in the place of the recipe's own; by default the recipe's,
            or else a share of those torch would use. cores: the share that a run has where it is not one of this machine's.

    Raises:
        RecipeError: when the folder holds runs of other settings, naming them.
    """
    share = cores or max(1, torch.get_num_threads() // max(jobs, 1))
    planned = list(jobs_of(study, out, threads or share, always=threads is not None))
    for job in planned:
        check_folder(job)
    return Progress(planned, {(job.row, job.seed): outcome_of(job) for job in planned})


def carry_out(progress: Progress, place: Place, report: Report) -> None:
    """Makes the runs that are waiting; how far they have come is heard as phases, those of each worker's run among them.

    Args:
        place: where runs are carried out. report: called when a run is over.

    Raises:
        KeyboardInterrupt: once every run under way has written a checkpoint.
    """

    under_way = dict[tuple[str, int], Phase]()
    ended = len(progress.jobs) - len(progress.waiting)

    def share() -> float:
        """Runs that are over, with the part of the others' training that is done."""
        of_each = (one.done / one.total for one in under_way.values() if one.total and one.note == TRAINING)
        return ended + sum(0.9 * part for part in of_each)

    def done(job: Job, outcome: Outcome) -> None:
        nonlocal ended
        if (one := under_way.pop((job.row, job.seed), None)) is not None:
            one.end()
        ended += outcome.status != "unfinished"
        reached.to(max(reached.done, share()))
        progress.outcomes[job.row, job.seed] = outcome
        report(job, outcome)

    def heard(job: Job, found: Reached) -> None:
        key = job.row, job.seed
        if key not in under_way:
            under_way[key] = begin(f"{job.row}, seed {job.seed}")
        one = under_way[key]
        if one.note != found.name:
            one.again(found.total)
        one.to(found.done, note=found.name)
        reached.to(max(reached.done, share()))

    with phase("runs", len(progress.jobs), ended) as reached:
        try:
            place(progress.waiting, done, heard)
        finally:
            for one in under_way.values():
                one.end()
