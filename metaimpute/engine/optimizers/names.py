"""Names of hyperparameters where several rules or transforms have one of the same name.

The first keeps its name in ``hyper`` (``lr``), later ones are numbered (``lr_2``). A change by the plain name would reach the
first alone, so it is asked for as ``lr_1``, unless all of them are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import UserError
from ..registry import describe_choices

SEVERAL = "several"  # the option: for each such name the hyperparameters that have it, in order, and what each is of
Several = Mapping[str, Sequence[tuple[str, str]]]


class UnsupportedOptimizer(UserError, ValueError):
    """An optimiser, or an option of one, that cannot be differentiated faithfully."""


def no_such(label: str, name: str, known: list[str]) -> str:
    """The sentence for a hyperparameter that a rule does not have, with the nearest that it has."""
    said = f"{label} has no hyperparameter '{name}'"
    if name == "betas" and {"beta1", "beta2"} <= set(known):
        return f"{said}, but 'beta1' and 'beta2'"
    return f"{said}; {describe_choices(name, known)}" if known else f"{said}, and none else"


def several_of(parts: Sequence[tuple[str, Mapping[str, str], Mapping[str, Any]]]) -> Several:
    """The option's value for parts that are put together.

    Args:
        parts: of each what is said of it, its hyperparameters' names in the whole by its own, and its options.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for said, own, options in parts:
        inside: Several = options.get(SEVERAL, {})
        numbered = {name for entries in inside.values() for name, _ in entries}
        for key, entries in inside.items():
            found.setdefault(key, []).extend((own.get(name, name), f"{of}, in {said}") for name, of in entries)
        for key, name in own.items():
            if key not in numbered:
                found.setdefault(key, []).append((name, said))
    return {key: tuple(entries) for key, entries in found.items() if len(entries) > 1}


def chosen_by_name(label: str, options: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given for a rule's hyperparameters, by their names in ``hyper``.

    Raises:
        UnsupportedOptimizer: for a plain name that several of its parts have, of which not all are given.
    """
    several: Several = options.get(SEVERAL, {})
    found = {}
    for name, value in given.items():
        entries, plain = several.get(name, ()), name.removesuffix("_1")
        if entries and not all(other in given for other, _ in entries[1:]):
            each = [f"{name}_1 ({entries[0][1]})", *(f"{other} ({of})" for other, of in entries[1:])]
            raise UnsupportedOptimizer(
                f"{label} has {len(entries)} hyperparameters {name}, of which this would reach the first alone; give those that "
                f"are meant: {', '.join(each[:-1])} and {each[-1]}"
            )
        found[plain if name != plain and plain in several else name] = value
    return found
