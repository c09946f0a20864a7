"""One file adds one thing: each kind of component, with an option of its own, from ``--import`` to a run's record."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import metaimpute
from metaimpute import plugins
from metaimpute.cli import main
from metaimpute.cluster.modules import files_of
from metaimpute.engine import estimators, optimizers
from metaimpute.methods import methods
from metaimpute.models import models
from metaimpute.problems import problems
from metaimpute.study.workers import Worker
from metaimpute.tasks import tasks

REGISTRIES: dict[str, Any] = {
    "estimators": estimators, "optimizers": optimizers, "problems": problems, "methods": methods, "tasks": tasks,
    "models": models,
}  # fmt: skip
RECIPE = """
task: {name: two_moons, labels: 4, validation: 20, size: 100}
model: {name: mlp, width: 8}
method: {name: mean_teacher, weight: 5, ramp: 0.0}
problem: {name: l2i, inner: {lr: 0.2}}
train: {steps: 3, batch: 4, unlabelled_batch: 8, eval_every: 3, log_every: 1, threads: 1}
"""

ESTIMATOR = '''
from metaimpute import register_estimator
from metaimpute.engine.estimators.exact import Exact

@register_estimator("mine")
class Mine(Exact):
    """An estimator of one's own."""

    factor: float = 1.0

    def differentiate(self, problem):
        result = super().differentiate(problem)
        result.grad_c = self.factor * result.grad_c
        return result
'''
OPTIMIZER = '''
from metaimpute import register_optimizer, sgd

@register_optimizer("mine")
def mine(lr, rho: float = 1.0):
    """An inner optimiser of one's own."""
    return sgd(rho * lr)
'''
OWN = '''
import torch
from metaimpute import BilevelProblem, register_problem

@register_problem("mine")
class Mine(BilevelProblem):
    """A problem of one's own."""

    start_at: float = 0.0

    def init_meta(self, sizes):
        return {"logits": torch.full((sizes.unlabelled,), self.start_at)}

    def couple(self, meta, batch):
        return meta["logits"][batch.unlabelled.index].sigmoid()

    def inner_loss(self, params, c, batch):
        raw = self.predict(params, batch.unlabelled.strong)
        return (c * self.method.consistency(raw, batch.imputation.labels)).mean()

    def measure(self, meta):
        return {"mean_logit": float(meta["logits"].mean())}
'''
NETWORK = '''
from metaimpute import BilevelProblem, register_problem

@register_problem("mine")
class Mine(BilevelProblem):
    """A problem of one's own."""

    learns = "network"
    factor: float = 1.0

    def couple(self, meta, batch):
        return self.method.psi(self.predict, meta, batch.unlabelled)

    def inner_loss(self, params, c, batch):
        raw = self.predict(params, batch.unlabelled.strong)
        return self.supervised(params, batch.labelled) + self.method.consistency(raw, c).mean()

    def outer_loss(self, params, c, holdout):
        return self.factor * self.supervised(params, holdout)
'''
LABELS = '''
import torch
from metaimpute import BilevelProblem, register_problem

@register_problem("mine")
class Mine(BilevelProblem):
    """A problem of one's own."""

    learns = "labels"
    factor: float = 1.0

    def batch_meta(self, params, batch):
        return {"logits": self.predict(params, batch.unlabelled.weak)}

    def inner_loss(self, params, c, batch):
        raw = self.predict(params, batch.unlabelled.strong)
        return self.method.consistency(raw, c["logits"].softmax(-1)).mean()

    def outer_loss(self, params, c, holdout):
        return self.factor * self.supervised(params, holdout)
'''
METHOD = '''
from metaimpute import Method, register_method
from metaimpute.batches import Imputation

@register_method("mine")
class Mine(Method):
    """A method of one's own."""

    count: float = 1.0

    def impute(self, predict, params, unlabelled, state):
        labels = self.psi(predict, params, unlabelled)
        return Imputation(labels, labels.new_full((len(labels),), self.count))
'''
TASK = '''
import torch
from metaimpute import Classes, Pool, Task, register_task, semi_supervised

