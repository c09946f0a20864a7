"""``metaimpute copy``: a recipe that comes with the package, to edit."""

from __future__ import annotations

from pathlib import Path

import click

from ..catalog import shipped_recipes
from .complete import complete_shipped
from .errors import plain_errors
from .output import done, next_step


@click.command()
@click.argument("recipe", shell_complete=complete_shipped)
@click.option("--out", type=click.Path(path_type=Path), help="File to write; default: RECIPE.yaml, here.")
@click.option("--force", is_flag=True, help="Write over an existing file.")
def copy(recipe: str, out: Path | None, force: bool) -> None:
    """Copy a RECIPE that comes with metaimpute into the current folder, to edit it."""
    with plain_errors():
        from ..engine.registry import describe_choices
        from ..recipes.source import RecipeError
        from ..rundir.files import refuse_irregular, write_text
        from ..terminal import argument

        known, name = shipped_recipes(), recipe.removesuffix(".yaml")
        if name not in known:
            raise RecipeError(f"no recipe '{recipe}' comes with metaimpute; {describe_choices(name, list(known))}")
        target = out or Path(f"{name}.yaml")
        refuse_irregular(target)
        if target.exists() and not force:
            raise RecipeError(f"{target} exists already; write over it with --force, or choose another --out")
        write_text(target, known[name].read_text(encoding="utf-8"))
        done(f"wrote {target}")
        next_step(f"metaimpute run {argument(target)}")
