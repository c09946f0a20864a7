"""Imports run one way: cli -> recipes, training, reporting -> problems, methods, tasks, models -> engine."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import metaimpute

ROOT = Path(metaimpute.__file__).parent
LEVEL = {
    "engine": 0, "ranges": 0, "terminal": 0, "batches": 0,
    "tasks": 1, "methods": 1, "models": 1, "problems": 1,
    "environment": 1, "recipes": 2, "rundir": 2, "study": 2, "plugins": 2, "imputer": 3, "training": 2, "inference": 2, "reporting": 2, "fetch": 2, "bench": 2, "testing": 2,
    "cli": 3, "__main__": 4, "__init__": 9,
}  # fmt: skip
FORBIDDEN = {
    "methods": {"problems", "models"},
    "tasks": {"problems", "methods", "models"},
    "models": {"problems", "methods"},
    "problems": {"models"},
}


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms of this package that a module imports, at any depth of its code."""
    here = ("metaimpute", *path.relative_to(ROOT).with_suffix("").parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            base = list(here[: len(here) - node.level]) if node.level else []
            stem = [*base, *(node.module.split(".") if node.module else [])]
            names = [".".join([*stem, alias.name]) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("metaimpute.")}
    return {room for room in found if room in LEVEL}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    room = room_of(path)
    assert room in LEVEL, f"{path} is in no room of the house"
    for other in imported_rooms(path) - {room}:
        assert LEVEL[other] <= LEVEL[room], f"{room} must not import {other}"
        assert other not in FORBIDDEN.get(room, set()), f"{room} must not import {other}"


def test_the_engine_imports_nothing_else_of_the_package() -> None:
    for path in (ROOT / "engine").rglob("*.py"):
        assert imported_rooms(path) <= {"engine"}, path


def test_help_does_not_import_torch() -> None:
    code = "import sys; from metaimpute.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert time.perf_counter() - started < 10  # far from the goal of 1 s, but never the seconds that torch takes


def test_public_names_resolve() -> None:
    for name in metaimpute.__all__:
        assert getattr(metaimpute, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = metaimpute.nothing
