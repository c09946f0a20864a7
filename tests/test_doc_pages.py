"""Pages that have to be there: one for each method and objective, and a way to each answer that a newcomer looks for."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

import metaimpute
from metaimpute.engine.registry import Registry
from metaimpute.methods import methods
from metaimpute.problems import problems

from .test_docs import DOCS, MADE, ROOT, name_of, site, tables

__all__ = ["site"]  # a fixture

QUESTIONS = {  # a newcomer's question: the page that answers it, and words that the answer has
    "Is this for me, and what else is there?": ("when.md", "SetFit"),
    "How do I try it in an empty folder?": ("tutorial/images.md", "metaimpute data example images my_digits"),
    "How do I label my own images?": ("howto/images.md", "metaimpute init images"),
    "Which labels are sure enough to keep?": ("howto/threshold.md", "--min-confidence"),
    "How do I correct labels and train again?": ("howto/review.md", "--labels corrected.csv"),
    "How do I predict with a finished run in Python?": ("howto/load.md", "metaimpute.load("),
    "What do the numbers of a run, a report and TensorBoard mean?": ("howto/read.md", "tensorboard --logdir"),
    "Do I need a GPU, how much memory, how much data?": ("howto/scale.md", "Do I need a GPU?"),
    "What do psi, look-ahead and cos mean?": ("glossary.md", "**`cos`**"),
    "My script uses higher; what does it become here?": ("howto/ported.md", "higher.innerloop_ctx"),
}
FOLDERS: dict[str, tuple[Registry[Any], str]] = {"methods": (methods, "method"), "objectives": (problems, "problem")}
PARTS = ("When to use", "Options", "Result", "Source")
PUBLIC = ("batches", "engine", "engine.estimators", "engine.optimizers", "imputer", "inference", "methods", "models", "problems",
          "recipes", "review", "tasks", "testing")  # fmt: skip


def links(page: Path) -> set[Path]:
    """Pages of the documentation that a page's text links to."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    found = ((page.parent / target).resolve() for target in re.findall(r"\]\(([^)#\s]+\.md)[^)]*\)", text))
    return {path for path in found if path.is_relative_to(DOCS) and path.exists()}


def own(registry: Registry[Any]) -> set[str]:
    return {name for name in registry if registry.get(name).__module__.startswith("metaimpute.")}


# found in two clicks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_newcomers_question_is_answered_within_two_clicks_from_the_home_page(question: str) -> None:
    name, words = QUESTIONS[question]
    home, page = DOCS / "index.md", DOCS / name
    once = links(home)
    assert page in once.union(*map(links, once))
    assert words in page.read_text()


def test_every_page_is_reached_by_links_from_the_home_page() -> None:
    seen, new = set[Path](), {DOCS / "index.md"}
    while new:
        seen |= new
        new = set[Path]().union(*map(links, new)) - seen
    assert {name_of(page) for page in DOCS.rglob("*.md")} == set(map(name_of, seen))


# a page for each -----------------------------------------------------------------------------------------------------


def gallery(folder: str) -> dict[str, str]:
    """Names in the table of a folder's index, and the page of each."""
    text = (DOCS / folder / "index.md").read_text()
    return dict(re.findall(r"^\| \[`(\w+)`\]\((\w+\.md)[#\w-]*\) \|", text, re.MULTILINE))


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_index_has_a_line_for_each_and_each_has_a_page_in_the_same_form(folder: str) -> None:
    shown = gallery(folder)
    assert set(shown) == own(FOLDERS[folder][0])
    assert {path.name for path in (DOCS / folder).glob("*.md")} == {"index.md", *shown.values()}
    for name, page in shown.items():
        text = (DOCS / folder / page).read_text()
        assert text.startswith("# ") and (f"`{name}`" in text or page == f"{name}.md"), page
        before = text[: text.index("\n## ")]
        equation = re.search(r"```(?:text)?\n(.*?)```", before, re.DOTALL)
        assert equation and 2 <= len(equation[1].strip().splitlines()) <= 4, f"{page}: two lines of equation"
        headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
        for part in PARTS:
            assert any(heading.startswith(part) for heading in headings), f"{page}: no '## {part}'"


def test_every_objective_has_two_losses_in_the_gallery() -> None:
    for line in (DOCS / "objectives" / "index.md").read_text().splitlines():
        if line.startswith("| [`"):
            assert "<br>" in line.split(" | ")[1], line


@pytest.mark.parametrize("folder", FOLDERS)
def test_options_of_a_page_are_those_of_the_recipe_page(folder: str) -> None:
    written, kind, pages = tables(), FOLDERS[folder][1], gallery(folder)
    for name, page in pages.items():
        text = (DOCS / folder / page).read_text()
        part = re.split(r"^## ", text[text.index("\n## Options") + 4 :], maxsplit=1, flags=re.MULTILINE)[0]
        found = dict(re.findall(r"^\| `(\w+)` \| (`[^`]*`) \|", part, re.MULTILINE))
        if list(pages.values()).count(page) == 1:
            assert found == written[f"{kind} {name}"], page
        else:  # of several: what is the same for all is said once
            known = [pair for one, shown in pages.items() if shown == page for pair in written[f"{kind} {one}"].items()]
            assert set(found.items()) <= set(known), page


