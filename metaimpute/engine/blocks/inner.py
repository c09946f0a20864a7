"""A training loop as people write it, differentiable: any Python between steps, on the user's own module.

Inside the block the module has the block's weights in place of its own (:mod:`.inside`); each step makes new ones, which autograd
can follow back to the first and to everything the losses and the optimiser used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..ambient import CannotDifferentiate, double_differentiable, outside_transforms
from ..dependence import begins
from ..functional import require_taken
from ..losses import scalar
from ..memory import MemoryPolicy, Recompute, Store, parse_memory
from ..optimizers.base import UnsupportedOptimizer
from ..optimizers.live import LiveRule, Optimizers, stock
from ..optimizers.transforms import Transform
from ..pytree import Tree, detach
from ..replay import BadMemoryPolicy
from ..unroll import Differentiation, of_its_own
from .beside import Others, require_known
from .inside import Inside, of_the_user
from .moves import Moves, Params
from .outside import KeptStates, require_no_hooks, require_same_flags
from .seal import Seal, require_none
from .unused import warn_of_unused, watch

Models = nn.Module | Sequence[nn.Module]


class Inner:
    """What ``with inner(...) as block`` yields; see :func:`inner`.

    Attributes:
        start: the weights at the beginning, by name. losses: each step's loss before the step, without graph.
        state: the optimiser's.
    """

    def __init__(
        self,
        model: Models,
        optimizer: Optimizers,
        override: Mapping[str, Any],
        track_start: bool,
        mode: Differentiation,
        memory: MemoryPolicy,
        resume: bool,
        gradients: Sequence[Transform],
    ) -> None:
        self._models = _modules(model)
        self._root = self._models[0] if isinstance(model, nn.Module) else nn.ModuleList(self._models)
        self._given = (optimizer, resume, gradients, override)
        self._track_start, self._mode, self._recompute = track_start, mode, memory == Recompute()
        self._stack: contextlib.ExitStack | None = None
        self._inside: Inside | None = None
        self._late: list[Tensor] = []
        self._written = 0  # steps that are the user's own already
        self.start: Params = {}
        self.losses: list[Tensor] = []
        self.state: Tree = None

    # the block ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Inner:
        if self._stack is not None:
            raise CannotDifferentiate("the block is open already")
        outside_transforms("an inner block")
        warn_of_unused()
        if self._inside is None and not torch.is_grad_enabled():
            self._mode = "none"
        with contextlib.ExitStack() as stack:
            stack.enter_context(double_differentiable())
            stack.enter_context(torch.enable_grad())
            if self._inside is None:
                self._begin()
            assert self._inside is not None
            stack.enter_context(self._live.in_charge())
            stack.enter_context(self._inside.open(self._params))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        stack, self._stack = self._stack, None
        inside = self._inside
        assert stack is not None and inside is not None
        displaced = inside.displaced()
        stack.__exit__(*raised)
        if raised[0] is None:
            self._require_untouched(displaced)
            require_none(self._late)
            if self.losses:
                watch(self, inside.use)

    def _begin(self) -> None:
        optimizer, resume, gradients, override = self._given
        for model in self._models:
            require_taken(model)
        here = dict(self._root.named_parameters())
        held = {id(p) for one in stock(optimizer) for group in one.param_groups for p in group["params"]}
        users = {name: of_the_user(p) for name, p in here.items()}
        strangers = held - {id(p) for p in users.values()}
        if strangers:
            raise UnsupportedOptimizer(
                f"the optimizer holds {len(strangers)} tensors that are no parameters of the model; give the block all models "
                "that it moves, inner([one, other], optimizer)"
            )
        mine = [name for name, p in users.items() if not held or id(p) in held]
        names = [name for name in mine if here[name].requires_grad]
        if not names:
            raise UnsupportedOptimizer("the optimizer holds no parameter of the model that requires a gradient")
        originals = {name: users[name] for name in names}
        require_no_hooks(originals)
        self._frozen = [here[name] for name in mine if not here[name].requires_grad]
        self._live = LiveRule(optimizer, originals, resume, gradients, override)
        self._nested = any(users[name] is not here[name] for name in names)
        if self._mode == "none":
            self.start = {name: here[name].detach().clone().requires_grad_() for name in names}
        else:
            first = {name: here[name] if self._track_start else here[name].detach() for name in names}
            self.start = {
                name: of_its_own(begins(p)) if not p.requires_grad else begins(p) for name, p in first.items()
            }
        self._kept = KeptStates(stock(optimizer))
        self.state = self._live.rule.init(self.start)
        self._place(self.start)
        inside = Inside(self._root, originals)
        self._moves = Moves(
            inside, self._mode, frozenset(map(id, originals.values())), self._recompute, tuple(self.start.values())
        )
        self._inside = inside  # now the block has begun

    def _place(self, params: Params) -> None:
        if self._mode == "full" and self._inside is not None:
            params = self._inside.gated(params)
        self._params = params
        if self._mode != "none":
            self._seal = Seal(params, self._late)
        if self._inside is not None and self._inside.is_open:
            self._inside.put(params)

    def _open_block(self, what: str) -> Inside:
        if self._stack is None or self._inside is None:
            raise CannotDifferentiate(
                f"{what} belongs inside the block, with inner(...) as block; 'with block' goes on with one that has ended"
            )
        if self._inside.is_covered():
            raise CannotDifferentiate(
                f"{what} of a block waits for the end of the blocks inside it that have the same weights; leave them first"
            )
        return self._inside

    def _require_untouched(self, displaced: str | None = None) -> None:
        if displaced is not None:
            raise CannotDifferentiate(
                f"'{displaced}' was set to another tensor inside the block, which no step moves; say "
                "inner.replace({name: new}) with a tensor that it is to become"
            )
        require_same_flags(self._params, self._frozen)
        self._kept.require_untouched()
        if self._mode != "none":
            self._seal.require_whole()

    # steps -------------------------------------------------------------------------------------------------------

    def step(
        self, loss: Tensor | Callable[..., Tensor], *args: Any, others: Others | None = None, **hyper: Any
    ) -> Params:
        """One optimiser step down the gradient of ``loss``, in place of ``zero_grad()``, ``backward()`` and ``step()``.

        Args:
            loss: a scalar, computed at the weights in place; or a function of ``args`` that computes it, which rules that take
                several gradients a step and memory ``recompute`` need.
            others: what the steps of other open blocks are, where the loss depends on these weights through them as well:
                ``constant``, as ``torch.optim`` has it, or ``through`` for a derivative that goes on through them.
            hyper: hyperparameters for this step alone, such as ``lr=0.1``.

        Returns:
            The new weights by name, which are in place from now on.

        Raises:
            CannotDifferentiate, NotScalar: for a loss through which there is no right gradient, or none at all.
            UnsupportedOptimizer: for a hyperparameter that the rule does not have.
        """
        inside = self._open_block("step()")
        self._require_untouched(inside.displaced())
        require_known(others, self._mode)
        inside.others = others
        rule = self._live.now(hyper)
        if isinstance(loss, Tensor):
            if args:
                raise CannotDifferentiate("arguments go to a loss that is a function: inner.step(function, x, y)")
            if len(rule.stages) > 1:
                raise UnsupportedOptimizer(
                    f"{rule.label} takes {len(rule.stages)} gradients a step; give it a function, "
                    "inner.step(lambda: loss(model(x), y))"
                )
            if self._recompute:
                raise BadMemoryPolicy(
                    "memory 'recompute' takes each step again in the reverse pass; give it a function, "
                    "inner.step(lambda: loss(model(x), y)), or use memory 'store'"
                )
            moved = self._moves.take(rule, lambda: loss, self._params, self.state)
        elif callable(loss):
            moved = self._moves.called(rule, loss, args, self._params, self.state, len(self.losses))
        else:
            scalar(loss, "inner")
            raise AssertionError
        self.losses.append(moved.loss.detach())
        self.state = moved.state
        self._place(moved.params)
        inside.use.led_to(self._params.values())
        self._live.called()
        return self._params

    # what else ---------------------------------------------------------------------------------------------------

    @property
    def params(self) -> Params:
        """The weights in place, by name.

        Raises:
            CannotDifferentiate: before the block has begun.
        """
        if self._inside is None:
            raise CannotDifferentiate("the block has not begun; say with inner(...) as block: block.params")
        self._inside.use.since = True
        return dict(self._params)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model at the block's weights: as ``model(...)`` inside the block, and after it at those it ended with.

        Raises:
            CannotDifferentiate: for a block of several models, which are called themselves, inside it, and where a block inside
                this one has its own weights in place.
        """
        if len(self._models) > 1:
            raise CannotDifferentiate("the block has several models; call them themselves, inside the block")
        if self._inside is None:
            raise CannotDifferentiate("the block has not begun; say with inner(...) as block: block(x)")
        if self._stack is not None:
            self._open_block("a call")
            return self._models[0](*args, **kwargs)
        with double_differentiable(), self._inside.open(self._params):
            return self._models[0](*args, **kwargs)

    def replace(self, params: Mapping[str, Tensor]) -> None:
        """Puts other weights in place, some or all, through which gradients go on: ``{name: p.clamp(-1, 1)}``.

        Raises:
            CannotDifferentiate: for a name that no moved parameter has, and another shape or kind of number.
        """
        self._require_untouched(self._open_block("replace()").displaced())
        for name, new in params.items():
            if name not in self._params:
                raise CannotDifferentiate(
                    f"no parameter that the block moves is named '{name}'; there are {', '.join(list(self._params)[:8])}"
                )
            old = self._params[name]
            if not isinstance(new, Tensor) or new.shape != old.shape or new.dtype != old.dtype:
                raise CannotDifferentiate(f"'{name}' is a tensor of shape {list(old.shape)} and {old.dtype}")
        both = {**self._params, **params}
        self._place(self._moves.renewed(self._params, [both[name] for name in self._params]))

    def detach(self) -> None:
        """Cuts the graph here: gradients of what follows end at these weights, and the memory of the steps so far is freed."""
        self._require_untouched(self._open_block("detach()").displaced())
        if self._mode == "none":
            return
        self.state = detach(self.state)
        self._place({name: of_its_own(p.detach()) for name, p in self._params.items()})

    def write_back(self) -> None:
        """Makes the steps real: the weights, running statistics and state of the torch optimiser are copied into the user's own.

        A gradient that is to go through the block is taken before; the state of ``gradients`` has no place in the optimiser.
        """
        if self._inside is None or self._nested:
            raise CannotDifferentiate(
                "write_back() is for a block that has begun, and not for one inside another block of the same model"
            )
        self._inside.use.since = True
        self._inside.write_back()
        self._live.put_back(self.state, len(self.losses) - self._written)
        self._kept = KeptStates(stock(self._given[0]))
        self._written = len(self.losses)


