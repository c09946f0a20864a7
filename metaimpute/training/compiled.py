"""Training losses through ``torch.compile``: the base step's loss with its gradient, and the inner steps of a look-ahead.

The base step's loss (the method's, or what an ``"own"`` problem trains on) is one program of parameters, what is learned,
buffers and batch; torch compiles its gradient along with it. Running statistics go in and come out as tensors and are carried
over afterwards. A look-ahead that an estimator unrolls takes :class:`~metaimpute.engine.Compiled` steps; ``mixed``, ``approx``,
``head`` and ``forward`` differentiate the inner loss itself and have it as it was. Imputation, psi, the hold-out loss and the
optimisers' own steps are not compiled.

A schedule's position is a number that changes with every step: a program gets it as a tensor, or it would be compiled
anew each time.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..batches import Batch
from ..engine import CannotCompile, Compiled, Estimator, FunctionalModel, InnerOptimizer
from ..engine.compiled import VARIANTS, Stepped
from ..engine.losses import StructuredLoss
from ..engine.noise import fixed_rng
from ..engine.optimizers import Hyper
from ..engine.pytree import Tree
from ..problems.base import BilevelProblem

TrainingLoss = Callable[[Tree, Tree, Batch], Tensor]
BACKEND = "inductor"
WAY_OUT = "leave train.compile out"


def with_numbers_as_tensors(batch: Any) -> Any:
    """A training batch whose progress is a scalar tensor; other batches as they are."""
    if not isinstance(batch, Batch):
        return batch
    progress: Any = torch.tensor(batch.progress, dtype=torch.float64, device="cpu")
    return dataclasses.replace(batch, progress=progress, step=0)


@dataclasses.dataclass(frozen=True, eq=False)
class CompiledStep(Compiled):
    """An inner step of a training batch."""

    def step(
        self, optimizer: InnerOptimizer, theta: Tree, state: Tree, c: Tree, hyper: Hyper, batch: Any, constant: bool
    ) -> Stepped:
        return super().step(optimizer, theta, state, c, hyper, with_numbers_as_tensors(batch), constant)


class CompiledLoss:
    """A training loss ``(params, meta, batch) -> scalar`` as one program, with the gradient that autograd takes of it.

    Args:
        what: its name in messages.
    """

    def __init__(self, loss: TrainingLoss, model: FunctionalModel, what: str, backend: str | None = None) -> None:
        self.loss, self.model, self.what, self.backend = loss, model, what, backend or BACKEND

    @functools.cached_property
    def _program(self) -> Any:
        loss, model = self.loss, self.model

        def program(params: Tree, meta: Tree, buffers: dict[str, Tensor], batch: Batch) -> tuple[Tensor, Any]:
            carried = {name: buffer.clone() for name, buffer in buffers.items()}
            with model.carrying(carried):
                return loss(params, meta, batch), carried

        # a code object of its own, so that torch's count of recompilations is as well
        own = types.FunctionType(
            program.__code__.replace(), program.__globals__, program.__name__, None, program.__closure__
        )
        # fallback_random: noise from the generator that the step has seeded
        options: dict[str, Any] | None = {"fallback_random": True} if self.backend == "inductor" else None
        return torch.compile(own, backend=self.backend, fullgraph=True, dynamic=False, options=options)

    def __call__(self, params: Tree, meta: Tree, batch: Batch, seed: int, updating: bool = True) -> Tensor:
        """The loss, to be differentiated once.

        Args:
            seed: of its noise. updating: whether running statistics are carried into the module.

        Raises:
            CannotCompile: when torch cannot, with its reason.
        """
        buffers = self.model.buffers
        with refused_in_one_line(self.what), fixed_rng(seed, shared_generator=True):
            loss, carried = self._program(params, meta, buffers, with_numbers_as_tensors(batch))
        if updating:
            with torch.no_grad():
                for name, buffer in buffers.items():
                    buffer.copy_(carried[name])
        found: Tensor = loss
        return found


class refused_in_one_line:  # a context manager, spelt as those of contextlib
    """Torch's reasons for not compiling as one line that names the way out."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        self._limit: Any = torch._dynamo.config.patch(recompile_limit=VARIANTS)
        self._limit.__enter__()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._limit.__exit__(kind, error, trace)
        exc = torch._dynamo.exc
        if isinstance(error, exc.FailOnRecompileLimitHit):
            raise CannotCompile(
                f"the {self.what} was compiled {VARIANTS} times, each for another shape or Python number; {WAY_OUT}"
            ) from error
        if isinstance(error, exc.TorchDynamoException | torch._inductor.exc.InductorError):
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise CannotCompile(f"the {self.what} cannot be compiled ({reason}); {WAY_OUT}") from error


def compiled_inner(inner: StructuredLoss) -> CompiledStep:
    """The look-ahead's loss with compiled steps, for an estimator that unrolls them."""
    return CompiledStep(inner, BACKEND)


def require_compiler(device: torch.device) -> str | None:
    """What torch's compiler lacks here, with the way out; None where it has all it needs."""
    if device.type == "cuda":
        import importlib.util

        missing = importlib.util.find_spec("triton") is None
        return f"compiled steps on CUDA need the package triton; install it, or {WAY_OUT}" if missing else None
    if BACKEND != "inductor":
        return None
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # warns of a CUDA that a CPU has no use for
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception:  # torch has an error of its own for each way of not finding one
        return f"compiled steps need a C++ compiler, and none was found; install g++ or clang++, or {WAY_OUT}"
    return None


def uncompiled_parts(problem: BilevelProblem, estimator: Estimator) -> str | None:
    """A line on what ``train.compile`` leaves as it is, beyond what it always does; None where that is nothing."""
    if not problem.estimates or estimator.unrolls:
        return None
    if problem.replaces_base_step and problem.learns != "labels":
        return (
            f"note: train.compile compiles nothing here: '{problem.name}' has no base step, and '{estimator.name}' "
            "differentiates the inner loss itself; exact has compiled steps"
        )
    return (
        f"note: train.compile compiles the training loss; the look-ahead is not, since '{estimator.name}' differentiates the "
        "inner loss itself"
    )
