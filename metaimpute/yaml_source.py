"""YAML with memory: every value knows the file and line it came from, so that an error can name them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .engine.registry import nearest

Path_ = tuple[str, ...]


class RecipeError(ValueError):
    """A mistake in a recipe, said in one line: file, line, key, what is wrong, the nearest valid choice."""


@dataclass
class Source:
    """A tree of plain values with the place each key was written at.

    Attributes:
        data: nested dicts, lists and scalars. places: ``("train", "steps") -> "recipes/x.yaml:12"``.
    """

    data: dict[str, Any]
    places: dict[Path_, str] = field(default_factory=dict)
    name: str = "recipe"

    def place(self, path: Iterable[str | int]) -> str:
        """Where the key at ``path``, or its closest parent, was written."""
        parts = tuple(str(p) for p in path)
        while parts and parts not in self.places:
            parts = parts[:-1]
        return self.places.get(parts, self.name)

    def fail(self, path: Iterable[str | int], message: str) -> RecipeError:
        """A one-line error about the key at ``path``."""
        parts = [str(p) for p in path]
        key = ".".join(parts)
        return RecipeError(f"{self.place(parts)}: {key + ': ' if key else ''}{' '.join(message.split())}")

    def unknown(self, path: Iterable[str | int], choices: Iterable[str]) -> RecipeError:
        """An error about a key that does not exist here."""
        parts, options = [str(p) for p in path], sorted(choices)
        close = nearest(parts[-1], options)
        hint = f"did you mean '{close}'?" if close else "valid keys: " + ", ".join(options)
        return self.fail(parts, f"unknown key; {hint}")


def read(path: Path) -> Source:
    """Reads a YAML mapping.

    Raises:
        RecipeError: when the file cannot be read, is not YAML, is not a mapping, or repeats a key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        hint = "; name one recipe, or give the folder to metaimpute check" if path.is_dir() else ""
        raise RecipeError(f"{path}: {error.strerror or error}{hint}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: not a text file in UTF-8") from None
    return parse(text, str(path))


def parse(text: str, name: str) -> Source:
    """As :func:`read`, from a string; ``name`` stands for the file in messages."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode):
            raise RecipeError(f"{name}:1: a recipe is a mapping with the keys task, model, method, problem, train")
        places: dict[Path_, str] = {}
        _walk(node, (), name, places)
        return Source(yaml.safe_load(text), places, name)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(
            f"{name}:{line}: not valid YAML: {error.problem or error.context or 'syntax error'}"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(
            f"{name}:1: not valid YAML: {str(error).splitlines()[0] if str(error) else 'unreadable'}"
        ) from None


def _walk(node: yaml.Node, path: Path_, name: str, places: dict[Path_, str]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = f"{name}:{key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise RecipeError(f"{here}: keys must be plain words")
            below = (*path, str(key.value))
            if below in places:
                raise RecipeError(f"{here}: {'.'.join(below)}: written twice (first at {places[below]})")
            places[below] = here
            _walk(value, below, name, places)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            places[(*path, str(index))] = f"{name}:{value.start_mark.line + 1}"
            _walk(value, (*path, str(index)), name, places)


Kept = Mapping[Path_, frozenset[str]]


def merge(base: Source, overlay: dict[str, Any], prefix: Path_ = (), *, components: Kept | None = None) -> Source:
    """``overlay`` deep-merged over ``base``: mappings merge key by key, anything else replaces.

    Args:
        prefix: where ``overlay`` was written inside the base file, so that its places are found.
        components: mappings that describe a named component, with the keys every component of its kind understands.
            When such a mapping's ``name`` changes, only those keys survive, since another component has other options.
    """
    places = dict(base.places)

    def join(low: Any, high: Any, path: Path_) -> Any:
        if not (isinstance(low, dict) and isinstance(high, dict)):
            _move_places(base.places, places, (*prefix, *path), path)
            return high
        renamed = "name" in high and high["name"] != low.get("name") and path in (components or {})
        merged = {k: v for k, v in low.items() if not renamed or k in (components or {})[path]}
        for key, value in high.items():
            below = (*path, str(key))
            places[below] = base.places.get((*prefix, *below), places.get(below, base.name))
            merged[key] = join(merged.get(key), value, below)
        return merged

    return Source(join(base.data, overlay, ()), places, base.name)


def _move_places(known: dict[Path_, str], places: dict[Path_, str], source: Path_, target: Path_) -> None:
    for path, place in known.items():
        if path[: len(source)] == source:
            places[(*target, *path[len(source) :])] = place


def override(source: Source, assignment: str, *, components: Kept | None = None) -> Source:
    """Applies ``a.b.c=value`` (value in YAML) as given to ``--set``.

    Raises:
        RecipeError: when it has no ``=``, a part of the key is not a mapping, or the value is not YAML.
    """
    here = f"--set {assignment}"
    key, equals, text = assignment.partition("=")
    parts = tuple(part.strip() for part in key.split("."))
    if not equals or not all(parts):
        raise RecipeError(f"{here}: write it as key=value, e.g. --set train.steps=200")
    try:
        value = yaml.safe_load(text) if text.strip() else None
    except (yaml.YAMLError, ValueError):
        raise RecipeError(f"{here}: the value is not valid YAML") from None
    overlay: Any = value
    for part in reversed(parts):
        overlay = {part: overlay}
    current: Any = source.data
    for depth, part in enumerate(parts[:-1]):
        current = current.get(part) if isinstance(current, dict) else None
        if current is not None and not isinstance(current, dict):
            raise RecipeError(f"{here}: '{'.'.join(parts[: depth + 1])}' is not a group of keys")
    merged = merge(source, overlay, components=components)
    for depth in range(1, len(parts) + 1):
        merged.places[parts[:depth]] = here
    return merged