@register_task("mine")
class Mine(Task):
    """A task of one's own."""

    input_kind = "vector"
    input_shape = (2,)
    labels: int = 4
    apart: float = 1.0

    @property
    def output(self):
        return Classes(2)

    def load(self, seed):
        generator = torch.Generator().manual_seed(0)
        targets = torch.arange(100) % 2
        inputs = torch.randn(100, 2, generator=generator) + self.apart * targets[:, None]
        pool = Pool(inputs, targets, torch.arange(100))
        return semi_supervised(
            pool.subset(torch.arange(60)), pool.subset(torch.arange(60, 100)), labels=self.labels, validation=10,
            classes=2, seed=seed, source=f"two clouds {self.apart:g} apart",
        )

    def view(self, raw, kind, generator):
        return raw if kind == "none" else raw + 0.1 * torch.randn(raw.shape, generator=generator)
'''
MODEL = '''
from torch import nn
from metaimpute import Model, register_model

@register_model("mine")
class Mine(Model):
    """A model of one's own."""

    accepts = ("vector",)
    units: int = 3

    def build(self, input_shape, outputs):
        return nn.Sequential(nn.Linear(input_shape[0], self.units), nn.Tanh(), nn.Linear(self.units, outputs))
'''


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def first(name: str) -> Callable[[Path], Any]:
    return lambda folder: next(line[name] for line in lines(folder) if name in line)


def recorded(name: str) -> Callable[[Path], Any]:
    return lambda folder: json.loads((folder / "result.json").read_text())[name]


def units(folder: Path) -> int:
    return int(metaimpute.load(folder).module[0].out_features)  # type: ignore[index,union-attr,arg-type]


def approximately(value: float) -> Any:
    return pytest.approx(value, rel=1e-4)


# kind: its code, what names it in a recipe (OPTION for the option), the option, values, what each does to the run
ADDED: dict[str, tuple[str, str, str, Any, Any, Callable[[Path], Any], Callable[[Any], Any]]] = {
    "estimators": (ESTIMATOR, "problem.estimator={name: mine, OPTION}", "factor", 1.0, 3.0,
                   first("hypergradient_norm"), lambda before: approximately(3 * before)),
    "optimizers": (OPTIMIZER, "problem.inner={optimizer: mine, lr: 0.2, OPTION}", "rho", 1.0, 2.0,
                   first("holdout_after"), lambda before: SGD_AT_TWICE),
    "problems, own": (OWN, "problem={name: mine, OPTION}", "start_at", 0.0, 2.0,
                      first("mean_logit"), lambda before: pytest.approx(2, abs=0.1)),
    "problems, network": (NETWORK, "problem={name: mine, OPTION}", "factor", 1.0, 3.0,
                          first("hypergradient_norm"), lambda before: approximately(3 * before)),
    "problems, labels": (LABELS, "problem={name: mine, OPTION}", "factor", 1.0, 3.0,
                         first("hypergradient_norm"), lambda before: approximately(3 * before)),
    "methods": (METHOD, "method={name: mine, OPTION}", "count", 1.0, 0.25,
                first("mask_rate"), lambda before: 0.25),
    "tasks": (TASK, "task={name: mine, OPTION}", "apart", 1.0, 4.0,
              recorded("source"), lambda before: "two clouds 4 apart"),
    "models": (MODEL, "model={name: mine, OPTION}", "units", 3, 5, units, lambda before: 5),
}  # fmt: skip
SGD_AT_TWICE: Any = None


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the recipe; what a test registers is forgotten after it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE)
    kept = {kind: dict(registry._entries) for kind, registry in REGISTRIES.items()}
    commands = dict(main.commands)
    yield tmp_path
    for kind, entries in kept.items():
        REGISTRIES[kind]._entries.clear()
        REGISTRIES[kind]._entries.update(entries)
    main.commands.clear()
    main.commands.update(commands)
    sys.modules.pop("mine", None)


def call(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def run(out: str, *sets: str, imports: tuple[str, ...] = ("mine.py",)) -> Result:
    words = [word for name in imports for word in ("--import", name)]
    return call("run", "r.yaml", *words, "--out", out, *(word for text in sets for word in ("--set", text)))


@pytest.mark.parametrize("kind", ADDED)
def test_one_file_adds_one_with_an_option_of_its_own(kind: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, named, option, usual, value, seen, expected = ADDED[kind]
    if kind == "optimizers":
        assert run("sgd", "problem.inner={optimizer: sgd, lr: 0.4}", imports=()).exit_code == 0
        monkeypatch.setitem(globals(), "SGD_AT_TWICE", seen(here / "sgd"))
    (here / "mine.py").write_text(code)
    listed = call("list", kind.split(",")[0], "--import", "mine.py")
    assert listed.exit_code == 0 and " of one's own." in listed.output, listed.output
    before = run("before", named.replace(", OPTION", ""))
    assert before.exit_code == 0, before.output
    after = run("after", named.replace("OPTION", f"{option}: {value}"))
    assert after.exit_code == 0, after.output
    assert seen(here / "after") == expected(seen(here / "before")) != seen(here / "before")
    again = run("usual", named.replace("OPTION", f"{option}: {usual}"))
    assert again.exit_code == 0 and lines(here / "usual") == lines(here / "before"), "the default is the default"
    assert json.loads((here / "after" / "begun.json").read_text())["imports"][-1] == "mine.py"
    assert call("impute", "after", "--import", "mine.py").exit_code == 0


@pytest.mark.parametrize("kind", ADDED)
def test_a_wrong_option_of_it_is_a_line_with_the_nearest(kind: str, here: Path) -> None:
    code, named, option, *_ = ADDED[kind]
    (here / "mine.py").write_text(code)
    wrong = option[:-1] + "x"
    for given, said in (
        (f"{wrong}: 1", f"{wrong}: {{}}; did you mean '{option}'?"),
        (f"{option}: [x]", f"{option}: should be a valid "),
    ):
        done = call("check", "r.yaml", "--import", "mine.py", "--set", named.replace("OPTION", given))
        texts = [said.format(text) for text in ("unknown key", "'mine' has no such option")]
        assert done.exit_code == 2 and any(text in done.stderr for text in texts), done.output
        assert len(done.stderr.splitlines()) == 1


# commands ------------------------------------------------------------------------------------------------------------

COMMAND = '''
import click
from metaimpute.cli import main
from metaimpute.errors import UserError

