"""A training loop as people write it, differentiable: any Python between steps, on the user's own module.

Inside the block the module has the block's weights in place of its own (:mod:`.inside`); each step makes new ones, which autograd
can follow back to the first and to everything the losses and the optimiser used.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .ambient import CannotDifferentiate, double_differentiable, outside_transforms
from .dependence import begins
from .inside import Inside, of_the_user, others_are_open
from .losses import scalar
from .memory import MemoryPolicy, Recompute, Store, parse_memory
from .moves import Moved, Moves, Params
from .noise import fixed_rng
from .optimizers import InnerOptimizer
from .optimizers.base import UnsupportedOptimizer
from .optimizers.live import LiveRule, Optimizers, stock
from .pytree import Tree, detach, tree_map
from .rebuilt import Rebuilt, as_it_is
from .repetition import Ledger, rebuilding
from .replay import BadMemoryPolicy
from .unroll import Differentiation, of_its_own

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
    ) -> None:
        self._models = [model] if isinstance(model, nn.Module) else list(model)
        self._root = self._models[0] if isinstance(model, nn.Module) else nn.ModuleList(self._models)
        self._given = (optimizer, resume, override)
        self._track_start, self._mode, self._recompute = track_start, mode, memory == Recompute()
        self._stack: contextlib.ExitStack | None = None
        self._inside: Inside | None = None
        self._rebuilt: weakref.WeakSet[Rebuilt] = weakref.WeakSet()
        self.start: Params = {}
        self.losses: list[Tensor] = []
        self.state: Tree = None

    # the block ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Inner:
        if self._stack is not None:
            raise CannotDifferentiate("the block is open already")
        outside_transforms("an inner block")
        if self._inside is None:
            self._begin()
        assert self._inside is not None
        with contextlib.ExitStack() as stack:
            stack.enter_context(double_differentiable())
            stack.enter_context(torch.enable_grad())
            stack.enter_context(self._live.in_charge())
            stack.enter_context(self._inside.open(self._params))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        stack, self._stack = self._stack, None
        assert stack is not None
        stack.__exit__(*raised)
        if raised[0] is None:
            self._require_untouched()

    def _begin(self) -> None:
        optimizer, resume, override = self._given
        if not torch.is_grad_enabled():
            self._mode = "none"
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
        self._frozen = [here[name] for name in mine if not here[name].requires_grad]
        self._live = LiveRule(optimizer, originals, resume, override)
        self._nested = any(users[name] is not here[name] for name in names)
        if self._mode == "none":
            self.start = {name: here[name].detach().clone().requires_grad_() for name in names}
        else:
            first = {name: here[name] if self._track_start else here[name].detach() for name in names}
            self.start = {
                name: of_its_own(begins(p)) if not p.requires_grad else begins(p) for name, p in first.items()
            }
        self._inside = Inside(self._root, originals)
        self._moves = Moves(self._inside, self._mode, frozenset(map(id, originals.values())))
        self.state = self._live.rule.init(self.start)
        self._place(self.start)

    def _place(self, params: Params) -> None:
        self._params = params
        self._seal = [(p, p._version, p.data_ptr(), p.dtype) for p in params.values()]
        if self._inside is not None and self._inside.is_open:
            self._inside.put(params)

    def _open_block(self, what: str) -> Inside:
        if self._stack is None or self._inside is None:
            raise CannotDifferentiate(f"{what} is for the inside of the block; 'with' it again to go on")
        return self._inside

    def _require_untouched(self) -> None:
        if self._mode == "none":
            return
        for name, (p, version, where, dtype) in zip(self._params, self._seal, strict=True):
            if (p._version, p.data_ptr(), p.dtype) != (version, where, dtype):
                raise CannotDifferentiate(
                    f"'{name}' was changed in place inside the block, which no gradient would see; say "
                    f"inner.replace({{'{name}': new}}) with what it is to become"
                )
        for p in self._frozen:
            if p.requires_grad:
                raise CannotDifferentiate(
                    "a parameter that was frozen when the block began requires a gradient now; begin a new block to move it too"
                )

    # steps -------------------------------------------------------------------------------------------------------

    def step(self, loss: Tensor | Callable[..., Tensor], *args: Any, **hyper: Any) -> Params:
        """One optimiser step down the gradient of ``loss``, in place of ``zero_grad()``, ``backward()`` and ``step()``.

        Args:
            loss: a scalar, computed at the weights in place; or a function of ``args`` that computes it, which rules that take
                several gradients a step and memory ``recompute`` need.
            hyper: hyperparameters for this step alone, such as ``lr=0.1``.

        Returns:
            The new weights by name, which are in place from now on.

        Raises:
            CannotDifferentiate, NotScalar: for a loss through which there is no right gradient, or none at all.
            UnsupportedOptimizer: for a hyperparameter that the rule does not have.
        """
        inside = self._open_block("step()")
        self._require_untouched()
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
            moved = self._called(inside, rule, loss, args)
        else:
            scalar(loss, "inner")
            raise AssertionError
        self.losses.append(moved.loss.detach())
        self.state = moved.state
        self._place(moved.params)
        self._live.called()
        return moved.params

    def _called(self, inside: Inside, rule: InnerOptimizer, loss: Callable[..., Tensor], args: Any) -> Moved:
        seed = int(torch.randint(2**62, (), dtype=torch.int64, device="cpu"))

        def evaluate(function: Callable[..., Tensor]) -> Callable[[], Tensor]:
            def once() -> Tensor:
                with fixed_rng(seed):
                    return function(*args)

            return once

        start, state = self._params, self.state
        try:
            if not self._recompute or self._mode != "full":
                return self._moves.take(rule, evaluate(loss), start, state)
            if others_are_open(inside):
                raise BadMemoryPolicy(
                    "memory 'recompute' takes steps again when no other block is open; use 'store' in blocks inside one another"
                )
            frozen, number, ledger = evaluate(as_it_is(loss)), len(self.losses), Ledger()
            buffers, modes = [b.clone() for b in inside.buffers()], inside.modes()
            kept = tree_map(_as_leaf, (start, state, rule.hyper))
            settings = _autocast()

            def again() -> None:
                at, before, hyper = tree_map(_as_leaf, kept)
                with contextlib.ExitStack() as stack:
                    stack.enter_context(double_differentiable())
                    stack.enter_context(rebuilding())
                    stack.enter_context(inside.as_then(at, buffers, modes))
                    for kind, enabled, dtype in settings:
                        stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled))
                    found = self._moves.take(rule, frozen, at, before, hyper)
                ledger.note("inner", number, found.loss, "taken")
                ledger.verify()

            step = Rebuilt(again, self._rebuilt)
            with step.taking():
                moved = self._moves.take(rule, evaluate(loss), start, state)
            ledger.note("inner", number, moved.loss, "taken")
            return moved
        except BaseException:
            inside.put(start)
            raise

    # what else ---------------------------------------------------------------------------------------------------

    @property
    def params(self) -> Params:
        """The weights in place, by name."""
        if self._inside is not None:
            self._inside.used = True
        return dict(self._params)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model at the block's weights: as ``model(...)`` inside the block, and after it at those it ended with.

        Raises:
            CannotDifferentiate: for a block of several models, which are called themselves, inside it.
        """
        if len(self._models) > 1:
            raise CannotDifferentiate("the block has several models; call them themselves, inside the block")
        if self._inside is None:
            raise CannotDifferentiate("the block has not begun; say with inner(...) as block: block(x)")
        if self._stack is not None:
            return self._models[0](*args, **kwargs)
        with double_differentiable(), self._inside.open(self._params):
            return self._models[0](*args, **kwargs)

    def replace(self, params: Mapping[str, Tensor]) -> None:
        """Puts other weights in place, some or all, through which gradients go on: ``{name: p.clamp(-1, 1)}``.

        Raises:
            CannotDifferentiate: for a name that no moved parameter has, and another shape or kind of number.
        """
        self._open_block("replace()")
        self._require_untouched()
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
        self._open_block("detach()")
        self._require_untouched()
        self.state = detach(self.state)
        self._place({name: of_its_own(p.detach()) for name, p in self._params.items()})

    def write_back(self) -> None:
        """Copies the weights and running statistics into the model's own. Its optimiser's state stays as it was."""
        if self._inside is None or self._nested:
            raise CannotDifferentiate(
                "write_back() is for a block that has begun, and not for one inside another block of the same model"
            )
        self._inside.used = True
        self._inside.write_back()


def _as_leaf(leaf: Any) -> Any:
    return leaf.detach().requires_grad_(leaf.requires_grad) if isinstance(leaf, Tensor) else leaf


def _autocast() -> list[tuple[str, bool, torch.dtype]]:
    kinds = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds]


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
    return Inner(model, optimizer, dict(override or {}), track_start, mode, policy, resume)
