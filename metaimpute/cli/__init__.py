"""The ``metaimpute`` command. Thin: each command imports what it needs when it runs, so help is immediate."""

from __future__ import annotations

import click

from .. import __version__
from .bench import bench
from .init import init
from .lists import data, list_
from .predict import impute, predict
from .report import compare, report
from .run import check, run
from .study import study


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="metaimpute")
def main() -> None:
    """Learn with few labels by differentiating through training.

    \b
    metaimpute run recipes/imdb_uda.yaml                       train and evaluate
    metaimpute run recipes/imdb_uda.yaml --set problem.name=none   the base method alone
    metaimpute check recipes/                                  validate, say what data is missing
    metaimpute list methods                                    what there is
    metaimpute study benchmarks/studies/digits_controls.yaml   systems x seeds, compared
    """


for command in (init, run, check, impute, predict, list_, data, report, compare, study, bench):
    main.add_command(command)
