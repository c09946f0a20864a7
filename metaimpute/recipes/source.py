"""YAML with memory: every value knows the file and line it came from, so that an error can name them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..engine.registry import nearest
from ..errors import UserError
from ..terminal import spelled

Path_ = tuple[str, ...]
KIND = "a recipe is a mapping with the keys task, model, method, problem, train"
MERGE, TEXT = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:str"
MOST, DEEPEST = 20_000, 32  # values and levels of a file; aliases can make a few lines into billions


class RecipeError(UserError, ValueError):
    """A mistake in a recipe, said in one line: file, line, key, what is wrong, the nearest valid choice."""


def one_line(text: str, longest: int = 480) -> str:
    """A text fit for one line of a terminal: control characters spelled out, the middle of a long one left out."""
    line = spelled(" ".join(text.split()))
    half = longest // 2
    return line if len(line) <= longest else f"{line[:half]} ... {line[-half:]}"


def flow(value: Any) -> str:
    """A value on one line of YAML, that reads back as itself: texts in double quotes, whatever is in them."""
    text = yaml.dump(value, Dumper=_Flow, default_flow_style=True, width=10**9, allow_unicode=True, sort_keys=False)
    return spelled(text.removesuffix("\n").removesuffix("\n..."))  # its escapes are YAML's too


class _Flow(yaml.SafeDumper):
    pass


_Flow.add_representer(str, lambda dumper, text: dumper.represent_scalar(TEXT, text, style='"'))


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
        key = one_line(".".join(part or "''" for part in parts), 120)
        return RecipeError(f"{self.place(parts)}: {key + ': ' if key else ''}{one_line(message)}")

    def unknown(self, path: Iterable[str | int], choices: Iterable[str]) -> RecipeError:
        """An error about a key that does not exist here."""
        parts, options = [str(p) for p in path], sorted(choices)
        close = nearest(parts[-1], options)
        hint = f"did you mean '{close}'?" if close else "valid keys: " + ", ".join(options)
        return self.fail(parts, f"unknown key; {hint}")


def read(path: Path, kind: str = KIND) -> Source:
    """Reads a YAML mapping.

    Args:
        kind: what is said of a file that holds none.

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
    return parse(text, str(path), kind)


def parse(text: str, name: str, kind: str = KIND) -> Source:
    """As :func:`read`, from a string; ``name`` stands for the file in messages."""
    places: dict[Path_, str] = {}
    try:
        data = _load(text, lambda mark: f"{name}:{mark.line + 1}", (), places)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        reason = one_line(error.problem or error.context or "syntax error")
        raise RecipeError(f"{name}:{line}: not valid YAML: {reason}") from None
    except RecipeError:
        raise
    except Exception as error:  # PyYAML's constructors let through whatever int(), strptime() and the like raise
        raise RecipeError(f"{name}:1: not valid YAML: {one_line(str(error) or type(error).__name__)}") from None
    if not isinstance(data, dict):
        raise RecipeError(f"{name}:1: {kind}")
    return Source(data, places, name)


Where = Callable[[yaml.Mark], str]


def _load(text: str, where: Where, path: Path_, places: dict[Path_, str]) -> Any:
    """Plain values of a YAML text; notes in ``places`` where each was written, in the words of ``where``.

    Raises:
        RecipeError: for keys that are written twice or are no words, and for more than a person writes.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _Survey(where).look(node, path, places)
        return loader.construct_document(node)
    finally:
        loader.dispose()


@dataclass
class _Survey:
    """A look at every value of a document before any is made, an alias counted wherever it stands."""

    where: Where
    seen: int = 0

    def look(self, node: yaml.Node, path: Path_, places: dict[Path_, str]) -> None:
        self.seen += 1
        if len(path) > DEEPEST:
            raise self.fail(node, path, f"more than {DEEPEST} levels of values")
        if self.seen > MOST:
            raise self.fail(node, path, f"more than {MOST:,} values, counted with its aliases")
        if isinstance(node, yaml.MappingNode):
            self._mapping(node, path, places)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                places[(*path, str(index))] = self.where(value.start_mark)
                self.look(value, (*path, str(index)), places)

    def _mapping(self, node: yaml.MappingNode, path: Path_, places: dict[Path_, str]) -> None:
        inherited: dict[Path_, str] = {}
        for key, value in node.value:
            below = (*path, str(key.value))
            if key.tag == MERGE:
                for one in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    found: dict[Path_, str] = {}
                    self.look(one, path, found)
                    inherited = found | inherited
            elif key.tag != TEXT:
                raise self.fail(key, below, "keys must be words; put it in quotes")
            elif below in places:
                raise self.fail(key, below, f"written twice (first at {places[below]})")
            else:
                places[below] = self.where(key.start_mark)
                self.look(value, below, places)
        for below, place in inherited.items():
            places.setdefault(below, place)

    def fail(self, node: yaml.Node, path: Path_, message: str) -> RecipeError:
        return RecipeError(f"{self.where(node.start_mark)}: {one_line('.'.join(path), 120)}: {message}")


Kept = Mapping[Path_, Callable[[Any, Any], frozenset[str]]]


def merge(base: Source, overlay: dict[str, Any], prefix: Path_ = (), *, components: Kept | None = None) -> Source:
    """``overlay`` deep-merged over ``base``: mappings merge key by key, anything else replaces.

    Args:
        prefix: where ``overlay`` was written inside the base file, so that its places are found.
        components: mappings that describe a named component, with ``(old name, new name) -> `` the keys that survive when such
            a mapping's ``name`` changes: another component has other options.
    """
    places = dict(base.places)

    def join(low: Any, high: Any, path: Path_) -> Any:
        if not (isinstance(low, dict) and isinstance(high, dict)):
            _move_places(base.places, places, (*prefix, *path), path)
            return high
        renamed = "name" in high and high["name"] != low.get("name") and path in (components or {})
        kept = (components or {})[path](low.get("name"), high["name"]) if renamed else frozenset()
        merged = {k: v for k, v in low.items() if not renamed or k in kept}
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
    here = f"--set {one_line(assignment, 120)}"
    key, equals, text = assignment.partition("=")
    parts = tuple(part.strip() for part in key.split("."))
    if not equals or not all(parts):
        raise RecipeError(f"{here}: write it as key=value, e.g. --set train.steps=200")
    written: dict[Path_, str] = {}
    try:
        value = _load(text, lambda mark: here, parts, written)
    except RecipeError:
        raise
    except Exception:  # as in parse()
        raise RecipeError(f"{here}: the value is not valid YAML") from None
    overlay: Any = value
    for part in reversed(parts):
        overlay = {part: overlay}
    current: Any = source.data
    for depth, part in enumerate(parts[:-1]):
        current = current.get(part) if isinstance(current, dict) else None
        if current is not None and not isinstance(current, dict):
            group = one_line(".".join(parts[: depth + 1]), 120)
            raise RecipeError(f"{here}: '{group}' is not a group of keys")
    merged = merge(source, overlay, components=components)
    for depth in range(1, len(parts) + 1):
        merged.places[parts[:depth]] = here
    merged.places.update(written)
    return merged
