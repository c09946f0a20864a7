"""One's own data: what the tasks for images, texts and tables in a user's files share.

All examples form one pool, numbered as they stand in the files, those of a test file after the others. Some have a label;
nothing asks that one class be as large as another. What usually goes wrong is said in ``TaskData.warnings``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..batches.outputs import Classes, Output
from ..ranges import Natural, Share
from .base import MissingData, Pool, Task, TaskData, TaskError
from .locate import locate_file
from .quoting import quoted, shortened
from .splits import is_known, partly_labelled

FEW_LABELS, FEW_TESTED = 3, 50


@dataclass(frozen=True)
class Content:
    """What the user's files hold.

    Attributes:
        pool: all examples; an unknown target is -1 or NaN, and ``ids`` are 0, 1, 2, ...
        names: of the examples, for the user. keys: equal where two examples have the same content.
        tested: positions of the test examples where the user gives them. source: a name for the data.
    """

    pool: Pool
    names: list[str]
    keys: Sequence[Hashable]
    tested: Tensor | None
    source: str
    warnings: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Differs where an example, its name, its label or its place does."""
        digest = hashlib.sha256()
        for name, key in zip(self.names, self.keys, strict=True):
            digest.update(f"{name}\0{key}\0".encode("utf-8", "surrogatepass"))
        assert self.pool.targets is not None
        digest.update(str(self.pool.targets.tolist()).encode())
        return digest.hexdigest()[:16]


