"""Wide residual networks (Zagoruyko and Komodakis, BMVC 2016) in the form semi-supervised learning uses.

WRN-28-2 as in MixMatch's and FixMatch's code: leaky ReLU with slope 0.1, the first block's activation shared by both branches,
1.47 million parameters for ten classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ..ranges import Count, Share
from ..tasks.base import TaskError
from .base import Model, register_model

SLOPE = 0.1


class PreActivationBlock(nn.Module):
    """BatchNorm, activation, 3 x 3 convolution, twice; a 1 x 1 convolution on the shortcut where widths differ.

    Args:
        activate_before: the first activation feeds the shortcut as well (the network's first block).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, activate_before: bool) -> None:
        super().__init__()
        self.activate_before = activate_before
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.leaky_relu(self.bn1(x), SLOPE)
        kept = active if self.activate_before else x
        out: Tensor = self.conv2(F.leaky_relu(self.bn2(self.conv1(active)), SLOPE))
        return out + (kept if self.shortcut is None else self.shortcut(kept))


class WideResNet(nn.Module):
    """WRN-depth-width: three groups of (depth - 4) / 6 blocks; inputs ``[n, channels, h, w]``, output ``[n, outputs]``."""

    def __init__(self, depth: int, width: int, channels: int, outputs: int, base: int = 16) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        sizes = [base, base * width, 2 * base * width, 4 * base * width]
        self.stem = nn.Conv2d(channels, base, 3, 1, 1, bias=False)
        layers: list[nn.Module] = []
        for group in range(3):
            for number in range(blocks):
                first = number == 0
                inputs, stride = (sizes[group], 2 if group else 1) if first else (sizes[group + 1], 1)
                layers.append(PreActivationBlock(inputs, sizes[group + 1], stride, first and group == 0))
        self.blocks = nn.Sequential(*layers)
        self.bn, self.head = nn.BatchNorm2d(sizes[3]), nn.Linear(sizes[3], outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=SLOPE, mode="fan_out", nonlinearity="leaky_relu")
        nn.init.xavier_normal_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        out = F.leaky_relu(self.bn(self.blocks(self.stem(x))), SLOPE)
        found: Tensor = self.head(out.mean((2, 3)))
        return found


@register_model("wrn")
@dataclass
class WRN(Model):
    """Wide residual network; WRN-28-2 by default, 1.47 million parameters (paper, section 5.2).

    Args:
        depth: 6 n + 4 layers. width: factor of the channels 16, 32, 64.
        bn_momentum: weight of a new batch in BatchNorm's running statistics (FixMatch's code: 0.001).
    """

    accepts = ("image",)

    depth: Count = 28
    width: Count = 2
    bn_momentum: Share = 0.001

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        if (self.depth - 4) % 6 or self.depth < 10:
            raise TaskError(
                f"depth: a wide residual network has 6 n + 4 layers (10, 16, 22, 28, ...), not {self.depth}"
            )
        if len(input_shape) != 3:
            raise TaskError(f"model 'wrn' needs images, not inputs of shape {input_shape}")
        net = WideResNet(self.depth, self.width, input_shape[0], outputs)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = self.bn_momentum
        return net
