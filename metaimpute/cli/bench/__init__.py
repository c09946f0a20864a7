"""``metaimpute bench``: what hypergradients and bilevel training steps cost."""

from __future__ import annotations

import click

from .hypergradient import hypergradient
from .operators import operators
from .plan import plan
from .precision import precision
from .step import step


@click.group()
def bench() -> None:
    """Measure what hypergradients and bilevel training steps cost."""


for command in (hypergradient, plan, precision, step, operators):
    bench.add_command(command)
