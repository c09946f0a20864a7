"""Whatever is done to a recipe, ``metaimpute check`` says it is valid, or what is wrong in one line that names file and key."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402

from metaimpute.cli import main  # noqa: E402

from .fake_data import make_own_images, make_own_text, write_csv  # noqa: E402
from .mutations import assignments, damaged_file  # noqa: E402

ROOT = Path(__file__).parents[1]
RECIPES = [*sorted((ROOT / "recipes").glob("*.yaml")), *sorted((ROOT / "examples").glob("*.yaml"))]
TEXTS = [path.read_text() for path in RECIPES]
TREES = [yaml.safe_load(text) for text in TEXTS]
IMPORTS = [part for path in sorted((ROOT / "examples").glob("*.py")) for part in ("--import", str(path))]
FAST, SLOW = 60, int(os.environ.get("METAIMPUTE_FUZZ", "1500"))
KEYLESS = (
    "not valid YAML",
    "is a mapping",
    "not a text file",
    "write it as key=value",
    "is not a group of keys",
)


@pytest.fixture(scope="module", autouse=True)
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with one's own data of every kind and no other, in which an unforeseen error is raised rather than said."""
    folder = tmp_path_factory.mktemp("fuzz")
    shutil.copy(ROOT / "recipes" / "two_moons.yaml", folder)
    (folder / "data").mkdir()
    make_own_images(folder / "data")
    make_own_text(folder / "data")
    rows = [{"a": n % 7, "b": "xyz"[n % 3], "target": ("yes", "no")[n % 2] if n < 20 else ""} for n in range(60)]
    write_csv(folder / "data" / "my_table.csv", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("METAIMPUTE_DATA", str(folder / "data"))
        patch.setenv("METAIMPUTE_CACHE", str(folder / "cache"))
        patch.setenv("METAIMPUTE_DEBUG", "1")
        yield folder


def said_well(done: Result, *places: str) -> None:
    """Exit code 0, 2 or 3, and a mistake in one line with its place and, where there are keys, the key."""
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code in (0, 2, 3) and "Traceback" not in done.output and "internal:" not in done.output
    if done.exit_code == 2:
        lines = done.stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), lines
        assert lines[0].startswith(tuple(f"error: {place}" for place in places)), lines
        assert len(lines[0]) < 1000, "no longer than one reads"
        assert lines[0].isprintable(), "and fit for a terminal"
        keyed = re.match(rf"error: (?:{'|'.join(map(re.escape, places))})[^ ]*(?: .*?)?: \S.*: ", lines[0])
        assert keyed or any(text in lines[0] for text in KEYLESS), lines


STUDIES = [
    """\
recipe: two_moons
systems:
  none: {problem.name: none}
  l2i: [problem.name=l2i, problem.weight=1]
  other: {problem: {name: random_direction}, grid: {problem.weight: [0.5, 1]}}
grid: {problem.inner.lr: [0.01, 0.1], train.ema: [null, 0.9]}
set: {train.steps: 3}
seeds: [0, 1]
against: none
metric: validation_last
profile: auto
""",
    "recipe: two_moons.yaml\nsystems: {a: [], b: {train.steps: 4}}\nseeds: 2\nmetric: test_last\n",
]


def check_study(raw: bytes) -> Result:
    Path("s.yaml").write_bytes(raw)
    return CliRunner().invoke(main, ["study", "s.yaml", "--check", "--out", "nowhere"])


def check_file(raw: bytes) -> Result:
    Path("r.yaml").write_bytes(raw)
    return CliRunner().invoke(main, ["check", "r.yaml", *IMPORTS])


def check_sets(which: int, sets: list[str]) -> Result:
    Path("r.yaml").write_text(TEXTS[which])
    options = [part for text in sets for part in ("--set", text)]
    return CliRunner().invoke(main, ["check", "r.yaml", *options, *IMPORTS])


def examples(count: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )


@examples(2 * FAST)
@given(damaged_file(TEXTS))
def test_a_damaged_recipe_is_valid_or_refused_in_one_line(damaged: tuple[int, bytes]) -> None:
    said_well(check_file(damaged[1]), "r.yaml")


@examples(FAST)
@given(assignments(TREES))
def test_any_assignment_is_taken_or_refused_in_one_line(given: tuple[int, list[str]]) -> None:
    said_well(check_sets(*given), "r.yaml", "--set")


@examples(FAST)
@given(damaged_file(STUDIES))
def test_a_damaged_study_is_valid_or_refused_in_one_line(damaged: tuple[int, bytes]) -> None:
    said_well(check_study(damaged[1]), "s.yaml")


@pytest.mark.slow
@examples(2 * SLOW)
@given(damaged_file(TEXTS))
def test_thousands_of_damaged_recipes(damaged: tuple[int, bytes]) -> None:
    said_well(check_file(damaged[1]), "r.yaml")


@pytest.mark.slow
@examples(SLOW)
@given(assignments(TREES))
def test_thousands_of_assignments(given: tuple[int, list[str]]) -> None:
    said_well(check_sets(*given), "r.yaml", "--set")


@pytest.mark.slow
@examples(SLOW)
@given(damaged_file(STUDIES))
def test_thousands_of_damaged_studies(damaged: tuple[int, bytes]) -> None:
    said_well(check_study(damaged[1]), "s.yaml")
