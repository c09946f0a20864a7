"""``metaimpute study``: systems x seeds from one file, as a table with paired differences."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import DIVERGED, INTERNAL, INTERRUPTED, USAGE
from ..terminal import argument
from .errors import fail, plain_errors
from .options import imports, on_ray, results
from .output import done, echo, in_json, next_step, note, plain_width, print_json, result, say_verdict, screen, working

if TYPE_CHECKING:
    from rich.console import Console

    from ..study.places import Wanted
    from ..study.plan import Study
    from ..study.progress import Progress

WARNINGS = 8  # of the runs that are said


@click.command()
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The study's folder; default runs/STUDY.")
@click.option(
    "--jobs",
    type=click.IntRange(0, 256),
    help="Worker processes, default 1; 0 runs everything in this one.",
)
@click.option(
    "--threads", type=click.IntRange(1, 1024), help="Threads of each run; default the recipe's, else cores / jobs."
)
@on_ray("Work")
@click.option("--cpus-per-run", type=click.IntRange(1, 1024), help="With --ray: CPUs of each run; default its threads.")
@click.option("--gpus-per-run", type=click.FloatRange(0, 64), help="With --ray: GPUs of each run; default 0.")
@click.option(
    "--retries",
    type=click.IntRange(0, 100),
    help="With --ray: tries of a run whose worker dies, after the first; default 2.",
)
@results
@click.option("--check", "check_only", is_flag=True, help="Validate, say what there is to run, and run nothing.")
@imports
def study(
    study: Path, out: Path | None, jobs: int | None, threads: int | None, check_only: bool, ray: str | None,
    cpus_per_run: int | None, gpus_per_run: float | None, retries: int | None,
) -> None:  # fmt: skip
    """Run every system of a STUDY file on every seed, and compare them.

    Runs are ordinary run directories, OUT/SYSTEM/seedN. The same command goes on after Ctrl-C or a kill: finished runs are
    kept, begun ones continue from their checkpoint. A run that fails is noted in the table while the others go on; the
    exit code is then 4 if one diverged, else 1. A run that diverged is not tried again.

    \b
    recipe: digits_mean_teacher                    a path beside the file, or a shipped recipe's name
    systems: {none: {problem.name: none}, l2i: []} what each sets, as --set would
    grid: {problem.weight: [0.1, 1]}               optional: every combination, in every system
    set: {train.steps: 200}                        in every system
    seeds: 5                                       0 to 4, or a list
    against: none                                  the system others are compared with
    metric: test_last                              or test_median, validation_last
    """
    with plain_errors():
        from ..rundir.files import locked
        from ..study.places import Wanted
        from ..study.plan import read_study
        from ..study.progress import prepare
        from ..training.processes import first_launched, launched

        if launched() > 1:
            if not first_launched():
                sys.exit(USAGE)  # the first process says why
            fail(
                USAGE, "torchrun starts the processes of one run; a study has its own: metaimpute study STUDY --jobs N"
            )
        from ..tasks import MissingData

        wanted_place = Wanted(jobs, threads, ray, cpus_per_run, gpus_per_run, retries)
        found = read_study(study)
        folder = out or Path("runs") / study.stem
        console = screen(width=plain_width() and 200)
        note(f"profile {found.profile}: {found.why}")
        for warning in found.warnings:
            echo(f"warning: {warning}", err=True)
        if (missing := found.missing()) and ray is None:
            raise MissingData(missing)
        if wanted_place.processes > 1 and any(recipe.train.workers for recipe in found.recipes.values()):
            note(
                f"train.workers is left out, as {wanted_place.processes} runs share the cores; --jobs 1 and --ray keep it"
            )
        for one in missing:
            note(f"not on this machine: {one.what}; each node looks for it in its own METAIMPUTE_DATA and cache")
        progress = prepare(found, folder, wanted_place.processes, threads, wanted_place.cores)
        count = f"{len(found.rows)} systems x {len(found.seeds)} seeds = {len(progress.jobs)} runs in {folder}"
        (result if check_only else note)(
            f"{count}; {progress.count('finished')} finished, {len(progress.waiting)} to run"
        )
        if check_only:
            if in_json():
                print_json({"folder": folder, "runs": len(progress.jobs), "to_run": len(progress.waiting)})
            next_step(f"metaimpute study {argument(study)}")
            return
        with locked(folder, "runs a study"):
            progress = prepare(found, folder, wanted_place.processes, threads, wanted_place.cores)  # left by another
            stopped = _carry_out(found, progress, wanted_place, folder, console)
            wanted = _write(found, progress, folder, console)
    if stopped:
        ended = progress.count("finished", "diverged", "failed")
        fail(INTERRUPTED, f"stopped with {ended} of {len(progress.jobs)} runs over; the same command goes on")
    failed, diverged = progress.count("failed", "diverged"), progress.count("diverged")
    if failed:
        how = f", {diverged} of them by divergence" if diverged else ""
        fail(DIVERGED if diverged else INTERNAL, f"{failed} of {len(progress.jobs)} runs failed{how}; see the table")
    if wanted is not None:
        note(f"for more seeds write seeds: {wanted} in {study}; the same command goes on")
    next_step(f"metaimpute report {argument(folder)}")


def _carry_out(found: Study, progress: Progress, wanted: Wanted, folder: Path, console: Console) -> bool:
    """Makes the runs, a line for each; whether it was stopped."""
    from ..study.progress import carry_out
    from ..study.runs import Job, Outcome
    from ..terminal import cell

    def report(job: Job, outcome: Outcome) -> None:
        said = outcome.reason or "stopped"
        if outcome.result is not None:
            value = outcome.result.get(found.metric)
            shown = "-" if value is None else f"{value:.2f}"
            said = f"{outcome.result.metric} {shown} ({outcome.result.training_seconds:.0f} s)"
        try:
            if not in_json():
                live.aside(lambda: console.print(cell(f"seed {job.seed}, {job.row}: {said}"), soft_wrap=True))
        except OSError:  # nobody reads any more: the runs under way stop with a checkpoint
            raise KeyboardInterrupt from None

    def told(line: str) -> None:
        live.aside(lambda: echo(f"note: {line}", err=True))

    try:
        with working() as live, wanted.place(folder, told) as place:
            carry_out(progress, place, report)
    except KeyboardInterrupt:
        return True
    return False


def _write(found: Study, progress: Progress, folder: Path, console: Console) -> int | None:
    """Writes and says what the runs say together; how many seeds it would take to settle it."""
    from ..study.record import record, write_study
    from ..study.tables import console_table, summarize, title, verdict_of, warnings_in

    lines = summarize(found, progress.outcomes)
    said = verdict_of(found, lines, progress.outcomes)
    written = write_study(found, progress.outcomes, lines, folder)
    if in_json():
        print_json(record(found, progress.outcomes, lines))
    else:
        say_verdict(console, said)
        console.print(console_table(found, lines, title(found, progress.outcomes), said.best, console.width))
    warned = warnings_in(found, progress.outcomes)
    for line in warned[:WARNINGS]:
        echo(f"warning: {line}", err=True)
    if len(warned) > WARNINGS:
        note(f"and {len(warned) - WARNINGS} more warnings, in {folder / 'study.json'} under run_warnings")
    done(f"wrote {', '.join(map(str, written))}")
    return said.seeds
