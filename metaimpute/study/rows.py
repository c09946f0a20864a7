"""The rows of a study: every system at every point of the grid, with what each sets and where that was written."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ..recipes.source import Path_, Source, one_line

MOST_ROWS = 1000


@dataclass(frozen=True)
class Setting:
    """One ``key=value`` of a study, and the key of the study file that it was written at."""

    text: str
    place: Path_


@dataclass(frozen=True)
class Row:
    """A system, at one point of the grid if there is one: a row of the study's tables.

    Attributes:
        name: the system's, with the point's values. point: grid key to value. folder: of its runs, in that of the study.
    """

    name: str
    system: str
    point: dict[str, Any]
    settings: tuple[Setting, ...]
    folder: str

    @property
    def sets(self) -> tuple[str, ...]:
        return tuple(setting.text for setting in self.settings)


def rows_of(source: Source, systems: Any, grid: Any, shared_settings: Any, plain: str) -> Iterator[Row]:
    """Every system at every point of the grid.

    Args:
        systems, grid, shared_settings: what the study file has under ``systems``, ``grid`` and ``set``.
        plain: names the recipe itself, where a study has a grid and no systems.

    Raises:
        RecipeError: naming the key of the study file.
    """
    common = _settings(source, shared_settings, ("set",))
    shared = _grid(source, grid, ("grid",))
    systems = {plain: None} if systems is None and shared else systems
    if not isinstance(systems, dict) or not systems:
        raise source.fail(("systems",), "name systems, each with what it sets, e.g. {none: {problem.name: none}}")
    names: set[str] = set()
    folders: set[str] = set()
    for name, own in systems.items():
        place = ("systems", name)
        if not name.strip() or len(name) > 80 or not name.isprintable():
            raise source.fail(place, "a system's name is one line of 1 to 80 characters")
        points = dict(shared)
        if isinstance(own, dict) and "grid" in own:
            points |= _grid(source, own["grid"], (*place, "grid"))
            own = {key: value for key, value in own.items() if key != "grid"}
        fixed = (*common, *_settings(source, own, place))
        if math.prod(len(values) for _, values in points.values()) > MOST_ROWS:
            raise source.fail(place, f"has more than {MOST_ROWS:,} points of the grid")
        labels = _labels(list(points))
        for values in itertools.product(*([(key, *one) for one in enumerate(points[key][1])] for key in points)):
            point = {key: value for key, _, value in values}
            moved = tuple(Setting(_text(key, value), (*points[key][0], str(n))) for key, n, value in values)
            full = ", ".join([name, *(f"{labels[key]}={one_line(flow(value), 40)}" for key, value in point.items())])
            full = _unlike(full, names, " #")
            folder = re.sub(r"[^A-Za-z0-9_.+=-]+", "-", full)[:80].strip("-.") or "system"
            yield Row(full, name, point, (*fixed, *moved), _unlike(folder, folders, "-"))


Grid = dict[str, tuple[Path_, list[Any]]]


def _grid(source: Source, given: Any, place: Path_) -> Grid:
    """Key to where it was written and its values."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise source.fail(place, "write keys with their values, e.g. {problem.inner.lr: [0.01, 0.1]}")
    found: Grid = {}
    for key, values in given.items():
        _check_key(source, (*place, key))
        if not isinstance(values, list) or not values:
            raise source.fail((*place, key), f"write the values as a list, not {values!r}")
        texts = [flow(value) for value in values]
        for number, text in enumerate(texts):
            if text in texts[:number]:
                raise source.fail((*place, key, number), f"{text} is there twice")
        found[key] = ((*place, key), values)
    return found


def _settings(source: Source, given: Any, place: Path_) -> tuple[Setting, ...]:
    """What a list of ``key=value`` texts, or a mapping of keys, sets."""
    if given is None:
        return ()
    if isinstance(given, dict):
        for key in given:
            _check_key(source, (*place, key))
        return tuple(Setting(_text(key, value), (*place, key)) for key, value in given.items())
    if not isinstance(given, list):
        raise source.fail(place, "write {key: value}, or a list of key=value, as --set takes them")
    for number, text in enumerate(given):
        if not isinstance(text, str) or "=" not in text:
            raise source.fail((*place, number), f"write it as key=value, e.g. train.steps=200, not {text!r}")
        _check_key(source, (*place, number), text.partition("=")[0])
    return tuple(Setting(text, (*place, str(number))) for number, text in enumerate(given))


def _check_key(source: Source, place: Sequence[str | int], key: str | None = None) -> None:
    parts = [part.strip() for part in (str(place[-1]) if key is None else key).split(".")]
    if not all(parts) or any("=" in part for part in parts):
        raise source.fail(place, "a key is words with points between them, e.g. train.steps")
    if parts == ["train", "seed"]:
        raise source.fail(place, "every system has the same seeds; name them under seeds")


def flow(value: Any) -> str:
    """A value as one writes it after ``key=``."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _text(key: str, value: Any) -> str:
    return f"{key}={flow(value)}"


def _labels(keys: list[str]) -> dict[str, str]:
    """The last word of each key, or the whole key where two end alike."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: word if last.count(word) == 1 else key for key, word in zip(keys, last, strict=True)}


def _unlike(name: str, taken: set[str], joint: str) -> str:
    """The name, with a number where it is taken in capitals or not, and from then on taken itself."""
    found = next(
        one
        for one in itertools.chain([name], (f"{name}{joint}{n}" for n in itertools.count(2)))
        if one.casefold() not in taken
    )
    taken.add(found.casefold())
    return found
