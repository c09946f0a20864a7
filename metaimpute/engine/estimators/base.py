"""The contract of a hypergradient estimator and the registry of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, TypeVar, cast

import torch
from torch import Tensor
from typing_extensions import dataclass_transform

from ...errors import UserError
from ..ambient import (
    CannotDifferentiate,
    double_differentiable,
    forward_mode_available,
    has_tangent,
    outside_transforms,
)
from ..arguments import list_of_batches, ordinary, require_tensors
from ..compiled import Compiled
from ..given import given_rule
from ..losses import Loss, joined_over
from ..memory import MemoryPolicy, Store
from ..operators import in_words
from ..optimizers import InnerOptimizer
from ..optimizers.base import require_rule
from ..optimizers.transforms import require_factors
from ..pytree import Tree, detach, leaves_of, norm, tensors
from ..registry import Registry, require_kind
from ..repetition import Ledger, attributes_restored, rebuilding
from ..sharded import UNSEEN, refusing_shards, sharded_rule, shards_of
from ..stacked import is_stacked
from ..unroll import Batches, BilevelMap, run
from .reach import require_reach
from .result import HypergradientResult, only_gradients
from .steep import has_steep_zero, warn_where_steep

About = Literal["steps", "memory", "start"]
estimators: Registry[Callable[..., Estimator]] = Registry("hypergradient estimator", __package__)
EstimatorClass = TypeVar("EstimatorClass", bound=Callable[..., "Estimator"])


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def register_estimator(name: str) -> Callable[[EstimatorClass], EstimatorClass]:
    """Decorator that files an estimator under ``name``; a class becomes a dataclass, whose fields are its options."""

    def add(given: EstimatorClass) -> EstimatorClass:
        require_kind(given, Estimator, "register_estimator")
        return estimators.register(name)(given)

    return add


class EstimatorError(UserError, ValueError):
    """A bilevel problem that this estimator cannot treat, with the reason and a way out.

    Attributes:
        about: the argument it is about, ``"steps"``, ``"memory"`` or ``"start"``, where it is about one.
    """

    def __init__(self, message: str, about: About | None = None) -> None:
        super().__init__(message)
        self.about = about


@contextmanager
def said_in_words(name: str) -> Iterator[None]:
    """Raises:
    EstimatorError: naming the estimator, in the place of torch's error over an operator that it cannot differentiate."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:  # torch raises either
        sentence = in_words(error)
        if sentence is None:
            raise
        raise EstimatorError(f"'{name}': {sentence}") from error


def _names(fits: Callable[[type[Estimator]], bool]) -> str:
    """Registered estimators of a kind."""
    return ", ".join(name for name in estimators if fits(cast("type[Estimator]", estimators.get(name))))


def _known_as_exact(kind: type[Estimator]) -> bool:
    """Whether it is exact and comes with the package or says so itself."""
    return kind.exact and (kind.__module__.startswith(f"{__package__}.") or "exact" in vars(kind))


