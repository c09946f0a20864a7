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
