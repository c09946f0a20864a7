"""Ways to a module's parts that lie outside the places torch knows of.

A twin (:mod:`.replica`) copies the ways that are common: lists, dicts, bound methods, closures. A part can be reached by others
that nobody can copy: a deque, a slot, a weak reference, a default argument, a global name, a helper object, a module that is not
registered. Where there is one, a call has to put its tensors into the module itself too, while it lasts.
"""

from __future__ import annotations

import dis
import gc
import types
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from .ambient import CannotDifferentiate
from .gathering import is_fsdp_hook
from .pytree import tensors
from .replica import CALL, COPY

_REGISTERED = frozenset({"_parameters", "_buffers", "_modules", "_flat_weights", "_flat_weight_refs", CALL, COPY})
_PLAIN = (bool, int, float, complex, str, bytes, type, types.ModuleType, types.CodeType, type(None))
_MOST = 50_000  # objects looked at


class Ways(NamedTuple):
    """Whether anything that hangs on a module, or that its own code names, leads back to its parts, or to bare parameters."""

    to_parts: bool
    to_parameters: bool


def of_fsdp(value: Any) -> bool:
    """Whether it is what ``fully_shard`` has put on a module: its state, or a hook that is the state's."""
    return is_fsdp_hook(value) or type(value).__module__.startswith("torch.distributed.")


def other_ways(module: nn.Module) -> Ways:
    """The ways there are; all that are short are found, a web of more than 50,000 objects is not searched to its end."""
    parts, parameters = {id(part) for part in module.modules()}, {id(p) for p in module.parameters()}
    to_parts = to_parameters = False
    todo: list[Any] = []
    for part in module.modules():
        for name, value in vars(part).items():
            if name in _REGISTERED:
                continue
            hooks = isinstance(value, dict) and any(map(of_fsdp, value.values()))
            todo += [one for one in value.values() if not of_fsdp(one)] if hooks else [value]
        for kind in type(part).__mro__:
            if not kind.__module__.startswith("torch."):
                todo += [value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")]
    seen: set[int] = set()
    while todo and len(seen) < _MOST and not (to_parts and to_parameters):
        value = todo.pop()
        to_parts |= id(value) in parts
        to_parameters |= id(value) in parameters
        if id(value) in parts or isinstance(value, _PLAIN) or id(value) in seen:
            continue
        seen.add(id(value))
        todo.extend(_named_by(value))
    return Ways(to_parts, to_parameters)


def require_no_other_way(output: Any, values: Mapping[int, Tensor]) -> None:
    """Checks that an output was computed from the values and not from the parameters in whose place they stand.

    Args:
        values: by the ``id`` of the parameter.

    Raises:
        CannotDifferentiate: where a parameter itself was used: it would be a constant to the derivative.
    """
    replaced = {key for key, value in values.items() if id(value) != key}
    seen = {value.grad_fn for value in values.values()}
    todo = [leaf.grad_fn for leaf in tensors(output) if leaf.grad_fn is not None]
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        if id(getattr(node, "variable", None)) in replaced:
            raise CannotDifferentiate(
                "the module reaches one of its parameters by a way that cannot be followed (an object or container other than a "
                "list or dict), so it would use its own in place of the step's; reach it as an attribute of its module"
            )
        todo.extend(following for following, _ in node.next_functions if following is not None)


def _named_by(value: Any) -> Iterator[Any]:
    """What an object refers to, weakly too; of a function what its own code can reach."""
    if isinstance(value, Tensor):
        return
    if isinstance(value, weakref.ref):
        yield value()
    elif isinstance(value, types.FunctionType):
        if not (value.__module__ or "").startswith(("torch.", "torch")):
            yield from _reached_by(value)
    elif isinstance(value, staticmethod | classmethod):
        yield value.__func__
    elif isinstance(value, property):
        yield from (part for part in (value.fget, value.fset) if part is not None)
    else:
        yield from gc.get_referents(value)


def _reached_by(function: types.FunctionType) -> Iterator[Any]:
    """Its closure, its default arguments, and the global names in its code and in the code within that."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        if any(name in function.__globals__ for name in code.co_names):  # among them attributes of the same name
            loaded = {one.argval for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
            yield from (function.__globals__[name] for name in loaded if name in function.__globals__)
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
