"""The examples run as their first lines say, and compute what they claim; ``--import`` and plugins behave."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from metaimpute import plugins, recipes
from metaimpute.batches import Unlabelled
from metaimpute.batches.outputs import Classes
from metaimpute.cli import main
from metaimpute.engine import FunctionalModel
from metaimpute.ensemble.members import members
from metaimpute.methods import methods
from metaimpute.problems import problems
from metaimpute.tasks import tasks

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ("meta_weight_net", "breast_cancer", "balanced_labels")
QUICK = (
    "--set",
    "train.steps=6",
    "--set",
    "train.eval_every=6",
    "--set",
    "train.log_every=1",
    "--set",
    "train.threads=1",
)


def command(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(map(str, arguments)))
    return done.exit_code, done.output


@pytest.mark.parametrize("name", NAMES)
def test_an_example_trains_labels_and_is_found_again(name: str, tmp_path: Path) -> None:
    code = EXAMPLES / f"{name}.py"
    assert f"metaimpute run examples/{name}.yaml --import examples/{name}.py" in code.read_text()
    certain = () if name == "balanced_labels" else ("--set", "method.threshold=0.0")  # nothing is masked so early
    call = ("run", EXAMPLES / f"{name}.yaml", "--import", code, "--out", tmp_path / "run", *QUICK, *certain)
    status, said = command(*call)
    assert status == 0, said
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    norms = [line["hypergradient_norm"] for line in lines if "hypergradient_norm" in line]
    assert norms and max(norms) > 0, "the hypergradient must reach what the problem learns"
    status, said = command("impute", tmp_path / "run", "--import", code)
    assert status == 0 and "labels to" in said, said
    assert json.loads((tmp_path / "run" / "begun.json").read_text())["imports"].count(str(code)) == 1


def test_a_system_of_ones_own_is_measured_kept_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "_entries", dict(members._entries))
    code = EXAMPLES / "nearest_mean.py"
    for name, module in list(sys.modules.items()):  # as another test may have left it, without what it registered
        if getattr(module, "__file__", None) == str(code):
            monkeypatch.delitem(sys.modules, name)
    members._entries.pop("nearest_mean", None)
    status, said = command(
        "run", "two_moons", "--import", code, "--set", "choose={systems: [nearest_mean, kernel]}", "--out", tmp_path / "run",
        *QUICK,
    )  # fmt: skip
    assert status == 0, said
    told = json.loads((tmp_path / "run" / "result.json").read_text())["candidates"]
    assert {one["name"]: one["weight"] > 0 for one in told} == {"nearest_mean": True, "kernel": True}
    status, said = command("impute", tmp_path / "run", "--import", code)
    assert status == 0 and "labels to" in said, said


def test_every_example_composes_with_the_others(tmp_path: Path) -> None:
    for name in NAMES:
        plugins.import_module(str(EXAMPLES / f"{name}.py"))
    sets = ("task={name: breast_cancer}", "model={name: mlp}", "method={name: balanced_labels}", "train.steps=3")
    recipe = recipes.load(EXAMPLES / "meta_weight_net.yaml", "sample", sets)
    from metaimpute.training.session import Session

    result = Session(recipe, tmp_path, say=lambda message: None).run()
    assert (result["task"], result["method"], result["problem"]) == (
        "breast_cancer",
        "balanced_labels",
        "my_weight_net",
    )


def test_balanced_labels_are_probabilities_equally_frequent_up_to_the_second_half_step() -> None:
    plugins.import_module(str(EXAMPLES / "balanced_labels.py"))
    method: Any = methods.get("balanced_labels")()
    method.bind(Classes(3))
    raw = torch.randn(400, 3, dtype=torch.float64) + torch.tensor([2.0, 0.0, -1.0])
    labels = method.psi(lambda params, inputs: inputs, None, Unlabelled(raw, raw, torch.arange(400)))
    torch.testing.assert_close(labels.sum(1), torch.ones(400, dtype=torch.float64))
    before = raw.softmax(1).mean(0)
    assert float((labels.mean(0) - 1 / 3).abs().max()) < 0.25 * float((before - 1 / 3).abs().max())


def test_meta_weight_nets_weights_are_a_function_of_the_losses() -> None:
    plugins.import_module(str(EXAMPLES / "meta_weight_net.py"))
    problem: Any = problems.get("my_weight_net")(width=4)
    meta = problem.init_meta(None)
    one, two = problem.weights(meta, torch.tensor([0.3, 0.7])), problem.weights(meta, torch.tensor([0.7, 0.3]))
    assert torch.equal(one, two.flip(0)) and bool(((one > 0) & (one < 1)).all())
    assert set(problem.measure(meta)) == {"weight_at_loss_0", "weight_at_loss_2"}


# values through training ---------------------------------------------------------------------------------------------

SCRIPTS = ("maml", "learned_rates", "hyper_cleaning", "lasso_path")


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def differences(value: Callable[[], Any], tensor: torch.Tensor, entries: list[int], step: float = 1e-4) -> torch.Tensor:
    """Central differences of fourth order along some entries."""
    at, slopes = tensor.detach().view(-1), []
    for entry in entries:
        kept, found = float(at[entry]), []
        for shift in (1, -1, 2, -2):
            at[entry] = kept + shift * step
            with torch.no_grad():
                found.append(float(value()))
        at[entry] = kept
        slopes.append((8 * (found[0] - found[1]) - (found[2] - found[3])) / (12 * step))
    return torch.tensor(slopes, dtype=torch.float64)


def check(value: Callable[[], Any], tensors: list[torch.Tensor]) -> None:
    for tensor, slope in zip(tensors, torch.autograd.grad(value(), tensors), strict=True):
        entries = slope.view(-1).abs().topk(min(4, slope.numel())).indices.tolist()
        assert float(slope.abs().max()) > 0
        torch.testing.assert_close(slope.view(-1)[entries], differences(value, tensor, entries), rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_short_and_says_how_to_run_it(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 64 and f"    python examples/{name}.py\n" in text


def test_maml_learns_a_start_and_its_gradient_is_right(float64: None, capsys: pytest.CaptureFixture[str]) -> None:
    maml = script("maml")
    torch.manual_seed(0)
    model = FunctionalModel(torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)))
    log_lr = torch.tensor(-2.0, requires_grad=True)
    waves = maml.waves(torch.Generator().manual_seed(0), 3)
    check(lambda: maml.adapted(model, model.params, log_lr, *waves), [*model.params.values(), log_lr])
    torch.set_default_dtype(torch.float32)
    before, after = maml.main(iterations=25)
    assert after < 0.75 * before and "error on new waves after 2 steps" in capsys.readouterr().out


def test_rates_are_learned_for_every_entry_and_their_gradient_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    rates = script("learned_rates")
    torch.manual_seed(0)
    model = FunctionalModel(
        torch.nn.Sequential(torch.nn.Linear(64, 4), torch.nn.Tanh(), torch.nn.Linear(4, 10)).double()
    )
    train, validation, _ = [(x.double(), y) for x, y in rates.digits()]
    logs = {name: torch.full_like(p, -1.0).requires_grad_() for name, p in model.params.items()}
    check(lambda: rates.trained(model, logs, train, validation), list(logs.values()))
    before, after = rates.main(iterations=6)
    assert after < 0.8 * before and "test loss after 10 steps" in capsys.readouterr().out


def test_hyper_cleaning_finds_the_wrong_labels_and_its_gradient_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    cleaning = script("hyper_cleaning")
    train, validation, _, _ = [(d[0].double(), d[1]) if isinstance(d, tuple) else d for d in cleaning.digits()]
    logits = torch.randn(200, dtype=torch.float64).requires_grad_()
    check(lambda: cleaning.trained(logits, train, validation), [logits])
    before, after, weights, random = cleaning.main(iterations=10)
    assert float(weights[~random].mean()) > float(weights[random].mean()) + 0.3
    assert after >= before and "test accuracy" in capsys.readouterr().out


def test_penalties_are_learned_through_scikit_learn_and_their_gradient_is_right(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = script("lasso_path")
    x, y = path.patients()
    penalties = torch.full((40,), -3.0, dtype=torch.float64).requires_grad_()
    check(lambda: path.fitted(x[:150], y[:150], penalties, tol=1e-14).square().sum(), [penalties])
    before, after, left = path.main(iterations=30)
    assert after < 0.97 * before and left < 11 and "noise features left" in capsys.readouterr().out


# --import ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Writes the module ``mine`` in the current folder; what it registers is forgotten after :func:`forget` and the test."""
    monkeypatch.chdir(tmp_path)
    yield lambda code: (tmp_path / "mine.py").write_text(code) and None
    forget()


