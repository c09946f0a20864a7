"""The page of review: whole, safe, readable without its script, and right about what it shows."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metaimpute.inference import Given, held_out_of, imputed
from metaimpute.review import collect, page
from metaimpute.review.alike import alike, nearest
from metaimpute.review.page import thumbnail
from metaimpute.review.suspects import suspects_of
from metaimpute.rundir.stored import DamagedFile

from ..reporting import browser
from .own import HOSTILE, Project, good

VOID = {"meta", "img", "input", "br", "link"}


class Elements(HTMLParser):
    """Every element with its attributes, and whether elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)


def test_the_page_stands_alone_and_nothing_in_it_is_taken_for_markup(project: Project) -> None:
    good("review", project.trained, "--rows", 100)
    text = (project.trained / "review.html").read_text()
    seen = Elements(text)
    assert not seen.open
    tags = [tag for tag, _ in seen.found]
    assert tags.count("script") == 1 and "<script>alert" not in text
    for tag, attributes in seen.found:
        for name in ("src", "href"):
            assert re.match(r"data:image/|#|$", attributes.get(name) or ""), (tag, attributes)
        assert not any(name.startswith("on") or name == "style" for name in attributes), "the policy would stop it"
    (policy,) = [
        a["content"] for tag, a in seen.found if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:;")
    if project.kind != "images":
        assert HOSTILE in "".join(seen.text), "shown as it is"
    if project.kind == "images":
        assert tags.count("img") > 20


def test_the_least_sure_rows_come_first_beside_labelled_ones(project: Project) -> None:
    found, made = collect(project.trained, rows=7), imputed(project.trained)
    doubtful = found.parts[0]
    assert made.found.doubt is not None
    order = np.argsort(-made.found.doubt.numpy(), kind="stable")[:7]
    assert [item.row.id for item in doubtful.items] == [made.found.ids[at] for at in order]
    given = {name for pool in made.given for name in made.task.row_names(pool)}
    for item in doubtful.items:
        assert (
            len(item.beside) == 3 and {row.id for row in item.beside} <= given and all(row.label for row in item.beside)
        )


def test_every_row_can_be_corrected_by_its_own_name(project: Project) -> None:
    found = collect(project.trained)
    seen = Elements(page(found))
    rows = [json.loads(a["data-row"] or "") for _, a in seen.found if "data-row" in a]
    assert rows == [item.row.id for part in found.parts for item in part.items]
    hidden = [a for tag, a in seen.found if tag == "p" and a.get("class") == "correct"]
    assert len(hidden) == len(rows) and all("hidden" in a for a in hidden), "where no script runs it is a page to read"
    options = [a["value"] for tag, a in seen.found if tag == "option" and a["value"]]
    assert set(options) == set(found.names)


def test_without_probabilities_of_held_out_models_the_page_says_what_is_needed(project: Project) -> None:
    said = " ".join(collect(project.trained).parts[1].said)
    if project.kind == "values":
        assert "these are values" in said
    else:
        assert "make the run with choose" in said


def given(labels: list[str], shares: Any) -> Given:
    return Given([f"r{i}" for i in range(len(labels))], labels, np.asarray(shares, dtype=float))


def test_labels_that_look_wrong_are_found_with_cleanlab_and_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a", "b"]
    labels = ["a", "a", "a", "b", "b", "b"] * 4
    shares = [[0.9, 0.1] if label == "a" else [0.1, 0.9] for label in labels]
    shares[1], shares[5], shares[0] = [0.02, 0.98], [0.7, 0.3], [np.nan, np.nan]
    rows = given(labels, shares)
    monkeypatch.setitem(__import__("sys").modules, "cleanlab.filter", None)
    plain = suspects_of(rows, names)
    assert [one.place for one in plain.found] == [1, 5] and "without the package cleanlab" in plain.said
    assert (plain.found[0].own, plain.found[0].other) == (pytest.approx(0.02), "b") and plain.seen == 23
    assert "1 are not looked at" in plain.said and "make the run with choose" in plain.said
    monkeypatch.undo()
    pytest.importorskip("cleanlab")
    library = suspects_of(rows, names)
    assert library.found[0].place == 1 and "Found by cleanlab" in library.said


def test_held_out_probabilities_are_taken_from_the_caller_and_from_a_run_with_choose(
    project: Project, tmp_path: Path
) -> None:
    import shutil

    if project.kind != "table":
        pytest.skip("one kind will do")
    made = imputed(project.trained)
    labelled = made.data.labelled
    assert labelled.targets is not None
    shares = np.where(np.eye(2)[labelled.targets.numpy()] == 1, 0.9, 0.1)
    shares[2] = shares[2][::-1]
    name = made.task.row_names(labelled)[2]
    assert [item.row.id for item in collect(project.trained, held_out=shares).parts[1].items][:1] == [name]
    shutil.copytree(project.trained, tmp_path / "run")
    (tmp_path / "run" / "systems.json").write_text(json.dumps({"held_out": shares.tolist()}))
    found = held_out_of(tmp_path / "run", made)
    assert found is not None and found.tolist() == shares.tolist() and held_out_of(project.trained, made) is None
    (tmp_path / "run" / "systems.json").write_text(json.dumps({"held_out": [[0.5, 0.5]]}))
    with pytest.raises(DamagedFile, match=r"held_out is of \(1, 2\)"):
        held_out_of(tmp_path / "run", made)
    with pytest.raises(ValueError, match="held_out is"):
        collect(project.trained, held_out=shares[:3])


def test_copies_near_copies_and_strangers_are_found() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 4))
    keys = [str(i) for i in range(60)]
    rows[10], keys[10] = rows[3], keys[3]
    rows[20] = rows[7] + 1e-4
    rows[30] = 40.0
    found = alike(rows, keys)
    assert found.exact == [[3, 10]] and found.near == [(7, 20)] and found.outliers == [30] and found.compared == 59
    assert alike(rows[:3], keys[:3]).outliers == []
    assert nearest(rows[[10]], rows[:5], 2)[0, 0] == 3 and nearest(rows, rows[:0], 3).shape == (60, 0)


