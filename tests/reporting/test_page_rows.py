"""Single test rows on a page: samples, values against truth, points' ways, and commands that repeat a run anywhere."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch

from metaimpute.batches.outputs import Classes, Quantities
from metaimpute.catalog import shipped_recipes
from metaimpute.reporting.page import page
from metaimpute.reporting.page.repeat import command, recipe_name
from metaimpute.reporting.runs import read_run
from metaimpute.rundir.stored import DamagedFile
from metaimpute.rundir.tested import Sample, SampledRows
from metaimpute.tasks.base import Pool, Task
from metaimpute.tasks.thumbnails import thumbnail_of
from metaimpute.training.evaluation import error_interval
from metaimpute.training.samples import sampled_rows

from .browser import Browser, find
from .made import made, result_with
from .test_html import EVIL, Structure


class Three(Task):
    """Three classes of rows with two numbers each."""

    output = Classes(3)
    label_names = ["cat", "dog", "owl"]


class Heights(Task):
    output = Quantities(1, mean=(100.0,), std=(10.0,))
    label_names = ["height"]


def pool(targets: list[float], width: int = 2) -> Pool:
    numbers = torch.arange(len(targets))
    known = torch.tensor(targets)
    return Pool(torch.arange(width * len(targets)).view(-1, width).float(), known, numbers + 100)


def test_the_surest_wrong_rows_of_each_class_come_first_and_the_least_sure_are_doubtful() -> None:
    said = [[9.0, 0, 0], [8.0, 0, 0], [0.1, 0, 0], [0, 7.0, 0], [0, 0, 5.0], [0, 0.2, 0]]
    found = sampled_rows(torch.tensor(said), Three(), pool([1, 1, 0, 1, 0, 2]))
    assert found is not None and found.columns == ["x1", "x2"]
    wrong = [(one.id, one.true, one.said) for one in found.samples["wrong"]]
    assert wrong == [("100", "dog", "cat"), ("104", "cat", "owl"), ("105", "owl", "dog"), ("101", "dog", "cat")], (
        "one of each true class before a second of any"
    )
    assert [one.id for one in found.samples["doubtful"]][:2] == ["102", "105"]
    assert [one.id for one in found.samples["right"]] == ["103", "102"] and found.samples["right"][
        0
    ].sure == pytest.approx(0.9982, abs=1e-4)


def test_values_are_kept_in_their_own_units_with_the_farthest_first() -> None:
    raw, true = torch.tensor([[0.0], [1.0], [-3.0]]), [0.5, 1.0, 1.0]
    found = sampled_rows(raw, Heights(), pool(true))
    assert (
        found is not None
        and found.names == ["height"]
        and found.pairs == [([105.0, 110.0, 110.0], [100.0, 110.0, 70.0])]
    )
    first = found.samples["wrong"][0]
    assert (first.true, first.said) == ("110", "70")
    low, high = error_interval(raw, Heights(), pool(true)) or (0, 0)
    assert 0 <= low < (1625 / 3) ** 0.5 < high <= 40, "a bootstrap over rows of errors 5, 0 and 40"
    assert sampled_rows(raw[:0], Heights(), pool([])) is None and error_interval(raw[:0], Heights(), pool([])) is None


def test_what_is_kept_is_read_back_or_refused(tmp_path: Path) -> None:
    found = SampledRows(["a"], {"wrong": [Sample("1", "cat", "dog", 0.9, ["x"])]}, [], [])
    found.write(tmp_path)
    assert SampledRows.read(tmp_path) == found and SampledRows.read(tmp_path / "none") is None
    (tmp_path / "tested.json").write_text("[]")
    with pytest.raises(DamagedFile, match=r"tested\.json is damaged"):
        SampledRows.read(tmp_path)


def test_names_that_are_no_text_are_spelled(tmp_path: Path) -> None:
    class Odd(Three):
        label_names = ["c\udcff", "dog", "owl"]

        def row_names(self, pool: Pool) -> list[str]:
            return [f"{number}\udcfe.png" for number in pool.ids.tolist()]

    found = sampled_rows(torch.eye(3), Odd(), pool([1, 1, 2]))
    assert (
        found is not None
        and found.samples["wrong"][0].id == "100\\xfe.png"
        and found.samples["wrong"][0].said == "c\\xff"
    )
    found.write(tmp_path)
    assert SampledRows.read(tmp_path) == found


def test_rows_are_shown_as_text_and_can_be_left_out(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    picture = thumbnail_of(torch.rand(1, 8, 8))
    assert picture.startswith("data:image/")
    rows = {
        "wrong": [Sample(EVIL, EVIL, "dog", 0.91, [EVIL, "2"])],
        "right": [Sample("2", "cat", "cat", 0.5, [], picture)],
    }
    SampledRows(["text", "n"], rows).write(run)
    html = page([read_run(run)])
    seen = Structure(html)
    assert "samples" in seen.sections and not seen.all("script")
    assert f"{EVIL} → dog" in seen.text("b") and "cat ✓" in seen.text("b") and "91% sure" in seen.text("span")
    assert [image["src"] for image in seen.all("img")] == [picture]
    assert "samples" not in Structure(page([read_run(run)], with_samples=False)).sections
    (run / "tested.json").write_text("{")
    assert any("is damaged" in line for line in Structure(page([read_run(run)])).text("p"))


def test_values_have_predicted_against_true_and_residuals(tmp_path: Path) -> None:
    run = made(tmp_path / "run", metric="RMSE", confusion=None, calibration=None, label_names=["height"])
    SampledRows([], {"wrong": [Sample("1", "2", "3")]}, ["height"], [([1.0, 2.0, 4.0], [1.0, 3.0, 3.0])]).write(run)
    seen = Structure(page([read_run(run)]))
    titles = seen.text("figcaption")
    assert titles[:2] == ["height: predicted, by true value", "height: predicted minus true, by true value"]
    assert any(
        "Root mean square 0.8165, mean +0, largest 1." in note and "would be off by 1.247" in note
        for note in seen.text("p")
    )


def test_points_are_ways_in_a_plane_that_end_in_a_large_dot(tmp_path: Path) -> None:
    names = ["left_eye_x", "left_eye_y", "nose_x", "nose_y"]
    run = made(tmp_path / "run", metric="landmark error %", confusion=None, calibration=None, label_names=names)
    lines = [
        {
            "step": s,
            "ids": ["7"],
            "labels": [[10.0 + s, 20.0, 30.0, 40.0 - s]],
            "truth": [[12.0, 20.0, 30.0, 35.0]],
            "kind": "points",
        }
        for s in (1, 2, 3)
    ]
    (run / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    seen = Structure(page([read_run(run)]))
    assert "row 7, in pixels" in seen.text("figcaption") and {"left eye", "nose"} <= set(seen.text("text"))
    assert len([one for one in seen.all("circle") if one["r"] == "4"]) == 2


def test_a_recipe_is_named_as_anywhere_and_never_by_a_path_from_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert recipe_name(str(shipped_recipes()["two_moons"])) == "two_moons"
    assert recipe_name("/elsewhere/recipes/two_moons.yaml") == "two_moons", "of another machine's checkout"
    own = tmp_path / "mine" / "two_moons.yaml"
    own.parent.mkdir()
    own.write_text("{}")
    assert recipe_name(str(own)) == "two_moons.yaml", "somebody's own of that name"
    monkeypatch.chdir(tmp_path)
    assert (
        recipe_name(str(own)) == str(Path("mine/two_moons.yaml")) and recipe_name("recipes/x.yaml") == "recipes/x.yaml"
    )
    assert "/elsewhere" not in command(result_with(recipe="/elsewhere/my.yaml", imports=["/elsewhere/task.py"]))


@pytest.mark.skipif(find() is None, reason="no Chromium on the path (chromium, chromium-browser or google-chrome)")
def test_one_run_fits_six_thousand_pixels_of_a_phone(tmp_path: Path) -> None:
    run = made(tmp_path / "run", problem="l2i", warnings=["a warning of one line"] * 3, phase_seconds={"base": 4.0})
    rows = [Sample(str(n), "cat", "dog", 0.5, ["words " * 60]) for n in range(6)]
    SampledRows(["text"], {"wrong": rows, "doubtful": rows, "right": rows}).write(run)
    path = tmp_path / "report.html"
    path.write_text(page([read_run(run)]))
    with Browser(str(find()), Path(tempfile.mkdtemp(dir=tmp_path))) as browser:
        browser.open(path, 390)
        assert browser.evaluate("document.documentElement.scrollHeight") < 6000
        assert browser.evaluate("document.documentElement.scrollWidth") == 390
        lead = browser.evaluate("document.querySelector('.lead').getBoundingClientRect().bottom")
        assert lead < 400, "the first sentence is on the first screen"
