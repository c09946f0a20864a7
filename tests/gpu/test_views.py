"""Views made on the device are those of the host, but for pixels on the border between two."""

from __future__ import annotations

import pytest
import torch

from metaimpute.batches import Labelled, ViewKind
from metaimpute.tasks.image_views import ImageViews
from metaimpute.training.drawn import BegunView, Drawn

DIFFERENT = (
    1e-3  # share of the pixels: a coordinate is rounded to the other side where the device adds in another order
)
VIEWS = ImageViews((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def images() -> torch.Tensor:
    rng = torch.Generator(device="cpu").manual_seed(0)
    return torch.randint(0, 256, (64, 3, 32, 32), generator=rng, device="cpu", dtype=torch.uint8)


@pytest.mark.parametrize("kind", ["none", "weak", "strong"])
def test_views_on_the_device_are_those_of_the_host(kind: ViewKind, device: torch.device) -> None:
    def of(where: torch.device) -> torch.Tensor:
        rng = torch.Generator(device="cpu").manual_seed(3)
        return VIEWS.pixels(images().to(where), kind, rng).cpu()

    wrong = of(device) != of(torch.device("cpu"))
    assert float(wrong.float().mean()) <= (DIFFERENT if kind == "strong" else 0.0)


def test_normalised_pixels_are_those_of_the_host(device: torch.device) -> None:
    there = VIEWS.normalized(images().to(device))
    assert there.device.type == device.type
    torch.testing.assert_close(there.cpu(), VIEWS.normalized(images()), rtol=1e-6, atol=1e-6)


def test_what_waits_for_a_device_is_pinned(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip(f"memory is page-locked for CUDA alone; these tests run on {device.type}")
    view = BegunView(images(), "weak", torch.Generator(device="cpu").get_state())
    pinned = Drawn(None, Labelled(view, torch.arange(64), torch.arange(64))).pin_memory()
    assert pinned.pinned and pinned.holdout is not None
    assert pinned.holdout.inputs.begun.is_pinned() and pinned.holdout.targets.is_pinned()
