"""The random streams of a run: each number names what a generator seeded with ``derive_seed(seed, stream, ...)`` is for.

A number is part of what a seed means: with another one the same recipe gives another result, and a run that was begun
before could not go on bit for bit. So no number changes, and a new stream takes one that none has.
"""

from __future__ import annotations

from enum import Enum
from typing import Literal

Under = Literal["0", "task", "run", "lookahead"]


class Stream(int, Enum):
    """A stream's number, and the seed it is drawn under.

    Attributes:
        under: ``"0"``: 0, for what a task draws whatever the run's seed is; ``"task"`` and ``"run"``: the run's seed;
            ``"lookahead"``: a seed of each look-ahead, whose inner steps have the numbers from 0.
    """

    under: Under

    def __new__(cls, number: int, under: Under) -> Stream:
        stream = int.__new__(cls, number)
        stream._value_ = (number, under)  # else those that share a number would be one
        stream.under = under
        return stream

    def __repr__(self) -> str:
        return f"<Stream.{self.name}: {int(self)}>"

    TEST = 0, "0"
    VALIDATION = 1, "0"
    CORPUS = 5, "0"
    FACES = 40, "0"
    TEST_FACES = 41, "0"

    LABELS = 2, "task"
    HOLDOUT_SPLIT = 3, "task"
    FEWER_UNLABELLED = 4, "task"
    LABEL_NOISE = 50, "task"
    MISMATCH = 51, "task"

    INIT = 1, "run"
    STEP = 2, "run"
    CALIBRATION = 3, "run"
    WATCHED = 4, "run"
    TRAJECTORIES = 5, "run"
    META = 6, "run"
    LABELLED = 10, "run"
    UNLABELLED = 11, "run"
    HOLDOUT = 12, "run"
    LABELLED_VIEW = 13, "run"
    WEAK_VIEW = 14, "run"
    STRONG_VIEW = 15, "run"
    HOLDOUT_VIEW = 16, "run"
    MORE_VIEWS = 17, "run"
    BASE = 30, "run"
    COUPLE = 31, "run"
    ESTIMATE = 32, "run"
    CONTROL = 33, "run"
    TRAINED = 34, "run"
    PREPARE = 35, "run"
    RATE = 36, "run"
    DIAGNOSIS = 37, "run"
    MASK = 38, "run"
    FOLDS = 39, "run"

    OUTER = -1, "lookahead"
    DIRECTION = -2, "lookahead"


# Streams that have had one number since before they stood here. Each pair draws different things (orders of different pools,
# or weights and an order), and nothing rests on their being independent.
SHARED = frozenset(
    {
        (Stream.VALIDATION, Stream.INIT),  # at seed 0 alone
        (Stream.CORPUS, Stream.TRAJECTORIES),  # at seed 0 alone
        (Stream.LABELS, Stream.STEP),  # a step's number follows, so that the seeds differ
        (Stream.HOLDOUT_SPLIT, Stream.CALIBRATION),
        (Stream.FEWER_UNLABELLED, Stream.WATCHED),
    }
)
