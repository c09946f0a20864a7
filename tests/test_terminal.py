"""What others have written stays letters: in the terminal, in commands to be copied, in recipes."""

from __future__ import annotations

import csv
import os
import random
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from metaimpute import recipes
from metaimpute.cli import main
from metaimpute.recipes.source import flow
from metaimpute.terminal import argument, cell, spelled

from . import fake_data

SHORT = [f"--set=train.{short}" for short in ("steps=2", "eval_every=2", "log_every=1", "threads=1")]
ODD = ["-x", "a 'b\" \\c", "new\nline: {x}", "\x1b[31mred\x1b]0;title\x07", "[bold]x[nope]", "\u202eevil", "# c, d: e", "$x$\\foo$",
       "%s{y}", "naïve 日本"]  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> Result:
    """A command that may not show what moves a cursor."""
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert not {"\x1b", "\x07", "\u202e", "\r"} & set(done.output + done.stderr)
    return done


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain, naïve, 日本, 👩\u200d👩", "plain, naïve, 日本, 👩\u200d👩"), ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[31mred\x9b0m", r"\x1b[31mred\x9b0m"), ("\u202e\u2066\u2028", r"\u202e\u2066\u2028"), ("\udcff.csv", r"\xff.csv"),
        ("[red]x[/x]", "[red]x[/x]"), ("\u3000wide", "\u3000wide"), ("\x00", r"\x00"), ("\U000e0001", r"\U000e0001"),
    ],
)  # fmt: skip
def test_what_is_not_seen_as_itself_is_spelled_out(text: str, expected: str) -> None:
    assert spelled(text) == expected == spelled(expected) == cell(text).plain


@pytest.mark.skipif(sys.platform == "win32", reason="needs bash")
def test_a_path_is_one_word_of_a_command_and_no_option() -> None:
    rng = random.Random(0)
    letters = "ab -'\"\\$`!*[]{}~\n\t\x1b\u202e\xe9#;&|"
    paths = [*ODD, *("".join(rng.choices(letters, k=8)) for _ in range(40))]
    words = " ".join(argument(path) for path in paths)
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {words}"], capture_output=True, check=True)
    found = [word.decode().removeprefix("./") for word in done.stdout.split(b"\0")[:-1]]
    assert found == [path.removeprefix("./") for path in paths]
    assert not any(argument(path).startswith("-") for path in paths) and spelled(words) == words
    assert argument("runs/a b") == shlex.quote("runs/a b") and argument("-x.csv") == "./-x.csv"


@pytest.mark.parametrize("value", [*ODD, "\udcff.csv", "007", "no", "", ["a: b", "c, d"], True, 3, 1e-5, None])
def test_a_value_is_written_so_that_yaml_reads_it_back(value: object) -> None:
    text = flow(value)
    assert yaml.safe_load(f"task: {{file: {text}, x: 1}}  # more") == {"task": {"file": value, "x": 1}}
    assert spelled(text) == text and "\n" not in text


@pytest.mark.skipif(sys.platform == "win32", reason="such names are not allowed")
@pytest.mark.parametrize("name", [*ODD[:2], *(pytest.param(one, marks=pytest.mark.slow) for one in ODD[2:])])
def test_a_table_may_have_any_name(name: str, here: Path) -> None:
    path = fake_data.make_own_table(here).rename(here / f"{name}.csv")
    done = call("init", "table", "--", path.name)
    assert done.exit_code == 0, done.output
    written = here / f"{name}.yaml"
    recipe = recipes.load(written, "sample")
    assert recipe.task.file == path.name and recipe.about.title == name  # type: ignore[attr-defined]
    hint = done.output.splitlines()[-1]
    assert hint.endswith(f"next: metaimpute run {argument(written.name)}")
    ran = call("run", "--out", "-r", *SHORT, "--", written.name)
    assert ran.exit_code == 0, ran.output
    for words in (["compare", "./-r"], ["report", "./-r"], ["impute", "./-r"], ["check", "--", written.name]):
        assert call(*words).exit_code == 0
    again = call("run", "--out", "-r", "--", written.name)
    assert again.exit_code == 2 and "--resume ./-r" in again.stderr
    assert (
        f"metaimpute run {argument(written.name)}".replace("'", "&#39;").split("&")[0]
        in (here / "-r/report.html").read_text()
    )


