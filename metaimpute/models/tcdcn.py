"""TCDCN (Zhang, Luo, Loy and Tang, ECCV 2014) as the paper uses it for five landmarks (Fig. 4, appendix A.1).

The ECCV network sees 40 x 40 pixels, has |tanh| and auxiliary outputs (gender, smile, glasses, pose). The paper's has none
of the auxiliary tasks and sees 60 x 60 grey pixels; layers and activation follow its authors' released code: convolutions
of 20, 48, 64 and 80 maps without padding, hard tanh, 2 x 2 max pooling after the first three, and two linear layers with
nothing between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..ranges import Count
from ..tasks.base import TaskError
from .base import Model, register_model

KERNELS, POOLED = (5, 5, 3, 3), 3
CHANNELS = (20, 48, 64, 80)
SMALLEST = 44


class AbsTanh(nn.Module):
    """``|tanh x|``, the activation of the ECCV paper."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x).abs()


def side_after(side: int) -> int:
    """Side of the last feature map of a square input; below 1 when the input is too small."""
    for index, kernel in enumerate(KERNELS):
        side = side - kernel + 1
        side = side // 2 if index < POOLED else side
    return side


@register_model("tcdcn")
@dataclass
class TCDCN(Model):
    """Four convolutions and a hidden linear layer; 285,586 parameters for 60 x 60 pixels and ten outputs (paper, Fig. 4).

    Args:
        hidden: units of the hidden linear layer. activation: ``hardtanh`` of the authors' code, ``abstanh`` of the ECCV paper.
    """

    accepts = ("image",)

    hidden: Count = 256
    activation: Literal["hardtanh", "abstanh"] = "hardtanh"

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        if len(input_shape) != 3 or min(input_shape[1:]) < SMALLEST:
            raise TaskError(
                f"model 'tcdcn' needs images of at least {SMALLEST} x {SMALLEST} pixels, not inputs of shape {input_shape}"
            )
        layers: list[nn.Module] = []
        channels = input_shape[0]
        for index, (width, kernel) in enumerate(zip(CHANNELS, KERNELS, strict=True)):
            layers += [
                nn.Conv2d(channels, width, kernel),
                nn.Hardtanh() if self.activation == "hardtanh" else AbsTanh(),
            ]
            layers += [nn.MaxPool2d(2)] if index < POOLED else []
            channels = width
        features = channels * side_after(input_shape[1]) * side_after(input_shape[2])
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, self.hidden), nn.Linear(self.hidden, outputs))
