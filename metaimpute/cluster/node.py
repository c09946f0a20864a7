"""What runs on a node: a call, once it is known that the node computes what the driver would."""

from __future__ import annotations

import platform
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from .calls import Call, Desk, Refused
from .same import difference, versions


@dataclass(frozen=True)
class Sent:
    """A call on its way, with the versions of the driver's machine."""

    name: str
    function: str
    arguments: tuple[Any, ...]
    files: Mapping[str, bytes]
    versions: Mapping[str, str]


def sent(call: Call) -> Sent:
    """A call with its arguments, made now."""
    return Sent(call.name, call.function, call.arguments(), dict(call.files), versions())


def refusal(theirs: Mapping[str, str]) -> Refused | None:
    """Why this machine is not fit for a driver's work; None where it is."""
    other = difference(theirs, versions())
    if not other:
        return None
    return Refused(f"node {platform.node()} has {other}: install the same on both, or their runs are not the same")


def carry_out(work: Sent, desk_in: Callable[[Path], Desk]) -> Any:
    """Calls the function; its files are gone afterwards."""
    if (refused := refusal(work.versions)) is not None:
        return refused
    with tempfile.TemporaryDirectory(prefix="metaimpute-") as name:
        folder = Path(name)
        for file, content in work.files.items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        sys.path.insert(0, name)
        try:
            module, _, function = work.function.partition(":")
            return getattr(import_module(module), function)(*work.arguments, desk_in(folder))
        finally:
            sys.path.remove(name)
