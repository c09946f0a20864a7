"""The package is a house of floors: a room imports rooms of lower floors alone, and none beside it."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import metaimpute

ROOT = Path(metaimpute.__file__).parent
FLOORS: tuple[set[str], ...] = (
    {"catalog", "errors", "progress", "streams"},
    {"engine", "environment", "plugins", "ranges", "terminal"},
    {"batches", "cluster", "ensemble", "showing"},
    {"methods", "tasks"},
    {"models", "problems"},
    {"example_data", "fetch", "recipes"},
    {"rundir"},
    {"training"},
    {"bench", "inference", "reporting", "testing"},
    {"in_memory", "review", "study", "trained"},
    {"cli", "imputed", "imputer"},
    {"__main__", "__init__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
APART = {  # rooms that a room could import, being above them, and must not
    "models": {"methods"},
    "problems": {"tasks"},
    "bench": {"recipes", "rundir", "tasks"},
    "inference": {"methods", "problems"},
}


def allowed(room: str, other: str) -> bool:
    """Whether one room may import another: of a lower floor, and not one that it is kept apart from."""
    return room == other or (FLOOR[other] < FLOOR[room] and other not in APART.get(room, set()))


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path, text: str | None = None) -> set[str]:
    """Rooms of this package that a module imports, at any depth of its code."""
    here = ("metaimpute", *path.relative_to(ROOT).with_suffix("").parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text() if text is None else text)):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            base = list(here[: len(here) - node.level]) if node.level else []
            stem = [*base, *(node.module.split(".") if node.module else [])]
            names = [".".join([*stem, alias.name]) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("metaimpute.")}
    found = {metaimpute._WHERE.get(name, name) for name in found}  # the package's own names are loaded from their rooms
    return {room for room in found if room in FLOOR}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_down(path: Path) -> None:
    room = room_of(path)
    assert room in FLOOR, f"{path} is in no room of the house"
    for other in imported_rooms(path):
        assert allowed(room, other), f"{room} must not import {other}"


def test_no_room_is_without_a_module() -> None:
    assert {room_of(path) for path in modules()} == set(FLOOR)


def test_upward_imports_and_those_across_a_floor_are_seen() -> None:
    for room, other in (
        ("recipes", "training"),
        ("rundir", "training"),
        ("inference", "reporting"),
        ("methods", "tasks"),
    ):
        assert not allowed(room, other) and not (FLOOR[room] == FLOOR[other] and allowed(other, room))
    assert allowed("training", "recipes") and allowed("study", "reporting")
    code = ROOT / "recipes" / "unwritten.py"
    text = "def late():\n    from ..training.environment import accelerator\n    from .. import study\n    import metaimpute.cli.run"
    assert imported_rooms(code, text) == {"training", "study", "cli"}
    assert imported_rooms(code, "from .. import MetaImputer\nfrom metaimpute import train") == {"imputer", "trained"}


def test_the_engine_imports_nothing_else_of_the_package_but_the_ground() -> None:
    for path in (ROOT / "engine").rglob("*.py"):
        assert imported_rooms(path) <= {"engine", "errors", "streams"}, path


def test_help_does_not_import_torch() -> None:
    code = "import sys; from metaimpute.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert time.perf_counter() - started < 10  # far from the goal of 1 s, but never the seconds that torch takes
