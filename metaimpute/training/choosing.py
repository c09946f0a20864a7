"""Several systems on a run's data, its network among them: measured on folds, combined, and kept in the run's folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..batches.outputs import Classes, Quantities
from ..engine import derive_seed
from ..engine.registry import describe_choices
from ..ensemble.choice import candidates_on, choose, usable
from ..ensemble.measuring import Candidate, Examples, Measure, Unfit, here
from ..models.row_forms import RowForm, check_forms, row_forms
from ..recipes.components import NETWORK, ON
from ..recipes.recipe import Recipe
from ..rundir.systems import Systems
from ..streams import Stream
from ..tasks.base import Pool, TaskData, TaskError
from .fold_network import EXAMPLES, FoldNetwork, as_answer
from .state import RunState

UNLABELLED = 10_000  # that systems beside the network see at most


def check_choosable(recipe: Recipe) -> None:
    """Raises:
    RecipeError: when several systems cannot be combined for the task, or none of those asked for is for its labels."""
    output, spec = recipe.task.output, recipe.choose
    if (
        recipe.choose is not None
        and not isinstance(output, Classes)
        and not (isinstance(output, Quantities) and output.size == 1)
    ):
        raise recipe.source.fail(("choose",), "is for classes, or for one value of each example; drop it")

    if spec is None or spec.systems == [NETWORK]:
        return
    try:
        check_forms(recipe.task, recipe.model)
    except TaskError as error:
        raise recipe.source.fail(("choose",), str(error)) from None
    fitting = [*usable(output.size if isinstance(output, Classes) else 0, 0), NETWORK]
    for name in () if spec.systems == "auto" else spec.systems:
        base, on, _ = name.partition(ON)
        if base not in fitting:
            labels = "classes" if isinstance(output, Classes) else "values"
            raise recipe.source.fail(
                ("choose", "systems"), f"'{base}' is not for {labels}; these are: {', '.join(fitting)}"
            )
        if on and name not in (known := _named(recipe)):
            raise recipe.source.fail(("choose", "systems"), f"no system is '{name}'; {describe_choices(name, known)}")


def _named(recipe: Recipe) -> list[str]:
    """Systems with the form of the rows that each takes; none where there is one form only."""
    forms, output = row_forms(recipe.task, recipe.model, torch.device("cpu")), recipe.task.output
    classes = output.size if isinstance(output, Classes) else 0
    return [name + ON + form.name for form in forms for name in _fitting(form, classes, 0)] if len(forms) > 1 else []


def _fitting(form: RowForm, classes: int, labelled: int) -> list[str]:
    """Names of members for a form of the rows."""
    names = usable(classes, labelled, form.sparse)
    return names if form.systems is None else [name for name in names if name in form.systems]


def systems_of(
    run: RunState, between: Callable[[], None], report: Callable[[str, int, int], None], measure: Measure = here
) -> Systems:
    """Every candidate of the recipe's ``choose``, measured and combined.

    Args:
        between: called between steps and fits; may raise to end it. report: told of each candidate's folds. measure: where
            candidates are measured.

    Raises:
        RecipeError: when nothing fits the data or the model.
    """
    recipe, data, task = run.recipe, run.data, run.task
    assert recipe.choose is not None
    check_choosable(recipe)
    asked = recipe.choose.systems
    forms = row_forms(task, recipe.model, run.device) if asked != [NETWORK] else []
    prepared = task.prepare_inputs
    seed = derive_seed(recipe.train.seed, Stream.FOLDS) % 2**31  # as scikit-learn takes it
    classes = task.output.size if isinstance(task.output, Classes) else 0
    candidates = _candidates(forms, classes, len(data.labelled), asked)
    examples = _examples(data, classes, [form for form in forms if form.name in {one.form for one in candidates}], seed)

    def one_more(name: str, done: int, of: int) -> None:
        report(name, done, of)
        between()

    def network() -> FoldNetwork:
        return FoldNetwork(recipe, data, run.evaluated_module(), run.device, between)

    if asked == "auto" or NETWORK in asked:
        candidates.append(Candidate(NETWORK, EXAMPLES, network, prior=2.0, once=True))
    if not candidates:
        raise recipe.source.fail(("choose", "systems"), f"none of {', '.join(asked)} fits these labels")
    spec = recipe.choose
    try:
        ensemble = choose(examples, candidates, spec.combine, one_more, spec.folds, spec.seconds, measure)
    except Unfit as error:
        raise recipe.source.fail(("choose",), f"no system could be fitted: {error}") from None
    finally:
        task.prepare_inputs = prepared
    if asked != "auto":
        used = {name for one in candidates for name in (one.name, one.name.partition(ON)[0])}
        few = {name: f"it does not take {len(examples.labels):,} labels" for name in asked if name not in used}
        ensemble = dataclasses.replace(ensemble, left_out={**ensemble.left_out, **few})
    kept = {one.name: one for one in forms if one.name in ensemble.forms.values()}
    return Systems(ensemble, kept)


def _examples(data: TaskData, classes: int, forms: list[RowForm], seed: int) -> Examples:
    """Labelled and unlabelled examples in each form, which is fitted to both."""
    without = (~torch.isin(data.unlabelled.ids, data.labelled.ids)).nonzero()[:, 0]
    drawn = torch.randperm(len(without), generator=torch.Generator(device="cpu").manual_seed(seed), device="cpu")[
        :UNLABELLED
    ]
    unlabelled = data.unlabelled.subset(without[drawn.sort().values])
    labelled, beside = dict[str, Any](), dict[str, Any]()
    for form in forms:
        form.fit((data.labelled, unlabelled))
        labelled[form.name], beside[form.name] = form(data.labelled), form(unlabelled)
    labelled[EXAMPLES], beside[EXAMPLES] = np.arange(len(data.labelled))[:, None], np.zeros((0, 1), dtype=int)
    assert data.labelled.targets is not None
    targets = data.labelled.targets.numpy()
    chosen = np.isin(data.labelled.ids.numpy(), list(data.chosen))
    return Examples(labelled, beside, targets if classes else targets[:, 0].astype(float), classes, seed, chosen)


def _candidates(forms: list[RowForm], classes: int, labelled: int, asked: Any) -> list[Candidate]:
    found = []
    for form in forms:
        names, suffix = _fitting(form, classes, labelled), ON + form.name if len(forms) > 1 else ""
        if asked != "auto":
            names = [name for name in names if name in asked or name + suffix in asked]
        found += candidates_on(form.name, names, suffix)
    return found


def combined_raw(systems: Systems, run_raw: Callable[[Any], torch.Tensor], pool: Pool, output: Any) -> torch.Tensor:
    """What stands in the place of the network's outputs: log-probabilities ``[n, classes]`` or standardised values ``[n, 1]``.

    Args:
        run_raw: the network's own outputs for examples, asked for where it takes part.
    """
    found = systems.predict(pool, lambda: as_answer(run_raw(pool), output))
    if isinstance(output, Classes):
        return torch.from_numpy(np.log(np.maximum(found, 1e-12)))
    return torch.from_numpy(found)[:, None]
