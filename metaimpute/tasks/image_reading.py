"""One image file as pixels: looked at before it is decoded, turned upright, on white, in 8 bits, resized."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .base import TaskError

MOST_PIXELS = 90_000_000  # of an image as it is decoded, and as it is resized
LONGEST = 100  # times as long as wide
LARGE = 2**24  # pixels from which images are decoded one at a time, whatever the number of threads
WHITE = (255, 255, 255, 255)
_large = threading.Lock()


@contextlib.contextmanager
def opened(path: Path, side: int = 0) -> Iterator[Image.Image]:
    """An image file, of which no more than its header has been read yet.

    Args:
        side: pixels that the shorter side will have; 0 where the image is not resized as a whole.

    Raises:
        TaskError: naming a file that is no image, or one whose pixels would take more memory than an image should.
    """
    try:
        if not path.is_file():  # to open a pipe is to wait for ever
            raise ValueError("no regular file")
        with Image.open(path) as image:
            _check_shape(image.size, side)
            if side:
                image.draft("RGB", (2 * side, 2 * side))  # a JPEG file can be decoded at half its size, and again
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{_sides(image.size)} pixels are more than {MOST_PIXELS:,}")
            with _large if image.width * image.height > LARGE else contextlib.nullcontext():
                yield image
    except TaskError:
        raise
    except Exception as error:  # each format fails in its own way, and a damaged file in any
        raise TaskError(f"{path} cannot be read as an image ({str(error) or type(error).__name__})") from None


def _check_shape(size: tuple[int, int], side: int) -> None:
    shorter, longer = sorted(size)
    if longer > LONGEST * shorter:
        raise ValueError(f"{_sides(size)} pixels: more than {LONGEST} times as long as wide")
    if side * side * longer > MOST_PIXELS * shorter:
        raise ValueError(f"{_sides(size)} pixels would be more than {MOST_PIXELS:,} with a shorter side of {side}")


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]:,} x {size[1]:,}"


def read_image(path: Path, side: int) -> Tensor:
    """uint8 ``[3, h, w]``, upright, on white, resized isotropically so that the shorter side has ``side`` pixels.

    Raises:
        TaskError: naming a file that cannot be read as an image.
    """
    return decode(path, side)[0]


def decode(path: Path, side: int) -> tuple[Tensor, bool]:
    """As :func:`read_image`, and whether white shows through."""
    with opened(path, side) as image:
        solid, seen_through = _on_white(_in_8_bits(_upright(image)))
        colour = solid.convert("RGB")
        factor = side / min(colour.size)
        if factor != 1:
            size = (max(round(colour.width * factor), side), max(round(colour.height * factor), side))
            colour = colour.resize(size, Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(colour)).permute(2, 0, 1).contiguous(), seen_through


def _upright(image: Image.Image) -> Image.Image:
    """Turned as the camera says it was held."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # what a damaged EXIF block raises differs with Pillow; if it is the pixels, convert says so
        return image


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Grey images of 16 or 32 bits or of floats, scaled from their own darkest and lightest pixel; others as they are."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    pixels = np.nan_to_num(np.asarray(image, dtype=np.float64))
    low, high = pixels.min(), pixels.max()
    return Image.fromarray(np.round((pixels - low) * (255 / ((high - low) or 1))).astype(np.uint8))


def _on_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """An image as it looks on white where it is transparent, and whether it is; its hidden colours mean nothing."""
    if not image.has_transparency_data:
        return image, False
    layer = image.convert("RGBA")
    if layer.getchannel("A").getextrema()[0] == 255:
        return image, False
    return Image.alpha_composite(Image.new("RGBA", layer.size, WHITE), layer), True


def sides_of(path: Path) -> tuple[int, int]:
    """Width and height from a file's header; 0 where it is no image that would be read."""
    try:
        with opened(path) as image:
            return image.size
    except TaskError:
        return 0, 0
