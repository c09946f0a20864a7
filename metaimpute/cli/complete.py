"""What a shell offers while a command is typed. Nothing here waits for torch."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import CompletionItem, split_arg_string

from ..catalog import KINDS, entries, keys, shipped_recipes


def complete_kinds(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    return [CompletionItem(kind) for kind in KINDS if kind.startswith(begun)]


def complete_recipes(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Files, and the recipes that come with the package."""
    return [CompletionItem(begun, type="file"), *complete_shipped(context, parameter, begun)]


def complete_shipped(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in shipped_recipes() if name.startswith(begun)]


def complete_sets(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Keys, or after ``KEY=`` the values that a key can have, as far as they are names."""
    key, given, value = begun.partition("=")
    if not given:
        known = {*keys(), *_of_recipe(), *(f"{kind[:-1]}.name" for kind in SECTIONS)}
        return [CompletionItem(f"{name}=") for name in sorted(known) if name.startswith(key)]
    return [CompletionItem(f"{key}={one}") for one in _values(key) if one.startswith(value)]


SECTIONS = ("tasks", "models", "methods", "problems")


def _values(key: str) -> list[str]:
    section, _, last = key.partition(".")
    if last == "name" and f"{section}s" in SECTIONS:
        return list(entries(f"{section}s"))
    if key == "problem.estimator":
        return list(entries("estimators"))
    return keys().get(key, [])


def _of_recipe() -> set[str]:
    """Keys that the recipe on the line sets; click tells of no argument while an option's value is typed."""
    import yaml

    known = shipped_recipes()
    words = split_arg_string(os.environ.get("COMP_WORDS", ""))
    path = next((known.get(word, Path(word)) for word in words if word in known or word.endswith(".yaml")), None)
    if path is None:
        return set()
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return set()
    sections = found.items() if isinstance(found, dict) else ()
    return {
        f"{section}.{key}"
        for section, options in sections
        if section not in ("about", "profiles") and isinstance(options, dict)
        for key in options
    }
