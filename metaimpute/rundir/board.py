"""What TensorBoard shows of a run: scalars in groups, hyperparameters and final errors, result and recipe as text, images."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from ..terminal import spelled
from .layout import TENSORBOARD

if TYPE_CHECKING:
    from .result import Result
    from .tested import Sample, SampledRows

LONGEST = 300  # letters of a hyperparameter
_BEGINNINGS = (
    (("holdout_", "hypergradient_", "base_gradient_", "cosine", "lookahead_", "inner_lr"), "look-ahead"),
    (("mask_", "imputed_", "label_"), "imputed labels"),
    (("update_",), "label updates"),
)


def tag_of(name: str) -> str:
    """A scalar's name in its group, e.g. ``error/test`` for ``test_error``."""
    if name.endswith("_error"):
        return f"error/{name.removesuffix('_error')}"
    for pool in ("test", "validation"):
        if name.startswith(f"{pool}_"):
            return f"{name.removeprefix(f'{pool}_')}/{pool}"
    group = next((group for starts, group in _BEGINNINGS if name.startswith(starts)), "training")
    return f"{group}/{name}"


def write_end(folder: Path, result: Result, tested: SampledRows | None, settings: Mapping[str, Any]) -> None:
    """Adds what is known at a run's end.

    Args:
        settings: the resolved recipe.
    """
    from torch.utils.tensorboard.writer import SummaryWriter

    with SummaryWriter(str(folder / TENSORBOARD)) as board:
        errors = {"final/test error": result.test_last, "final/validation error": result.validation_last}
        board.add_hparams(flat(settings), {name: one for name, one in errors.items() if one is not None}, run_name=".")
        board.add_text("result", _table(result), result.steps)
        recipe = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
        board.add_text("recipe", "\n".join(f"    {spelled(line)}" for line in recipe.splitlines()), result.steps)
        for kind, samples in (tested.samples if tested is not None else {}).items():
            for number, sample in enumerate(samples):
                if (pixels := _pixels(sample.picture)) is not None:
                    board.add_image(f"{kind} test rows/{number}", pixels, result.steps, dataformats="HWC")
            board.add_text(f"{kind} test rows", "\n".join(_line(sample) for sample in samples), result.steps)


def flat(settings: Mapping[str, Any]) -> dict[str, bool | float | str]:
    """Settings by dotted key, each a value that TensorBoard takes."""
    found: dict[str, bool | float | str] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, Mapping) and value:
            for key, inside in value.items():
                walk(inside, f"{path}.{key}" if path else str(key))
        else:
            found[spelled(path)] = value if isinstance(value, bool | int | float) else spelled(value)[:LONGEST]

    walk({name: value for name, value in settings.items() if name != "about"}, "")
    return found


def _table(result: Result) -> str:
    rows = {
        f"test {result.metric}": result.test_last,
        "95% interval": None
        if result.test_interval is None
        else " to ".join(f"{end:.4g}" for end in result.test_interval),
        f"validation {result.metric}": result.validation_last,
        "labelled, unlabelled, test rows": f"{result.labels:,}, {result.unlabelled:,}, {result.test_examples:,}",
        "seconds": result.training_seconds,
        "warnings": "; ".join(result.warnings or ()) or "none",
    }
    lines = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items() if value is not None]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def _cell(value: object) -> str:
    return spelled(" ".join(str(value).replace("|", "\\|").split()))


def _line(sample: Sample) -> str:
    held = f": {' · '.join(sample.cells)}" if sample.cells else ""
    sure = "" if sample.sure is None else f", {100 * sample.sure:.0f}% sure"
    return f"- {_cell(f'{sample.id}: true {sample.true}, said {sample.said}{sure}{held}')}"


def _pixels(address: str) -> np.ndarray | None:
    """The image of a ``data:`` address, ``[height, width, 3]`` in uint8; None for an empty one."""
    from PIL import Image

    if not address:
        return None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB"))
