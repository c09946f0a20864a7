"""Small networks for small problems: a multilayer perceptron and a BatchNorm convolutional net."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from ..ranges import BelowOne, Count, Natural
from ..tasks.base import TaskError
from .base import Model, register_model


@register_model("mlp")
@dataclass
class MLP(Model):
    """Fully connected network with ReLU.

    Args:
        width: units per hidden layer. depth: hidden layers. dropout: probability after each.
    """

    accepts = ("vector", "image")

    width: Count = 64
    depth: Natural = 2
    dropout: BelowOne = 0.0

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        sizes = [math.prod(input_shape)] + [self.width] * self.depth
        layers: list[nn.Module] = [nn.Flatten()]
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU()] + ([nn.Dropout(self.dropout)] if self.dropout else [])
        return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


@register_model("cnn")
@dataclass
class SmallCNN(Model):
    """Three 3 x 3 convolutions with BatchNorm and leaky ReLU, global average pooling, one linear layer.

    Args:
        width: channels of the first layer; the others have twice as many.
    """

    accepts = ("image",)

    width: Count = 32

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        if len(input_shape) != 3 or min(input_shape[1:]) < 4:
            raise TaskError(f"model 'cnn' needs images of at least 4 x 4 pixels, not inputs of shape {input_shape}")
        channels = [input_shape[0], self.width, 2 * self.width, 2 * self.width]
        layers: list[nn.Module] = []
        for index, (a, b) in enumerate(pairwise(channels)):
            layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.1)]
            if index == 1:
                layers.append(nn.MaxPool2d(2))
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * self.width, outputs))
