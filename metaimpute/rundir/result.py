"""``result.json``: what a finished run says of itself, as a value with a name for each of its keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import ConfigDict, Field, ValidationError, create_model
from typing_extensions import TypedDict  # see environment.py

from ..environment import Environment
from .files import write_json
from .layout import RESULT
from .measure import Measure
from .stored import DamagedFile, read_json

Natural = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
LEFT_OUT = {"left_out": True}  # a key that is not written where its value is None


class Bin(TypedDict):
    """Predictions of about one confidence: how sure they are, how many are right, and how many there are."""

    confidence: Share
    accuracy: Share
    count: Annotated[int, Field(ge=1)]


class Estimated(TypedDict):
    """A system's error on labelled examples held out, with its 90% interval, and its weight among those combined."""

    name: str
    error: float | None
    low: float | None
    high: float | None
    weight: float
    seconds: float


class Calibration(TypedDict):
    """Expected calibration error in [0, 1], and the reliability diagram behind it."""

    ece: float
    bins: list[Bin]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Result(Mapping[str, Any]):
    """Content of a ``result.json``; a mapping too: ``result.test_last`` is ``result["test_last"]``.

    Attributes:
        recipe: path as it was given. title: the recipe's. overrides: what ``--set`` changed of its system.
        profile: ``paper`` or ``sample``. profile_reason: why, in a few words.
        task, model, method, problem, estimator, backend: names; ``estimator`` is None where nothing is estimated.
        source: where the data came from. labels, unlabelled, test_examples: examples in each pool.
        data_fingerprint: of the content of one's own files; empty for published data sets.
        label_names: of the classes or values, where they have any. imports: modules named with ``--import``.
        seed: of everything random. steps: taken.
        metric: what every error is, e.g. ``error %``. test_last, validation_last: at the last evaluation, None without such
            examples. test_median: over the last ``test_checkpoints`` evaluations.
        measure: which of them runs are compared by (:mod:`metaimpute.rundir.measure`); None in files of before it was kept.
        test_interval: 95% interval of ``test_last`` over other test rows.
        test_measures: what the task measures beside its error: ``last`` and ``median`` by name.
        evaluations: every evaluation, with its ``step``.
        calibration, balanced_accuracy, predicted_classes, confusion: of classes on the test set; counts stand at
            ``[true][predicted]``.
        warnings: everything a run said with ``warning:``; None in files of before it was kept. lookahead_warning,
            zero_hypergradient_warning: whether two of them were among it.
        expected: of a run with ``choose``, the error to expect of imputed labels, in the metric's unit, from labelled examples
            held out; ``candidates``: of each system. ``left_out``: systems that took no part, and why. Test measurements are then
            of the systems combined, ``evaluations`` of the network alone.
        training_seconds: of the whole run. phase_seconds: of the parts of its steps. environment: what it ran on.
        weights_sha256: of ``model.safetensors``. extra: keys of other versions.
    """

    recipe: str
    title: str
    overrides: list[str] = field(default_factory=list)
    profile: str
    profile_reason: str
    task: str
    source: str
    labels: Natural
    unlabelled: Natural
    test_examples: Natural
    model: str
    method: str
    problem: str
    estimator: str | None
    backend: str | None = None
    seed: Natural
    steps: Natural
    metric: str
    test_last: float | None
    test_median: float | None
    test_checkpoints: Natural
    validation_last: float | None
    measure: Measure | None = field(default=None, metadata=LEFT_OUT)
    test_interval: list[float] | None = field(default=None, metadata=LEFT_OUT)
    test_measures: dict[str, dict[str, float]] = field(default_factory=dict)
    label_names: list[str] | None = None
    data_fingerprint: str | None = None
    imports: list[str] | None = None
    calibration: Calibration | None = field(default=None, metadata=LEFT_OUT)
    balanced_accuracy: float | None = field(default=None, metadata=LEFT_OUT)
    predicted_classes: list[int] | None = field(default=None, metadata=LEFT_OUT)
    confusion: list[list[Natural]] | None = field(default=None, metadata=LEFT_OUT)
    expected: Estimated | None = field(default=None, metadata=LEFT_OUT)
    candidates: list[Estimated] | None = field(default=None, metadata=LEFT_OUT)
    left_out: dict[str, str] | None = field(default=None, metadata=LEFT_OUT)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    lookahead_warning: bool = False
    zero_hypergradient_warning: bool = False
    warnings: list[str] | None = field(default=None, metadata=LEFT_OUT)
    training_seconds: float
    phase_seconds: dict[str, float] = field(default_factory=dict)
    environment: Environment
    weights_sha256: str | None = field(default=None, metadata=LEFT_OUT)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Result({', '.join(f'{name}: {value}' for name, value in self._brief().items())})"

    def _repr_html_(self) -> str:
        rows = (
            f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in self._brief().items()
        )
        return f"<table><tbody>{''.join(rows)}</tbody></table>"

    def _brief(self) -> dict[str, Any]:
        """What a notebook shows; the mapping has it all."""
        counts = f"{self.labels:,} / {self.unlabelled:,} / {self.test_examples:,}"
        return {
            "system": f"{self.method} + {self.problem}" if self.problem != "none" else self.method,
            "task": self.task,
            "labels / unlabelled / test": counts,
            f"test {self.metric}": self.test_last,
            "seed": self.seed,
            "seconds": self.training_seconds,
        }

    def __iter__(self) -> Iterator[str]:
        for name, one in _FIELDS.items():
            if getattr(self, name) is not None or not one.metadata.get("left_out"):
                yield name
        yield from self.extra

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, key: str) -> Any:
        if key in self.extra:
            return self.extra[key]
        found = getattr(self, key) if key in _FIELDS else None
        if found is None and (key not in _FIELDS or _FIELDS[key].metadata.get("left_out")):
            raise KeyError(key)
        return found

    @classmethod
    def read(cls, folder: str | Path) -> Result:
        """What a finished run's folder holds, whichever version wrote it.

        Raises:
            DamagedFile: naming the first key that is absent or of another kind. OSError: when it cannot be read.
        """
        path = Path(folder) / RESULT
        found = read_json(path)
        if not isinstance(found, dict):
            raise DamagedFile(path, "it holds no mapping")
        try:
            _Schema.model_validate(found)
            known = {name: value for name, value in found.items() if name in _FIELDS}
            result = cls(**known, extra={name: value for name, value in found.items() if name not in _FIELDS})
            _check_confusion(result)
            return result
        except ValidationError as error:
            first = error.errors()[0]
            raise DamagedFile(path, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
        except ValueError as error:
            raise DamagedFile(path, str(error)) from None

    @classmethod
    def expected_of(cls, folder: str | Path) -> Estimated | None:
        """What a run with several systems combined expects of its labels; None of other runs, and of those that did not finish.

        Raises:
            DamagedFile: as :meth:`read`.
        """
        return cls.read(folder).expected if (Path(folder) / RESULT).is_file() else None

    def write(self, folder: Path) -> Path:
        """Writes it into a run's folder; returns the file's path."""
        write_json(folder / RESULT, dict(self))
        return folder / RESULT


def _check_confusion(result: Result) -> None:
    size = len(result.confusion or ())
    if any(len(row) != size for row in result.confusion or ()):
        raise ValueError("confusion: as many rows as columns")
    if size and result.label_names is not None and len(result.label_names) != size:
        raise ValueError(f"label_names: {len(result.label_names)} of them for a confusion matrix of {size} classes")


_FIELDS = {one.name: one for one in dataclasses.fields(Result) if one.name != "extra"}
_HINTS = get_type_hints(Result, include_extras=True)
_DEFAULTS = {name: ... if one.default is one.default_factory else None for name, one in _FIELDS.items()}  # both MISSING
_TYPED: dict[str, Any] = {name: (_HINTS[name], _DEFAULTS[name]) for name in _FIELDS}
_Schema = create_model("_Schema", __config__=ConfigDict(strict=True, extra="allow"), **_TYPED)
