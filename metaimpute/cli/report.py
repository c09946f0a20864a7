"""``metaimpute report`` and ``metaimpute compare``: runs as a page, as figures and as tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..terminal import argument
from .errors import plain_errors
from .options import results
from .output import done, echo, in_json, next_step, note, plain_width, print_json, say_verdict, screen, working

if TYPE_CHECKING:
    from rich.console import Console

    from ..reporting.runs import Run

COLUMNS = 4  # systems that stand side by side


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The page (*.html), or a folder for page and figures. Default: report.html in the run's folder, or here for several.",
)
@click.option("--no-samples", is_flag=True, help="Show no single test rows on the page.")
@results
def report(runs: tuple[Path, ...], out: Path | None, no_samples: bool) -> None:
    """Say what finished RUNS (directories, or folders of them) show: sentences and a table here, and one HTML page that needs no
    network.

    Seeds of one system share a row of the page and a column of the table, as mean ± standard deviation. With a folder as
    --out, figures of the paper as PNG too: Fig. 2 (losses around label updates) for each run with train.watch_test above
    0; Fig. 3 (landmarks drawn on test faces) for the first seed of up to four systems on faces: name the base method's first.
    """
    with plain_errors():
        from ..reporting.comparison import compared, comparison_table, comparisons
        from ..reporting.console import result_tables
        from ..reporting.page import page
        from ..reporting.run_verdict import said_of
        from ..reporting.runs import by_system
        from ..rundir.files import write_text
        from ..rundir.layout import REPORT

        with working():
            found, left_out = _read(runs)
        systems = by_system(found)
        console = _console()
        for one in () if in_json() else compared(found):
            say_verdict(console, said_of(one))
            if len(one.systems) > COLUMNS or one.measure == "validation_last":
                console.print(comparison_table(one, console.width))
                continue
            alone = len(one.systems) == 1 and all(run.study is None for seeds in one.systems.values() for run in seeds)
            results = [[run.result for run in seeds] for seeds in one.systems.values()]
            for table in result_tables(results, console, None if alone else list(one.systems)):
                console.print(table)
        if out is None:
            out = (found[0].folder if len(found) == 1 else Path()) / REPORT
        with working():
            if out.suffix != ".html":
                _figures(out, found, systems, set(runs))
                out = out / REPORT
            write_text(out, page(found, left_out, not no_samples))
        if in_json():
            print_json(
                {
                    "page": out,
                    "comparisons": comparisons(found),
                    "runs": [{"run": run.folder, **run.result} for run in found],
                    "left_out": left_out,
                }
            )
        done(f"wrote {out}")
        if len(found) > 1:
            next_step(f"metaimpute compare {' '.join(map(argument, runs))}")
        else:
            next_step(f"metaimpute report {argument(found[0].folder.parent)}")


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--against", metavar="NAME", help="The system others are compared with; default the first run's.")
@results
def compare(runs: tuple[Path, ...], against: str | None) -> None:
    """Compare systems of finished RUNS (directories, or folders of them) in the terminal.

    Seeds of one system share a row, as mean ± standard deviation. Differences are paired: on each seed that two systems
    share, the test metric of one minus the other's; their mean and, from five seeds on, a 95% bootstrap interval and the
    p value of Wilcoxon's signed-rank test. Runs of different data have a table each.
    """
    with plain_errors():
        from ..reporting.comparison import compared, comparison_table, comparisons

        with working():
            found, _ = _read(runs, metrics=False)
        if in_json():
            print_json({"comparisons": comparisons(found, against)})
        else:
            console = _console()
            for one in compared(found, against):
                say_verdict(console, one.verdict)
                console.print(comparison_table(one, console.width))
        next_step(f"metaimpute report {' '.join(map(argument, runs))}")


def _read(folders: Sequence[Path], metrics: bool = True) -> tuple[list[Run], list[str]]:
    """Finished runs in their order, and why others are left out, which is also said."""
    from ..reporting.runs import read_runs, unrecorded

    found, left_out = [], []
    for folder in folders:
        inside, reasons = read_runs(folder, metrics)
        found += inside
        left_out += reasons
    for reason in left_out:
        echo(f"skipped: {reason}", err=True)
    for line in unrecorded(found):
        note(line)
    return found, left_out


def _console() -> Console:
    return screen(width=plain_width() and 200)


def _figures(folder: Path, runs: Sequence[Run], systems: Sequence[Sequence[Run]], named: set[Path]) -> None:
    """Writes what figures there are; of runs that were named one by one it also says what there is not."""
    from ..reporting.figures import NoFigure, faces, label_updates

    folder.mkdir(parents=True, exist_ok=True)
    for run in runs:
        if run.learns_labels:
            path = folder / f"label_updates_{run.folder.resolve().name}.png"
            try:
                label_updates(run, path)
                done(f"wrote {path}")
            except NoFigure as reason:
                if run.folder in named:
                    note(f"no Fig. 2: {reason}")
    on_faces = [seeds[0] for seeds in systems if "landmark" in seeds[0].result.metric][:4]
    if on_faces:
        try:
            faces(on_faces, folder / "faces.png")
            done(f"wrote {folder / 'faces.png'}")
        except NoFigure as reason:
            note(f"no Fig. 3: {reason}")
