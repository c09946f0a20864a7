"""What a model adapter is: options, what it accepts, whether its weights are here, and how to build it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn
from typing_extensions import dataclass_transform

from ..batches import InputKind
from ..engine.pytree import Tree
from ..engine.registry import Registry, require_kind
from ..tasks.base import Missing, TaskError

models: Registry[Callable[..., Model]] = Registry("model")
ModelClass = TypeVar("ModelClass", bound=Callable[..., "Model"])


@dataclass_transform(field_specifiers=(field,))
def register_model(name: str) -> Callable[[ModelClass], ModelClass]:
    """Decorator that files a model under ``name``; a class becomes a dataclass, whose fields are its options."""

    def add(given: ModelClass) -> ModelClass:
        require_kind(given, Model, "register_model")
        return models.register(name)(given)

    return add


@dataclass
class Model:
    """Base of all model adapters. Options are the fields of the concrete class.

    Attributes:
        accepts: kinds of input the network takes.
        head: dotted name of the last linear layer, or None for the last one registered.
    """

    name: ClassVar[str] = ""
    accepts: ClassVar[tuple[InputKind, ...]] = ()
    head: ClassVar[str | None] = None

    def missing(self) -> list[Missing]:
        """Weights or packages that have to be fetched first; empty when all is here."""
        return []

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """The network, initialised from torch's global generator.

        Args:
            input_shape: of one example, without the batch. outputs: classes or values predicted.

        Raises:
            MissingData: when weights are not here.
        """
        raise TypeError(f"{type(self).__name__} does not define build()")

    def calibrate(self, module: nn.Module, inputs: Callable[[], Iterable[Tree]]) -> None:
        """Called once before training with batches of unlabelled inputs, for statistics such as feature scales."""

    def preprocess(self, device: torch.device) -> Callable[[list[Any]], Tree] | None:
        """Turns texts, or images as :class:`~..tasks.image_task.ImageVersion`, into model inputs; None for models of tensors.

        Called after :meth:`build`.
        """
        return None

    @property
    def prepares_inputs(self) -> bool:
        """Whether the model has a :meth:`preprocess` of its own."""
        return type(self).preprocess is not Model.preprocess

    def reason_against_workers(self, device: torch.device) -> str:
        """Why :meth:`preprocess` may not be called in other processes (``train.workers``), forks that work on one CPU thread.

        A model whose preparation is a function of its inputs alone, to the last bit, and touches no device says that by
        returning nothing.
        """
        if not self.prepares_inputs:
            return ""
        return f"model '{self.name}' prepares inputs with preprocess(), perhaps in this process alone; leave it out"

    def remember(self, inputs: Iterable[Any]) -> int:
        """Told of every text or image that training will see: a model with a frozen part may run it on them once, in this order.

        Returns:
            The number of inputs it has prepared; 0 when it prepares nothing.
        """
        return 0


def check_accepts(model: Model, kind: InputKind) -> None:
    """Raises:
    TaskError: when the model does not take the task's inputs."""
    if kind not in model.accepts:
        fitting = [name for name in models if kind in getattr(models.get(name), "accepts", ())]
        raise TaskError(f"model '{model.name}' does not take {kind} inputs; these do: {', '.join(fitting)}")
