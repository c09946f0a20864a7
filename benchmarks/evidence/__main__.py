"""``python -m benchmarks.evidence methods`` and ``families``: see the modules of these names."""

from __future__ import annotations

import click

from .families import families
from .methods import methods


@click.group()
def main() -> None:
    """Measure what the pages on the evidence show; the same command goes on after an interruption."""


main.add_command(methods)
main.add_command(families)
main()
