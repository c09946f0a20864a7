"""Named registries: adding an objective, method, task, estimator or optimiser is one file and one decorator."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..errors import UserError

T = TypeVar("T")
E = TypeVar("E")


class UnknownName(UserError, LookupError):
    """A name that no registry entry carries; the message lists the nearest valid choice."""


def nearest(name: str, choices: list[str]) -> str | None:
    """The choice spelled most like ``name``, or None when nothing is close."""
    matches = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return matches[0] if matches else None


def describe_choices(name: str, choices: list[str]) -> str:
    """``did you mean 'x'?`` when something is close, else the whole list."""
    close = nearest(name, choices)
    return f"did you mean '{close}'?" if close else "choose one of: " + ", ".join(sorted(choices))


def require_kind(entry: object, base: type, decorator: str) -> None:
    """Raises:
    TypeError: for a class that is registered as what it is not."""
    if isinstance(entry, type) and not issubclass(entry, base):
        name = entry.__name__
        raise TypeError(f"@{decorator}: {name} is no {base.__name__}; write class {name}({base.__name__})")


class Registry(Generic[T]):
    """A dictionary of named entries with a decorator to add one and a helpful error for a wrong name."""

    def __init__(self, kind: str, package: str | None = None) -> None:
        """
        Args:
            package: a package that has the registry's name in the package above it, so that its names are had either way.
        """
        self.kind, self._package = kind, package
        self._entries: dict[str, T] = {}

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            package = self.__dict__.get("_package")
            if package is not None and not name.startswith("__") and hasattr(sys.modules[package], name):
                return getattr(sys.modules[package], name)
            raise AttributeError(f"the registry of {self.__dict__.get('kind')} entries has no attribute '{name}'")

    def register(self, name: str) -> Callable[[E], E]:
        """Decorator that files a class or function under ``name``; classes become dataclasses, whose fields are options.

        Raises:
            ValueError: when another entry already has the name.
        """

        def add(given: E) -> E:
            entry: Any = given  # a class is made a dataclass in place
            if name in self._entries and self._entries[name] is not entry:
                known = self._entries[name]
                same_place = (
                    getattr(known, "__qualname__", 0) == entry.__qualname__ and known.__module__ == entry.__module__
                )
                if not same_place:
                    holder = f"{getattr(known, '__module__', '?')}.{getattr(known, '__qualname__', type(known).__qualname__)}"
                    raise ValueError(f"{self.kind} '{name}' is already registered by {holder}")
            if isinstance(entry, type) and "__dataclass_fields__" not in vars(entry):
                parents = [getattr(base, "__dataclass_params__", None) for base in entry.__mro__[1:]]
                dataclasses.dataclass(frozen=any(p is not None and p.frozen for p in parents))(entry)
            entry.name = name
            self._entries[name] = entry
            return given

        return add

    def get(self, name: str) -> T:
        """The entry filed under ``name``.

        Raises:
            UnknownName: naming the nearest registered entry.
        """
        if name not in self._entries:
            raise UnknownName(f"unknown {self.kind} '{name}'; {describe_choices(name, list(self._entries))}")
        return self._entries[name]

    def names(self) -> list[str]:
        return sorted(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def summary(self, name: str) -> str:
        """First line of the entry's docstring."""
        doc = (getattr(self._entries[name], "__doc__", None) or "").strip()
        return doc.splitlines()[0] if doc else ""
