"""Modules whose parameters are in shards (``fully_shard``, FSDP2): where the shards are, and what may be done with them.

What a process holds of a parameter, moves and gets a gradient for is its own rows. An inner product or a norm over parameters
is then a part of one; who takes any is refused: estimators that solve systems, rules that clip a norm or look at whole matrices.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from .across_ranks import OtherProgram, Ranks, copy_to_ranks
from .ambient import CannotDifferentiate
from .gathering import Place, Shard, ShardedParams
from .optimizers import InnerOptimizer
from .optimizers.base import UnsupportedOptimizer, closed, is_closed
from .pytree import Tree, tensors, with_tensors

_OF_FSDP = "torch.distributed.fsdp"
IN_A_SYSTEM = (
    "implicit() takes inner products over parameters, of which each process has a part; for parameters in shards there are "
    "unroll(...) and hypergradient(..., estimator='mixed')"
)
UNSEEN = (
    "a loss of parameters in shards is wrapped in another function, so that nothing could be checked; put what it adds inside: "
    "data_parallel(whole_loss, sharded=model)"
)
_DTENSORS = (
    "these parameters are DTensors, as the sharded module has them; pass model.params of model = FunctionalModel(net), which are "
    "this process's rows of each"
)
_refusing: contextvars.ContextVar[str | None] = contextvars.ContextVar("refusing shards", default=None)


@contextlib.contextmanager
def refusing_shards(why: str = IN_A_SYSTEM) -> Iterator[None]:
    """Where nothing is known of shards, a loss of parameters in shards raises CannotDifferentiate with this sentence."""
    before = _refusing.set(why)
    try:
        yield
    finally:
        _refusing.reset(before)


def is_sharded(module: nn.Module) -> bool:
    """Whether ``fully_shard`` was applied to it or to a part of it."""
    return any(_state(part) is not None for part in module.modules())


def _state(part: nn.Module) -> Any:
    read = getattr(part, "_get_fsdp_state", None)
    return read() if read is not None and type(part).__module__.startswith(_OF_FSDP) else None


def unsupported(module: nn.Module) -> str | None:
    """Why a sharded module cannot be taken as it is, with the way out; None where it can, and where nothing is sharded."""
    for part in module.modules():
        group = getattr(_state(part), "_fsdp_param_group", None)
        if group is None:
            continue
        policy, offload = group.mp_policy, group.offload_policy
        if any(kind is not None for kind in (policy.param_dtype, policy.reduce_dtype, policy.output_dtype)):
            return "its hooks take no part here, so fully_shard's mixed precision would be left out; take autocast in the loss"
        if type(offload).__name__ != "OffloadPolicy":
            return "fully_shard's offloading to the CPU is not for a functional call; shard without offload_policy"
    for name, p in module.named_parameters():
        mesh, placements = getattr(p, "device_mesh", None), list(getattr(p, "placements", ()))
        if mesh is not None and (mesh.ndim != 1 or len(placements) != 1 or not placements[0].is_shard(0)):
            return f"'{name}' is laid out as {placements} on a mesh of {mesh.ndim} dimensions; shard rows over one mesh dimension"
    return None


class Shards:
    """Which parameters of a module are in shards, and where; none of most modules.

    Attributes:
        places: of sharded parameters by all names they have. ranks: over which they are spread.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.ranks = Ranks(0, 1)
        self.places: dict[str, Place] = {}
        self._sizes: dict[str, tuple[int, ...]] = {}
        self._parts: list[Any] = [part for part in module.modules() if _state(part) is not None]
        self.settle()
        numbers: dict[int, int] = {}  # tied parameters have one
        for name, p in self._own():
            group = p.device_mesh.get_group()
            if self.places and dist.get_process_group_ranks(group) != dist.get_process_group_ranks(self.ranks.group):
                raise CannotDifferentiate(
                    f"'{name}' is in shards over other processes than the parameters before it; take one mesh"
                )
            self.ranks = Ranks(dist.get_rank(group), dist.get_world_size(group), group)
            number = numbers.setdefault(id(p), len(numbers))
            self.places[name], self._sizes[name] = Place(self.ranks, p.shape[0], number), tuple(p.shape)

    def __bool__(self) -> bool:
        return bool(self.places)

    def _own(self) -> Iterator[tuple[str, Any]]:
        if self._parts:
            for name, p in self.module.named_parameters(remove_duplicate=False):
                if hasattr(p, "device_mesh"):
                    yield name, p

    def settle(self) -> None:
        """Puts parameters that FSDP's own forward pass has left whole back into shards."""
        for part in self._parts:
            part.reshard()

    def local(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This process's rows of each, which are what an optimiser moves."""
        return {name: _local(p).requires_grad_() if name in self.places else p for name, p in params.items()}

    def entered(self, params: Mapping[str, Tensor]) -> dict[str, Shard]:
        """Those of the given parameters that are shards.

        Raises:
            CannotDifferentiate: where linear systems are solved, over inner products of which this process has a part.
        """
        why = _refusing.get()
        if why is not None:
            raise CannotDifferentiate(why)
        return {name: Shard(self.places[name], params[name]) for name in params if name in self.places}

    def values(self, given: Mapping[int, Any]) -> dict[int, Any]:
        """What stands in the places of all parameters, by ``id``: what is given, and shards of the others."""
        others = {id(p): Shard(self.places[name], _local(p)) for name, p in self._own() if id(p) not in given}
        return {**others, **given}

    def require_whole(self, params: Mapping[str, Any]) -> None:
        """Raises:
        CannotDifferentiate: for shards where a loss is not joined over the processes that have the others.
        OtherProgram: for parameters as the module has them."""
        require_rows_of(params)
        for name, value in params.items():
            if name in self.places and isinstance(value, Tensor) and tuple(value.shape) != self._sizes[name]:
                raise CannotDifferentiate(
                    f"'{name}' is this process's shard of a parameter; join the losses over the processes, "
                    "data_parallel(inner_loss, sharded=model), or take model.whole(params)"
                )

    def whole(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All rows of the given parameters."""
        return dict(ShardedParams({**params, **self.entered(params)}))


def _local(p: Any) -> Tensor:
    found: Tensor = p._local_tensor.detach()
    return found


def require_same_ranks(shards: Shards, ranks: Ranks) -> None:
    """Raises:
    OtherProgram: where a loss's rows are dealt out over other processes than the parameters'."""
    mine, theirs = (
        dist.get_process_group_ranks(shards.ranks.group),
        dist.get_process_group_ranks(ranks.group or dist.group.WORLD),
    )
    if mine != theirs:
        raise OtherProgram(
            f"the parameters are in shards over the processes {mine} and the loss's rows are dealt out over {theirs}; "
            "pass the mesh's group: data_parallel(loss, sharded=model, group=mesh.get_group())"
        )


def shards_of(*losses: Any) -> Shards | None:
    """The shards that losses are given their parameters in; None: they are given all of them.

    Raises:
        OtherProgram: where one is and another is not.
    """
    found = [getattr(getattr(loss, "joined", None), "shards", None) for loss in losses]
    if any(one is not found[0] for one in found):
        raise OtherProgram(
            "one loss is given parameters in shards and the other is not; pass data_parallel(loss, sharded=model) for both"
        )
    shards: Shards | None = found[0]
    return shards


def require_by_name(theta: Tree) -> dict[str, Any]:
    """Raises:
    OtherProgram: unless parameters in shards are one dict by name."""
    if not isinstance(theta, dict):
        raise OtherProgram("parameters in shards are a dict by name, as model.params is")
    return theta


def require_rows_of(theta: Tree) -> None:
    """Raises:
    OtherProgram: for parameters as ``fully_shard`` leaves them in the module, in the place of a process's rows of them."""
    if any(hasattr(leaf, "device_mesh") for leaf in tensors(theta)):
        raise OtherProgram(_DTENSORS)


def sharded_rule(rule: InnerOptimizer, shards: Shards) -> InnerOptimizer:
    """The rule on shards: gradients of its hyperparameters, which all processes have alike, are summed over processes.

    Raises:
        UnsupportedOptimizer: for a rule that does not treat each entry by itself, or a learned hyperparameter with entries, or
            where some of the parameters are whole: of those every process has the whole gradient already.
    """
    mixes = rule.options.get("mixes", ())
    if mixes or not (is_closed(rule.init, rule.update) or rule.options.get("per_entry")):
        raise UnsupportedOptimizer(
            f"'{(*mixes, rule.label)[0]}' is not known to treat each entry of a parameter by itself, and each process has a part "
            "of the entries; take sgd, momentum, adam or another rule that does (one of your own says so: "
            "options={'per_entry': True})"
        )
    learned = tensors(rule.hyper)
    if not learned:
        return rule
    if any(value.numel() != 1 for value in learned):
        raise UnsupportedOptimizer(
            f"{rule.label}: a learned hyperparameter of parameters in shards is one number, or one for each name"
        )
    plain = rule.update

    def update(grads: Tree, state: Tree, params: Tree, hyper: Any) -> tuple[Tree, Tree]:
        whole = [name for name in require_by_name(params) if name not in shards.places]
        if whole:
            raise UnsupportedOptimizer(
                f"a hyperparameter is learned and '{whole[0]}' is not in shards while others are; shard all parameters that are "
                "moved (fully_shard of the module itself), or give the rule a number"
            )
        own = with_tensors(hyper, copy_to_ranks(shards.ranks, tensors(hyper)))
        return plain(grads, state, params, own)

    return replace(rule, update=closed(update))
