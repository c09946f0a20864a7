"""Values of a YAML file against a schema or a component's fields; a mistake is a RecipeError at the place it was written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError

from .signature import NO_OPTION
from .source import RecipeError, Source

Schema = TypeVar("Schema", bound=BaseModel)


def settings(kind: type[Schema], source: Source, place: Sequence[str], value: Any) -> Schema:
    """``value``, found at ``place``, as an instance of a pydantic model.

    Raises:
        RecipeError: for the first mistake.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _first_error(source, place, kind, error) from None


def _first_error(source: Source, place: Sequence[str], kind: Any, error: ValidationError) -> RecipeError:
    first = error.errors()[0]
    path = [*place, *[p for p in first["loc"] if isinstance(p, int) or not str(p).startswith(("function-", "dict["))]]
    if first["type"] == "extra_forbidden":
        model = kind
        for part in first["loc"][:-1]:
            if isinstance(part, int):
                continue
            inner = model.model_fields[part].annotation
            options = [inner, *getattr(inner, "__args__", ())]
            model = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
        return source.unknown(path, model.model_fields)
    return source.fail(path, readable(first))


def readable(error: Any) -> str:
    """A pydantic error in a few words, with the value that was given."""
    text = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    given = error.get("input")
    value = "" if isinstance(given, dict) or error["type"] in ("missing", NO_OPTION) else f", not {given!r}"
    return f"{text[0].lower()}{text[1:]}{value}"


def options(
    entry: Any, given: Mapping[Any, Any], source: Source, place: Sequence[str], also_valid: tuple[str, ...]
) -> dict[str, Any]:
    """Options of a component, each checked against the type and range of its field.

    Raises:
        RecipeError: for the first mistake.
    """
    fields = {f.name: f for f in dataclasses.fields(entry) if f.init}
    hints = get_type_hints(entry, include_extras=True)
    checked = {}
    for key, value in given.items():
        if key not in fields:
            raise source.unknown((*place, str(key)), (*fields, *also_valid))
        try:
            checked[key] = TypeAdapter(hints[key]).validate_python(value)
        except ValidationError as error:
            raise source.fail((*place, key), readable(error.errors()[0])) from None
    return checked
