"""Small pictures of images as ``data:`` addresses, for pages that need nothing from elsewhere."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from torch import Tensor

from .base import TaskError
from .image_reading import opened

THUMBNAIL = 176  # pixels at most on a side


def thumbnail(path: str | Path, size: int = THUMBNAIL) -> str:
    """An image file, made small; empty where it cannot be read any more."""
    from PIL import Image, ImageOps

    try:
        with opened(Path(path), size) as image:
            seen: Any = ImageOps.exif_transpose(image)
            if seen.mode in ("RGBA", "LA", "P", "PA"):
                seen = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen.convert("RGBA"))
            return _address(seen.convert("RGB"), size)
    except (TaskError, OSError, ValueError):
        return ""


def thumbnail_of(pixels: Tensor, size: int = THUMBNAIL) -> str:
    """An image ``[1 or 3, height, width]`` in whole numbers up to 255, or in values that are spread over the whole range."""
    from PIL import Image

    values = pixels.detach().cpu().double()
    if pixels.is_floating_point():
        low, high = float(values.min()), float(values.max())
        values = (values - low) * (255 / (high - low)) if high > low else values * 0
    grey = values.clamp(0, 255).round().byte()
    array = grey[0].numpy() if len(grey) == 1 else grey.permute(1, 2, 0).numpy()
    return _address(Image.fromarray(array).convert("RGB"), size)


def _address(image: Any, size: int) -> str:
    from PIL import Image

    image.thumbnail((size, size))
    pixels = image.width * image.height
    if max(image.size) < size // 2:
        factor = max(size // 2 // max(image.size), 1)
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    held = io.BytesIO()
    image.save(held, "PNG" if pixels < 64 * 64 else "JPEG", quality=85)
    kind = "png" if held.getvalue().startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(held.getvalue()).decode()}"