@dataclass
class OwnData(Task):
    """Base of the tasks for one's own data; a concrete one reads its files.

    Args:
        labels: at most so many of the labels are trained on, drawn by seed; 0 for all.
        validation: labelled examples kept for choosing settings.
        test_share: share of the labelled examples held out as test set, where the user gives none.
        corrections: a file of labels, ``id`` and ``label``, that go before those of the data.
        new_classes: classes that corrections alone name.
    """

    things: ClassVar[str] = "rows"
    label_option: ClassVar[str] = "labels"
    to_unlabel: ClassVar[str] = "leave some labels blank"

    labels: Natural = 0
    validation: Natural = 0
    test_share: Share = 0.2
    corrections: str = ""
    new_classes: list[str] = field(default_factory=list)
    _corrected: dict[str, str] | None = field(default=None, init=False, repr=False)
    _names: list[str] = field(default_factory=list, init=False, repr=False)
    _fingerprint: str = field(default="", init=False, repr=False)

    def gather(self) -> Content:
        """Reads the files.

        Raises:
            TaskError: ``option: reason``.
        """
        raise TypeError(f"{type(self).__name__} does not define gather()")

    def listed_labels(self) -> list[str]:
        """Names of the classes, in the order of the network's outputs, as cheaply as they can be had."""
        raise TypeError(f"{type(self).__name__} does not define listed_labels()")

    @property
    def label_names(self) -> list[str] | None:
        if self._label_names is None and not self.missing():
            found = self.listed_labels()
            if self.new_classes and getattr(self, "_output", None) is not None:
                raise TaskError("new_classes: labels are values here, not classes")
            self._label_names = ordered([*found, *self.new_classes]) if self.new_classes else found
        return self._label_names

    @property
    def output(self) -> Output:
        """As many classes as there are labels; two while the data is not here."""
        return Classes(max(len(self.label_names or ()), 2))

    def files_read(self) -> list[Path]:
        names = (getattr(self, "file", ""), getattr(self, "test", ""), self.corrections)
        found = [locate_file(name) for name in names if name]
        return [path for path in found if path is not None]

    def check(self) -> None:
        if self.test_share == 1:
            raise TaskError("test_share: below 1, so that labels are left to train on")
        names = self.label_names
        if names is not None and isinstance(self.output, Classes) and len(names) < 2:
            found = f"is only the class '{names[0]}'" if names else "are no labels"
            raise TaskError(f"{self.label_option}: there {found}; at least two classes are needed")

    def load(self, seed: int) -> TaskData:
        if self.missing():
            raise MissingData(self.missing())
        self.check()
        gathered = self.gather()
        content = self._with_corrections(gathered)
        classes = self.output.size if isinstance(self.output, Classes) else None
        data = partly_labelled(
            content.pool,
            content.tested,
            labels=self.labels,
            validation=self.validation,
            test_share=self.test_share,
            classes=classes,
            seed=seed,
            include_labelled=self.unlabelled_includes_labelled,
            source="",
            remedy=self.to_unlabel,
        )
        self._names, self._fingerprint = content.names, content.fingerprint()
        given = f"{self.test_share:.0%} of the labelled {self.things} held out" if content.tested is None else "given"
        tested = f"test: {len(data.test):,} {self.things}, {given}" if len(data.test) else "no test set"
        source = f"{content.source} ({tested})"
        data = self.finish(dataclasses.replace(data, source=source, fingerprint=self._fingerprint))
        warnings = (*data.warnings, *content.warnings, *self._doubts(data, content))
        chosen = _newly_labelled(gathered.pool, content.pool)
        return dataclasses.replace(data, warnings=warnings, chosen=chosen, trusted=self._checked(data))

    @property
    def corrected_labels(self) -> dict[str, str]:
        """Labels that ``corrections`` names, by row's name, once :meth:`load` or :meth:`restore` has seen them."""
        return dict(self._corrected or {})

    @property
    def decimal_commas(self) -> bool:
        """Whether the labels are numbers with decimal commas."""
        return False

    def given_values(self, pool: Pool) -> list[str] | None:
        """Values of a pool's rows as they were given, once :meth:`load` has seen them; None where labels are classes."""
        return None

    def keep_corrections(self, labels: Mapping[str, str]) -> None:
        """Takes labels for those of the file ``corrections``, which is not read then."""
        self._corrected = dict(labels)

    def _with_corrections(self, content: Content) -> Content:
        if not self.corrections:
            return content
        from .corrections import corrected, read_corrections  # which read tables, and those stand on this module

        classes = self.label_names if isinstance(self.output, Classes) else None
        if self._corrected is None:
            path = locate_file(self.corrections)
            if path is None:
                raise TaskError(f"corrections: there is no file {self.corrections}")
            try:
                self._corrected = read_corrections(path, content.names, classes, self.decimal_commas)
            except TaskError as error:
                raise TaskError(f"corrections: {error}") from None
        assert content.pool.targets is not None
        targets = corrected(content.pool.targets, content.names, classes, self._corrected)
        return dataclasses.replace(content, pool=dataclasses.replace(content.pool, targets=targets))

    @property
    def trusts_some(self) -> bool:
        return super().trusts_some or bool(self.corrections or self._corrected)

    def _checked(self, data: TaskData) -> Tensor | None:
        """Positions of the labelled examples whose label is one of ``corrections``, which somebody has looked at."""
        if not self._corrected:
            return None
        named = [self._names[number] in self._corrected for number in data.labelled.ids.tolist()]
        return torch.tensor(named, dtype=torch.bool).nonzero()[:, 0]

    def learnt(self) -> dict[str, Any]:
        return (
            super().learnt()
            | {"data": self._fingerprint}
            | ({"corrections": self._corrected} if self._corrected else {})
        )

    def relearn(self, known: dict[str, Any], folder: Path) -> None:
        super().relearn(known, folder)
        self._fingerprint = known.get("data", "")
        labels = known.get("corrections", {})
        if not isinstance(labels, dict) or not all(isinstance(label, str) for label in labels.values()):
            raise ValueError("corrections that are none")
        self._corrected = labels

    def finish(self, data: TaskData) -> TaskData:
        """The last word on the pools, e.g. preprocessing fitted to the training examples."""
        return data

    def compared(self, content: Content) -> Sequence[Hashable]:
        """Keys of all examples, equal where the network sees the same; asked for after :meth:`finish`."""
        return content.keys

    def warnings(self, seed: int) -> tuple[str, ...]:
        return self.load(seed).warnings

    def row_names(self, pool: Pool) -> list[str]:
        return [self._names[number] for number in pool.ids.tolist()]

    def _doubts(self, data: TaskData, content: Content) -> Iterable[str]:
        things, count = self.things, len(data.labelled)
        if isinstance(self.output, Classes):
            assert data.labelled.targets is not None and self.label_names is not None
            counts = torch.bincount(data.labelled.targets, minlength=self.output.size).tolist()
            by_class = dict(zip(self.label_names, counts, strict=True))
            absent = [name for name, number in by_class.items() if not number]
            if absent:
                raise TaskError(
                    f"{self.label_option}: no training label of class {quoted(absent)}; each needs one at least"
                )
            few = [f"'{name}' {number}" for name, number in by_class.items() if number < FEW_LABELS]
            if few:
                yield f"few training labels: {shortened(few)}"
        if len(data.unlabelled) < count:
            yield f"only {len(data.unlabelled):,} unlabelled {things} beside {count:,} labelled ones: little to learn from"
        keys = self.compared(content)
        known = {keys[i] for pool in (data.labelled, data.unlabelled) for i in pool.ids.tolist()}
        for part, pool in (("test", data.test), ("validation", data.validation)):
            seen = [content.names[i] for i in pool.ids.tolist() if keys[i] in known]
            if seen:
                yield (
                    f"{len(seen):,} of {len(pool):,} {part} {things} also occur in the training data, which flatters the "
                    f"result: {shortened(seen)}"
                )
        if not len(data.test) and not self.measured_by_folds:
            yield "no test set: nothing will tell how good the labels are"
        elif 0 < len(data.test) < FEW_TESTED:
            spent = "" if content.tested is not None else "; test_share: 0 would train on them"
            yield f"only {len(data.test)} test {things}: the test result is a rough guess{spent}"


def _newly_labelled(before: Pool, after: Pool) -> frozenset[int]:
    """Ids of rows that have a label, and had none."""
    assert before.targets is not None and after.targets is not None
    return frozenset(after.ids[is_known(after.targets) & ~is_known(before.targets)].tolist())


def ordered(labels: Iterable[str]) -> list[str]:
    """Distinct labels, blanks left out: by size where all are numbers, equal ones by alphabet; else all by alphabet."""
    found = sorted({label for label in labels if label})
    try:
        sizes = {label: float(label) for label in found}
    except ValueError:
        return found
    return found if any(map(math.isnan, sizes.values())) else sorted(found, key=lambda label: sizes[label])


def numbered(labels: Sequence[str], names: Sequence[str]) -> Tensor:
    """Class indices ``[n]`` of labels; -1 for a blank."""
    place = {name: number for number, name in enumerate(names)}
    return torch.tensor([place.get(label, -1) for label in labels], dtype=torch.long)
