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
    """Compare finished RUNS (directories): a table, and the figures they hold data for.

    Fig. 2 (losses around label updates) for each run with train.watch_test above 0; Fig. 3 (landmarks drawn on test faces)
    for runs on faces: name the base method's first.
    """
    with plain_errors():
        from rich.console import Console

        from ..reporting.console import by_metric, result_table
        from ..reporting.figures import NoFigure, faces, label_updates
        from ..reporting.runs import read_run

        found = [read_run(folder) for folder in runs]
        console = Console(width=None if sys.stdout.isatty() else 200)
        for group in by_metric([run.result for run in found]):
            console.print(result_table(group))
        out.mkdir(parents=True, exist_ok=True)
        for run in found:
            if run.learns_labels:
                path = out / f"label_updates_{run.folder.resolve().name}.png"
                try:
                    label_updates(run, path)
                    click.echo(f"wrote {path}")
                except NoFigure as reason:
                    click.echo(f"no Fig. 2: {reason}")
        on_faces = [run for run in found if "landmark" in run.result["metric"]]
        if on_faces:
            try:
                faces(on_faces, out / "faces.png")
                click.echo(f"wrote {out / 'faces.png'}")
            except NoFigure as reason:
                click.echo(f"no Fig. 3: {reason}")
