"""Recipes: what is valid, what is refused, and that a refusal names file, line, key and the nearest valid choice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from metaimpute import recipes
from metaimpute.methods import methods
from metaimpute.problems import BilevelProblem, ProblemError, problems
from metaimpute.recipes.shipped import locate
from metaimpute.recipes.source import RecipeError, merge, override, parse

ROOT = Path(__file__).parent.parent / "recipes"
GOOD = """\
task: {name: digits, labels: 20, validation: 50}
model:
  name: cnn
  width: 8
method: {name: mean_teacher}
problem:
  name: l2i
  estimator: mixed
  inner:
    lr: 0.1
train:
  steps: 10
  optimizer: {name: adam, lr: 2e-5}
profiles:
  paper: {}
  sample:
    train: {steps: 3}
    model: {width: 4}
"""


def load(text: str, tmp_path: Path, *sets: str, profile: str = "sample") -> recipes.Recipe:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return recipes.load(path, profile, sets)  # type: ignore[arg-type]


def test_profiles_merge_deeply_and_overrides_come_last(tmp_path: Path) -> None:
    recipe = load(GOOD, tmp_path)
    assert (recipe.train.steps, recipe.model.width, recipe.train.optimizer.lr) == (3, 4, 2e-5)  # type: ignore[attr-defined]
    assert load(GOOD, tmp_path, profile="paper").train.steps == 10
    changed = load(GOOD, tmp_path, "train.steps=7", "problem.inner.steps=2", "method={name: fixmatch, threshold: 0.5}")
    assert (changed.train.steps, changed.problem_spec.inner.steps, changed.method.name) == (7, 2, "fixmatch")


def test_changing_a_components_name_drops_the_old_components_options(tmp_path: Path) -> None:
    recipe = load(GOOD, tmp_path, "model.name=mlp")
    assert recipe.model.name == "mlp" and recipe.model.width == 64  # type: ignore[attr-defined]
    own = load(GOOD.replace("name: l2i", "name: l2i\n  distance: squared_error"), tmp_path, "problem.name=none")
    assert own.problem.name == "none" and own.problem_spec.estimator == "mixed", "shared options stay"


MISTAKES = [
    ("steps: 10", "stps: 10", r"r\.yaml:12: train\.stps: unknown key; did you mean 'steps'\?"),
    ("width: 8", "widht: 8", r"r\.yaml:4: model\.widht: unknown key; did you mean 'width'\?"),
    ("name: l2i", "name: l2j", r"r\.yaml:7: problem\.name: unknown problem 'l2j'; did you mean 'l2i'\?"),
    ("name: mean_teacher", "name: mean_techer", r"r\.yaml:5: method\.name: unknown method .* did you mean 'mean_teacher'"),
    ("estimator: mixed", "estimator: mixd", r"r\.yaml:8: problem\.estimator: .*did you mean 'mixed'"),
    ("estimator: mixed", "estimatr: mixed", r"r\.yaml:8: problem\.estimatr: unknown key; did you mean 'estimator'"),
    ("lr: 0.1", "lr: fast", r"r\.yaml:10: problem\.inner\.lr: should be a valid number.*not 'fast'"),
    ("lr: 0.1", "lr: -1", r"r\.yaml:10: problem\.inner\.lr: should be greater than 0, not -1"),
    ("labels: 20", "labels: 7", r"r\.yaml:1: task\.labels: 7 cannot be spread evenly over 10 classes; .* is 10"),
    ("labels: 20", "labels: many", r"r\.yaml:1: task\.labels: should be a valid integer"),
    ("name: cnn\n  width: 8", "name: mlp\n  width: 8\n  length: 3", r"r\.yaml:5: model\.length: unknown key; did you mean"),
    ("    model: {width: 4}", "    model: {name: minilm}", r"r\.yaml:18: model\.name: model 'minilm' does not take image inputs; these do: cnn, mixed_cnn, mlp"),
    ("name: adam,", "name: adamm,", r"r\.yaml:13: train\.optimizer\.name: should be 'adam', 'adamw' or 'sgd', not 'adamm'"),
    ("profiles:", "profils:", r"r\.yaml:14: profils: unknown key; did you mean 'profiles'"),
    ("  sample:", "  smaple:", r"r\.yaml:16: profiles\.smaple: unknown key; did you mean 'sample'"),
    ("train: {steps: 3}", "trian: {steps: 3}", r"r\.yaml:17: profiles\.sample\.trian: unknown key; did you mean 'train'"),
    ("train: {steps: 3}", "train: {steps: 0}", r"r\.yaml:17: train\.steps: should be greater than or equal to 1, not 0"),
    ("method: {name: mean_teacher}", "method: mean_teacher", r"r\.yaml:5: method: must be a group of keys"),
    ("method: {name: mean_teacher}", "method: {weight: 3}", r"r\.yaml:5: method\.name: name a method: .*fixmatch"),
    ("method: {name: mean_teacher}", "method: {name: mean_teacher, name: uda}", r"r\.yaml:5: method\.name: written twice"),
    ("method: {name: mean_teacher}", "method: {name: mean_teacher", r"r\.yaml:\d+: not valid YAML"),
    ("  inner:", "  memory: checkpoint(0)\n  inner:", r"problem\.memory: .*at least 1"),
    ("  inner:", "  memory: checkpoint(2)\n  inner:", r"problem\.memory: 'mixed' stores no graph of an unroll"),
    ("  inner:", "  backend: highr\n  inner:", r"problem\.backend: unknown backend 'highr'; choose one of: func, higher"),
    ("  inner:", "  backend: higher\n  inner:", r"backend 'higher' carries out exact, first_order, not 'mixed'"),
    ("  inner:", "  scale: relative(0)\n  inner:", r"problem\.scale: write 'raw', or 'relative\(rho\)'"),
    ("  inner:", "  path: both\n  inner:", r"problem\.path: should be 'labels' or 'full'"),
    ("estimator: mixed", "estimator: approx\n  path: full", r"problem\.path: 'approx' gives no gradient with respect to the start \(path: full\); these do: exact, mixed"),
    ("lr: 0.1", "lr: 0.1\n    optimizer: sdg", r"problem\.inner\.optimizer: unknown inner optimizer 'sdg'; did you mean 'sgd'"),
    ("lr: 0.1", "lr: 0.1\n    optimizer: nesterov\n    momentum: 0", r"problem\.inner: Nesterov momentum needs"),
    ("name: l2i", "name: l2i_learnable\n  schedule: fused", r"problem\.schedule: .*use algorithm1"),
    ("name: l2i", "name: l2i_learnable\n  scale: relative(2)", r"problem\.scale: compares with the network's base gradient"),
    ("name: l2i", "name: l2i_learnable\n  path: full", r"problem\.path: 'full' differentiates the network's start"),
    ("name: l2i", "name: l2i\n  holdout: separate\n  schedule: fused\n  outer_optimizer: separate", r"one step with one optimizer"),
    ("estimator: mixed\n  inner:", "estimator: approx\n  inner:\n    steps: 3", r"problem\.inner\.steps: 'approx' is defined for 1 inner step, not 3; for any number there are exact, "),
    ("estimator: mixed", "estimator: {name: head, parameters: 3}", r"problem\.estimator\.parameters: .*tuple"),
    ("estimator: mixed", "estimator: {name: exact, backend: foo}", r"problem\.estimator\.backend: unknown key"),
    ("estimator: mixed", "estimator: {name: neumann, m: many}", r"problem\.estimator\.m: .*integer"),
    ("estimator: mixed", "estimator: truncated(0)", r"problem\.estimator: .*at least 1, not 0"),
    ("estimator: mixed", "estimator: {name: mixed, depth: 3}", r"problem\.estimator\.depth: unknown key; valid keys: name"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES, ids=[m[1].replace("\n", " ") for m in MISTAKES])
def test_mistakes_end_in_one_line_that_names_the_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(RecipeError) as caught:
        load(GOOD.replace(old, new, 1), tmp_path)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_separate_holdout_needs_two_labels_per_class(tmp_path: Path) -> None:
    text = GOOD.replace("labels: 20", "labels: 10").replace("name: l2i", "name: l2i\n  holdout: separate")
    with pytest.raises(RecipeError, match=r"r\.yaml:8: problem\.holdout: 'separate' needs 2 labels per class"):
        load(text, tmp_path)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words", "task: 3\n", "? [a]\n: 1\n", "a: !!python/object:os.system x\n", "\tx: 1", "a: &x [*x]", "%", "task: {name: [1]}\nmodel: {}\nmethod: {}\n"])  # fmt: skip
def test_nonsense_is_refused_without_a_traceback(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(text, tmp_path)
    assert "r.yaml" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.steps", "write it as key=value"),
        ("=3", "write it as key=value"),
        ("train.steps.more=3", "'train.steps' is not a group of keys"),
        ("train.steps=[1", "not valid YAML"),
        ("train.stesp=3", "--set train.stesp=3: train.stesp: unknown key; did you mean 'steps'"),
        ("nonsense=3", "nonsense: unknown key"),
        ("about.overrides=true", "--set about.overrides=true: about.overrides: should be a valid list, not True"),
    ],
)
def test_overrides_are_checked_like_the_file(tmp_path: Path, assignment: str, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        load(GOOD, tmp_path, assignment)


BOMB = "l0: &l0 [lol]\n" + "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 12))
MERGES = "l0: &l0 {a: 1}\n" + "".join(f"l{n}: &l{n} {{<<: [{', '.join([f'*l{n - 1}'] * 9)}]}}\n" for n in range(1, 12))
TANGLED = [
    (GOOD + BOMB, r"r\.yaml:\d+: l\d.*: more than 20,000 values, counted with its aliases"),
    (GOOD + MERGES, r"r\.yaml:\d+: l\d.*: more than 20,000 values"),
    (GOOD + "about: {title: " + "[" * 40 + "]" * 40 + "}\n", r"r\.yaml:19: about\.title\.0\..*: more than 32 levels"),
    (GOOD + "about: &x {title: *x}\n", r"r\.yaml:\d+: about\.title.*: more than 32 levels"),
    (GOOD + "about: " + "[" * 3000, r"r\.yaml:1: not valid YAML: "),
    (GOOD + "about: {title: !!bool x}\n", r"r\.yaml:1: not valid YAML: "),
    (GOOD + "about: {title: !!int x}\n", r"r\.yaml:1: not valid YAML: "),
    (GOOD + "about: {title: " + "9" * 5000 + "}\n", r"r\.yaml:1: not valid YAML: "),
    (
        GOOD + "about: {paper: [{table: 1, row: a, data: b, '': 3}]}\n",
        r"r\.yaml:19: about\.paper\.0\.'': unknown key; valid keys: data",
    ),
    (GOOD.replace("width: 8", "1: 8"), r"r\.yaml:4: model\.1: keys must be words; put it in quotes"),
    (
        GOOD.replace("{name: mean_teacher}", "{name: mean_teacher, weight: [" + "a, " * 4000 + "]}"),
        r"r\.yaml:5: method\.weight: .* \.\.\. ",
    ),
    (GOOD.replace("name: adam", 'name: "a\\x1b[31m"'), r"r\.yaml:13: train\.optimizer\.name: .*x1b\[31m"),
    (GOOD.replace("width: 8", '"a\\nb\\x1b": 8'), r"r\.yaml:4: model\.a b\\x1b: unknown key"),
]


@pytest.mark.parametrize(("text", "message"), TANGLED, ids=range(len(TANGLED)))
def test_what_fuzzing_found_is_refused_in_one_line_that_can_be_read(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(text, tmp_path)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "value", ["[" * 3000, "!!bool x", "*a", "&a [*a]", "{1: 2}", "{a: 1, a: 2}", BOMB.replace("\n", " ")]
)
def test_values_of_set_are_read_as_carefully_as_files(tmp_path: Path, value: str) -> None:
    with pytest.raises(RecipeError, match=r"^--set train\.steps=") as caught:
        load(GOOD, tmp_path, f"train.steps={value}")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


@pytest.mark.parametrize("path", ["x" * 5000, "~nobody_of_that_name/a.csv"])
def test_a_path_that_no_file_can_have_is_refused(path: str) -> None:
    with pytest.raises(RecipeError, match=r"^--set task\.file=.*: task: ") as caught:
        recipes.load(ROOT / "own_table.yaml", "sample", (f"task.file={path}",))
    assert len(str(caught.value)) < 1000


def test_anchors_and_merge_keys_keep_their_places() -> None:
    anchored = parse("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\n", "f")
    assert anchored.data["b"] == {"x": 1, "y": 3}
    assert anchored.place(("b", "x")) == "f:1" and anchored.place(("b", "y")) == "f:4"


def test_missing_sections_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="method: this section is missing"):
        load("task: {name: digits, labels: 10}\nmodel: {name: cnn}\n", tmp_path)
    with pytest.raises(RecipeError, match="No such file"):
        recipes.load(tmp_path / "none.yaml", "sample")
    with pytest.raises(RecipeError, match="Is a directory"):
        recipes.load(tmp_path, "sample")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not a text file"):
        recipes.load(tmp_path / "b.yaml", "sample")


def test_places_follow_values_through_merges() -> None:
    base = parse("a:\n  b: 1\n  c: 2\nprofiles:\n  sample:\n    a:\n      b: 3\n", "f")
    merged = merge(base, base.data["profiles"]["sample"], ("profiles", "sample"))
    assert merged.data["a"] == {"b": 3, "c": 2}
    assert merged.place(("a", "b")) == "f:7" and merged.place(("a", "c")) == "f:3" and merged.place(("z",)) == "f"
    changed = override(merged, "a.c=9")
    assert changed.place(("a", "c")) == "--set a.c=9" and changed.data["a"]["c"] == 9 and merged.data["a"]["c"] == 2


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.yaml")), ids=lambda p: p.stem)
@pytest.mark.parametrize("problem", list(problems))
def test_shipped_recipes_are_valid_with_every_problem(path: Path, problem: str) -> None:
    from metaimpute.recipes.profiles import profiles_of
    from metaimpute.recipes.source import read

    if problem.startswith("test_"):
        pytest.skip("registered by another test")
    entry: Any = problems.get(problem)
    apart = ["problem.schedule=algorithm1", "problem.scale=raw", "problem.path=labels"]
    extra = apart if entry.learns in ("labels", "own") or entry.replaces_base_step else []
    if entry.inner_hyper is not BilevelProblem.inner_hyper:  # which moves the rate itself
        extra = [*extra, "problem.inner.rate=fixed"]
    if entry.max_inner_steps is not None:
        extra = [*extra, f"problem.inner.steps={entry.max_inner_steps}"]
    for profile in profiles_of(read(path)):
        shipped = recipes.load(path, profile, ())
        if shipped.task.episodes != entry.episodes:
            with pytest.raises(RecipeError, match=r"episodes, .*which '\w+' does not learn from"):
                recipes.load(path, profile, (f"problem={{name: {problem}}}",))
            continue
        try:
            entry().check(shipped.method, shipped.task.output)
        except ProblemError as refusal:
            pytest.skip(f"not for this recipe: {refusal}")
        recipe = recipes.load(path, profile, (f"problem.name={problem}", *extra))
        assert recipe.problem.name == problem and recipe.about.title


@pytest.mark.parametrize("method", list(methods))
def test_every_method_is_valid_on_digits(method: str, tmp_path: Path) -> None:
    assert load(GOOD, tmp_path, f"method.name={method}").method.name == method


def test_a_change_of_a_whole_section_owns_the_mistakes_in_it() -> None:
    changed = "problem={name: l2i, estimator: {name: truncated, hh: 3}, inner: {optimizer: sgd}}"
    with pytest.raises(RecipeError, match=r"^--set problem=.*: problem\.estimator\.hh"):
        recipes.load(locate(Path("two_moons")), "sample", (changed,))
    with pytest.raises(
        RecipeError, match=r"^--set problem=.*: problem\.inner\.optimizer: unknown inner optimizer 'lino'"
    ):
        recipes.load(locate(Path("two_moons")), "sample", ("problem={name: l2i, inner: {optimizer: lino}}",))


def test_components_of_ones_own_that_are_none_are_named() -> None:
    from metaimpute.engine import Estimator, estimators, optimizers, register_estimator, register_optimizer

    known, rules = dict(estimators._entries), dict(optimizers._entries)
    try:
        register_estimator("nothing_yet")(type("NothingYet", (Estimator,), {}))
        register_optimizer("breaks")(lambda lr: (_ for _ in ()).throw(RuntimeError("my bug")))
        register_optimizer("a_word")(lambda lr: "sgd")
        for change, said in (
            ("problem.estimator=nothing_yet", r"estimator 'nothing_yet' does not define differentiate\(problem\)"),
            ("problem.inner.optimizer=breaks", "'breaks' was not made: RuntimeError: my bug"),
            ("problem.inner.optimizer=a_word", "what 'a_word' returns is a rule, such as sgd"),
        ):
            with pytest.raises(RecipeError, match=said):
                recipes.load(locate(Path("two_moons")), "sample", (change,))
    finally:
        estimators._entries.clear(), optimizers._entries.clear()
        estimators._entries.update(known), optimizers._entries.update(rules)
