"""What benchmark commands are asked with: lists of names and numbers, and the options that several of them share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

OPTIMIZERS = ("sgd", "momentum", "adam")
Command = TypeVar("Command", bound=Callable[..., Any])


def names(_: Any, __: Any, text: str) -> tuple[str, ...]:
    """A comma-separated list; commas inside parentheses belong to a name."""
    found, depth, word = [], 0, ""
    for letter in text:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            found.append(word)
            word = ""
        else:
            word += letter
    return tuple(name.strip() for name in (*found, word) if name.strip())


def numbers(context: Any, parameter: Any, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"whole numbers with commas between them, not '{text}'") from None
    if any(number < 1 for number in found):
        raise click.BadParameter("numbers of at least 1")
    return found


def _all(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """One decorator of several, which help lists in this order."""
    return lambda command: functools.reduce(lambda so_far, option: option(so_far), reversed(options), command)


def ruled(command: Command) -> Command:
    """``--optimizer`` and ``--lr``."""
    return _all(
        click.option("--optimizer", type=click.Choice(OPTIMIZERS), default="sgd", show_default=True),
        click.option("--lr", default=0.05, show_default=True, help="Inner learning rate."),
    )(command)


def sized(command: Command) -> Command:
    """``--batch``."""
    return _all(click.option("--batch", default=16, show_default=True, type=click.IntRange(1)))(command)


def placed(command: Command) -> Command:
    """``--threads`` and ``--device``."""
    return _all(
        click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 1024)),
        click.option("--device", default="cpu", show_default=True, help="auto, cpu, cuda, cuda:1, ..."),
    )(command)


def written(command: Command) -> Command:
    """``--out``."""
    return _all(click.option("--out", type=click.Path(path_type=Path), help="Write the rows as JSON."))(command)


shaped = click.option("--input", "shape", callback=numbers, help="Shape of one example for module:Class, e.g. 3,32,32.")
