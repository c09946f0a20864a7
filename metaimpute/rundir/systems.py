"""The systems of a run that was made with ``choose``: combined in memory, and kept in its folder.

Nothing is unpickled: members are a skops file whose types are checked, all else is JSON.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from ..ensemble.choice import Ensemble, Scored
from ..ensemble.combination import Combination
from ..ensemble.conformal import Widths, class_sets
from ..ensemble.members import Constant, members
from ..models.base import Model
from ..models.row_forms import RowForm, row_forms
from ..recipes.components import NETWORK
from ..tasks.base import Pool, Task
from .files import replacing, write_json
from .layout import MEMBERS, SYSTEMS
from .stored import DamagedFile, read_json

KERNELS = "sklearn.gaussian_process.kernels"
TRUSTED = (  # beside what skops trusts of NumPy, SciPy and scikit-learn: parts of the estimators that members hold
    "numpy.dtype", "sklearn.tree._tree.Tree", "sklearn.neighbors._kd_tree.KDTree", "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.metrics._dist_metrics.EuclideanDistance64", "sklearn.metrics._dist_metrics.EuclideanDistance",
    f"{KERNELS}.ConstantKernel", f"{KERNELS}.RBF", f"{KERNELS}.WhiteKernel", f"{KERNELS}.Sum", f"{KERNELS}.Product",
)  # fmt: skip


@dataclass(frozen=True)
class Systems:
    """Systems combined, and the forms of examples that they take.

    Attributes:
        ensemble: the systems. forms: by name. Where the network takes part, its answers are asked for.
    """

    ensemble: Ensemble
    forms: Mapping[str, RowForm]

    def predict(self, pool: Pool, network: Callable[[], np.ndarray]) -> np.ndarray:
        """Probabilities ``[n, classes]`` or standardised values ``[n]`` of raw examples.

        Args:
            network: gives the same of the run's network.
        """
        return self.answer(pool, network)[0]

    def answer(self, pool: Pool, network: Callable[[], np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
        """The same, and of values the half widths ``[n]`` of their 90% intervals, where there are any."""
        rows = {name: form(pool) for name, form in self.forms.items()}
        parts = {}
        for name in self.ensemble.combination.names:
            if name == NETWORK:
                parts[name] = network()
            else:
                parts[name] = self.ensemble.fitted[name].predict(rows[self.ensemble.forms[name]])
        return self.ensemble.combination(parts), self.ensemble.half_widths(parts)

    def class_sets(self, probabilities: np.ndarray, level: float) -> np.ndarray:
        """Which classes examples may be of, truth values ``[n, classes]``."""
        return class_sets(probabilities, self.ensemble.held_out, self.ensemble.labels, level)

    def save(self, folder: Path) -> None:
        """Writes both files."""
        from skops.io import dump

        ensemble, mean = self.ensemble, self.ensemble.combination
        kept = {name: member for name, member in ensemble.fitted.items() if name != NETWORK}
        learnt = {name: form.learnt for name, form in self.forms.items() if form.learnt is not None}
        with replacing(folder / MEMBERS) as partial:
            dump({"members": kept, "forms": learnt}, partial)
        known = {
            "names": mean.names, "weights": mean.weights.tolist(), "powers": mean.powers.tolist(), "power": mean.power,
            "classes": ensemble.classes, "forms": dict(ensemble.forms), "used": list(self.forms),
            "scores": [dataclasses.asdict(one) for one in ensemble.scores], "expected": dataclasses.asdict(ensemble.expected),
            "held_out": ensemble.held_out.tolist(), "labels": ensemble.labels.tolist(), "left_out": dict(ensemble.left_out),
            "widths": None if ensemble.widths is None else dataclasses.asdict(ensemble.widths),
        }  # fmt: skip
        write_json(folder / SYSTEMS, _plain(known))

    @classmethod
    def restore(cls, folder: Path, task: Task, model: Model, device: torch.device) -> Systems | None:
        """What :meth:`save` wrote; None where a run has no systems.

        Raises:
            DamagedFile: for a file that is not what it should be.
        """
        if not (folder / SYSTEMS).is_file():
            return None
        known = read_json(folder / SYSTEMS)
        try:
            stored = _members(folder / MEMBERS)
            mean = Combination(
                tuple(known["names"]), np.array(known["weights"]), np.array(known["powers"]), float(known["power"])
            )
            scores = tuple(map(_scored, known["scores"]))
            held_out, labels = np.array(known["held_out"], dtype=float), np.array(known["labels"])
            ensemble = Ensemble(
                stored["members"], known["forms"], mean, int(known["classes"]), scores, _scored(known["expected"]), held_out,
                labels, Widths(**known["widths"]) if known.get("widths") else None, known["left_out"],
            )  # fmt: skip
            if not (len(mean.names) == len(mean.weights) == len(mean.powers) >= 1) or mean.weights.dtype.kind != "f":
                raise ValueError("as many weights and powers as names")
            if held_out.shape != ((len(labels), ensemble.classes) if ensemble.classes else (len(labels),)):
                raise ValueError("held_out: a row for each label")
            missing = set(mean.names) - set(stored["members"]) - {NETWORK}
            if missing:
                raise ValueError(f"{min(missing)} is not there")
            if any(name != NETWORK and ensemble.forms.get(name) not in known["used"] for name in mean.names):
                raise ValueError("forms: one for each system")
            forms = {form.name: form for form in row_forms(task, model, device) if form.name in known["used"]}
            if set(known["used"]) != set(forms):
                raise ValueError("used: forms that there are not")
            for name, learnt in stored["forms"].items():
                forms[name].restore(learnt)
            return cls(ensemble, forms)
        except DamagedFile:
            raise
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise DamagedFile(folder / SYSTEMS, f"{type(error).__name__}: {error}") from None


def _plain(value: Any) -> Any:
    """The same with null for every number that JSON has not."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scored(found: dict[str, Any]) -> Scored:
    known: dict[str, Any] = {key: math.nan if value is None else value for key, value in found.items()}
    return Scored(**known)


def _members(path: Path) -> dict[str, Any]:
    from skops.io import get_untrusted_types, load

    if not path.is_file():
        raise DamagedFile(path, "it is missing")
    own = [members.get(name) for name in members] + [Constant]
    trusted = [*TRUSTED, *(f"{kind.__module__}.{kind.__qualname__}" for kind in own)]
    try:
        strange = sorted(set(get_untrusted_types(file=path)) - set(trusted))
        if strange:
            raise DamagedFile(path, f"it holds types that are not trusted: {', '.join(strange)}")
        found: dict[str, Any] = load(path, trusted=trusted)
        return found
    except (OSError, ValueError, LookupError, TypeError, AttributeError, BadZipFile, json.JSONDecodeError) as error:
        raise error if isinstance(error, DamagedFile) else DamagedFile(path, str(error)) from None
