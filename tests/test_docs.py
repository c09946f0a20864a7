"""The documentation is true: its code runs, its keys and messages are the program's, its links lead somewhere."""

from __future__ import annotations

import ast
import dataclasses
import html
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from pydantic import BaseModel

from metaimpute import plugins
from metaimpute.cli import main
from metaimpute.engine import estimators, optimizers
from metaimpute.engine.registry import Registry
from metaimpute.ensemble.members import members
from metaimpute.methods import methods
from metaimpute.models import models
from metaimpute.problems import problems
from metaimpute.recipes.optim import OptimizerSpec, ScheduleSpec
from metaimpute.recipes.schema import About, ChooseSpec, InnerSpec, PaperRow, ProblemSpec, TrainSpec
from metaimpute.tasks import tasks
from metaimpute.tasks.snippets import find_snippets

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
MADE = {  # by docs/hooks/pages.py: pages of the site that lie elsewhere, or are another kind of file
    **{name: ROOT / name for name in ("benchmarks/README.md", "CHANGELOG.md", "CONTRIBUTING.md")},
    **{f"notebooks/{path.stem}.md": path for path in NOTEBOOKS},
}
REGISTRIES: dict[str, Registry[Any]] = {
    "task": tasks, "model": models, "method": methods, "problem": problems, "estimator": estimators,
}  # fmt: skip
SECTIONS: dict[str, type[BaseModel]] = {
    "about": About, "about.paper": PaperRow, "problem": ProblemSpec, "problem.inner": InnerSpec, "choose": ChooseSpec,
    "train": TrainSpec, "train.optimizer": OptimizerSpec, "train.schedule": ScheduleSpec,
}  # fmt: skip


def name_of(path: Path) -> str:
    return str(path.relative_to(DOCS))


# links and navigation ----------------------------------------------------------------------------------------------


def navigation(entries: Any) -> Iterator[str]:
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from [value] if isinstance(value, str) else navigation(value)


