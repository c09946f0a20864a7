"""``metaimpute report``: a table and the paper's figures from run directories."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .errors import plain_errors


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", default=Path("report"), show_default=True, type=click.Path(path_type=Path), help="Folder for the figures."
)
def report(runs: tuple[Path, ...], out: Path) -> None:
    """Compare finished RUNS (directories, or folders of them): a table, and the figures they hold data for.

    Seeds of one system share a column of the table, as mean ± standard deviation. Fig. 2 (losses around label updates) for
    each run with train.watch_test above 0; Fig. 3 (landmarks drawn on test faces) for the first seed of up to four systems
    on faces: name the base method's first.
    """
    with plain_errors():
        from rich.console import Console

        from ..reporting.console import by_metric, result_table
        from ..reporting.figures import NoFigure, faces, label_updates
        from ..reporting.runs import by_system, read_runs

        found, named = [], set()
        for folder in runs:
            inside, left_out = read_runs(folder)
            found += inside
            named |= {run.folder for run in inside if run.folder == folder}
            for reason in left_out:
                click.echo(f"skipped: {reason}")
        systems = by_system(found)
        console = Console(width=None if sys.stdout.isatty() else 200)
        for group in by_metric([[run.result for run in seeds] for seeds in systems]):
            console.print(result_table(group))
        out.mkdir(parents=True, exist_ok=True)
        for run in found:
            if run.learns_labels:
                path = out / f"label_updates_{run.folder.resolve().name}.png"
                try:
                    label_updates(run, path)
                    click.echo(f"wrote {path}")
                except NoFigure as reason:
                    if run.folder in named:
                        click.echo(f"no Fig. 2: {reason}")
        on_faces = [seeds[0] for seeds in systems if "landmark" in seeds[0].result["metric"]][:4]
        if on_faces:
            try:
                faces(on_faces, out / "faces.png")
                click.echo(f"wrote {out / 'faces.png'}")
            except NoFigure as reason:
                click.echo(f"no Fig. 3: {reason}")
