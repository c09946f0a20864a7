"""The conformance suite's problems on a device, and comparisons that ask for the same bits or the same numbers."""

from __future__ import annotations

from typing import Any

import torch

from metaimpute.engine.pytree import tensors, tree_map

from ..conformance.problems import Case, make_case

FIELDS = ("grad_c", "grad_theta_0", "grad_optimizer", "theta_k", "outer_loss")


def without_noise(case: Case) -> Case:
    """The same problem with dropout left out, since devices draw other numbers; normalisation stays in training mode."""
    for part in case.model.module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        for name in ("dropout", "dropout_prob"):  # attention's own
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)
    return case


def quiet_case(architecture: str, steps: int, device: Any) -> Case:
    return without_noise(make_case(architecture, steps=steps, device=device))


def on_the_cpu(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.cpu() if isinstance(leaf, torch.Tensor) else leaf, tree)


def assert_near(found: Any, reference: Any, rtol: float = 1e-9, atol: float = 1e-11, what: str = "") -> None:
    """Two results agree in every field that both have, wherever their tensors live."""
    for field in FIELDS:
        got, wanted = getattr(found, field), getattr(reference, field)
        if got is None or wanted is None:
            continue
        torch.testing.assert_close(
            on_the_cpu(got), on_the_cpu(wanted), rtol=rtol, atol=atol, msg=lambda text, f=field: f"{what} {f}: {text}"
        )


def assert_same_bits(found: Any, reference: Any, what: str = "") -> None:
    for field in FIELDS:
        for one, other in zip(tensors(getattr(found, field)), tensors(getattr(reference, field)), strict=True):
            assert torch.equal(one, other), f"{what} {field}: differs by up to {float((one - other).abs().max()):.3g}"


def devices_of(tree: Any) -> set[str]:
    return {leaf.device.type for leaf in tensors(tree)}
