"""A user's mistake is one line and an exit code: 2 usage, 3 missing data, 4 diverged, 130 interrupted, 1 a bug of ours."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import NoReturn

import click

INTERNAL, USAGE, MISSING, DIVERGED, INTERRUPTED = 1, 2, 3, 4, 130


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """A user's mistake ends in one line on stderr and its exit code, never in a traceback."""
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from ..engine import (
        BadMemoryPolicy,
        CannotDifferentiate,
        EstimatorError,
        HeadNotFound,
        NotRepeatable,
        NotScalar,
        UnsupportedOptimizer,
    )
    from ..engine.registry import UnknownName
    from ..inference import NotExported
    from ..methods import MethodError
    from ..plugins import PluginError
    from ..problems import ProblemError
    from ..tasks import MissingData, TaskError
    from ..training.algorithm import Diverged
    from ..training.checkpoint import NoCheckpoint
    from ..training.files import Busy, Unwritable
    from ..training.session import Interrupted
    from ..yaml_source import RecipeError

    mistakes = (
        RecipeError, TaskError, MethodError, ProblemError, EstimatorError, HeadNotFound, UnsupportedOptimizer, UnknownName,
        BadMemoryPolicy, CannotDifferentiate, NotRepeatable, NoCheckpoint, NotExported, NotScalar, PluginError, Busy, Unwritable,
    )  # fmt: skip
    try:
        yield
    except mistakes as error:
        fail(USAGE, error)
    except MissingData as error:
        fail(MISSING, error)
    except Diverged as error:
        fail(DIVERGED, f"training diverged: {error}")
    except click.ClickException:
        raise
    except (Interrupted, KeyboardInterrupt) as error:
        fail(INTERRUPTED, str(error) or "interrupted")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        hint = "; a run directory cannot be a file" if isinstance(error, FileExistsError | NotADirectoryError) else ""
        fail(USAGE, f"{where}{error.strerror or error}{hint}")
    except Exception as error:
        if os.environ.get("METAIMPUTE_DEBUG"):
            raise
        first = (str(error).splitlines() or [""])[0]
        fail(INTERNAL, f"internal: {type(error).__name__}: {first} (METAIMPUTE_DEBUG=1 shows where)")


def fail(code: int, message: object) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)
