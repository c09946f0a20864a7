"""Features without a pretrained network: edges against closed forms, patches as a function of their image, and a run."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from metaimpute.models.image_patches import PatchClassifier, PatchFeatures, oriented_gradients
from metaimpute.tasks.base import TaskError
from metaimpute.tasks.image_task import ImageVersion

CPU = torch.device("cpu")


def images(count: int, seed: int = 0, channels: int = 1, side: int = 12) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=rng)


def versions(pixels: torch.Tensor) -> list[ImageVersion]:
    return [ImageVersion(one) for one in pixels]


def learned(channels: int = 1, **options: Any) -> tuple[PatchFeatures, PatchClassifier, Any]:
    model = PatchFeatures(**{"clusters": 20, "patch": 4, "grid": 2, **options})
    module = model.build((channels, 12, 12), 3)
    assert isinstance(module, PatchClassifier)
    prepare = model.preprocess(CPU)
    model.calibrate(module, lambda: (prepare(versions(part)) for part in images(40, channels=channels).split(8)))
    return model, module, prepare


@pytest.mark.parametrize("number", range(9))
def test_an_edge_votes_for_its_direction_alone(number: int) -> None:
    angle = (number + 0.5) * math.pi / 9
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    ramp = (columns * math.cos(angle) + rows * math.sin(angle)) / 64
    found = oriented_gradients(ramp[None, None]).view(9, 4, 9)  # directions, cells of a block, blocks
    middle = found[:, :, 4]
    assert middle.mean(1).argmax() == number
    torch.testing.assert_close(middle[number], torch.full((4,), 0.5), rtol=0, atol=0.01)
    assert float(middle.sum() - middle[number].sum()) < 0.01


def test_edges_ignore_light_and_contrast_and_the_sign_of_a_step() -> None:
    picture = torch.rand(2, 3, 20, 20)
    found = oriented_gradients(picture)
    assert found.shape == (2, 324)
    torch.testing.assert_close(oriented_gradients(picture * 0.5 + 0.3), found, rtol=0, atol=1e-3)
    torch.testing.assert_close(oriented_gradients(1 - picture), found, rtol=0, atol=1e-4)
    assert float(oriented_gradients(torch.full((1, 1, 9, 9), 0.4)).abs().max()) == 0, "a plain image has no edges"


def test_patch_features_are_the_closed_form() -> None:
    _, module, _ = learned()
    picture = 0.5 + 0.01 * torch.rand(
        1, 1, 12, 12
    )  # of so little contrast that what is added to a patch's variance shows
    fields = module.features(picture)[0, : 20 * 4].view(20, 2, 2)
    total, count = torch.zeros(20), 0
    for top in range(5):  # nine places along a side; adaptive pooling gives the first field five of them
        for left in range(5):
            patch = picture[0, :, top : top + 4, left : left + 4].flatten()
            patch = (patch - patch.mean()) / (patch.var(correction=0) + 10 / 255**2).sqrt()
            distance = (((patch - module.centre) @ module.whiten) - module.centres).norm(dim=1)
            total, count = total + (distance.mean() - distance).clamp_min(0), count + 1
    torch.testing.assert_close(fields[:, 0, 0], total / count, rtol=1e-3, atol=1e-3)


def test_whitened_patches_have_unit_spread_and_centres_are_where_patches_are() -> None:
    _, module, _ = learned()
    values = module.patches(module.reduced(images(40).float() / 255)).flatten(0, 1)
    whitened = (values - module.centre) @ module.whiten
    assert float(whitened.std(0).mean()) == pytest.approx(1.0, abs=0.1)
    nearest = torch.cdist(whitened, module.centres).argmin(1)
    assert len(nearest.unique()) > 15


@pytest.mark.parametrize("channels", [1, 3])
def test_a_vector_is_its_images_alone_to_the_last_bit(channels: int) -> None:
    model, _, _ = learned(channels)
    pixels = images(17, seed=2, channels=channels)
    whole = model.encode(pixels)
    for size in (1, 4, 16):
        for part in torch.randperm(17, generator=torch.Generator().manual_seed(size)).split(size):
            assert torch.equal(model.encode(pixels[part]), whole[part])


def test_learning_again_from_the_same_images_is_the_same_to_the_last_bit() -> None:
    one, other = learned()[1], learned()[1]
    assert torch.equal(one.centres, other.centres) and torch.equal(one.mean, other.mean)
    assert one.has_learnt and not PatchFeatures().build((1, 12, 12), 2).has_learnt  # type: ignore[union-attr]


def test_features_are_standardised_and_only_the_last_layer_is_trained() -> None:
    model, module, prepare = learned()
    found = (prepare(versions(images(40)))["pooled"] - module.mean) / module.spread
    torch.testing.assert_close(found.mean(0), torch.zeros(found.shape[1]), rtol=0, atol=1e-3)
    assert {name for name, _ in module.named_parameters()} == {"classifier.weight", "classifier.bias"}
    assert model.remember(versions(images(5))) == 5


def test_saved_weights_carry_the_patches() -> None:
    _, module, prepare = learned()
    model = PatchFeatures(clusters=20, patch=4, grid=2)
    fresh = model.build((1, 12, 12), 3)
    prepare_again = model.preprocess(CPU)
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(prepare_again(versions(images(3)))["pooled"], prepare(versions(images(3)))["pooled"])


def test_large_images_are_reduced_and_small_ones_refused() -> None:
    model, _, _ = learned(input_size=10)
    assert model.encode(images(2, side=40)).shape == (2, 20 * 4 + 324)
    with pytest.raises(TaskError, match="needs images of at least 9 x 9 pixels, not inputs of shape"):
        PatchFeatures().build((1, 8, 8), 2)
    with pytest.raises(TaskError, match="there are none"):
        model.calibrate(model.build((1, 12, 12), 2), list)
    with pytest.raises(TaskError, match=r"100 patches for 500 clusters; set model\.clusters lower"):
        PatchFeatures(clusters=500, patch=4).build((1, 12, 12), 2).learn(torch.rand(1, 1, 12, 12))  # type: ignore[operator,union-attr]