def test_every_page_is_in_the_navigation_once() -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed; pip install -e '.[docs]'")
    from docs.hooks import pages

    found = list(navigation(map(pages.whole, yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])))
    assert sorted(found) == sorted({*map(name_of, PAGES), *MADE})


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_inside_the_documentation_lead_to_files(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, _ = target.partition("#")
        if not path or "://" in path:
            continue
        goal = (page.parent / path).resolve()
        seen = {DOCS / made: source for made, source in MADE.items()}.get(goal, goal)
        seen = ROOT / goal.relative_to(DOCS) if goal.is_relative_to(DOCS / "benchmarks") else seen
        assert seen.exists(), f"{name_of(page)} links to {target}"


def test_commands_and_options_in_the_pages_exist() -> None:
    commands = 0
    for page in PAGES:
        for block in re.findall(r"```(?:sh|text)\n(.*?)```", page.read_text(), re.DOTALL):
            for words in re.findall(r"^(?:\$ )?metaimpute (.+?)(?:  +.*|#.*)?$", block, re.MULTILINE):
                command: Any = main
                for word in words.split():
                    if not hasattr(command, "commands"):
                        break
                    assert word in command.commands, f"{name_of(page)}: metaimpute {words}"
                    command = command.commands[word]
                known = {option for parameter in command.params for option in parameter.opts}
                assert set(re.findall(r"(?<=\s)--[a-z-]+", words)) <= known, f"{name_of(page)}: metaimpute {words}"
                commands += 1
    assert commands > 40


# code --------------------------------------------------------------------------------------------------------------


def blocks(page: Path) -> list[str]:
    """Its Python, and the example files that the site shows in their place."""
    return re.findall(r"^```(?:python| { \.python [^\n]*})\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def printed_below(page: Path) -> dict[str, str]:
    """The output that a page shows right below a block of Python."""
    pairs = re.findall(r"^```python\n([^`]*?)^```\n+```text\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return dict(pairs)


def but_numbers(text: str) -> list[str]:
    """Words, of which numbers are all alike: they differ a little from machine to machine."""
    return re.sub(r"[-+]?\d[\d.]*(e[-+]?\d+)?", "#", text).split()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name_of)
def test_python_blocks_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(main, "commands", dict(main.commands))  # a page may add one
    for registry in (estimators, optimizers, members):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    namespace: dict[str, object] = {"__name__": "a_page"}
    shown, said, printed = blocks(page), printed_below(page), ""
    for block in shown:
        example = re.fullmatch(r'--8<-- "(.+)"\n', block)
        if example:  # imported as --import does
            plugins.import_module(str(ROOT / example[1]))
        else:
            exec(compile(block, name_of(page), "exec", dont_inherit=True), namespace)
        lines = capsys.readouterr().out
        assert block not in said or but_numbers(lines) == but_numbers(said[block]), "show what it prints"
        printed += lines
    assert bool(printed.strip()) == any("print(" in block for block in shown), "a page that prints must have got so far"


@pytest.mark.parametrize(
    "notebook",
    [pytest.param(one, marks=[pytest.mark.slow] if one.stem == "label_your_data" else []) for one in NOTEBOOKS],
    ids=lambda path: path.stem,
)
def test_a_notebook_runs_to_what_it_shows(notebook: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed; pip install -e '.[docs]'")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed; pip install -e '.[docs]'")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed; pip install -e '.[docs]'")
    shown = nbformat.read(notebook, 4)
    run = nbformat.read(notebook, 4)
    nbclient.NotebookClient(run, timeout=300, kernel_name="python3").execute()

    def said(cell: Any) -> str:
        return "".join(output.get("text", "") for output in cell.get("outputs", []) if output.get("name") == "stdout")

    for before, after in zip(shown.cells, run.cells, strict=True):
        assert but_numbers(said(before)) == but_numbers(said(after)), "run the notebook again and keep its output"
    first = next(cell.source for cell in shown.cells if cell.cell_type == "code")
    assert "google.colab" in first and "%pip install" in first, "where nothing is installed, the first cell installs"
    assert notebook.stat().st_size < 50_000


@pytest.mark.parametrize(
    ("kind", "path", "rows"),
    [("images", "my_digits", 1000), ("table", "tumours.csv", 541), ("text", "reviews.csv", 1000)],
)
def test_the_tutorials_data_is_what_it_says_and_comes_with_the_package(
    kind: str, path: str, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "text" and find_snippets() is None:
        pytest.skip("metaimpute data get snippets")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["data", "example", kind, path], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    said = done.stdout.strip()
    pages = [page.read_text() for page in (DOCS / "tutorial").glob("*.md")]
    assert any(f"$ metaimpute data example {kind} {path}\n{said}\n{done.stderr}" in page for page in pages)
    assert not any("examples/" in page for page in pages), "no distribution has that folder"
    assert len(next(tmp_path.glob("*_truth.csv")).read_text().splitlines()) == rows + 1
    if kind == "images":
        assert len(list(Path("my_digits/labelled").glob("?/*.png"))) == 40
        assert len(list(Path("my_digits/unlabelled").glob("*.png"))) == rows
    again = CliRunner().invoke(main, ["data", "example", kind, path])
    assert again.exit_code == 2 and again.output == f"error: {path} exists already; give another PATH\n"


# recipe keys -------------------------------------------------------------------------------------------------------


def shown_default(value: Any) -> str:
    if isinstance(value, BaseModel) or value == {}:
        return "`{}`"
    if isinstance(value, str) and value:
        return f"`{value}`"
    return f"`{json.dumps(value)}`"


def tables() -> dict[str, dict[str, str]]:
    """Heading of the recipe page to its table: key to default as it is written."""
    found: dict[str, dict[str, str]] = {}
    heading = ""
    for line in (DOCS / "reference" / "recipe.md").read_text().splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ").replace("`", "")
            found[heading] = {}
        elif match := re.match(r"\| `([\w.]+)` \|\s*(.*?)\s*\| (.+) \|$", line):
            assert match[1] not in found[heading] and match[3].strip(), line
            found[heading][match[1]] = match[2].strip()
    return found


def test_the_recipe_page_has_every_key_of_every_section_with_its_default() -> None:
    written = tables()
    for section, schema in SECTIONS.items():
        fields = schema.model_fields
        expected = {
            name: "" if field.is_required() else shown_default(field.get_default(call_default_factory=True))
            for name, field in fields.items()
        }
        assert written[section] == expected, section


@pytest.mark.parametrize("kind", REGISTRIES)
def test_the_recipe_page_has_every_option_of_every_component(kind: str) -> None:
    written, registry = tables(), REGISTRIES[kind]
    own = {name for name in registry if registry.get(name).__module__.startswith("metaimpute.")}
    assert {name.removeprefix(f"{kind} ") for name in written if name.startswith(f"{kind} ")} == own
    for name in own:
        expected = {}
        for field in dataclasses.fields(registry.get(name)):
            if field.init:
                factory: Any = field.default_factory
                value = field.default if field.default is not dataclasses.MISSING else factory()
                expected[field.name] = shown_default(list(value) if isinstance(value, tuple) else value)
        assert written[f"{kind} {name}"] == expected, name


@pytest.mark.parametrize("name", [n for n in optimizers if optimizers.get(n).__module__.startswith("metaimpute.")])
def test_the_recipe_page_has_every_option_of_every_inner_optimizer(name: str) -> None:
    parameters = list(inspect.signature(optimizers.get(name)).parameters.values())[1:]
    defaults = {p.name: list(p.default) if isinstance(p.default, tuple) else p.default for p in parameters}
    assert tables()[f"optimizer {name}"] == {key: shown_default(value) for key, value in defaults.items()}


# troubleshooting ---------------------------------------------------------------------------------------------------


def source_texts() -> list[str]:
    """Every string of the package, f-strings with a gap for what is filled in."""
    found = []
    for path in (ROOT / "metaimpute").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_the_messages_of_the_troubleshooting_page_are_the_programs() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| .+ \| .+ \|$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    texts = source_texts()
    assert len(rows) > 50
    patterns = {row: re.compile(".*".join(map(re.escape, row.split("…"))), re.DOTALL) for row in rows}
    stale = [row for row, pattern in patterns.items() if not any(map(pattern.search, texts))]
    assert not stale, f"no string of the source reads: {stale}"


# the site ----------------------------------------------------------------------------------------------------------

LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio)\b[^>]*?\ssrc=[\"']?((?:https?:)?//[^\"'\s>]+)"
    r"|<link\b[^>]*?\shref=[\"']?((?:https?:)?//[^\"'\s>]+)",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed; pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    call = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(call, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        assert not LOADED.findall(page.read_text()), page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", sheet.read_text()), sheet.name


def test_the_site_names_every_command_and_public_name(site: Path) -> None:
    commands = html.unescape((site / "reference" / "cli.html").read_text())
    for name in main.commands:
        assert re.search(rf'<h\d id="metaimpute-{name}"', commands), name
    import metaimpute

    names = (site / "reference" / "api" / "index.html").read_text()
    for name in metaimpute.__all__:
        assert name == "__version__" or f"<code>{name}</code>" in names, name