def test_a_file_named_like_an_option_is_told_how_to_be_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_data.make_own_table(here).rename(here / "-x.csv")
    words = ["init", "table", "-x.csv"]
    monkeypatch.setattr(sys, "argv", ["metaimpute", *words])
    done = call(*words)
    assert (
        done.exit_code == 2
        and "no such option" in done.stderr
        and "for the file of that name write ./-x.csv" in done.stderr
    )
    assert call("init", "table", "./-x.csv").exit_code == 0


def test_words_in_the_data_stay_words(here: Path) -> None:
    """Classes, ids, columns and a title full of markup and escape sequences, from init to predict."""
    rng, classes = random.Random(0), ["[/x]", "[red]r1", "\x1b[31mred", "a\nb"]
    with (here / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "p", "[bold]q", "c\x1b[2J", "target"])
        for i in range(80):
            row = [f"[/i]{i}\x1b]0;t\x07", i % 4 + rng.random() / 9, rng.random(), rng.choice(["u", "[/v]"])]
            writer.writerow([*row, classes[i % 4] if i < 40 else ""])
    done = call("init", "table", "t.csv")
    assert done.exit_code == 0 and r"\x1b[31mred 10, [/x] 10, [red]r1 10, a\nb 10" in " ".join(done.output.split())
    text = (here / "t.yaml").read_text().replace('title: "t"', r'title: "[/x] \e[31m [red]t"')
    (here / "t.yaml").write_text(text)
    done = call("run", "t.yaml", "--out", "r", *SHORT)
    assert done.exit_code == 0 and r"[/x] \x1b[31m [red]t" in done.output
    assert call("report", "r").exit_code == call("compare", "r").exit_code == 0
    done = call("predict", "r", "t.csv")
    assert done.exit_code == 0 and r"[/i]0\x1b]0;t\x07" in done.output and "[red]r1" in done.output
    assert call("impute", "r").exit_code == 0
    with (here / "r" / "labels.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert found[0]["id"] == "[/i]40\x1b]0;t\x07" and {row["label"] for row in found} <= set(classes), (
        "files hold it as it is"
    )


@pytest.mark.parametrize(
    "words", [("run", "\x1b[31mx.yaml"), ("run", "--\x1b[31mx"), ("init", "ima\x1bges", "x"), ("predict", "r", "\x1b.csv"),
              ("run", "two_moons", "--set", "a\x1b=3"), ("data", "get", "\x1b[1m"), ("list", "\u202e"), ("check", "\x1b.yaml")]
)  # fmt: skip
def test_mistakes_in_a_call_are_spelled_out(words: tuple[str, ...], here: Path) -> None:
    done = call(*words)
    assert done.exit_code == 2 and ("\\x1b" in done.stderr or "\\u202e" in done.stderr)


def test_a_path_that_is_not_utf_8_works_from_init_to_report(here: Path) -> None:
    table = fake_data.make_own_table(here)
    try:
        os.rename(table, os.fsencode(here) + b"/\xff.csv")  # noqa: PTH104
    except OSError:
        pytest.skip("this file system has no such names")
    name = os.fsdecode(b"\xff")
    assert call("init", "table", f"{name}.csv").exit_code == 0
    assert call("run", f"{name}.yaml", *SHORT).exit_code == 0
    folder = "runs/\\xff-seed0"
    assert call("report", folder).exit_code == call("impute", folder).exit_code == 0
    done = call("run", f"{name}.yaml", "--out", name, *SHORT)
    assert done.exit_code == 2 and "choose another folder" in done.stderr


def test_a_figure_takes_no_name_for_mathematics(here: Path) -> None:
    from metaimpute.reporting.figures import WATCHED

    from .reporting.made import made

    made(here / "r", problem="l2i", source="$\\foo$ & <b>", metrics=dict.fromkeys(WATCHED, lambda step: 1.0 / step))
    done = call("report", "r", "--out", "figures")
    assert done.exit_code == 0 and (here / "figures" / "label_updates_r.png").exists(), done.output
    assert "$\\foo$ &amp; &lt;b&gt;" in (here / "figures" / "report.html").read_text()
