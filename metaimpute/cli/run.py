"""``metaimpute run``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

import click

from ..errors import UNREAD, USAGE
from .complete import complete_recipes, complete_sets
from .errors import fail, plain_errors
from .options import as_set, imports, labels_file, naming_labels, on_ray, results
from .output import done, echo, in_json, next_step, notes, print_json, quiet, results_unread, screen

if TYPE_CHECKING:
    from ..ensemble.measuring import Measure
    from ..recipes.recipe import Profile, Recipe
    from ..rundir.begin import Beginning
    from ..training.processes import Processes
    from ..training.session import Interrupted, Session


def _time(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[str, float] | None:
    """What the user wrote, and seconds."""
    if text is None:
        return None
    with plain_errors():
        from ..recipes.schema import seconds_of

        seconds = seconds_of(text)
    if not seconds:
        raise click.BadParameter(f"a time such as '90s', '10min' or '2h', not '{text}'")
    return text, seconds


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path), shell_complete=complete_recipes)
@click.option(
    "--profile",
    type=click.Choice(["auto", "paper", "sample"]),
    default="auto",
    show_default=True,
    help="paper: the paper's model and schedule. sample: small real data, minutes on a CPU.",
)
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=complete_sets,
    help="Override a value, e.g. train.steps=200. Repeatable.",
)
@labels_file
@click.option("--seed", type=click.IntRange(min=0), help="Seed of everything: label draw, weights, batches, noise.")
@click.option("--out", type=click.Path(path_type=Path), help="Run directory; default runs/RECIPE-PROBLEM-seedN.")
@click.option(
    "--resume", type=click.Path(path_type=Path), help="Continue the run in this directory from its last checkpoint."
)
@click.option(
    "--time-limit",
    "limit",
    metavar="TIME",
    callback=_time,
    help="Stop with a checkpoint after this time, e.g. 90s, 10min or 2h; exit code 130, as for Ctrl-C.",
)
@on_ray("Measure the systems of choose")
@results
@imports
def run(
    recipe: Path | None, profile: str, sets: tuple[str, ...], labels: Path | None, seed: int | None, out: Path | None,
    resume: Path | None, limit: tuple[str, float] | None, ray: str | None,
) -> None:  # fmt: skip
    """Train a RECIPE, a file or the name of one that comes with metaimpute; with --resume, continue a run."""
    with plain_errors(), naming_labels(labels):
        from ..reporting.console import TrainingProgress, candidates_table, expectation, result_table
        from ..rundir.begin import beginning, given_back
        from ..rundir.layout import RESULT
        from ..tasks.own_data import OwnData
        from ..terminal import argument, cell
        from ..training.processes import processes_of_torchrun, started_apart
        from ..training.session import Interrupted, Session

        processes = click.get_current_context().with_resource(processes_of_torchrun())
        sets = (*sets, *as_set(labels))
        with processes.hushed():
            began = processes.led(
                lambda made: beginning(recipe, cast("Profile", profile), sets, seed, out, resume, made=made)
            )
            if not processes.leads:
                _follow(began, processes, resume is not None, limit)
        chosen, folder = began.recipe, began.folder
        with (
            given_back(folder, out is not None or resume is not None),
            TrainingProgress(notes(), chosen.task.output.metric, hidden=quiet()) as progress,
            _measuring(ray, chosen, progress.say) as measure,
        ):
            progress.say(f"profile {chosen.profile}: {began.why}")
            if apart := started_apart():
                progress.say(f"note: {apart}, and each makes a run of its own; torchrun makes them train one together")
            session = processes.together(lambda: Session(
                chosen, folder, why=began.why, begun=began.begun, say=progress.say, report=progress.report,
                limit=limit[0] if limit else "", seconds=limit[1] if limit else float("inf"), processes=processes,
                measure=measure,
            ))  # fmt: skip
            progress.when_unread(session.stop, results_unread)
            several = f"; {processes.size} processes" if processes.size > 1 else ""
            progress.say(f"data: {session.data.source}; run directory: {folder}{several}")
            if resume is not None:
                processes.together(session.resume)
            try:
                result = session.run()
            except Interrupted as stopped:
                if progress.unread:
                    fail(UNREAD, stopped)
                _stopped(session, stopped)
        if in_json():
            print_json({"run": folder, **result})
        else:
            console = screen(soft_wrap=not sys.stdout.isatty())
            if result.candidates is not None:
                console.print(candidates_table(result))
            console.print(result_table([[result]]))
            for line in expectation(result):
                console.print(cell(line))
        done(f"wrote {folder / RESULT}")
        own = isinstance(chosen.task, OwnData) and result.unlabelled
        next_step(f"metaimpute {'impute' if own else 'report'} {argument(folder)}")


@contextlib.contextmanager
def _measuring(address: str | None, recipe: Recipe, told: Callable[[str], None]) -> Iterator[Measure]:
    """Where the systems of ``choose`` are measured: here, or on a cluster that is asked for."""
    from ..ensemble.measuring import here

    if address is None:
        yield here
        return
    if recipe.choose is None:
        fail(
            USAGE,
            "--ray measures the systems of choose, and this recipe has none; for whole runs there is metaimpute study --ray",
        )
    from ..cluster.over_ray import ray_cluster
    from ..training.choosing_away import on_cluster

    with ray_cluster(address) as cluster:
        yield on_cluster(cluster, told)


def _follow(began: Beginning, processes: Processes, resumes: bool, limit: tuple[str, float] | None) -> NoReturn:
    """Trains along in silence, in a process that torchrun started beside the first one.

    It ends with 0 where the first one says why the run ends: at any other torchrun would end that one before it has spoken.
    """
    from ..training.finite import Diverged
    from ..training.processes import Unequal
    from ..training.session import Interrupted, Session

    seconds = limit[1] if limit else float("inf")
    session = processes.together(
        lambda: Session(began.recipe, began.folder, say=lambda line: None, seconds=seconds, processes=processes)
    )
    if resumes:
        processes.together(session.resume)
    with contextlib.suppress(Interrupted, Diverged, Unequal):  # which all raise
        session.follow()
    sys.exit(0)


def _stopped(session: Session, why: Interrupted) -> NoReturn:
    """Ends a run that was asked to stop: with a document where results are wanted as one, and as no error where a limit asked."""
    from ..terminal import argument

    if in_json():
        again = f"metaimpute run --resume {argument(session.folder)}"
        print_json(
            {
                "run": session.folder,
                "stopped": str(why),
                "step": session.step,
                "steps": session.recipe.train.steps,
                "next": again,
            }
        )
    if not why.timed:
        raise why
    echo(f"stopped: {why}", err=True)
    sys.stdout.flush()
    sys.exit(why.exit_code)
