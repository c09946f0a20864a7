"""The runs of a study: what there is of each in its folder, and one run from there to its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..recipes.recipe import Concrete, load
from ..recipes.source import RecipeError, one_line
from ..rundir.files import Busy, write_json
from ..rundir.layout import FAILED, is_run
from ..rundir.origin import Begun, recipe_of, write_begun
from ..rundir.result import Result
from ..rundir.stored import DamagedFile, read_json
from ..training.finite import Diverged
from ..training.session import Interrupted, Session
from .plan import Study, settings_of

TOLD = 3  # settings that differ, named in a message
Status = Literal["finished", "diverged", "failed", "unfinished"]


@dataclass(frozen=True)
class Job:
    """One run to make: everything a process needs to know of it. ``copy``: where a node has the recipe, if not as the driver."""

    row: str
    seed: int
    folder: Path
    recipe: Path
    profile: Concrete
    why: str
    sets: tuple[str, ...]
    copy: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a run. ``reason``: one line, of a run that failed."""

    status: Status
    reason: str = ""
    result: Result | None = None


UNFINISHED = Outcome("unfinished")


def jobs_of(study: Study, out: Path, threads: int, always: bool = False) -> Iterator[Job]:
    """Every run, seed by seed, so that a study that is stopped has pairs to show.

    Args:
        threads: of a run whose recipe does not say; with ``always``, of every run.
    """
    for seed in study.seeds:
        for row in study.rows:
            own = study.recipes[row.name].train.threads
            sets = (*row.sets, f"train.threads={threads}") if always or own is None else row.sets
            folder = out / row.folder / f"seed{seed}"
            yield Job(row.name, seed, folder, study.recipe, study.profile, study.why, sets)


def check_folder(job: Job) -> None:
    """Refuses a folder with another run in it than the study asks for.

    Raises:
        RecipeError: naming the settings that differ.
    """
    if not is_run(job.folder):
        return
    before, now = settings_of(recipe_of(job.folder)), settings_of(load(job.recipe, job.profile, job.sets, job.seed))
    changed = [key for key in dict.fromkeys([*now, *before]) if str(before.get(key)) != str(now.get(key))]
    if changed:
        told = ", ".join(f"{key} was {before.get(key)} and is {now.get(key)}" for key in changed[:TOLD])
        more = f" and {len(changed) - TOLD} more" if len(changed) > TOLD else ""
        raise RecipeError(
            f"{job.folder} holds a run of other settings ({one_line(told)}{more}); choose another --out, or remove it"
        )


def outcome_of(job: Job) -> Outcome:
    """What a run's folder tells of it."""
    with suppress(OSError, DamagedFile):  # one that is damaged is written again, from the last checkpoint
        return Outcome("finished", result=Result.read(job.folder))
    with suppress(OSError, DamagedFile, LookupError, TypeError):
        found = read_json(job.folder / FAILED)
        if found["status"] in ("diverged", "failed"):
            return Outcome(found["status"], str(found["reason"]))
    return UNFINISHED


def perform(job: Job) -> Outcome:
    """Makes a run, or goes on with it from its last checkpoint; a failure is an outcome like others, kept in its folder."""
    try:
        recipe = load(job.copy or job.recipe, job.profile, job.sets, job.seed)
        recipe.path = str(job.recipe)
        session = Session(recipe, job.folder, why=job.why, say=_unsaid)
        if is_run(job.folder):
            session.resume()
        write_begun(job.folder, Begun(str(job.recipe), job.profile, job.why))
        (job.folder / FAILED).unlink(missing_ok=True)
        return Outcome("finished", result=session.run())
    except (Interrupted, KeyboardInterrupt):
        return UNFINISHED
    except Busy as error:  # another process may be about to finish it: nothing is noted in its folder
        return Outcome("failed", one_line(str(error), 200))
    except Diverged as error:
        return note_failure(job, "diverged", str(error).partition("; ")[0])
    except Exception as error:
        return note_failure(job, "failed", f"{type(error).__name__}: {error}")


def note_failure(job: Job, status: Literal["diverged", "failed"], reason: str) -> Outcome:
    """Keeps in a run's folder, where that can be written to, why it failed."""
    outcome = Outcome(status, one_line(reason, 200))
    with suppress(OSError):
        write_json(job.folder / FAILED, {"status": status, "reason": outcome.reason})
    return outcome


def _unsaid(message: str) -> None:
    """A study says one line of a run, when it is over."""
