"""What type checkers see of an installed package: every public name, with its own type, however it was installed."""

from __future__ import annotations

import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from .test_public_names import PUBLIC, ROOT, exported

PROGRAM = Path(__file__).with_name("user_program.py")
SHIPPED = ("LICENSE", "README.md", "metaimpute", "pyproject.toml", "recipes", "setup.py")


def said(command: Sequence[object], folder: Path) -> str:
    """What a program prints when it succeeds, away from this checkout; an assertion otherwise."""
    away = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run([*map(str, command)], cwd=folder, env=away, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[:4]}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def every_name() -> str:
    """A program that imports and uses every public name of every public package."""
    lines = []
    for number, path in enumerate(PUBLIC):
        module = ".".join(path.parent.relative_to(ROOT).parts)
        names = {name: f"{name.strip('_')}_{number}" for name in exported(path) or ()}
        lines += [f"from {module} import {name} as {alias}" for name, alias in names.items()]
        lines += [f"print({alias})" for alias in names.values()]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of what is shipped, and an sdist and a wheel of it."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "source").mkdir()
    for name in SHIPPED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / "source" / name)
    build = "import sys; from setuptools import build_meta as b; to = sys.argv[1]; b.build_sdist(to); b.build_wheel(to)"
    said([sys.executable, "-c", build, folder], folder / "source")
    return folder


@pytest.fixture(scope="module", params=["editable", "wheel", "sdist"])
def installed(request: pytest.FixtureRequest, built: Path) -> Path:
    """The Python of an environment with metaimpute, and with the packages of this one beside it."""
    folder = built / request.param
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    places = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    own = Path(said([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], built).strip())
    (own / "zz_beside.pth").write_text("\n".join(places) + "\n")
    given = {
        "editable": ["--editable", built / "source"],
        "wheel": [next(built.glob("*.whl"))],
        "sdist": [next(built.glob("*.tar.gz"))],
    }[request.param]
    pip = [sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check", "install"]
    said([*pip, "--no-deps", "--no-build-isolation", *given], built)
    return python


def test_the_program_runs() -> None:
    assert 1 / 3 < runpy.run_path(str(PROGRAM))["likely"] <= 1


def test_wheel_and_sdist_hold_the_recipes_and_the_mark_of_a_typed_package(built: Path) -> None:
    names = {f"{path.stem}.yaml" for path in (ROOT / "recipes").glob("*.yaml")}
    wheel = zipfile.ZipFile(next(built.glob("*.whl"))).namelist()
    assert {Path(name).name for name in wheel if "/recipe_files/" in name} == names
    assert "metaimpute/py.typed" in wheel and {name.split("/")[0].split("-")[0] for name in wheel} == {"metaimpute"}
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        assert {
            Path(name).name for name in archive.getnames() if "/recipes/" in name and name.endswith(".yaml")
        } == names


@pytest.mark.slow
def test_recipes_run_by_name_however_installed(installed: Path, tmp_path: Path) -> None:
    steps = ("--set", "train.steps=2", "--set", "train.eval_every=2")
    assert "result.json" in said([installed, "-m", "metaimpute", "run", "two_moons", *steps], tmp_path)
    assert str(ROOT) not in said([installed, "-c", "import metaimpute; print(metaimpute.__file__)"], tmp_path)


@pytest.mark.slow
def test_mypy_accepts_a_users_program(installed: Path, built: Path, tmp_path: Path) -> None:
    (tmp_path / "every_name.py").write_text(every_name())
    shutil.copy(PROGRAM, tmp_path)
    mypy = [sys.executable, "-m", "mypy", "--config-file=", "--strict", "--cache-dir", built / "cache"]
    found = said([*mypy, "--python-executable", installed, "every_name.py", PROGRAM.name], tmp_path)
    assert "no issues found in 2 source files" in found


@pytest.mark.slow
def test_pyright_accepts_a_users_program(installed: Path, tmp_path: Path) -> None:
    pyright = shutil.which("pyright")
    if pyright is None and importlib.util.find_spec("pyright") is None:
        pytest.skip("pyright is not here: pip install pyright, which fetches its other half when it first runs")
    (tmp_path / "every_name.py").write_text(every_name())
    shutil.copy(PROGRAM, tmp_path)
    command = [pyright] if pyright else [sys.executable, "-m", "pyright"]
    assert "0 errors" in said([*command, "--pythonpath", installed, "every_name.py", PROGRAM.name], tmp_path)
