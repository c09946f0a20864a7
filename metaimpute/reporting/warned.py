"""What runs warned of while they trained: one line for all seeds of a system that were told alike."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..rundir.result import Result

NUMBER = re.compile(r"[+-]?\d[\d.,]*(?:e[+-]?\d+)?%?")


def warned(name: str, results: Iterable[Result]) -> list[str]:
    """Lines such as ``l2i, seeds 0, 3: ...``. Of warnings that differ in their numbers alone, the first one's words are taken.

    Args:
        name: the system's. results: of its runs, one per seed.
    """
    first: dict[str, str] = {}
    seeds: dict[str, list[str]] = {}
    for result in results:
        for text in warnings_of(result):
            kind = NUMBER.sub("#", text)
            first.setdefault(kind, text)
            if str(result.seed) not in seeds.setdefault(kind, []):
                seeds[kind].append(str(result.seed))
    return [
        f"{name}, seed{'s' if len(seeds[kind]) > 1 else ''} {', '.join(seeds[kind])}: {text}"
        for kind, text in first.items()
    ]


def warnings_of(result: Result) -> list[str]:
    """A run's warnings, without the word; of runs from before they were kept, the two that were."""
    if result.warnings is not None:
        return [text.removeprefix("warning: ") for text in result.warnings]
    found = []
    if result.lookahead_warning:
        found.append("the look-ahead raised the hold-out loss; lower problem.inner.lr")
    if result.zero_hypergradient_warning:
        found.append(
            "the hypergradient was exactly zero in several measured steps: this run is no more than its control"
        )
    return found
