"""A review as one HTML page: nothing to fetch, a small script to take corrections down, and readable without it."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..reporting import page as report
from ..tasks.thumbnails import thumbnail
from .collect import Review, percent

HERE = Path(__file__).parent
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


def shortened(text: str, most: int) -> str:
    """The beginning of a text, and how much of it is left out."""
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most:,} more letters)"