def test_figures_of_a_methods_page_are_those_of_the_study() -> None:
    text = (DOCS / "methods" / "index.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+ ± [\d.]+) \|", text, re.MULTILINE))
    assert set(rows) == own(methods)
    study = yaml.safe_load((ROOT / "benchmarks" / "results" / "digits_methods.json").read_text())
    assert {one["name"] for one in study["systems"]} == set(rows)
    for name, error in rows.items():
        assert error in (DOCS / "methods" / f"{name}.md").read_text()


def test_figures_of_data_size_are_those_that_were_measured() -> None:
    text = (DOCS / "howto" / "scale.md").read_text()
    for row in yaml.safe_load((ROOT / "benchmarks" / "results" / "data_size.json").read_text()):
        seconds = " | ".join(f"{row[f'{command}_seconds']:.0f} s" for command in ("init", "run", "impute"))
        assert f"| {row['rows']:,} | {seconds} | {row['peak_mib']:,} MiB | {row['wrong']:.1f}% |" in text


# pictures, and files beside the pages --------------------------------------------------------------------------------


def test_pictures_are_small_and_described() -> None:
    shown = {
        path
        for page in DOCS.rglob("*.md")
        for path in re.findall(r"!\[[^\]]{10,}\]\(([^)]*pictures/[^)]+)\)", page.read_text())
    }
    made = list((DOCS / "pictures").glob("*.png"))
    assert {Path(name).name for name in shown} == {path.name for path in made}
    for path in made:
        assert path.stat().st_size < 150_000 and Image.open(path).width <= 1200, path.name


def test_no_picture_is_without_words() -> None:
    for page in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        assert "![](" not in page.read_text(), page


def test_the_citation_and_the_changes_name_the_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == metaimpute.__version__ and cited["references"][0]["title"].startswith(
        "Learning to Impute"
    )
    assert f"## {metaimpute.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_forms_for_issues_can_be_read() -> None:
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert len(forms) >= 3
    for form in forms:
        content = yaml.safe_load(form.read_text())
        assert form.name == "config.yml" or {"name", "description", "body"} <= set(content), form.name


# the reference -------------------------------------------------------------------------------------------------------


def test_a_description_begins_no_parameter() -> None:
    docstrings = pytest.importorskip(
        "docs.hooks.docstrings", reason="griffe is not installed; pip install -e '.[docs]'"
    )
    text = "Args:\n    budget: bytes at most; None: any. seed: of noise. Default: 0.\nRaises:\n    One: here. Other: there."
    found = docstrings.one_per_line(text, {"budget", "seed"}).splitlines()
    assert found == ["Args:", "    budget: bytes at most; None: any.", "    seed: of noise. Default: 0.", "Raises:", "    One: here.", "    Other: there."]  # fmt: skip
    assert docstrings.one_per_line("Attributes:\n    a, b: two.", {"a", "b"}) == "Attributes:\n    a: And `b`: two."


def test_no_parameter_of_the_reference_is_called_none_or_default(site: Path) -> None:
    rows = 0
    for page in (site / "reference" / "api").glob("*.html"):
        for part in re.findall(
            r"doc-section-title\">(?:Parameters|Attributes):</span>(.*?)</table>", page.read_text(), re.DOTALL
        ):
            for cell in re.findall(r"<tr class=\"doc-section-item\">\s*<td>(.*?)</td>", part, re.DOTALL):
                name = re.sub(r"<[^>]+>|\s", "", cell)
                assert re.fullmatch(r"\**[a-z_]\w*(,\**[a-z_]\w*)*", name), f"{page.name}: {name}"
                rows += 1
    assert rows > 300


def test_the_reference_has_every_public_class_and_function(site: Path) -> None:
    text = "".join(page.read_text() for page in (site / "reference" / "api").glob("*.html"))
    shown = {found.rsplit(".", 1)[1] for found in re.findall(r'<h\d id="(metaimpute[\w.]+)"', text)}
    assert {"Session", "Recipe", "load"} <= shown
    missing: list[str] = []
    for package in PUBLIC:
        module = importlib.import_module(f"metaimpute.{package}")
        for name in module.__all__:
            value = getattr(module, name)
            ours = (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__.startswith("metaimpute.")
            missing += [f"metaimpute.{package}.{name}"] if ours and name not in shown else []
    assert not missing


def test_pages_kept_elsewhere_are_in_the_site(site: Path) -> None:
    for name in MADE:
        assert (site / name).with_suffix(".html").exists() or (site / Path(name).parent / "index.html").exists(), name
