"""The ``metaimpute`` command. Thin: each command imports what it needs when it runs, so help is immediate."""

from __future__ import annotations

import click

from .. import __version__
from .bench import bench
from .check import check
from .copy import copy
from .errors import Plain
from .init import init
from .lists import data, list_
from .options import imports
from .predict import impute, predict
from .report import compare, report
from .review import review, suggest
from .run import run
from .study import study


@click.group(cls=Plain, context_settings={"help_option_names": ["-h", "--help"]})
@imports
@click.version_option(__version__, prog_name="metaimpute")
def main() -> None:
    """Learn with few labels by differentiating through training.

    \b
    metaimpute run imdb_uda                     train and evaluate a recipe, a file or one that comes along
    metaimpute init images my_images/           write a recipe for your own data
    metaimpute impute runs/my_images-seed0      labels for what had none
    metaimpute review runs/my_images-seed0      the least sure labels on a page, to correct
    metaimpute report runs/                     every run in a folder on one page
    metaimpute study STUDY.yaml                 systems x seeds, compared
    metaimpute list                             what there is
    metaimpute copy imdb_uda                    a recipe of those, to edit
    """


for command in (init, copy, run, check, impute, predict, review, suggest, list_, data, report, compare, study, bench):
    main.add_command(command)
