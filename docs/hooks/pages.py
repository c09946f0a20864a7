"""Pages that are kept elsewhere than in ``docs/``: the benchmarks' README, notebooks as Markdown, and the commands' help.

And the navigation below a folder whose index names its pages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from mkdocs.structure.files import File, Files

from metaimpute.cli import main
from metaimpute.engine import estimators
from metaimpute.engine.registry import Registry
from metaimpute.methods import methods
from metaimpute.models import models
from metaimpute.problems import problems
from metaimpute.tasks import tasks

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
COMMANDS = "<!-- the help of every command -->"
BENCHMARKS = ROOT / "benchmarks"
REGISTRIES: dict[str, Registry[Any]] = {
    "estimator": estimators, "method": methods, "model": models, "problem": problems, "task": tasks,
}  # fmt: skip
COMPONENTS = re.compile(rf"<!-- every ({'|'.join(REGISTRIES)}) -->")
ABOUT = ("CHANGELOG.md", "CONTRIBUTING.md")  # of the root folder, in the site too


def on_config(config: Any) -> Any:
    config["nav"] = [whole(entry) for entry in config["nav"]]
    return config


def whole(entry: Any) -> Any:
    """An entry of the navigation; a folder in it, ``objectives/``, becomes its index and the pages that this links to."""
    if not isinstance(entry, dict):
        return entry
    ((title, value),) = entry.items()
    if isinstance(value, list):
        return {title: [whole(one) for one in value]}
    return {title: [f"{value}index.md", *pages_of(value)]} if value.endswith("/") else entry


def pages_of(folder: str) -> list[str]:
    """Pages beside the index of a folder, in the order in which its table names them."""
    text = (DOCS / folder / "index.md").read_text(encoding="utf-8")
    return list(
        dict.fromkeys(
            folder + name for name in re.findall(r"^\| \[`\w+`\]\((\w+\.md)(?:#[\w-]+)?\)", text, re.MULTILINE)
        )
    )


def on_files(files: Files, config: Any) -> Files:
    files.append(File.generated(config, "benchmarks/README.md", abs_src_path=str(BENCHMARKS / "README.md")))
    for name in ABOUT:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    results = BENCHMARKS / "results"
    for made in sorted([*results.glob("*.png"), *results.glob("*.md")]):
        files.append(File.generated(config, f"benchmarks/results/{made.name}", abs_src_path=str(made)))
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            page = file.src_uri.removesuffix(".ipynb") + ".md"
            text = as_markdown(json.loads(file.content_string), Path(file.src_uri).name)
            files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    markdown = COMPONENTS.sub(lambda match: reference_of(match[1]), markdown)
    if COMMANDS in markdown:
        return markdown.replace(COMMANDS, "\n\n".join(help_of(main, "metaimpute", None, 2)))
    if "/" in page.file.src_uri:
        return markdown
    if page.file.src_uri in ABOUT:
        return markdown.replace("](docs/", "](")
    return markdown.replace("](../benchmarks/", "](benchmarks/")  # right in the repository; in the site it lies beside


def reference_of(kind: str) -> str:
    """The docstring of every registered component of a kind, by name."""
    registry = REGISTRIES[kind]
    classes = [registry.get(name) for name in registry]
    lines = [
        f"### `{name}` {{ #{kind}-{name} }}\n\n::: {one.__module__}.{one.__qualname__}\n    options: {{heading_level: 4}}"
        for name, one in zip(registry, classes, strict=True)
    ]
    return "\n\n".join(lines)


def help_of(command: click.Command, name: str, parent: click.Context | None, level: int) -> Iterator[str]:
    """A heading and the help of a command, and those of the commands below it."""
    context = click.Context(command, parent, name, max_content_width=100, terminal_width=100)
    path = context.command_path
    anchor = path.replace(" ", "-")
    yield f"{'#' * level} {path} {{ #{anchor} }}\n\n```text\n{command.get_help(context)}\n```"
    for below, one in getattr(command, "commands", {}).items():
        yield from help_of(one, below, context, level + (level > 2 or parent is not None))


def as_markdown(notebook: dict[str, Any], name: str) -> str:
    """Cells one after the other, each with what it printed."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        said = "".join("".join(output.get("text", "")) for output in cell.get("outputs", []))
        if said.strip():
            parts.append(f"```text\n{said.rstrip()}\n```")
    return "\n\n".join([*parts, f"[This page as a notebook]({name})"]) + "\n"