def inner(
    model: Models,
    optimizer: Optimizers,
    *,
    override: Mapping[str, Any] | None = None,
    track_start: bool = True,
    first_order: bool = False,
    differentiable: bool = True,
    memory: str | MemoryPolicy = "store",
    resume: bool = True,
    gradients: Transform | Sequence[Transform] = (),
) -> Inner:
    """A block in which the model's training steps are differentiable::

        with metaimpute.inner(model, optimizer) as inner:
            for x, y in batches:
                inner.step(loss(model(x), y))
            outer = loss(model(x_val), y_val)
        outer.backward()

    Args:
        model: the module, or a list of several, as it is used in the block.
        optimizer: one of ``torch.optim`` that holds the parameters to be moved, a list of them that share these, or a rule such
            as ``sgd(0.1)`` for all trainable ones. Its parameter groups are read before every step, so schedulers act as usual.
        override: hyperparameters in place of the optimiser's, by our names (``lr``, ``beta1``): numbers, tensors, which receive
            gradients, dicts by parameter name, or lists with one per parameter group.
        track_start: whether gradients go on to the model's own parameters; False: the start is a constant.
        first_order: take the inner gradients for constants.
        differentiable: False for plain steps, without graph, as under ``no_grad``.
        memory: ``store``, or ``recompute``, which keeps the weights and optimiser state of each step alone and takes it again in
            the reverse pass; steps then are functions, ``inner.step(lambda: loss)``.
        resume: whether to go on from the torch optimiser's state.
        gradients: what they pass through on their way to the optimiser, in order: ``clip_by_global_norm(1.0)``,
            ``gradient_callback(function)``.

    Raises:
        CannotDifferentiate, UnsupportedOptimizer: on entry, for a module or an optimiser that cannot be taken as it is.
        BadMemoryPolicy: for a policy that would have to take the block's own Python again.
    """
    policy = parse_memory(memory)
    if policy not in (Store(), Recompute()):
        raise BadMemoryPolicy(
            f"a block cannot be run again, so its memory is 'store' or 'recompute', not '{policy}'; unroll() and begin() take "
            "all policies"
        )
    mode: Differentiation = "none" if not differentiable else "first_order" if first_order else "full"
    transforms = [gradients] if isinstance(gradients, Transform) else list(gradients)
    return Inner(model, optimizer, dict(override or {}), track_start, mode, policy, resume, transforms)


def _modules(model: Any) -> list[nn.Module]:
    found = [model] if isinstance(model, nn.Module) else list(model) if isinstance(model, list | tuple) else []
    if not found or not all(isinstance(one, nn.Module) for one in found):
        raise CannotDifferentiate(f"a block takes an nn.Module or a list of them, not {model!r}"[:200])
    return found