def whole_number(name: str, option: str, value: object, least: int) -> None:
    """Raises:
    EstimatorError: unless the option is a whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise EstimatorError(f"'{name}' needs {option} to be a whole number of at least {least}, not {value!r}")


@dataclass(frozen=True)
class Estimator:
    """A way to differentiate the end of an inner optimisation. Options are the fields of the concrete class.

    Attributes:
        start_path: whether it gives a gradient with respect to the start. moves_all: whether its steps are the inner loss's own,
            of all parameters. per_scalar: whether every scalar of the coupling and the hyperparameters has its price.
        mixes: whether its result for problems in one stack is another than for each alone.
        staged: whether it takes rules whose step has several stages.
        sharded: whether it takes parameters in shards: it forms no inner product and no norm over them.
        slopes: whether it differentiates the outer loss, which is else wanted for its value alone.
    """

    name: ClassVar[str] = ""
    exact: ClassVar[bool] = True
    dropped: ClassVar[str] = "nothing"
    max_steps: ClassVar[int | None] = None
    start_path: ClassVar[bool] = True
    gives_first_gradient: ClassVar[bool] = True
    uses_memory: ClassVar[bool] = False
    unrolls: ClassVar[bool] = True
    moves_all: ClassVar[bool] = True
    per_scalar: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
    staged: ClassVar[bool] = False
    sharded: ClassVar[bool] = False
    slopes: ClassVar[bool] = True

    def estimate(
        self,
        inner_loss: Loss,
        outer_loss: Loss,
        theta_0: Tree,
        c: Tree,
        batches: Batches,
        optimizer: InnerOptimizer,
        steps: int = 1,
        memory: MemoryPolicy | None = None,
        *,
        seed: int | None = None,
        wrt_start: bool | None = None,
        measure_start: bool = False,
        ledger: Ledger | None = None,
    ) -> HypergradientResult:
        """Hypergradient of ``outer_loss(theta_k, c)`` after ``steps`` inner steps from ``theta_0``.

        Args:
            inner_loss, outer_loss: ``(theta, c, batch) -> scalar``, plain or structured.
            theta_0: start of the inner steps, a tree of tensors. c: the coupling, a tree of tensors.
            batches: inner batches (one, or one per step) and the outer batch.
            seed: seed of the noise inside the losses; None draws one from torch's global generator.
            wrt_start: whether ``d outer / d theta_0`` is wanted; False is cheaper. None: where the estimator gives it.
            measure_start: also evaluate the outer loss at ``theta_0`` (diagnostic ``"outer_loss_start"``), one more pass.
            ledger: evaluations that were made before, where the steps were taken already; these must repeat them.

        Raises:
            EstimatorError: when the problem lacks what the estimator needs. CannotDifferentiate: for arguments or surroundings in
                which a derivative would be missing or wrong. NotRepeatable: for a loss that is another function when evaluated
                again.
        """
        if wrt_start is None:
            wrt_start = self.start_path
        with self.checked(
            inner_loss, outer_loss, theta_0, c, batches, optimizer, steps, memory, seed, wrt_start, ledger
        ) as problem:
            result = self.differentiate(problem)
            if not isinstance(result, HypergradientResult):
                raise EstimatorError(
                    f"estimator '{self.name}': differentiate(problem) returns a HypergradientResult, not a "
                    f"{type(result).__name__}"
                )
            problem.ledger.verify()
            require_reach(problem, result.theta_k, result if self.slopes else None)
            if has_steep_zero(optimizer):
                warn_where_steep(problem, result.grad_c, result.theta_k, result.outer_loss, result.diagnostics)
            if measure_start:
                with torch.no_grad(), rebuilding():
                    result.diagnostics["outer_loss_start"] = problem.outer(problem.theta_0, problem.c, point=None)
        result.diagnostics.update(
            estimator=self.name,
            dropped=self.dropped,
            hypergradient_norm=norm(result.grad_c),
        )
        if problem.ledger.reverse_only is not None:
            result.diagnostics["reverse_over_reverse"] = problem.ledger.reverse_only
        result.grad_theta_0 = only_gradients(result.grad_theta_0, theta_0) if wrt_start else None
        result.grad_c = only_gradients(result.grad_c, c)
        return result

    def check(self, steps: int, memory: MemoryPolicy | None = None, wrt_start: bool = False) -> None:
        """Whether it can do what is asked, before anything is computed.

        Raises:
            EstimatorError: for a number of inner steps, a memory policy or a derivative (of the start) that is not for it.
        """
        own = type(self)
        if own.differentiate is Estimator.differentiate and own.estimate is Estimator.estimate:
            raise EstimatorError(f"estimator '{self.name}' does not define differentiate(problem)")
        if not isinstance(steps, int) or isinstance(steps, bool):
            raise EstimatorError(f"inner steps must be a whole number, not {steps!r}", "steps")
        if steps < 1:
            raise EstimatorError(f"inner steps must be at least 1, not {steps}", "steps")
        if self.max_steps is not None and steps > self.max_steps:
            raise EstimatorError(
                f"'{self.name}' is defined for {self.max_steps} inner step, not {steps}; for any number there are "
                f"{_names(lambda other: other.max_steps is None and _known_as_exact(other))}",
                "steps",
            )
        if wrt_start and not self.start_path:
            raise EstimatorError(
                f"'{self.name}' gives no gradient with respect to the start (path: full); these do: "
                f"{_names(lambda other: other.start_path and _known_as_exact(other))}",
                "start",
            )
        if not self.uses_memory and not isinstance(memory, Store | None):
            raise EstimatorError(
                f"'{self.name}' stores no graph of an unroll, so memory '{memory}' is not for it; it is for "
                f"{_names(lambda other: other.uses_memory)}",
                "memory",
            )

    def check_rule(self, rule: InnerOptimizer) -> None:
        """Whether it can differentiate steps of this rule, before anything is computed.

        Raises:
            EstimatorError: for a rule of several stages where it takes one gradient a step.
        """
        if rule.stages != (True,) and not self.staged:
            raise EstimatorError(
                f"'{self.name}' takes one gradient a step, and a step of {rule.label} has {len(rule.stages)} stages; these take "
                f"any: {_names(lambda other: other.staged and _known_as_exact(other))}"
            )

    def named_parameters(self) -> tuple[str, ...]:
        """Parameters of the model that an option names, so that a wrong name is found before training."""
        return ()

    @contextmanager
    def checked(
        self,
        inner_loss: Loss,
        outer_loss: Loss,
        theta_0: Tree,
        c: Tree,
        batches: Batches,
        optimizer: InnerOptimizer,
        steps: int,
        memory: MemoryPolicy | None,
        seed: int | None,
        wrt_start: bool,
        ledger: Ledger | None,
    ) -> Iterator[BilevelMap]:
        """The problem, checked, with torch in the state that evaluations of it need."""
        outside_transforms("a hypergradient")
        require_rule(optimizer, "optimizer")
        joined = torch.is_grad_enabled()
        require_tensors("the start", theta_0)
        require_tensors("the coupling", c)
        inner_batches = list_of_batches(batches.inner)
        self.check(steps, memory, wrt_start)
        require_factors(optimizer, steps)
        self.check_rule(optimizer)
        if is_stacked(inner_loss):
            self._require_apart(optimizer)
        optimizer, aware = self._on_shards(inner_loss, outer_loss, optimizer)
        if len(inner_batches) not in (1, steps):
            raise EstimatorError(f"{len(inner_batches)} inner batches for {steps} steps; give 1 or {steps}")
        if not tensors(theta_0):
            raise EstimatorError("the start holds no floating-point tensor")
        given = [leaf for leaf in leaves_of(c) if isinstance(leaf, Tensor)]
        if given and not tensors(c):
            raise EstimatorError(f"the coupling holds no floating-point tensor (it has {given[0].dtype})")
        if isinstance(inner_loss, Compiled) and not self.unrolls:
            inner_loss = inner_loss.loss
        over = joined_over(inner_loss)
        if over is not None:
            over.require_alike(theta_0, c, inner_batches, batches.outer, joined_over(outer_loss) is not None)
        if seed is None:
            seed = int(torch.randint(2**62, (), dtype=torch.int64, device="cpu"))
            seed = seed if over is None else over.agreed(seed)
        if not forward_mode_available() and any(map(has_tangent, tensors((theta_0, c, optimizer.hyper)))):
            raise CannotDifferentiate(
                "a hypergradient carries no forward-mode tangents on; pass plain tensors, or differentiate unroll(), which does"
            )
        with torch.enable_grad(), double_differentiable(), attributes_restored(), aware:
            theta_0, c, inner_batches, outer_batch = ordinary((theta_0, c, list(inner_batches), batches.outer))
            if tensors(optimizer.hyper):
                optimizer = replace(optimizer, hyper=ordinary(optimizer.hyper))
            optimizer = given_rule(optimizer) if joined else optimizer
            with said_in_words(self.name):
                yield BilevelMap(
                    inner_loss,
                    outer_loss,
                    theta_0,
                    c,
                    Batches(inner_batches, outer_batch),
                    optimizer,
                    steps,
                    memory or Store(),
                    seed,
                    wrt_start,
                    ledger or Ledger(),
                )

    def _on_shards(
        self, inner_loss: Loss, outer_loss: Loss, optimizer: InnerOptimizer
    ) -> tuple[InnerOptimizer, AbstractContextManager[None]]:
        """The rule for the parameters that both losses are given, whole or in shards, and the surroundings of evaluations.

        Raises:
            EstimatorError: for shards where the estimator needs inner products over parameters.
        """
        shards = shards_of(inner_loss, outer_loss)
        if shards is None:
            return optimizer, refusing_shards(UNSEEN)
        if not self.sharded:
            raise EstimatorError(
                f"'{self.name}' takes inner products over parameters, of which each process has a part; for parameters in shards "
                f"there are {_names(lambda other: other.sharded)}"
            )
        return sharded_rule(optimizer, shards), nullcontext()

    def _require_apart(self, optimizer: InnerOptimizer) -> None:
        """Raises:
        EstimatorError: for what would mix the problems of a stack."""
        if self.mixes:
            raise EstimatorError(
                f"'{self.name}' mixes the problems of a stacked loss; take each by itself, or 'exact', 'mixed' or 'neumann'"
            )
        mixes = optimizer.options.get("mixes", ())
        if mixes:
            raise EstimatorError(
                f"'{mixes[0]}' mixes the problems of a stacked loss, whose gradients it takes for one; take each by itself, or "
                "clip(...), which works entry by entry (a Transform that does says per_entry=True)"
            )

    def plain(self, problem: BilevelMap) -> tuple[Tensor, Tree]:
        """The outer loss and ``theta_k`` of the steps that the estimator differentiates, without a derivative."""
        c, hyper = detach(problem.c), detach(problem.optimizer.hyper)
        end = run(problem, detach(problem.theta_0), c, hyper, mode="none")
        return problem.outer(detach(end.params), c).detach(), detach(end.params)

    def differentiate(self, problem: BilevelMap) -> HypergradientResult:
        """The estimator's own work on a checked problem."""
        raise TypeError(f"{type(self).__name__} does not define differentiate()")
