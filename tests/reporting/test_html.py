"""The HTML report: one file that holds everything, says what is known and no more, and trusts no name."""

from __future__ import annotations

import errno
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from metaimpute.cli import main
from metaimpute.reporting.page import letter, page, svg
from metaimpute.reporting.runs import by_kind, by_system, comparable, names_of, read_run

from .browser import Browser, find
from .made import made

VOID = {"meta", "link", "br", "img", "input", "hr"}
EVIL = '<script>alert("x")</script>'
WATCHED = {
    "update_holdout_before": 1.0,
    "update_holdout_after": 0.9,
    "update_test_before": 2.0,
    "update_test_after": 2.1,
}


class Structure(HTMLParser):
    """What a page consists of; asserts that every element is closed where it should be."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> at {self.getpos()} closes nothing"

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.found if name == tag]

    def text(self, *tags: str) -> list[str]:
        return [data for tag, data in self.words if not tags or tag in tags]

    @property
    def sections(self) -> list[str]:
        return [str(attrs["class"]) for attrs in self.all("section")]


@pytest.fixture
def four(tmp_path: Path) -> list[Path]:
    """Two systems on two seeds each; one has everything that can be drawn without data."""
    base = [made(tmp_path / f"base{s}", seed=s, error=20.0 + 2 * s) for s in (0, 1)]
    spent = {"data": 0.4, "base": 4.0}
    l2i = [
        made(
            tmp_path / f"l2i{s}",
            problem="l2i",
            seed=s,
            error=18.0 + s,
            metrics=WATCHED,
            phase_seconds=spent,
            lookahead_warning=s == 1,
        )
        for s in (0, 1)
    ]
    track = [{"step": s, "ids": ["a", "b"], "labels": [[0.2, 0.5, 0.3], [s / 50, 0, 1 - s / 50]]} for s in (10, 20, 40)]
    (l2i[0] / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in track))
    return base + l2i


def rendered(*folders: Path) -> str:
    return page([read_run(folder) for folder in folders])


def test_a_page_is_well_formed_and_needs_nothing_from_elsewhere(four: list[Path]) -> None:
    html = rendered(*four)
    seen = Structure(html)
    assert not seen.all("script") and not seen.all("link") and not seen.all("iframe")
    assert not re.search(r"https?://|url\(|@import", html)
    links = [str(a["href"]) for a in seen.all("a")]
    ids = [str(a["id"]) for _, a in seen.found if "id" in a]
    assert links and {link.removeprefix("#") for link in links} <= set(ids) and len(ids) == len(set(ids))
    assert len(html.encode()) < 2_000_000


def test_every_section_stands_where_something_is_known(four: list[Path], tmp_path: Path) -> None:
    assert Structure(rendered(*four)).sections == [
        "verdict", "results", "warnings", "learning", "predictions", "imputed", "losses", "trajectories", "hypergradients",
        "updates", "cost", "repeat",
    ]  # fmt: skip
    poor = made(
        tmp_path / "poor",
        confusion=None,
        calibration=None,
        metrics={"mask_rate": 0.0},
        error=None,
        validation_last=None,
    )
    seen = Structure(rendered(poor))
    assert seen.sections == ["verdict", "results", "learning", "losses", "cost", "repeat"]
    assert "-" in seen.text("dd"), "a missing number is a dash"


def test_updates_that_were_not_watched_are_said_to_be_missing(tmp_path: Path) -> None:
    assert "train.watch_test=300" in rendered(made(tmp_path / "a", problem="l2i"))


def test_seeds_are_folded_and_the_profile_stands_with_every_number(four: list[Path], tmp_path: Path) -> None:
    cells = Structure(rendered(*four)).text("td")
    assert "21.00 ± 1.41" in cells and "18.50 ± 0.71" in cells
    assert "-2.50" in cells and "-3.00 to -2.00" not in cells and "2 of 2" in cells
    paper = made(tmp_path / "paper", profile="paper", error=7.0)
    seen = Structure(rendered(four[0], paper))
    assert {"sample", "paper"} <= set(seen.text("td")) and "Paired" not in " ".join(seen.text())
    assert "paper and sample profiles" in " ".join(seen.text("p"))


def test_systems_of_one_name_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    runs = [
        made(tmp_path / str(lr), problem="l2i", settings={"problem": {"name": "l2i", "inner": {"lr": lr}}})
        for lr in (0.1, 0.3)
    ]
    names = names_of(by_system([read_run(folder) for folder in [*runs, made(tmp_path / "base")]]))
    assert names == [
        "mean_teacher + l2i (exact), problem.inner.lr=0.1", "mean_teacher + l2i (exact), problem.inner.lr=0.3", "mean_teacher",
    ]  # fmt: skip


def test_a_seed_run_twice_gets_a_name_of_its_own(tmp_path: Path) -> None:
    runs = [read_run(made(tmp_path / name)) for name in "abc"]
    assert names_of(by_system(runs)) == ["mean_teacher", "mean_teacher #2", "mean_teacher #3"]


def test_runs_of_two_tasks_share_a_page_but_no_table_or_chart(four: list[Path], tmp_path: Path) -> None:
    seen = Structure(
        rendered(four[0], made(tmp_path / "other", task="prices", metric="RMSE", source="prices", confusion=None))
    )
    assert seen.sections.count("results") == 2
    assert seen.text("h2") == ["digits, error %", "prices, RMSE"]
    assert "mean_teacher" in seen.text("th") and not seen.all("b"), "one system of each task needs no letter"


def test_runs_of_other_data_share_no_table(four: list[Path], tmp_path: Path) -> None:
    """Other data is other words in ``source``, or other content behind the same words."""
    named = [made(tmp_path / f"named{s}", source="other digits", seed=s) for s in (0, 1)]
    changed = [made(tmp_path / f"changed{s}", problem="l2i", data_fingerprint="c0ffee", seed=s) for s in (0, 1)]
    empty = [made(tmp_path / f"empty{s}", labels=30, data_fingerprint="", seed=s) for s in (0, 1)]
    every = [*four, *named, *changed, *empty]
    titles = [
        "digits, error % (digits, content not recorded)",
        "digits, error % (other digits)",
        "digits, error % (digits, content c0ffee)",
    ]
    assert Structure(rendered(*every)).text("h2") == titles
    code, output = call("compare", *every)
    tables = output.split("digits: test error % (")[1:]
    assert code == 0 and [table.count("│ sample") for table in tables] == [3, 1, 1], "labels alone make no other data"
    assert call("report", *every, "--out", tmp_path / "r.html")[1].count("calibration error %") == 3


def test_an_old_run_and_a_new_one_of_changed_data_are_two_systems(tmp_path: Path) -> None:
    runs = [read_run(made(tmp_path / name, data_fingerprint=name, seed=n)) for n, name in enumerate("ab")]
    assert len(by_system(runs)) == 2 and len(by_kind(runs)) == 2
    assert not comparable(runs[0].result, runs[1].result)


def test_too_many_classes_for_a_matrix_are_said(tmp_path: Path) -> None:
    whole = json.loads((made(tmp_path / "few") / "result.json").read_text())
    del whole["confusion"], whole["seed"], whole["steps"]
    many = made(tmp_path / "many", **(whole | {"label_names": [f"c{n}" for n in range(60)]}))
    result = json.loads((many / "result.json").read_text())
    del result["confusion"]
    (many / "result.json").write_text(json.dumps(result))
    assert "60 classes are too many for a matrix." in Structure(rendered(many)).text("p")
    assert "too many" not in rendered(tmp_path / "few")


def test_a_run_is_repeated_with_the_modules_it_imported(tmp_path: Path) -> None:
    run = made(tmp_path / "run", imports=["my task.py", "mine"])
    said = "metaimpute run my.yaml --import 'my task.py' --import mine --profile sample --set task.labels=9 --seed 0"
    assert said in Structure(rendered(run)).text("code")


def test_a_page_cut_short_leaves_the_old_one(four: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    old = four[0] / "report.html"
    old.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    code, _ = call("report", four[0])
    assert code != 0 and old.read_text() == "old" and not list(four[0].glob("*.part"))


def test_names_from_runs_are_text_and_never_markup(tmp_path: Path) -> None:
    names = [EVIL, '" onload="x', "</style>"]
    run = made(
        tmp_path / "run", problem="l2i", label_names=names, source=EVIL, method=EVIL, task=EVIL, recipe=EVIL, overrides=[EVIL],
        environment={"python": EVIL, "system": EVIL, "device": EVIL, "cores": 1, "threads": 1, "packages": {EVIL: EVIL}, "command": EVIL},
        settings={"about": {"title": EVIL}}, profile_reason=EVIL, warnings=[f"warning: {EVIL}"], metric=EVIL,
    )  # fmt: skip
    track = [{"step": s, "ids": [EVIL], "labels": [[0.2, 0.1, 0.7]], "truth": [0]} for s in (10, 20)]
    (run / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in track))
    html = page([read_run(run)], [EVIL])
    seen = Structure(html)
    assert not seen.all("script") and html.count("</style>") == 1
    assert not [attrs for _, attrs in seen.found if any(name.startswith("on") for name in attrs)]
    assert EVIL in " ".join(seen.text("th", "span")) and EVIL in " ".join(seen.text("li"))


def test_headings_tables_and_pictures_can_be_heard(four: list[Path]) -> None:
    seen = Structure(rendered(*four))
    assert seen.all("html")[0]["lang"] == "en" and len(seen.all("h1")) == 1 and len(seen.all("main")) == 1
    levels = [int(tag[1]) for tag, _ in seen.found if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), "no level is skipped"
    assert {attrs.get("scope") for attrs in seen.all("th")} == {"col", "row"}
    for attrs in seen.all("svg"):
        assert attrs.get("role") == "img" or attrs.get("aria-hidden") == "true"
    drawings = [attrs for attrs in seen.all("svg") if attrs.get("role") == "img"]
    assert len(seen.all("title")) >= len(drawings) and len(seen.all("desc")) == len(seen.all("figure"))
    regions = [attrs for _, attrs in seen.found if attrs.get("role") == "region"]
    assert regions and all(attrs["tabindex"] == "0" and attrs["aria-label"] for attrs in regions), (
        "scrolled by keyboard"
    )


def test_a_page_is_the_same_every_time(four: list[Path]) -> None:
    assert rendered(*four) == rendered(*four)


def test_measurements_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    run = made(tmp_path / "a", metrics={"loss": lambda step: float("nan") if step == 20 else 1.0 / step})
    assert not re.search(r"\bnan\b", rendered(run), flags=re.IGNORECASE)


def test_a_long_run_stays_small_and_damaged_trajectories_are_ignored(tmp_path: Path) -> None:
    run = made(tmp_path / "long", problem="l2i", steps=60_000, metrics=WATCHED)
    (run / "labels.jsonl").write_text('{"step": 1, "ids": ["a"]}\n{')
    html = rendered(run)
    assert len(html.encode()) < 300_000 and "trajectories" not in Structure(html).sections


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_ink_stands_out_from_the_ground(scheme: str) -> None:
    """Contrast as WCAG 2 has it, at least 4.5 to 1."""
    css = (Path(svg.__file__).parent / "page.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", css, flags=re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", blocks[scheme == "dark"]))

    def luminance(colour: str) -> float:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for ground in ("ground", "raised"):
        for ink in ("ink", "quiet", *(f"c{n}" for n in range(svg.STYLES))):
            bright, dim = sorted((luminance(colours[ground]), luminance(colours[ink])), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, f"{ink} on {ground}"


def test_a_long_label_leaves_room_for_its_line() -> None:
    drawing = svg.chart("t", [svg.Line([(0, 0), (1, 1)], label="a class with a very long name")])
    assert "a class with …</text>" in drawing and "a class with a very long name:" in drawing


def test_axes_have_round_numbers() -> None:
    assert svg.ticks(0, 400) == [0, 100, 200, 300, 400] and svg.ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert svg.ticks(-0.31, 0.28) == pytest.approx([-0.2, 0, 0.2])
    assert svg.log_ticks(0.002, 30) == [0.01, 0.1, 1, 10] and svg.log_ticks(0.3, 4) == pytest.approx([0.5, 1, 2])
    assert [svg.written(v) for v in (15000, 0.1 + 0.2, 1e-6)] == ["15,000", "0.3", "1e-06"]
    assert [letter(n) for n in (0, 25, 26)] == ["A", "Z", "27"]


def test_thinning_keeps_the_ends() -> None:
    points = [(float(n), 0.0) for n in range(1001)]
    kept = svg.thinned(points, 100)
    assert kept[0] == points[0] and kept[-1] == points[-1] and len(kept) <= 101


def test_labels_at_line_ends_do_not_overlap() -> None:
    lines = [svg.Line([(0, 0), (1, value)], n, letter(n)) for n, value in enumerate((1.0, 1.001, 1.002, 0.0))]
    heights = [float(y) for y in re.findall(r'class="label s\d" x="[\d.]+" y="([\d.]+)"', svg.chart("t", lines))]
    assert len(heights) == 4
    assert all(abs(a - b) >= svg.GAP - 0.11 for n, a in enumerate(heights) for b in heights[:n])
    assert all(svg.TOP <= height <= svg.HEIGHT - svg.BOTTOM + 4 for height in heights)


# commands ------------------------------------------------------------------------------------------------------------


def call(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(map(str, arguments)))
    return done.exit_code, done.output


def test_the_page_of_a_single_run_lies_in_its_folder(four: list[Path]) -> None:
    code, output = call("report", four[0])
    assert code == 0 and (four[0] / "report.html").exists() and "system" in output, output


def test_the_page_of_several_lies_here_or_where_asked(
    four: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("report", *four)[0] == 0 and Path("report.html").exists()
    assert call("report", *four, "--out", "new/mine.html")[0] == 0
    assert [path.name for path in Path("new").iterdir()] == ["mine.html"], "the page alone"


def test_compare_pairs_seeds_with_the_first_system_or_the_named(four: list[Path]) -> None:
    code, output = call("compare", *four)
    assert code == 0, output
    row = next(line for line in output.splitlines() if "│ mean_teacher + l2i" in line)
    assert [cell.strip() for cell in re.split("[│┃|]", row)[1:-1]] == [
        "mean_teacher + l2i (exact) *", "sample", "2", "18.50 ± 0.71", "-2.50", "-", "2 of 2", "-",
    ]  # fmt: skip
    assert "interval and p from five seeds on" in output and "from five seeds on" in rendered(*four)
    code, output = call("compare", *four, "--against", "mean_teacher + l2i (exact)")
    assert code == 0 and "+2.50" in output and "0 of 2" in output
    code, output = call("compare", *four, "--against", "mean_techer")
    assert code == 2 and "did you mean 'mean_teacher'" in output


def test_compare_takes_no_difference_across_profiles_or_from_one_seed(four: list[Path], tmp_path: Path) -> None:
    paper = [made(tmp_path / f"paper{s}", profile="paper", seed=s) for s in (0, 1)]
    for others in (paper, [four[2]]):
        code, output = call("compare", *four[:2], *others)
        row = [line for line in output.splitlines() if "│" in line][-1]
        assert code == 0 and [cell.strip() for cell in row.split("│")[-5:-1]] == ["-"] * 4, output


# in a browser --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(find() is None, reason="no Chromium on the path (chromium, chromium-browser or google-chrome)")
def test_the_page_fits_phone_and_desktop_in_light_and_dark(four: list[Path], tmp_path: Path) -> None:
    wide = [f"a class with a rather long name, number {n}" for n in range(12)]
    many = made(
        tmp_path / "many", label_names=wide, confusion=[[n * m for n in range(12)] for m in range(12)], seed=5, labels=7
    )
    path = tmp_path / "report.html"
    path.write_text(rendered(*four, many))
    grounds = set()
    with Browser(str(find()), tmp_path / "profile") as browser:
        for width in (360, 1280):
            for dark in (False, True):
                browser.open(path, width, dark)
                assert browser.evaluate("document.documentElement.scrollWidth") == width, (
                    "the page itself never scrolls sideways"
                )
                assert browser.evaluate("innerWidth") == width
                grounds.add((dark, browser.evaluate("getComputedStyle(document.body).backgroundColor")))
                assert browser.complaints == []
                assert browser.requests == [path.resolve().as_uri()], "nothing else is asked for"
                assert browser.evaluate("document.querySelectorAll('figure svg').length") > 10
                browser.photograph(tmp_path / f"{width}-{dark}.png")
                assert (tmp_path / f"{width}-{dark}.png").stat().st_size > 20_000
    assert len(grounds) == 2, "each scheme has one ground of its own"
