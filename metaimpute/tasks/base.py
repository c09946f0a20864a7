"""What a task adapter is: pools of data, views of them, an output kind, a metric. No method and nothing bilevel."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from typing_extensions import dataclass_transform

from ..batches.batch import InputKind, ViewKind
from ..batches.motion import LabelMotion
from ..batches.outputs import Classes, Output
from ..engine.pytree import Tree
from ..engine.registry import Registry, require_kind
from ..errors import MISSING, UserError
from ..ranges import Natural
from .alterations import ClassMismatch, LabelNoise

LEARNT = "task.json"

tasks: Registry[Callable[..., Task]] = Registry("task")
TaskClass = TypeVar("TaskClass", bound=Callable[..., "Task"])


@dataclass_transform(field_specifiers=(field,))
def register_task(name: str) -> Callable[[TaskClass], TaskClass]:
    """Decorator that files a task under ``name``; a class becomes a dataclass, whose fields are its options."""

    def add(given: TaskClass) -> TaskClass:
        require_kind(given, Task, "register_task")
        return tasks.register(name)(given)

    return add


class TaskError(UserError, ValueError):
    """A task that cannot be set up as asked, e.g. fewer labels than classes. Ends a command with exit code 2."""


@dataclass(frozen=True)
class Missing:
    """Data or weights that are not on this machine.

    Attributes:
        what: e.g. ``"IMDb reviews (aclImdb/)"``. looked: places searched. remedy: the command or download that gets it.
    """

    what: str
    looked: tuple[str, ...]
    remedy: str

    def __str__(self) -> str:
        return f"{self.what} not found (looked in {', '.join(self.looked)}{self.elsewhere}); {self.remedy}"

    @property
    def elsewhere(self) -> str:
        return "" if os.environ.get("METAIMPUTE_DATA") else "; METAIMPUTE_DATA names another folder to search"


class MissingData(UserError, RuntimeError):
    """Raised by ``load`` when data or weights are absent. Ends a command with exit code 3."""

    exit_code = MISSING

    def __init__(self, missing: Missing | Sequence[Missing]) -> None:
        self.missing = [missing] if isinstance(missing, Missing) else list(missing)
        super().__init__("; ".join(map(str, self.missing)))


@dataclass(frozen=True)
class Pool:
    """Raw examples and, where known, their targets.

    Attributes:
        inputs: a tensor ``[n, ...]`` or a sequence of n texts. targets: ``[n]`` class indices or ``[n, d]`` values, or None.
        ids: row numbers in the original data set; stable across seeds.
    """

    inputs: Tensor | Sequence[Any]
    targets: Tensor | None
    ids: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, index: Tensor) -> Tensor | list[Any]:
        """Raw examples at ``index`` (positions in this pool)."""
        if isinstance(self.inputs, Tensor):
            return self.inputs[index]
        return [self.inputs[i] for i in index.tolist()]

    def subset(self, index: Tensor) -> Pool:
        targets = None if self.targets is None else self.targets[index]
        return Pool(self.take(index), targets, self.ids[index])


@dataclass(frozen=True)
class TaskData:
    """The pools of one split of a task.

    Attributes:
        unlabelled: targets may be present; they serve diagnostics only and never reach a loss.
        source: where the data came from, shown with every result.
        warnings: what looks wrong with the data, a line each; a run says them and ``metaimpute check`` repeats them.
        fingerprint: of the content of one's own files, so that a run notices when they change; empty for published data sets.
        chosen: ids of rows whose label came with corrections: they were picked, as doubtful ones, and say little of the others.
        clean: right targets of the labelled rows where ``label_noise`` spoils some, for diagnostics alone; else None.
        trusted: positions of the labelled rows whose labels are known to be right: left so on purpose, or looked at.
    """

    labelled: Pool
    unlabelled: Pool
    validation: Pool
    test: Pool
    source: str
    warnings: tuple[str, ...] = ()
    fingerprint: str = ""
    chosen: frozenset[int] = frozenset()
    clean: Tensor | None = None
    trusted: Tensor | None = None


def check_balanced(count: int, classes: int, what: str) -> None:
    """Raises:
    TaskError: when ``count`` is not a positive multiple of ``classes``; ``what`` names the option."""
    if count < classes or count % classes:
        nearest = max(classes, round(count / classes) * classes)
        raise TaskError(
            f"{what}: {count} cannot be spread evenly over {classes} classes; the nearest possible number is {nearest}"
        )


@dataclass
class Task:
    """A data set with its loss, metric and views. Options are the fields of the concrete class.

    Attributes:
        episodes: whether a row is a whole small task: a support set to learn from and a query set to be judged by. Every row of a
            labelled batch then comes back in the step's hold-out batch, at the same place.
    """

    name: ClassVar[str] = ""
    input_kind: ClassVar[InputKind] = "vector"
    input_shape: ClassVar[tuple[int, ...]] = ()
    episodes: ClassVar[bool] = False

    labels: Natural = 0
    validation: Natural = 0
    unlabelled_includes_labelled: bool = False
    label_noise: LabelNoise | None = None
    class_mismatch: ClassMismatch | None = None
    measured_by_folds: bool = field(default=False, init=False, repr=False)
    prepare_inputs: Callable[[list[Any]], Tree] | None = field(default=None, init=False, repr=False)
    read_warnings: list[str] = field(default_factory=list, init=False, repr=False)
    _label_names: list[str] | None = field(default=None, init=False, repr=False)

    def files_read(self) -> list[Path]:
        """Files of the user's own that the task reads, which no command may write over."""
        return []

    @property
    def output(self) -> Output:
        """What the network predicts."""
        return Classes(2)

    @property
    def label_names(self) -> list[str] | None:
        """Names of the classes, or of the predicted values, in the order of the network's outputs; None: numbers will do."""
        return self._label_names

    def check(self) -> None:
        """Called when a recipe is checked, before anything is loaded.

        Raises:
            TaskError: ``option: reason`` for an impossible option.
        """
        if isinstance(self.output, Classes):
            check_balanced(self.labels, self.output.size, "labels")
            if self.validation:
                check_balanced(self.validation, self.output.size, "validation")

    def missing(self) -> list[Missing]:
        """What has to be fetched before :meth:`load` can work; empty when all is here."""
        return []

    def load(self, seed: int) -> TaskData:
        """Pools for the label draw ``seed``; the test pool is the same for every seed.

        Raises:
            MissingData: naming where it looked and how to get the data. TaskError: for impossible options.
        """
        raise TypeError(f"{type(self).__name__} does not define load()")

    def warnings(self, seed: int) -> tuple[str, ...]:
        """What a closer look at the user's own data finds; of the built-in data sets, which are well known, nothing."""
        return ()

    def row_names(self, pool: Pool) -> list[str]:
        """How the user finds each row of a pool again: a file's path, the value of an id column, or the row's number from 0."""
        return [str(number) for number in pool.ids.tolist()]

    def read(self, path: Path) -> tuple[list[str], Any]:
        """New inputs from a file or folder of the user's: their names, and raw examples as :meth:`view` takes them.

        What looks wrong with them is in ``read_warnings`` afterwards, a line each.

        Raises:
            TaskError: when the task has no reader for one's own files, or they cannot be read.
        """
        raise TaskError(f"task '{self.name}' has no reader for one's own files")

    def save(self, folder: Path) -> None:
        """Writes what was learnt from the data, so that after :meth:`restore` a task needs no training data to predict."""
        (folder / LEARNT).write_text(json.dumps(self.learnt(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def restore(self, folder: Path) -> None:
        """Reads what :meth:`save` wrote: ``output``, ``input_shape``, ``label_names``, ``read`` and ``view`` work from then on.

        Raises:
            TaskError: when it is not there or not what it should be.
        """
        path = folder / LEARNT
        try:
            self.relearn(json.loads(path.read_text(encoding="utf-8")), folder)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise TaskError(f"{path} cannot be read ({type(error).__name__}: {error})") from None

    def learnt(self) -> dict[str, Any]:
        """The part of :meth:`save` that goes into ``task.json``."""
        return {"label_names": self.label_names}

    def relearn(self, known: dict[str, Any], folder: Path) -> None:
        """Takes back what :meth:`learnt` gave, and what lies beside it."""
        self._label_names = known["label_names"]

    def distinct_inputs(self, data: TaskData, unlabelled: bool) -> Iterable[Any] | None:
        """Every raw input that training views can hold, in a fixed order, when they are few enough to prepare once.

        Args:
            unlabelled: whether training draws unlabelled examples at all.
        """
        return None

    def view(self, raw: Any, kind: ViewKind, generator: torch.Generator) -> Tree:
        """Model inputs for raw examples under a random view; ``"none"`` is the evaluation view."""
        return raw

    @property
    def trusts_some(self) -> bool:
        """Whether some labels are known to be right, for ``problem.holdout: trusted``."""
        return self.label_noise is not None and self.label_noise.trusted > 0

    @property
    def views_on_device(self) -> bool:
        """Whether a view is what :meth:`finished_view` makes of what :meth:`begun_view` has made, and labels stay under it."""
        return False

    def begun_view(self, raw: Any, kind: ViewKind, generator: torch.Generator) -> Tree:
        """The part of a view that is made where the examples are read; tensors, as small as may be."""
        raise TypeError(f"{type(self).__name__} does not define begun_view()")

    def finished_view(self, begun: Tree, kind: ViewKind, generator: torch.Generator) -> Tree:
        """The other part, on the tensors' device. ``generator`` goes on where the first part left it, on the CPU."""
        raise TypeError(f"{type(self).__name__} does not define finished_view()")

    @property
    def more_forms(self) -> tuple[str, ...]:
        """Names of further forms of an example, as rows of numbers, for systems beside the network; before loading,
        those that it may have."""
        return ()

    def in_form(self, raw: Any, name: str) -> Tensor:
        """Raw examples in one of these forms, ``[n, features]``."""
        raise TypeError(f"{type(self).__name__} has no form '{name}'")

    def moved_view(self, raw: Any, kind: ViewKind, generator: torch.Generator) -> tuple[Tree, LabelMotion | None]:
        """A view and how labels move under it; the motion is None where a label stays the same, as a class does."""
        return self.view(raw, kind, generator), None
