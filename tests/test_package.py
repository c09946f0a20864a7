"""What is built and what it says of itself; what a newcomer's first command installs."""

from __future__ import annotations

import email
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import metaimpute

ROOT = Path(metaimpute.__file__).parents[1]
OURS = shutil.ignore_patterns(".*", "runs", "site", "data", "build", "dist", "__pycache__", "*.egg-info", "results")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unpacked sdist."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT, folder / "source", ignore=OURS)
    build = "import sys; from setuptools import build_meta as b; b.build_sdist(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(folder)], cwd=folder / "source", check=True, capture_output=True, text=True
    )
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as held:
        held.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def test_a_source_distribution_can_be_tested_and_has_the_examples(source: Path) -> None:
    for kind in ("tests", "examples", "recipes", "docs"):
        suffix = {"recipes": "*.yaml", "docs": "*.md"}.get(kind, "*.py")
        ours = {p.relative_to(ROOT) for p in (ROOT / kind).rglob(suffix)}
        assert ours and ours == {p.relative_to(source) for p in (source / kind).rglob(suffix)}, kind
    for name in ("LICENSE", "README.md", "Makefile", "noxfile.py", "pyproject.toml", "setup.py", "tests/conftest.py"):
        assert (source / name).is_file(), name


def test_an_index_page_is_told_what_it_is_and_needs_nothing_beside_it(source: Path) -> None:
    said = email.message_from_string((source / "PKG-INFO").read_text())
    assert any("arxiv.org" in url for url in said.get_all("Project-URL", []))
    assert said["Keywords"] and said["License-Expression"] == "MIT" and said["Requires-Python"] == ">=3.10"
    assert any(line.startswith("Topic ::") for line in said.get_all("Classifier", []))
    needed = [line for line in said.get_all("Requires-Dist", []) if "extra" not in line]
    for name in ("torch", "torchvision", "higher", "datasets", "click", "rich"):
        assert any(line.startswith(f"{name}>=") for line in needed), name
    page = said.get_payload()
    assert isinstance(page, str) and "# metaimpute" in page and "](docs/" not in page and "](benchmarks/" not in page
    pictures = [line for line in page.splitlines() if line.startswith("![") or "<img" in line]
    assert all("http" in line for line in pictures)


def test_the_demo_installs_neither_linters_nor_what_builds_the_docs() -> None:
    lines = (ROOT / "Makefile").read_text().splitlines()
    demo = next(line for line in lines if line.startswith("demo:")).removeprefix("demo:").split()
    assert demo == [".venv/for-the-demo"]
    start = next(n for n, line in enumerate(lines) if line.startswith(f"{demo[0]}:"))
    assert "'.[text]'" in lines[start + 1]
