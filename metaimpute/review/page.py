"""A review as one HTML page: nothing to fetch, a small script to take corrections down, and readable without it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..reporting import page as report
from ..tasks.base import TaskError
from ..tasks.image_reading import opened
from .collect import Review, percent

HERE = Path(__file__).parent
THUMBNAIL = 176  # pixels at most on a side
LONGEST = 700  # letters of a text, and of a cell a tenth of it
FEW = 40  # classes that are chosen from a list; others are typed in


def page(review: Review) -> str:
    """The page's HTML. Everything of the user's is text in it: names, contents, paths and classes are escaped."""
    jinja = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = (Path(report.__file__).parent / "page.css").read_text() + (HERE / "page.css").read_text()
    script = (HERE / "page.js").read_text()
    jinja.filters |= {"thumbnail": thumbnail, "shortened": shortened, "exact": json.dumps, "percent": percent}
    return jinja.get_template("page.html").render(
        review=review,
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        few=FEW,
        cell_length=LONGEST // 10,
        text_length=LONGEST,
    )


def _policy(style: str, script: str) -> str:
    """What a browser may do with the page: its own style and script, pictures within it, and nothing from elsewhere."""
    sums = [base64.b64encode(hashlib.sha256(f"\n{text}\n".encode()).digest()).decode() for text in (style, script)]
    return f"default-src 'none'; img-src data:; style-src 'sha256-{sums[0]}'; script-src 'sha256-{sums[1]}'"


def thumbnail(path: str) -> str:
    """An image file, made small, as a ``data:`` address; empty where it cannot be read any more."""
    from PIL import Image, ImageOps

    try:
        with opened(Path(path), THUMBNAIL) as image:
            seen: Any = ImageOps.exif_transpose(image)
            if seen.mode in ("RGBA", "LA", "P", "PA"):
                seen = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen.convert("RGBA"))
            small = seen.convert("RGB")
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            if max(small.size) < THUMBNAIL // 2:
                factor = THUMBNAIL // 2 // max(small.size)
                small = small.resize(
                    (small.width * max(factor, 1), small.height * max(factor, 1)), Image.Resampling.NEAREST
                )
            held = io.BytesIO()
            small.save(held, "PNG" if small.width * small.height < 64 * 64 else "JPEG", quality=85)
    except (TaskError, OSError, ValueError):
        return ""
    kind = "png" if held.getvalue().startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(held.getvalue()).decode()}"


def shortened(text: str, most: int) -> str:
    """The beginning of a text, and how much of it is left out."""
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most:,} more letters)"
