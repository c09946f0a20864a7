"""Every error that the package raises by a name of its own is for the user, with an exit code, and keeps its older bases."""

from __future__ import annotations

import builtins
import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

import metaimpute
from metaimpute.cli import main
from metaimpute.errors import DIVERGED, INTERNAL, INTERRUPTED, MISSING, USAGE, UserError

OTHER_CODES = {
    "MissingData": MISSING, "NotFetched": MISSING, "Diverged": DIVERGED, "Interrupted": INTERRUPTED, "WorkerDied": INTERRUPTED,
    "LostProcess": INTERNAL, "NoRay": MISSING,
}  # fmt: skip
PREFIXES = {"Diverged": "training diverged: "}
INTERNAL_ERRORS: set[str] = set()  # public classes that never reach a user


def exceptions() -> Iterator[type[BaseException]]:
    """Every exception class that a module of the package defines, but for private ones."""
    for found in pkgutil.walk_packages(metaimpute.__path__, "metaimpute."):
        if found.name == "metaimpute.__main__":
            continue
        module = importlib.import_module(found.name)
        for name, value in vars(module).items():
            mine = inspect.isclass(value) and value.__module__ == module.__name__
            if mine and issubclass(value, BaseException) and not name.startswith("_"):
                yield value


KINDS = sorted(set(exceptions()) - {UserError}, key=lambda kind: kind.__name__)


def test_there_are_as_many_as_there_were() -> None:
    assert len(KINDS) >= 26


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_is_the_users_or_said_to_be_internal(kind: type[BaseException]) -> None:
    if kind.__name__ in INTERNAL_ERRORS:
        assert not issubclass(kind, UserError)
        return
    assert issubclass(kind, UserError), "a class that plain_errors would call internal"
    assert kind.exit_code == OTHER_CODES.get(kind.__name__, USAGE)
    assert kind.prefix == PREFIXES.get(kind.__name__, "")
    older = [base for base in kind.__mro__ if base.__module__ == builtins.__name__ and issubclass(base, Exception)]
    assert older[0] is not Exception, "code that catches ValueError and the like goes on working"


@pytest.mark.parametrize("code", [USAGE, 7])
def test_an_error_that_nobody_has_listed_ends_a_command_with_its_own_code(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unheard(UserError):
        exit_code = code
        prefix = "of a plugin: "

    def broken() -> None:
        raise Unheard("say this")

    monkeypatch.setattr("metaimpute.plugins.load_installed", broken)
    done = CliRunner().invoke(main, ["list", "methods"])
    assert (done.exit_code, done.stderr) == (code, "error: of a plugin: say this\n")
