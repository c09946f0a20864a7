"""The bilevel problem that hypergradient estimators are compared on: per-example weights of an inner cross-entropy."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..engine import Batches, Factored, FunctionalModel, StructuredLoss
from ..engine.registry import describe_choices
from ..errors import UserError
from ..models.small import MLP, SmallCNN
from ..models.wrn import WideResNet

CLASSES = 10


class BenchError(UserError, ValueError):
    """A benchmark that cannot be set up as asked."""


class TextClassifier(nn.Module):
    """A pre-norm transformer encoder over tokens, mean pooling, linear head; no dropout, which every package draws its own."""

    def __init__(self, vocabulary: int = 100, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.head(self.encoder(self.embed(tokens)).mean(1))
        return found


def images(side: int, channels: int) -> Callable[[int], Tensor]:
    return rows((channels, side, side))


def rows(shape: tuple[int, ...]) -> Callable[[int], Tensor]:
    return lambda n: torch.randn(n, *shape)


BUILT_IN: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "linear": (lambda: nn.Linear(8, CLASSES), rows((8,))),  # two parameters: what a step costs besides arithmetic
    "mlp": (lambda: MLP(width=512, depth=2).build((3, 32, 32), CLASSES), images(32, 3)),
    "cnn": (lambda: SmallCNN(width=16).build((3, 16, 16), CLASSES), images(16, 3)),
    "transformer": (TextClassifier, lambda n: torch.randint(0, 100, (n, 32))),
    "wrn": (lambda: WideResNet(16, 2, 3, CLASSES), images(32, 3)),
}


@dataclass
class WeightedExamples:
    """``inner = mean(c_i CE_i)`` over a training batch, one weight per example; ``outer`` = mean CE of another batch."""

    module: nn.Module
    model: FunctionalModel
    inputs: Tensor
    targets: Tensor
    outer_inputs: Tensor
    outer_targets: Tensor
    name: str

    def inner(self, theta: Any, c: Tensor, batch: Any) -> Tensor:
        return (c * F.cross_entropy(self.model(theta, self.inputs), self.targets, reduction="none")).mean()

    def outer(self, theta: Any, c: Tensor, batch: Any) -> Tensor:
        return F.cross_entropy(self.model(theta, self.outer_inputs), self.outer_targets)

    def structured(self) -> tuple[StructuredLoss, StructuredLoss]:
        """The two losses factored at the last linear layer, for ``head``."""
        model = self.model

        def inner_readout(theta: Any, found: Tensor, c: Tensor, batch: Any) -> Tensor:
            return (c * F.cross_entropy(model.readout(theta, found), self.targets, reduction="none")).mean()

        def outer_readout(theta: Any, found: Tensor, c: Tensor, batch: Any) -> Tensor:
            return F.cross_entropy(model.readout(theta, found), self.outer_targets)

        head = model.head
        return (
            StructuredLoss(
                self.inner, head, factored=Factored(lambda t, b: model.features(t, self.inputs), inner_readout)
            ),
            StructuredLoss(
                self.outer, head, factored=Factored(lambda t, b: model.features(t, self.outer_inputs), outer_readout)
            ),
        )

    @property
    def weights(self) -> Tensor:
        return torch.ones(len(self.inputs), dtype=next(self.module.parameters()).dtype, device=self.inputs.device)

    @property
    def batches(self) -> Batches:
        return Batches([None], None)


def build(
    name: str, batch: int, dtype: torch.dtype, device: str, shape: tuple[int, ...] | None = None
) -> WeightedExamples:
    """The problem for a built-in model, or for ``module:Class`` with inputs of ``shape``; the same values in every dtype.

    Raises:
        BenchError: for an unknown model, or one that cannot be imported or called.
    """
    torch.manual_seed(0)
    if ":" in name:
        if shape is None:
            raise BenchError(f"--model {name} needs --input, the shape of one example, e.g. --input 3,32,32")
        make, sample = _imported(name), rows(shape)
    elif name in BUILT_IN:
        make, sample = BUILT_IN[name]
    else:
        raise BenchError(f"unknown model '{name}'; {describe_choices(name, list(BUILT_IN))}, or module:Class")
    module = make().to(device=device, dtype=dtype).train()

    def inputs() -> Tensor:
        drawn = sample(batch)
        return drawn.to(device=device, dtype=dtype) if drawn.is_floating_point() else drawn.to(device)

    x, x_outer = inputs(), inputs()
    try:
        with torch.no_grad():
            outputs = FunctionalModel(module)(dict(module.named_parameters()), x)
    except Exception as error:
        raise BenchError(f"--model {name} does not take inputs of shape {list(x.shape)}: {error}") from None
    if outputs.ndim != 2:
        raise BenchError(f"--model {name} must return class scores [batch, classes], not shape {list(outputs.shape)}")
    y, y_outer = (torch.randint(0, outputs.shape[1], (batch,)).to(device) for _ in range(2))
    return WeightedExamples(module, FunctionalModel(module), x, y, x_outer, y_outer, name)


def _imported(name: str) -> Callable[[], nn.Module]:
    place, _, attribute = name.partition(":")
    try:
        found: Callable[[], nn.Module] = getattr(importlib.import_module(place), attribute)
        return found
    except (ImportError, AttributeError) as error:
        raise BenchError(f"--model {name}: {error}") from None
