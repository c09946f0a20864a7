"""``metaimpute.train``: a recipe trained from Python, and the finished run as a value."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn
from yaml.representer import RepresenterError

from .inference import Predictor, load
from .recipes.recipe import Recipe
from .recipes.source import RecipeError, flow, one_line
from .reporting.console import TrainingProgress
from .reporting.notebook import run_page
from .reporting.run_verdict import run_verdict
from .rundir.begin import PYTHON, beginning, given_back
from .rundir.layout import METRICS
from .rundir.result import Result
from .showing import standard_error
from .training.session import Session


@dataclass(frozen=True, repr=False)
class Run:
    """A finished run.

    Attributes:
        folder: its directory, as ``metaimpute run`` writes it. recipe: what was trained. result: errors, data, times, machine.
        module: the network, with averaged weights where the recipe asks for them, in evaluation mode.
    """

    folder: Path
    recipe: Recipe
    result: Result
    module: nn.Module

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}): {run_verdict(self.result).lines[0]}"

    def _repr_html_(self) -> str:
        return run_page(self.result)

    @property
    def metrics(self) -> list[dict[str, float]]:
        """Every logged step, oldest first: ``step`` and what was measured there."""
        lines = (self.folder / METRICS).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def predictor(self, device: str = "auto") -> Predictor:
        """What labels new data, read from the folder; see :func:`metaimpute.load`."""
        return load(self.folder, device)


def train(
    recipe: str | Path | None = None,
    *,
    set: Mapping[str, Any] | Iterable[str] = (),
    seed: int | None = None,
    out: str | Path | None = None,
    profile: Literal["auto", "paper", "sample"] = "auto",
    resume: str | Path | None = None,
    say: Callable[[str], None] | None = None,
    report: Callable[[int, dict[str, float]], None] | None = None,
    verbose: int = 0,
) -> Run:
    """Trains a recipe to its end: ``metaimpute run`` from Python, with the same numbers and the same folder.

    Args:
        recipe: a file, or the name of a recipe that comes with metaimpute, such as ``"two_moons"``.
        set: changes of its values, ``{"train.steps": 200}`` or ``["train.steps=200"]``. seed: of everything random.
        out: the run's directory; None makes a new one below ``runs``. profile: as in the recipe; ``auto`` takes ``paper`` where
            data, weights and an accelerator are here.
        resume: the directory of a run to go on with as it was begun; then nothing above is given.
        say: receives messages, a line each; None leaves them out, and warns of those that are warnings.
        report: receives step and measurements as they are logged. verbose: 1 shows phases and messages on the standard error,
            where ``say`` and ``report`` do not take them.

    Raises:
        RecipeError: for a mistake in the recipe or a change, in one line; for an ``out`` that holds a run already.
        MissingData: when data or weights are not here. Diverged: when a loss is not finite. Interrupted: on a signal, after a
            checkpoint. Unwritable: when the folder cannot be written to.
    """
    began = beginning(
        _path(recipe, "recipe"), profile, assignments(set), seed, _path(out, "out"), _path(resume, "resume"), PYTHON
    )
    with (
        given_back(began.folder, out is not None or resume is not None),
        TrainingProgress(standard_error(), began.recipe.task.output.metric, hidden=not verbose) as progress,
    ):
        if verbose:
            say, report = say or progress.say, report or progress.report
        session = Session(began.recipe, began.folder, why=began.why, begun=began.begun, say=say or _warn, report=report)
        if resume is not None:
            session.resume()
        result = session.run()
    return Run(began.folder.absolute(), began.recipe, result, session.evaluated_module().eval())


def _path(name: str | Path | None, argument: str) -> Path | None:
    if name is not None and not (isinstance(name, str | Path) and str(name)):
        raise RecipeError(f"{argument}= is the name of a file or folder, not {one_line(repr(name), 60)}")
    return None if name is None else Path(name)


def assignments(changes: Mapping[str, Any] | Iterable[str]) -> tuple[str, ...]:
    """``key=value`` of each change.

    Raises:
        RecipeError: for what is no change, or no value that a recipe can hold.
    """
    if isinstance(changes, str):
        return (changes,)
    if isinstance(changes, Mapping):
        return tuple(f"{key}={_written(key, value)}" for key, value in changes.items())
    found = tuple(changes) if isinstance(changes, Iterable) else (None,)
    if not all(isinstance(change, str) for change in found):
        raise RecipeError('set= is a mapping such as {"train.steps": 200}, or a list such as ["train.steps=200"]')
    return found


def _written(key: str, value: Any) -> str:
    if isinstance(value, Path):
        value = str(value)
    elif hasattr(value, "tolist"):  # of NumPy or torch
        value = value.tolist()
    try:
        return flow(value)
    except RepresenterError:
        raise RecipeError(f"set[{key!r}]: a recipe cannot hold a {type(value).__name__}") from None


def _warn(line: str) -> None:
    if line.startswith("warning: "):
        warnings.warn(line.removeprefix("warning: "), stacklevel=2)
