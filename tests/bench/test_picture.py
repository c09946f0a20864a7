"""The picture of ``bench hypergradient``: every system can be told from the others, and no label lies on another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metaimpute.bench.picture import STYLES, drawn, is_exact

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.fixture(params=["mlp", "transformer", "wrn"])
def result(request: pytest.FixtureRequest) -> dict[str, Any]:
    pytest.importorskip("matplotlib")
    path = RESULTS / f"hypergradient-{request.param}.json"
    if not path.exists():
        pytest.skip("a source distribution has no results")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_no_text_lies_on_another(result: dict[str, Any]) -> None:
    figure = drawn(result)
    figure.draw_without_rendering()
    texts = [t for ax in figure.axes for t in (*ax.get_yticklabels(), *ax.texts, ax.title, ax.xaxis.label)]
    texts += [t for ax in figure.axes for t in ((ax.get_title(loc="left") and [ax._left_title]) or [])]
    boxes = [t.get_window_extent().shrunk(0.98, 0.8) for t in texts if t.get_text()]
    assert len(boxes) > 30
    for number, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[number + 1 :]), texts[number].get_text()


def test_packages_differ_in_shape_and_colour_and_errors_fill_their_axis(result: dict[str, Any]) -> None:
    assert (
        len({marker for marker, _, _ in STYLES.values()})
        == len({colour for _, colour, _ in STYLES.values()})
        == len(STYLES)
    )
    figure = drawn(result)
    inexact = [r["error"] for r in result["rows"] if not is_exact(r)]
    for error in figure.axes[1::2]:
        low, high = error.get_xlim()
        assert min(inexact) / 10 < low < min(inexact) and high < 1e3
    (legend,) = figure.legends
    assert "metaimpute" in [t.get_text() for t in legend.get_texts()]
