"""What is public is written down, name by name, where people and type checkers read it."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import metaimpute

ROOT = Path(metaimpute.__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "api" / "index.md"


def exported(path: Path) -> list[str] | None:
    """The ``__all__`` of a module as it is written, None where it has none; ValueError where it is computed."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return None


def imported(path: Path) -> set[str]:
    """Names that a package's first file takes from its other files, those for type checkers alone included."""
    nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) and n.level]
    return {alias.asname or alias.name for node in nodes for alias in node.names}


PUBLIC = sorted(path for path in (ROOT / "metaimpute").rglob("__init__.py") if exported(path) is not None)


def test_the_public_packages_are_these() -> None:
    names = [".".join(path.parent.relative_to(ROOT).parts[1:]) for path in PUBLIC]
    assert names == [
        "", "batches", "engine", "engine.estimators", "engine.linear_solvers", "engine.optimizers", "imputer", "inference", "methods", "models", "problems",
        "recipes", "review", "tasks", "testing",
    ]  # fmt: skip


@pytest.mark.parametrize("path", PUBLIC, ids=lambda p: p.parent.name)
def test_a_public_package_exports_what_it_imports(path: Path) -> None:
    names = exported(path)
    assert names is not None and len(names) == len(set(names))
    assert set(names) - {"__version__"} == imported(path)
    module = importlib.import_module(".".join(path.parent.relative_to(ROOT).parts))
    assert all(getattr(module, name) is not None for name in names)


def test_the_page_of_public_names_has_them_all_and_no_other() -> None:
    rows = [line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("| ")][1:]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == set(metaimpute.__all__) - {"__version__"}


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = metaimpute.nothing
    assert set(dir(metaimpute)) == set(metaimpute.__all__)
