"""A problem written from the base class's docstring alone trains; one that lacks a part is refused with what to write."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metaimpute import (
    BilevelProblem,
    recipes,
    register_estimator,
    register_method,
    register_model,
    register_problem,
    register_task,
)
from metaimpute.engine.pytree import map_tensors
from metaimpute.problems import ProblemError, problems
from metaimpute.problems.base import require_complete
from metaimpute.recipes.source import RecipeError
from metaimpute.testing import check_problem
from metaimpute.training.session import Session

RECIPE = """
task: {name: two_moons, labels: 4, validation: 20, size: 100}
model: {name: mlp, width: 8, dropout: 0.0}
method: {name: mean_teacher, weight: 5}
train: {steps: 6, batch: 4, unlabelled_batch: 8, eval_every: 6, log_every: 1, threads: 1, watch_test: 10}
"""


class ALabels(BilevelProblem):
    learns = "labels"

    def batch_meta(self, params: Any, batch: Any) -> Any:
        return {"logits": self.predict(params, batch.unlabelled.weak), "shift": torch.zeros(2)}

    def inner_loss(self, params: Any, c: Any, batch: Any) -> Any:
        raw = self.predict(params, batch.unlabelled.strong)
        return self.method.consistency(raw, (c["logits"] + c["shift"]).softmax(-1)).mean()

    def measure(self, meta: Any) -> Any:
        return {"seen": float(meta["shift"].abs().sum())}


class AnOwn(BilevelProblem):
    learns = "own"

    def init_meta(self, sizes: Any) -> Any:
        return {"logits": torch.zeros(sizes.unlabelled)}

    def inner_loss(self, params: Any, c: Any, batch: Any) -> Any:
        raw = self.predict(params, batch.unlabelled.strong)
        weights = c["logits"][batch.unlabelled.index].sigmoid()
        return (weights * self.method.consistency(raw, batch.imputation.labels)).mean()

    def measure(self, meta: Any) -> Any:
        return {"seen": float(meta["logits"].abs().sum())}


class ANetwork(BilevelProblem):
    learns = "network"

    def couple(self, meta: Any, batch: Any) -> Any:
        return self.method.psi(self.predict, meta, batch.unlabelled)

    def inner_loss(self, params: Any, c: Any, batch: Any) -> Any:
        return self.method.consistency(self.predict(params, batch.unlabelled.strong), c).mean()

    def measure(self, meta: Any) -> Any:
        return {"seen": float(sum(p.abs().sum() for p in meta.values()))}


class ANothing(BilevelProblem):
    learns = "nothing"

    def measure(self, meta: Any) -> Any:
        return {"seen": float(sum(p.abs().sum() for p in meta.values()))}


KINDS = {"labels": ALabels, "own": AnOwn, "network": ANetwork, "nothing": ANothing}


@pytest.fixture
def registered() -> Iterator[Callable[[type], Any]]:
    before = dict(problems._entries)
    yield lambda kind: register_problem("mine")(type(kind.__name__, (kind,), {}))
    problems._entries.clear()
    problems._entries.update(before)


def trained(folder: Path, *sets: str) -> tuple[Any, list[dict[str, Any]]]:
    (folder / "r.yaml").write_text(RECIPE)
    recipe = recipes.load(folder / "r.yaml", "sample", ("problem.name=mine", *sets))
    result = Session(recipe, folder / "run", say=lambda line: None).run()
    return result, [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("learns", KINDS)
def test_a_problem_of_the_docstring_alone_trains(learns: str, tmp_path: Path, registered: Any) -> None:
    registered(KINDS[learns])
    result, lines = trained(tmp_path)
    steps = [line for line in lines if "loss" in line]
    assert len(steps) == 6 and all(line["seen"] > 0 for line in steps[1:]), "what it measures is what it learns"
    assert all(line.get("hypergradient_norm", 0) > 0 for line in steps) == (learns != "nothing")
    assert all(line.get("label_change", 0) > 0 for line in steps) == (learns == "labels")
    assert result["estimator"] == (None if learns == "nothing" else "exact")


@pytest.mark.parametrize("options", [("problem.psi=recomputed",), ("problem.outer_optimizer=separate",)])
@pytest.mark.parametrize("learns", KINDS)
def test_it_trains_with_the_options_of_every_problem(
    learns: str, options: tuple[str, ...], tmp_path: Path, registered: Any
) -> None:
    registered(KINDS[learns])
    assert trained(tmp_path, *options)[0]["steps"] == 6


@pytest.mark.parametrize("learns", [learns for learns in KINDS if learns != "nothing"])
def test_its_gradient_can_be_checked(learns: str) -> None:
    dataclass_of: Any = register_problem(f"checked_{learns}")(type("Checked", (KINDS[learns],), {}))
    try:
        check_problem(dataclass_of(), estimators=["exact"])
    finally:
        problems._entries.pop(f"checked_{learns}")


def test_labels_move_along_the_gradient_and_the_weight_is_the_step_size(tmp_path: Path, registered: Any) -> None:
    problem = ALabels()
    meta = {"logits": torch.ones(3, 2), "kept": torch.tensor([4])}
    moved = problem.move(meta, map_tensors(lambda leaf: 2 * leaf, meta))
    assert torch.equal(moved["logits"], -torch.ones(3, 2)) and torch.equal(moved["kept"], torch.tensor([4]))
    assert float(problem.label_change(meta, moved)) == 2.0
    registered(ALabels)
    changes = []
    for weight in (1.0, 3.0):
        folder = tmp_path / str(weight)
        folder.mkdir()
        _, lines = trained(folder, f"problem.weight={weight}", "train.steps=1")
        changes.append(next(line["label_change"] for line in lines if "label_change" in line))
    assert changes[1] == pytest.approx(3 * changes[0], rel=1e-4)


def test_the_step_on_moved_labels_lowers_the_inner_loss_at_them() -> None:
    seen = []

    class Recorded(ALabels):
        def inner_loss(self, params: Any, c: Any, batch: Any) -> Any:
            seen.append(c)
            return "the inner loss"

        def couple(self, meta: Any, batch: Any) -> Any:
            return {"of": meta}

    assert Recorded().trained_loss({}, "moved", None) == "the inner loss"  # type: ignore[arg-type]
    assert seen == [{"of": "moved"}]


def test_random_initial_values_are_the_seeds(tmp_path: Path, registered: Any) -> None:
    class Drawn(AnOwn):
        def init_meta(self, sizes: Any) -> Any:
            return {"logits": torch.randn(sizes.unlabelled)}

    registered(Drawn)
    seen = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(len(seen))
        (tmp_path / name).mkdir()
        seen.append([line.get("seen") for line in trained(tmp_path / name, f"train.seed={seed}")[1]])
    assert seen[0] == seen[1] != seen[2]


class AControl(AnOwn):
    """Without an estimate: what it learns is moved by something else."""

    needs_estimate = False

    def control(self, hypergradient: Any, params: Any, holdout: Any, rng: Any) -> Any:
        assert hypergradient is None
        return {"logits": torch.ones(self.context.sizes.unlabelled)}


class LabelsControl(ALabels):
    needs_estimate = False

    def control(self, hypergradient: Any, params: Any, holdout: Any, rng: Any) -> Any:
        return {"logits": torch.ones(8, 2), "shift": torch.ones(2)}


@pytest.mark.parametrize("kind", [AControl, LabelsControl])
def test_what_is_not_the_networks_can_do_without_an_estimate(kind: Any, tmp_path: Path, registered: Any) -> None:
    registered(kind)
    result, lines = trained(tmp_path)
    assert result["estimator"] is None and lines[-2]["seen"] > 0
    if kind is LabelsControl:
        assert lines[0]["label_change"] == pytest.approx(1.0)


def without(kind: type, **changes: Any) -> type:
    """The class as if it had not defined what is None."""
    base = {name: getattr(BilevelProblem, name) if value is None else value for name, value in changes.items()}
    return type("Lacking", (kind,), base)


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        (ALabels, {"batch_meta": None}, "learns labels, so it must define batch_meta(params, batch)"),
        (ALabels, {"inner_loss": None}, "learns labels, so it must define inner_loss(params, c, batch)"),
        (AnOwn, {"init_meta": None}, "learns something of its own, so it must define init_meta(sizes)"),
        (AnOwn, {"inner_loss": None}, "so it must define inner_loss(params, c, batch)"),
        (ANetwork, {"inner_loss": None}, "learns network, so it must define inner_loss(params, c, batch)"),
        (ANetwork, {"needs_estimate": False}, "without an estimate, so it must define control(hypergradient, params"),
        (ANetwork, {"learns": "weights"}, "learns 'weights'; write one of: nothing, network, labels, own"),
    ],
)
def test_what_a_problem_lacks_is_said_before_anything_is_loaded(
    kind: type, changes: dict[str, Any], said: str, tmp_path: Path, registered: Any
) -> None:
    registered(without(kind, **changes))
    with pytest.raises(RecipeError) as caught:
        trained(tmp_path)
    assert said in str(caught.value) and "problem 'mine'" in str(caught.value) and "problem: " in str(caught.value)
    with pytest.raises(ProblemError):
        check_problem(problems.get("mine")())


def test_every_problem_of_the_package_is_complete() -> None:
    for name in problems:
        entry: Any = problems.get(name)
        if entry.__module__.startswith("metaimpute."):
            require_complete(entry())


def test_a_method_with_a_threshold_of_another_kind_is_not_taken_for_a_confidence(
    tmp_path: Path, registered: Any
) -> None:
    from metaimpute.methods.mean_teacher import MeanTeacher

    class PerClass(MeanTeacher):
        threshold = (0.5, 0.9)

    (tmp_path / "r.yaml").write_text(RECIPE)
    recipe = recipes.load(tmp_path / "r.yaml", "sample", ("method.weight=0",))
    method = PerClass(**{name: getattr(recipe.method, name) for name in ("weight", "ramp")})
    session = Session(replace(recipe, method=method), tmp_path / "run", say=lambda line: None)
    assert session.alarms.threshold is None and session.run()["steps"] == 6


def test_a_loss_on_moved_labels_without_a_gradient_is_refused(tmp_path: Path, registered: Any) -> None:
    class Cut(ALabels):
        def trained_loss(self, params: Any, meta: Any, batch: Any) -> Any:
            return super().trained_loss(params, meta, batch).detach()

    registered(Cut)
    with pytest.raises(
        ProblemError, match=r"problem 'mine': trained_loss\(params, meta, batch\) returned a value that no"
    ):
        trained(tmp_path)


# what a problem's own methods return ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("learns", "method", "returned", "said"),
    [
        (
            "own",
            "init_meta",
            torch.zeros(3),
            "init_meta.* returns a dict of floating-point tensors by name, not a tensor of shape",
        ),
        ("own", "init_meta", None, "not None"),
        ("own", "init_meta", {}, "not an empty dict"),
        ("own", "init_meta", {"logits": {"a": torch.zeros(3)}}, "'logits' is a dict"),
        (
            "own",
            "init_meta",
            {"logits": torch.zeros(3, dtype=torch.long)},
            "'logits' is a tensor of shape .3. and type int64",
        ),
        ("labels", "batch_meta", {}, "batch_meta.* returns floating-point tensors.* not an empty dict"),
        ("labels", "batch_meta", {"logits": torch.zeros(8, dtype=torch.long)}, "returns floating-point tensors"),
        ("labels", "move", None, "move.* returns what it was given, moved: of the same shapes, not None"),
        ("labels", "move", {"logits": torch.zeros(1), "shift": torch.zeros(2)}, "of the same shapes"),
        ("labels", "measure", {"seen": torch.zeros(2)}, "measure.* returns numbers; 'seen' is a tensor of shape .2."),
        ("own", "measure", 3.0, "measure.* returns a dict of numbers by name, not a float"),
        ("labels", "label_change", torch.zeros(2), "label_change.* returns one number as a tensor"),
        ("labels", "label_change", 0.5, "label_change.* returns one number as a tensor, not a float"),
    ],
)
def test_what_is_returned_is_named_where_it_is_wrong(
    learns: str, method: str, returned: Any, said: str, tmp_path: Path, registered: Any
) -> None:
    registered(type("Odd", (KINDS[learns],), {method: lambda self, *given: returned}))
    with pytest.raises(ProblemError, match=f"^problem 'mine': .*{said}") as error:
        trained(tmp_path)
    assert "\n" not in str(error.value)


def test_values_that_carry_a_graph_are_taken_as_values(tmp_path: Path, registered: Any) -> None:
    class Made(AnOwn):
        def init_meta(self, sizes: Any) -> Any:
            return {name: value * torch.ones(1, requires_grad=True) for name, value in super().init_meta(sizes).items()}

    registered(Made)
    assert trained(tmp_path)[0]["steps"] == 6


def test_a_class_is_registered_as_what_it_is() -> None:
    for decorator, base in (
        (register_problem, "BilevelProblem"), (register_method, "Method"), (register_model, "Model"),
        (register_task, "Task"), (register_estimator, "Estimator"),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=rf"Stranger is no {base}; write class Stranger\({base}\)"):
            decorator("stranger")(type("Stranger", (), {}))