def test_classes_that_are_never_predicted_are_told(project: Project) -> None:
    found = collect(project.trained)
    made = imputed(project.trained)
    if project.kind == "values":
        assert not found.classes
        return
    counts = made.found.counts()
    assert {one.name: one.predicted for one in found.classes} == counts
    assert all((one.odd == "never predicted") == (counts[one.name] == 0) for one in found.classes if one.given)


def test_a_picture_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    assert thumbnail(str(tmp_path / "none.png")) == ""
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert thumbnail(str(tmp_path / "bad.png")) == ""
    from PIL import Image

    Image.new("LA", (400, 90), (10, 0)).save(tmp_path / "clear.png")
    assert thumbnail(str(tmp_path / "clear.png")).startswith("data:image/")


def test_a_page_is_a_page_and_goes_where_it_is_told(project: Project, tmp_path: Path) -> None:
    from .own import call

    done = call("review", project.trained, "--out", tmp_path / "r.csv")
    assert done.exit_code == 2 and "name it with .html" in done.output
    said = good("review", project.trained, "--out", tmp_path / "r.html", "--rows", "2")
    assert f"wrote {tmp_path / 'r.html'}" in said and "The first 2 of" in (tmp_path / "r.html").read_text()
    done = call("review", tmp_path)
    assert done.exit_code == 2 and "is not a run directory" in done.output


@pytest.mark.skipif(browser.find() is None, reason="needs chromium")
def test_a_browser_shows_it_on_a_phone_and_takes_corrections_down(project: Project, tmp_path: Path) -> None:
    good("review", project.trained, "--out", tmp_path / "r.html")
    program = browser.find()
    assert program is not None
    with browser.Browser(program, tmp_path / "profile") as tab:
        tab.open(tmp_path / "r.html", 390)
        assert tab.requests == [(tmp_path / "r.html").as_uri()] or all(a.startswith("data:") for a in tab.requests[1:])
        assert not tab.complaints and tab.evaluate("document.documentElement.scrollWidth") <= 390
        value = "f.options[1].value" if project.kind != "values" else "'9'"
        tab.evaluate(
            "var f = document.querySelector('[data-row]'); URL.createObjectURL = function (b) { b.text().then(t => window.got = t); "
            f"return '#'; }}; f.value = {value}; f.dispatchEvent(new Event('change')); document.getElementById('download').click()"
        )
        for _ in range(100):
            got = tab.evaluate("window.got")
            if got:
                break
        assert got.startswith("id,label\n") and len(got.splitlines()) == 2