def forget() -> None:
    """As in a process that has not imported it."""
    sys.modules.pop("mine", None)
    for name in [name for name in plugins._given if "mine" in name]:
        del plugins._given[name]
    methods._entries.pop("mine", None)
    importlib.invalidate_caches()


METHOD = "from metaimpute import Method, register_method\n@register_method('{}')\nclass Mine(Method):\n    'My own.'\n"


@pytest.mark.parametrize("name", ["mine", "mine.py", "./mine.py"])
def test_a_module_is_named_by_dots_or_by_path(name: str, mine: Callable[[str], None]) -> None:
    mine(METHOD.format("mine"))
    assert "My own." not in command("list", "methods")[1]
    code, said = command("list", "methods", "--import", name, "--import", name)
    assert code == 0 and "My own." in said, said


def test_a_process_of_its_own_finds_the_module_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(METHOD.format("mine"))
    call = [sys.executable, "-m", "metaimpute", "list", "methods", "--import", "mine"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and "My own." in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nothing_of_the_kind", "--import mine: ModuleNotFoundError: No module named 'nothing_of_the_kind'"),
        ("x = 1\nraise ValueError('broken')", "mine.py:2)"),
        ("def f(:", "SyntaxError"),
        (METHOD.format("uda"), "method 'uda' is already registered"),
    ],
)
def test_a_module_that_fails_is_one_line(text: str, said: str, mine: Callable[[str], None]) -> None:
    mine(text)
    code, found = command("list", "methods", "--import", "mine")
    assert code == 2 and said in found and found.startswith("error: ") and len(found.splitlines()) == 1, found