class TooMany(UserError):
    """Of this command."""
    exit_code = 7

@main.command()
@click.option("--times", default=1)
def greet(times):
    """A command of one's own."""
    if times > 3:
        raise TooMany(f"{times} are too many")
    click.echo("hello " * times)
'''


def test_one_file_adds_a_command_with_an_option_of_its_own(here: Path) -> None:
    (here / "mine.py").write_text(COMMAND)
    assert call("greet").exit_code == 2 and "no such command 'greet'" in call("greet").output
    done = call("--import", "mine.py", "greet", "--times", "2")
    assert done.exit_code == 0 and done.output == "hello hello \n"
    assert "A command of one's own." in call("--import", "mine.py", "--help").output
    wrong = call("--import", "mine.py", "greet", "--times", "x")
    assert wrong.exit_code == 2 and "not a valid integer" in wrong.output
    late = call("--import", "mine.py", "greet", "--times", "4")
    assert (late.exit_code, late.stderr) == (7, "error: 4 are too many\n")


def test_a_command_cannot_take_anothers_name(here: Path) -> None:
    (here / "mine.py").write_text(COMMAND.replace("def greet", "def check"))
    before = main.commands["check"]
    done = call("--import", "mine.py", "check", "r.yaml")
    assert done.exit_code == 2 and "ValueError: command 'check' is there already" in done.stderr
    assert main.commands["check"] is before


class Point:
    """An installed package's announcement."""

    dist = None
    value = "package:name"

    def __init__(self, name: str, load: Callable[[], Any]) -> None:
        self.name, self.load = name, load


def announced(monkeypatch: pytest.MonkeyPatch, **commands: Callable[[], Any]) -> list[str]:
    asked: list[str] = []
    points = [Point(name, load) for name, load in commands.items()]
    monkeypatch.setattr(plugins, "entry_points", lambda group: asked.append(group) or points)
    return asked


def test_an_installed_package_adds_a_command_that_is_imported_when_it_is_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[str] = []

    def greet() -> click.Command:
        loaded.append("greet")
        return click.Command("greet", params=[click.Option(["--to"])], callback=lambda to: click.echo(f"hello {to}"))

    asked = announced(monkeypatch, greet=greet)
    shown = call("--help").output
    assert "Commands of plugins:" in shown and "greet  from ?" in shown and loaded == []
    done = call("greet", "--to", "you")
    assert done.output == "hello you\n" and loaded == ["greet"] and set(asked) == {"metaimpute.commands"}


def test_an_installed_command_that_cannot_be_had_is_a_line_and_hurts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ImportError("of an older click")

    announced(monkeypatch, broken=broken, none=lambda: 3, run=broken)
    for name, said in (
        ("broken", "error: command 'broken' of package ?: ImportError: of an older click\n"),
        ("none", "error: command 'none' of package ?: package:name is no command of click\n"),
    ):
        done = call(name)
        assert (done.exit_code, done.stderr) == (2, said)
    assert call("run", "--help").exit_code == 0
    assert "run" not in call("--help").output.split("Commands of plugins:")[1], "its own is the one that is called"


# faults --------------------------------------------------------------------------------------------------------------


def test_an_option_that_a_recipes_key_hides_is_refused(here: Path) -> None:
    (here / "mine.py").write_text(OPTIMIZER.replace("rho: float = 1.0", "steps: int = 3").replace("rho * lr", "lr"))
    done = call("check", "r.yaml", "--import", "mine.py", "--set", "problem.inner={optimizer: mine, lr: 0.2, steps: 2}")
    assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1
    assert "'mine' has an option called 'steps', a key of this section" in done.stderr


def test_a_fault_in_a_plugins_command_is_a_line_that_names_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "mine.py").write_text(COMMAND.replace("TooMany(f", "ValueError(f"))
    done = call("--import", "mine.py", "greet", "--times", "4")
    assert done.exit_code == 1
    assert done.stderr == (
        "error: internal: command 'greet' of mine: ValueError: 4 are too many (METAIMPUTE_DEBUG=1 shows where)\n"
    )
    monkeypatch.setenv("METAIMPUTE_DEBUG", "1")
    assert isinstance(call("--import", "mine.py", "greet", "--times", "4").exception, ValueError)


def test_help_shows_a_command_whichever_option_comes_first(here: Path) -> None:
    (here / "mine.py").write_text(COMMAND)
    assert "A command of one's own." in call("--import", "mine.py", "--help").output


def test_a_name_that_is_taken_and_a_module_that_ends_the_program_are_said_with_the_users_line(here: Path) -> None:
    (here / "mine.py").write_text(OPTIMIZER.replace('"mine"', '"sgd"'))
    done = call("list", "optimizers", "--import", "mine.py")
    assert done.exit_code == 2 and "at 0x" not in done.stderr
    assert "'sgd' is already registered by metaimpute.engine.optimizers.sgd.sgd" in done.stderr
    assert done.stderr.rstrip().endswith("mine.py:4)")
    (here / "ends.py").write_text("import sys\n\nsys.exit(3)\n")
    done = call("list", "optimizers", "--import", "ends.py")
    assert done.exit_code == 2 and "it ends the program: SystemExit(3)" in done.stderr and "ends.py:3)" in done.stderr


@pytest.mark.parametrize("name", ["kept_here.py", "kept_here"])
def test_a_module_named_in_one_folder_is_found_from_another(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's workers and a cluster's nodes import it by the file, though this process has gone elsewhere since."""
    monkeypatch.setattr(plugins, "_given", {})
    text = "import os, pathlib\npathlib.Path(__file__).with_suffix(f'.{os.getpid()}').touch()\n"
    (tmp_path / "kept_here.py").write_text(text)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    try:
        plugins.import_module(name)
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert files_of(plugins.imported_from()) == {"kept_here.py": text.encode()}
        worker = Worker()
        there = tmp_path / f"kept_here.{worker.process.pid}"
        until = time.monotonic() + 120
        while not there.exists() and worker.process.is_alive() and time.monotonic() < until:
            time.sleep(0.1)
        worker.end()
        assert there.exists()
        (tmp_path / "kept_here.py").unlink()
        with pytest.raises(
            plugins.PluginError, match=r"^--import kept_here(\.py)?: a node needs its file, and .*: No such"
        ):
            files_of(plugins.imported_from())
    finally:
        sys.modules.pop("kept_here", None)
