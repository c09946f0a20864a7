"""Random streams: no two by accident the same, none renumbered, and no number that is not in the list."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import metaimpute
from metaimpute.engine import derive_seed
from metaimpute.streams import SHARED, Stream

NUMBERS = {
    "TEST": 0, "VALIDATION": 1, "CORPUS": 5, "FACES": 40, "TEST_FACES": 41, "LABELS": 2, "HOLDOUT_SPLIT": 3,
    "FEWER_UNLABELLED": 4, "INIT": 1, "STEP": 2, "CALIBRATION": 3, "WATCHED": 4, "TRAJECTORIES": 5, "META": 6, "LABELLED": 10,
    "UNLABELLED": 11, "HOLDOUT": 12, "LABELLED_VIEW": 13, "WEAK_VIEW": 14, "STRONG_VIEW": 15, "HOLDOUT_VIEW": 16,
    "MORE_VIEWS": 17, "BASE": 30, "COUPLE": 31, "ESTIMATE": 32, "CONTROL": 33, "TRAINED": 34, "PREPARE": 35, "RATE": 36,
    "DIAGNOSIS": 37, "MASK": 38, "FOLDS": 39, "OUTER": -1, "DIRECTION": -2,
    "LABEL_NOISE": 50, "MISMATCH": 51,
}  # fmt: skip


def test_no_stream_has_another_number_than_before() -> None:
    assert {name: int(stream) for name, stream in Stream.__members__.items()} == NUMBERS
    assert len(Stream) == len(NUMBERS), "one that repeats a value would be another name of the first"


def test_numbers_are_unique_but_for_those_that_are_said_to_be_shared() -> None:
    holders: dict[int, list[Stream]] = defaultdict(list)
    for stream in Stream:
        holders[int(stream)].append(stream)
    shared = {frozenset(s.name for s in found) for found in holders.values() if len(found) > 1}
    assert shared == {frozenset(s.name for s in pair) for pair in SHARED}
    for one, two in SHARED:
        assert one.under != two.under


def test_a_number_is_one_streams_among_those_under_one_seed() -> None:
    pairs = [(stream.under, int(stream)) for stream in Stream]
    assert len(set(pairs)) == len(pairs)


def test_a_stream_can_be_shown() -> None:
    assert (
        repr(Stream.INIT) == "<Stream.INIT: 1>"
        and str(Stream.INIT) == "Stream.INIT"
        and f"{Stream.OUTER!r}".endswith("-1>")
    )


def test_a_stream_is_drawn_as_its_number_is() -> None:
    for stream in Stream:
        assert derive_seed(7, stream, 3) == derive_seed(7, int(stream), 3)


def seeded(path: Path) -> list[ast.Call]:
    names = {"derive_seed", "generator"}
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [call for call in calls if getattr(call.func, "id", getattr(call.func, "attr", "")) in names and call.args]


def test_no_number_is_written_where_a_stream_is_named() -> None:
    found = 0
    for path in Path(metaimpute.__file__).parent.rglob("*.py"):
        for call in seeded(path):
            for argument in call.args[1:2]:
                found += 1
                assert not isinstance(argument, ast.Constant | ast.UnaryOp | ast.BinOp), f"{path}:{call.lineno}"
    assert found > 20
