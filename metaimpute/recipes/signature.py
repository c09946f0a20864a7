"""Options that a function has, by its signature, for those keys of a section that its schema does not name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from ..engine.registry import nearest

ANY_TYPE = ConfigDict(arbitrary_types_allowed=True)
NO_OPTION = "no_such_option"


def options_of(function: Callable[..., Any], ranges: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Name to type of every option of a function but its first, in order.

    The type is the annotation; where there is none, or one that says nothing (Any), that in ``ranges`` or else the default's.
    """
    try:
        hints = get_type_hints(function.__init__ if inspect.isclass(function) else function, include_extras=True)
    except (NameError, TypeError):  # of a name that is imported for type checkers alone
        hints = {}
    found = {}
    for name, parameter in list(inspect.signature(function).parameters.items())[1:]:
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            hint = hints.get(name, Any)
            says = hint is not Any and Any not in get_args(hint)
            found[name] = hint if says else (ranges or {}).get(name) or _type_of(parameter.default)
    return found


def takes_any(function: Callable[..., Any]) -> bool:
    """Whether it takes options that its signature does not name."""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())


def _type_of(default: Any) -> Any:
    if isinstance(default, bool | str):
        return type(default)
    if isinstance(default, int | float):
        return int | float
    if isinstance(default, tuple):
        return tuple[tuple(map(_type_of, default))]  # type: ignore[misc]  # made at run time
    return Any


def checked(
    given: Mapping[str, Any],
    types: Mapping[str, Any],
    also_valid: Mapping[str, Any],
    owner: str,
    any_other: bool = False,
) -> dict[str, Any]:
    """Options as the function takes them; those that are null keep its default, unless null is a value of theirs.

    Args:
        types: of the options there are. also_valid: other keys that stand beside them. owner: named where it has no such option.
        any_other: whether options without a type are let through.

    Raises:
        ValidationError: at the key of the first mistake.
    """
    found = {}
    for name, value in given.items():
        if name not in types and any_other:
            found[name] = value
            continue
        if name not in types:
            choices = sorted({*types, *also_valid})
            close = nearest(name, choices)
            hint = f"did you mean '{close}'?" if close else "valid keys: " + ", ".join(choices)
            raise _mistake((name,), NO_OPTION, f"'{owner}' has no such option; {hint}", value)
        try:
            found[name] = TypeAdapter(types[name], config=ANY_TYPE).validate_python(value)
        except ValidationError as error:
            if value is None:
                continue
            first = error.errors()[0]
            place: tuple[str | int, ...] = (name, *(part for part in first["loc"] if isinstance(part, int)))
            raise _mistake(place, first["type"], first["msg"], first["input"]) from None
        if not _finite(found[name]):
            raise _mistake((name,), "finite_number", "Input should be a finite number", value)
    return found


def _finite(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _mistake(place: tuple[str | int, ...], kind: str, said: str, value: Any) -> ValidationError:
    error = PydanticCustomError(kind, said.replace("{", "{{").replace("}", "}}"))
    return ValidationError.from_exception_data("options", [InitErrorDetails(type=error, loc=place, input=value)])


class Open(BaseModel):
    """A section with keys of its own, beside which the options of what it names may stand."""

    model_config = ConfigDict(extra="allow")

    @property
    def options(self) -> dict[str, Any]:
        """Those options."""
        return dict(self.__pydantic_extra__ or {})

    def keep(self, options: Mapping[str, Any]) -> None:
        """Puts them in the place of those that were given."""
        assert self.__pydantic_extra__ is not None
        self.__pydantic_extra__.clear()
        self.__pydantic_extra__.update(options)
