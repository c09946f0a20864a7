"""Code of one's own: modules named with ``--import``, and packages that announce themselves as plugins.

A module registers what it defines (``@register_problem`` and so on) when it is imported. Nothing else in a recipe names
code: a recipe that needs a module says so to the reader, who names it. An installed package is found through the entry
point group ``metaimpute.plugins``; each entry point names a module to import. Those of the group ``metaimpute.commands`` name
commands of click, which are imported when they are called.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from .errors import UserError

GROUP, COMMANDS = "metaimpute.plugins", "metaimpute.commands"
_given: dict[str, Path] = {}  # and the folder in which each was named


class PluginError(UserError, RuntimeError):
    """A module that cannot be imported, with the reason. Ends a command with exit code 2."""


def import_module(name: str, folder: Path | None = None) -> None:
    """Imports a module by its dotted name, looked for in a folder too, or by the path of a ``.py`` file.

    Args:
        folder: in which the name means something; by default the current one.

    Raises:
        PluginError: naming the module, and what its own code raised.
    """
    folder = Path.cwd() if folder is None else folder
    try:
        if name.endswith(".py"):
            _from_file(name, folder / name)
        else:
            sys.path.insert(0, str(folder))
            try:
                importlib.import_module(name)
            finally:
                sys.path.remove(str(folder))
    except PluginError:
        raise
    except SystemExit as error:
        where = f" ({_place(error)})" if _place(error) else ""
        raise PluginError(f"--import {name}: it ends the program: SystemExit({error.code!r}){where}") from None
    except Exception as error:
        where = f" ({_place(error)})" if _place(error) else ""
        raise PluginError(f"--import {name}: {type(error).__name__}: {error}{where}") from None
    _given.setdefault(name, folder)


def _from_file(given: str, path: Path) -> None:
    if not path.exists():
        raise PluginError(f"--import {given}: no such file")
    name = path.stem
    known = sys.modules.get(name)
    if known is not None:
        if Path(getattr(known, "__file__", None) or "").resolve() == path.resolve():
            return
        raise PluginError(f"--import {given}: another module is called '{name}'; rename the file")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[name])
    except BaseException:
        del sys.modules[name]
        raise


def _place(error: BaseException) -> str:
    """Where in the user's code an import failed: file and line of the innermost frame outside importlib and this package."""
    place, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "importlib" not in file and not Path(file).is_relative_to(Path(__file__).parent):
            place = f"{file}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def imported() -> list[str]:
    """What ``--import`` has named in this process; a run records it, so that its folder says what it needs."""
    return list(_given)


def imported_from() -> dict[str, Path]:
    """The same with the folder in which each was named, from which another process finds it wherever this one has gone since."""
    return dict(_given)


def given(name: str) -> bool:
    """Whether ``--import`` has named this module, or code of this process has imported it."""
    return name in _given or name in sys.modules


@functools.cache
def load_installed() -> tuple[str, ...]:
    """Imports every installed plugin, once; returns a line for each that failed, which hurts nobody who does not use it."""
    failed = []
    for point in _points():
        try:
            point.load()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            failed.append(f"plugin '{point.name}' of package {package_of(point)} was left out: {reason}")
    return tuple(failed)


def installed_commands() -> dict[str, EntryPoint]:
    """Commands that installed packages add, by name, not yet imported."""
    return {point.name: point for point in _points(COMMANDS)}


def package_of(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "?"


def _points(group: str = GROUP) -> list[EntryPoint]:
    return sorted(entry_points(group=group), key=lambda point: point.name)