def test_a_missing_file_and_a_recipe_without_its_module_are_named(tmp_path: Path) -> None:
    code, said = command("list", "methods", "--import", tmp_path / "nowhere.py")
    assert code == 2 and "nowhere.py: no such file" in said
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        (EXAMPLES / "balanced_labels.yaml").read_text().replace("name: balanced_labels", "name: not_there")
    )
    code, said = command("check", recipe)
    assert code == 2 and "unknown method 'not_there'" in said


def test_a_run_begun_with_a_module_asks_for_it_again(tmp_path: Path, mine: Callable[[str], None]) -> None:
    mine(METHOD.format("mine"))
    (tmp_path / "r.yaml").write_text(
        "task: {name: two_moons}\nmodel: {name: mlp}\nmethod: {name: mine}\ntrain: {steps: 2, threads: 1}\n"
    )
    code, said = command("run", "r.yaml", "--import", "mine", "--out", "run")
    assert code == 0, said
    for call in (("impute", "run"), ("run", "--resume", "run")):
        forget()
        code, said = command(*call)
        assert code == 2 and "the run was begun with --import mine: give it again" in said, said
    assert command("impute", "run", "--import", "mine")[0] == 0


def test_installed_plugins_are_found_and_a_broken_one_hurts_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def module() -> None:
        from metaimpute import Task, register_task

        register_task("of_a_plugin")(type("OfAPlugin", (Task,), {"__doc__": "A plugin's.", "__module__": "plugin"}))

    class Point:
        dist = None

        def __init__(self, name: str, load: Any) -> None:
            self.name, self.load = name, load

    def broken() -> None:
        raise ImportError("of an older torch")

    asked = []
    monkeypatch.setattr(
        plugins, "entry_points", lambda group: asked.append(group) or [Point("b", broken), Point("a", module)]
    )
    plugins.load_installed.cache_clear()
    try:
        code, said = command("list", "tasks")
        assert code == 0 and "A plugin's." in said and "plugin 'b' of package ? was left out: ImportError" in said
        assert asked == ["metaimpute.plugins"]
    finally:
        plugins.load_installed.cache_clear()
        tasks._entries.pop("of_a_plugin", None)
    assert importlib.metadata.entry_points(group="metaimpute.plugins") is not None
