"""What there is of the package's own, read from its source: names without the seconds that importing torch takes.

Held equal to the registries themselves by a test. Code of one's own and plugins are not in it; they have to be imported.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parent
INSTALLED = PACKAGE / "recipe_files"
CHECKOUT = PACKAGE.parent / "recipes"
HOMES = {  # kind: where its entries are, and the decorator that registers one
    "tasks": ("tasks", "register_task"),
    "models": ("models", "register_model"),
    "methods": ("methods", "register_method"),
    "problems": ("problems", "register_problem"),
    "estimators": ("engine/estimators", "register_estimator"),
    "optimizers": ("engine/optimizers", "register_optimizer"),
    "systems": ("ensemble/members.py", "register_member"),
}
KINDS = (*HOMES, "recipes")
SCHEMAS = {  # section of a recipe: the class of its keys
    "problem": "ProblemSpec",
    "problem.inner": "InnerSpec",
    "choose": "ChooseSpec",
    "train": "TrainSpec",
    "train.optimizer": "OptimizerSpec",
    "train.schedule": "ScheduleSpec",
}


def shipped_recipes() -> dict[str, Path]:
    """Every recipe that comes with the package, by its name without ``.yaml``: inside it, or beside it in a checkout."""
    folder = next((place for place in (INSTALLED, CHECKOUT) if place.is_dir()), CHECKOUT)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def titles() -> dict[str, str]:
    """Title of every recipe that comes with the package, by name."""
    return {path.stem: said.title for path, said in about() or ()}


class Row(NamedTuple):
    """A row of a table of the paper that a recipe stands for; as of ``recipes.schema.PaperRow``."""

    table: int
    row: str
    data: str
    labels: Sequence[float] = ()
    set: Sequence[str] = ()


class About(NamedTuple):
    """What a recipe says about itself; as of ``recipes.schema.About``."""

    title: str = ""
    paper: Sequence[Row] = ()


def about(folder: Path | None = None) -> list[tuple[Path, About]] | None:
    """Every recipe in a folder, or where it holds none those of the package by name, with what it says about itself.

    None where one is not as it should be: the whole reading of recipes then says what is wrong, with its line.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    here = {path: path for path in sorted(folder.glob("*.yaml"))} if folder else {}
    found = []
    try:
        for name, path in (here or {Path(stem): path for stem, path in shipped_recipes().items()}).items():
            said = yaml.load(path.read_text(encoding="utf-8"), loader).get("about") or {}
            given = About(str(said.get("title", "")), [Row(**row) for row in said.get("paper", ())])
            if not set(said) <= {"title", "paper", "overrides"}:
                return None
            if any(not isinstance(row.table, int) or isinstance(row.labels, str | int | float) for row in given.paper):
                return None
            found.append((name, given))
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):
        return None
    return found


def registered(kind: str) -> dict[str, str]:
    """Names of a kind, in order, with the first line of each one's docstring."""
    where, decorator = HOMES[kind]
    place, found = PACKAGE / where, dict[str, str]()
    for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
        text = path.read_text(encoding="utf-8")
        if f"@{decorator}(" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                summary = ((ast.get_docstring(node) or "").splitlines() or [""])[0]
                found |= dict.fromkeys(_names(node, decorator), summary)
    return dict(sorted(found.items()))


def _names(node: ast.ClassDef | ast.FunctionDef, decorator: str) -> list[str]:
    return [
        str(call.args[0].value)
        for call in node.decorator_list
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == decorator
        and call.args
        and isinstance(call.args[0], ast.Constant)
    ]


def entries(kind: str) -> dict[str, str]:
    """The same for any of :data:`KINDS`."""
    return titles() if kind == "recipes" else registered(kind)


def keys() -> dict[str, list[str]]:
    """Keys of a recipe's sections, and of each the words that it can be, where it is one of a few."""
    classes = {
        node.name: node
        for name in ("schema", "optim")
        for node in ast.parse((PACKAGE / "recipes" / f"{name}.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    return {
        f"{section}.{line.target.id}": _words(line.annotation)
        for section, name in SCHEMAS.items()
        for line in classes[name].body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and not line.target.id.startswith("_")
    }


def _words(annotation: ast.expr) -> list[str]:
    """Words of every ``Literal`` in an annotation; those of ``bool``."""
    found = []
    for node in ast.walk(annotation):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal":
            found += [str(one.value) for one in ast.walk(node.slice) if isinstance(one, ast.Constant)]
        elif isinstance(node, ast.Name) and node.id == "bool":
            found += ["true", "false"]
    return found
