"""A frozen network with its BatchNorms inside its convolutions computes what it computed before."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from metaimpute.models.folded import for_inference

EXAMPLE = torch.zeros(1, 3, 16, 16)


def norm(channels: int) -> nn.BatchNorm2d:
    """With statistics and weights that are far from the identity."""
    made = nn.BatchNorm2d(channels)
    for values in (made.running_mean, made.running_var, made.weight.data, made.bias.data):
        assert values is not None
        values.uniform_(0.5, 2.0)
    return made


def norms(network: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in network.modules())


class OtherOrder(nn.Module):
    """Defines a norm right after a convolution that it does not belong to."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), norm(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.second(self.norm(self.first(images)).relu()).mean((2, 3))


def test_norms_go_into_convolutions() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), norm(8), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False), norm(8), nn.Flatten()
    )
    made = for_inference(network, EXAMPLE)
    images = torch.rand(2, 3, 16, 16)
    assert norms(made) == 0 and norms(network) == 2, "the network itself keeps its layers"
    torch.testing.assert_close(made(images), network.eval()(images), rtol=1e-5, atol=1e-4)


def test_a_norm_that_belongs_elsewhere_stays() -> None:
    torch.manual_seed(0)
    network = OtherOrder().eval()
    made = for_inference(network, EXAMPLE)
    images = torch.rand(2, 3, 16, 16)
    assert norms(made) == 1
    torch.testing.assert_close(made(images), network(images), rtol=1e-5, atol=1e-5)


def test_a_network_that_is_left_training_is_evaluated() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), nn.Dropout(0.5), nn.Flatten()).train()
    made, images = for_inference(network, EXAMPLE), torch.rand(2, 3, 16, 16)
    assert torch.equal(made(images), made(images))
    assert network.training and all(one.requires_grad for one in network.parameters())


def test_without_convolutions_nothing_changes() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 2))
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(for_inference(network, EXAMPLE)(images), network(images))


@pytest.mark.parametrize("arch", ["test_efficientnet", "test_resnet", "test_vit", "test_convnext", "test_mambaout"])
def test_architectures_of_timm(arch: str) -> None:
    timm = pytest.importorskip("timm")
    if not timm.is_model(arch):
        pytest.skip(f"this timm has no {arch}")
    torch.manual_seed(0)
    side = timm.get_pretrained_cfg(arch).input_size[-1]
    network = timm.create_model(arch, pretrained=False, num_classes=0).eval()
    made = for_inference(network, torch.zeros(1, 3, side, side))
    images = torch.rand(1, 3, side, side)
    with torch.no_grad():
        expected = network(images)
        torch.testing.assert_close(made(images), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
