"""A frozen network as it computes fastest on a CPU: each BatchNorm inside the convolution before it, channels last.

What it computes is the same but for rounding; a network whose outputs change by more keeps its layers.
"""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

ROUNDING = 1e-4  # of the largest output


def for_inference(network: nn.Module, example: Tensor) -> nn.Module:
    """A copy of a convolutional network, in evaluation mode, that takes inputs ``[n, c, h, w]`` of any memory format.

    Args:
        network: is left as it is. example: one input of the size that it will be given, ``[1, c, h, w]``.
    """
    plain = copy.deepcopy(network).eval().requires_grad_(False)
    if not any(isinstance(part, nn.Conv2d) for part in plain.modules()):
        return plain
    rng = torch.Generator(device="cpu").manual_seed(0)
    probe = torch.randn(example.shape, generator=rng, device="cpu").to(example)
    with torch.inference_mode():
        expected = plain(probe)
        for made in (_folded(plain), copy.deepcopy(plain)):
            made = made.to(memory_format=torch.channels_last)
            if _same(made(probe), expected):
                return made
    return plain


def _same(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= ROUNDING * expected.abs().max())


def _folded(network: nn.Module) -> nn.Module:
    """With every BatchNorm that is defined right after a convolution inside it, and its activation, if it has one, left."""
    made = copy.deepcopy(network)
    for part in list(made.modules()):
        named = list(part.named_children())
        for (before, conv), (after, norm) in itertools.pairwise(named):
            if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None:
                continue
            if conv.out_channels == norm.num_features:
                setattr(part, before, fuse_conv_bn_eval(conv, norm))
                setattr(part, after, getattr(norm, "act", nn.Identity()))
    return made
