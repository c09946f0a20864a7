"""Residual networks of 26 layers (He et al., CVPR 2016) for the paper's 72 x 72 ImageNet (section 5.3, appendix A.3).

The paper takes images and network from work on the Visual Decathlon, whose ResNet-26 (Rebuffi, Bilen and Vedaldi, CVPR 2018;
their released code) is not the ResNet-26 of today's libraries:

* ``decathlon``: a 3 x 3 convolution at full resolution, three groups of four basic blocks with 64, 128 and 256 channels, each
  group begins with stride 2, average pooling and zero channels on the shortcut, BatchNorm and ReLU before the global
  pooling; 6.07 million parameters for 1000 classes, 9 x 9 features of a 72 x 72 image.
* ``bottleneck``: torchvision's ResNet with two bottleneck blocks in each of four groups, as timm's ``resnet26``; 16.00
  million parameters. Its 7 x 7 stem and max pooling, made for 224 pixels, leave 3 x 3 features of a 72 x 72 image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ranges import Count
from ..tasks.base import TaskError
from .base import Model, register_model

GROUPS, BLOCKS = 3, 4


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions, each with BatchNorm; stride 2 doubles the channels, with zeros on the shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride, ceil_mode=True)  # an odd side halves as the convolution halves it
            x = torch.cat([x, torch.zeros_like(x)], 1)
        return F.relu(out + x)


class DecathlonResNet(nn.Module):
    """ResNet-26 of the Visual Decathlon; inputs ``[n, channels, h, w]``, output ``[n, outputs]``.

    Args:
        width: channels of the stem; the groups have 2, 4 and 8 times as many.
    """

    def __init__(self, channels: int, outputs: int, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        layers: list[nn.Module] = []
        for group in range(GROUPS):
            for number in range(BLOCKS):
                inputs = width * 2 ** (group + (number > 0))
                layers.append(BasicBlock(inputs, width * 2 ** (group + 1), 1 if number else 2))
        self.blocks = nn.Sequential(*layers)
        last = width * 2**GROUPS
        self.bn, self.head = nn.BatchNorm2d(last), nn.Linear(last, outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(F.relu(self.bn(self.blocks(self.stem(x)))).mean((2, 3)))
        return found


@register_model("resnet26")
@dataclass
class ResNet26(Model):
    """ResNet-26 for images of 32 to 100 pixels; 6.07 million parameters for 1000 classes (paper, section 5.3).

    Args:
        variant: ``decathlon``, the network of the paper's data source, or ``bottleneck``, that of torchvision and timm.
        width: channels of the stem of ``decathlon``; the groups have 2, 4 and 8 times as many.
    """

    accepts = ("image",)

    variant: Literal["decathlon", "bottleneck"] = "decathlon"
    width: Count = 32

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        if len(input_shape) != 3 or min(input_shape[1:]) < 8:
            raise TaskError(
                f"model 'resnet26' needs images of at least 8 x 8 pixels, not inputs of shape {input_shape}"
            )
        if self.variant == "decathlon":
            return DecathlonResNet(input_shape[0], outputs, self.width)
        if self.width != 32:
            raise TaskError("model 'resnet26': width belongs to the variant decathlon; bottleneck has one size")
        from torchvision.models.resnet import Bottleneck, ResNet

        net: nn.Module = ResNet(Bottleneck, [2, 2, 2, 2], num_classes=outputs)
        if input_shape[0] != 3:
            net.conv1 = nn.Conv2d(input_shape[0], 64, 7, 2, 3, bias=False)
            nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        return net
