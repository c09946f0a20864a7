"""The page "One training step, in order" names places in the code; each is where the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import metaimpute

PACKAGE = Path(metaimpute.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "concepts" / "step.md"
PLACE = re.compile(r"`([\w/]+\.py):(\d+)` `([^`]+)`")


def places() -> list[tuple[str, int, str]]:
    return [(file, int(line), code) for file, line, code in PLACE.findall(PAGE.read_text())]


@pytest.mark.parametrize(("file", "line", "code"), places())
def test_a_place_is_where_the_page_says(file: str, line: int, code: str) -> None:
    lines = (PACKAGE / file).read_text().splitlines()
    found = [number for number, text in enumerate(lines, 1) if code in text]
    assert found, f"{file} holds no `{code}` any more: say on the page what happens there now"
    assert line in found, f"`{code}` is at {file}:{found[0]}, not {line}"
    assert len(found) == 1, f"`{code}` stands at {found} of {file}: quote enough of it to tell which"


def test_the_page_names_every_step_in_order() -> None:
    text = PAGE.read_text()
    numbers = [int(n) for n in re.findall(r"^(\d+)\. ", text, re.M)]
    assert numbers == list(range(1, len(numbers) + 1)) and len(places()) == len(numbers) + 1
