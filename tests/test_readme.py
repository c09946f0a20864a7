"""Every Python block of the README runs, in order, in one namespace; every recipe it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from metaimpute.problems import problems

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(BLOCKS) >= 2
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    namespace: dict[str, object] = {"__name__": "readme"}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), namespace)
    assert "learned_weights" in problems
    assert "hypergradient" in capsys.readouterr().out


def test_the_objective_is_about_twenty_lines() -> None:
    block = next(b for b in BLOCKS if "register_problem" in b)
    body = block[block.index("@register_problem") :].split("\n\n\n")[0]
    assert len([line for line in body.splitlines() if line.strip()]) <= 20


def test_named_files_and_commands_exist() -> None:
    from metaimpute.cli import main

    for path in set(re.findall(r"\b(?:recipes|benchmarks|docs)/[\w./-]*\w", TEXT)):
        assert (ROOT / path).exists(), path
    for command in set(re.findall(r"^metaimpute (\w+)", TEXT, re.MULTILINE)):
        assert command in main.commands, command


def test_it_is_short_and_its_links_lead_to_files() -> None:
    assert len(TEXT.splitlines()) <= 150
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", TEXT):
        assert "://" in target or (ROOT / target).exists(), target


def test_its_figures_are_those_of_the_results_page() -> None:
    rows = [line for line in TEXT.splitlines() if re.match(r"\|.*\d of \d+ \|$", line)]
    results = [" | ".join(line.split(" | ")) for line in (ROOT / "docs" / "results.md").read_text().splitlines()]
    assert len(rows) >= 8
    for row in rows:
        _, _, task, here, other, difference, _ = (cell.strip() for cell in row.split("|"))
        found = next(line for line in results if line.startswith(f"| {task} |") and difference in line)
        assert all(figure in found for figure in (here, other)), row
