"""From the sections of a recipe to the components that they name, every option checked."""

from __future__ import annotations

from typing import Any

from ..engine import BACKENDS, Estimator, EstimatorError, estimators, get_estimator
from ..engine.registry import Registry, UnknownName, describe_choices
from .schema import ChooseSpec, ProblemSpec
from .source import Source
from .validation import options as options_of
from .validation import settings

ON = " on "  # between a system's name and the form of the rows that it takes
NETWORK = "network"  # among the systems of ``choose``: what model, method and problem describe


def component(
    registry: Registry[Any],
    source: Source,
    section: str,
    value: dict[str, Any] | None = None,
    also_valid: tuple[str, ...] = (),
) -> Any:
    """An instance of the entry named in a section, its options checked against the entry's fields."""
    options = dict(source.data[section] if value is None else value)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise source.fail((section, "name"), f"name a {registry.kind}: {', '.join(registry.names())}")
    try:
        entry: Any = registry.get(name)
    except UnknownName as error:
        raise source.fail((section, "name"), str(error)) from None
    checked = options_of(entry, options, source, (section,), (*also_valid, "name"))
    try:
        return entry(**checked)
    except (ValueError, TypeError) as error:
        raise source.fail((section,), str(error)) from None


def estimator_of(source: Source, spec: ProblemSpec) -> Estimator:
    whole = source.data["problem"].get("estimator", spec.estimator)
    options: dict[Any, Any] = {"name": whole} if isinstance(whole, str) else dict(whole)
    name = options.pop("name", None)
    place = ("problem", "estimator")
    if spec.backend not in BACKENDS:
        raise source.fail(
            ("problem", "backend"), f"unknown backend '{spec.backend}'; choose one of: {', '.join(BACKENDS)}"
        )
    if not isinstance(name, str):
        raise source.fail(place, f"name an estimator: {', '.join(estimators.names())}")
    try:
        if options:
            options = options_of(estimators.get(name), options, source, place, ("name",))
        return get_estimator(name, spec.backend, **options)
    except (UnknownName, EstimatorError) as error:
        raise source.fail(place, str(error)) from None


def chosen_of(source: Source) -> ChooseSpec | None:
    """The section ``choose``, its systems checked against those that there are."""
    value = source.data.get("choose")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise source.fail(("choose",), "must be a group of keys; {} has every system that fits take part")
    found = settings(ChooseSpec, source, ("choose",), value)
    from ..ensemble.members import members  # which loads scikit-learn

    if isinstance(found.systems, list):
        known = [*members.names(), NETWORK]
        if not found.systems:
            raise source.fail(("choose", "systems"), "name one at least, or auto")
        for name in found.systems:
            if name.partition(ON)[0] not in known:
                raise source.fail(("choose", "systems"), f"unknown system '{name}'; {describe_choices(name, known)}")
            if found.systems.count(name) > 1:
                raise source.fail(("choose", "systems"), f"'{name}' is named twice")
    return found
