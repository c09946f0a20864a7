"""A small convolutional network whose edges mix several operations, for architecture search.

Liu, Simonyan and Yang ("DARTS", ICLR 2019, Eq. 2): an edge is ``sum_o softmax(alpha)_o o(x)``. Here edges are in sequence, at
half the resolution from the middle on, each followed by BatchNorm. ``alpha`` of each edge is a buffer: no training step moves it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..ranges import Count
from ..tasks.base import TaskError
from .base import Model, register_model


class Zero(nn.Module):
    """Nothing: the operation that leaves an edge out."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def _convolution(width: int, size: int, dilation: int = 1) -> nn.Module:
    padding = dilation * (size - 1) // 2
    return nn.Conv2d(width, width, size, padding=padding, dilation=dilation, bias=False)


OPERATIONS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda width: Zero(),
    "skip": lambda width: nn.Identity(),
    "average_pool": lambda width: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "conv_1": lambda width: _convolution(width, 1),
    "conv_3": lambda width: _convolution(width, 3),
    "dilated_3": lambda width: _convolution(width, 3, 2),
}


class MixedEdge(nn.Module):
    """Operations of one shape, weighted by the softmax of ``alpha``."""

    alpha: Tensor

    def __init__(self, width: int, names: tuple[str, ...]) -> None:
        super().__init__()
        self.operations = nn.ModuleList(OPERATIONS[name](width) for name in names)
        self.register_buffer("alpha", torch.zeros(len(names)))
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.stack([operation(x) for operation in self.operations])
        mixed = torch.einsum("o,onchw->nchw", self.alpha.softmax(0).to(parts), parts)
        out: Tensor = self.norm(mixed)
        return nn.functional.relu(out)


@register_model("mixed_cnn")
@dataclass
class MixedCNN(Model):
    """Convolutional network of mixed operations, to search among them with ``darts``.

    Args:
        width: channels. edges: mixed operations in sequence. operations: those of every edge. chosen: the one operation of each
            edge, as a search has found it; None: all of them, mixed.
    """

    accepts = ("image",)

    width: Count = 16
    edges: Count = 4
    operations: tuple[str, ...] = tuple(OPERATIONS)
    chosen: tuple[str, ...] | None = None

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        if len(input_shape) != 3 or min(input_shape[1:]) < 4:
            raise TaskError(
                f"model 'mixed_cnn' needs images of at least 4 x 4 pixels, not inputs of shape {input_shape}"
            )
        of_edges = [self.operations] * self.edges if self.chosen is None else [(name,) for name in self.chosen]
        unknown = [name for names in of_edges for name in names if name not in OPERATIONS]
        if unknown:
            raise TaskError(f"model 'mixed_cnn' has no operation '{unknown[0]}'; it has {', '.join(OPERATIONS)}")
        layers: list[nn.Module] = [
            nn.Conv2d(input_shape[0], self.width, 3, padding=1, bias=False),
            nn.BatchNorm2d(self.width),
        ]
        for place, names in enumerate(of_edges):
            layers += [nn.MaxPool2d(2)] if place == len(of_edges) // 2 else []
            layers.append(MixedEdge(self.width, tuple(names)))
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(self.width, outputs))
