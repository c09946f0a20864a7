"""Learning rates of the look-ahead that find themselves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from metaimpute import recipes
from metaimpute.engine import sgd
from metaimpute.recipes.rates import EVERY, FARTHEST, LEARNING, Learned, LineSearch, Look, Trust, change_of, parse_rate
from metaimpute.recipes.source import RecipeError
from metaimpute.training.alarms import EARLY, Alarms
from metaimpute.training.session import Session

from ..bound import bind

MOONS = recipes.shipped_recipes()["two_moons"]


def look(step: int = 0, change: float = 0.1, slope: float | None = None, holdout: Any = None) -> Look:
    return Look(step, lambda: torch.tensor(change), None if slope is None else torch.tensor(slope), holdout)


def test_a_learned_rate_moves_against_its_hypergradient() -> None:
    rate = Learned(0.5)
    rate.follow(look(slope=3.0))
    assert rate.value == pytest.approx(0.5 * math.exp(-LEARNING))
    rate.follow(look(slope=-1e-9))
    assert rate.value == pytest.approx(0.5)
    rate.follow(look(slope=math.nan))
    assert rate.value == pytest.approx(0.5)


def test_a_line_search_takes_the_best_of_a_few_and_now_and_then() -> None:
    rate = LineSearch(0.4)
    rate.follow(look(EVERY, holdout=lambda value: torch.tensor((value - 0.8) ** 2)))
    assert rate.value == pytest.approx(0.8)
    rate.follow(look(EVERY + 1, holdout=lambda value: torch.tensor(value)))
    assert rate.value == pytest.approx(0.8)
    rate.follow(look(2 * EVERY, holdout=lambda value: torch.tensor(math.nan if value > 0.3 else value)))
    assert rate.value == pytest.approx(0.2)


def test_a_trust_region_follows_the_change_of_predictions() -> None:
    rate = Trust(1.0, wanted=0.2)
    assert not rate.follow(look(change=0.16))
    assert rate.value == pytest.approx(1.25)
    assert rate.follow(look(change=0.5)), "too far: again"
    assert rate.value == pytest.approx(0.5)
    assert rate.follow(look(change=100.0))
    assert rate.value == pytest.approx(0.05)
    assert rate.follow(look(change=math.inf))
    assert rate.value == pytest.approx(0.005)
    for _ in range(40):
        assert not rate.follow(look(change=1e-9))
    assert rate.value == pytest.approx(FARTHEST), "where nothing counts, no rate is large enough"


@pytest.mark.usefixtures("float64")
def test_a_look_ahead_that_goes_too_far_is_taken_again() -> None:
    bound = bind("mean_teacher", form="released", inner_optimizer=sgd(50.0), rate=Trust(50.0, wanted=0.1))
    alone = bind("mean_teacher", "none")
    alone.algorithm.step(alone.batch, None)
    found = bound.algorithm.step(bound.batch, bound.holdout, measure=True)
    assert bound.algorithm.lookahead.rate is not None and bound.algorithm.lookahead.rate < 10
    assert float(found["holdout_after"]) < 2 * float(found["holdout_before"])


@pytest.mark.usefixtures("float64")
def test_what_a_look_holds_is_true() -> None:
    """The slope against finite differences of the hold-out loss in the rate; the way of a line search against other rates."""
    eps = 1e-5

    def seen(rate: float, holdout: float) -> dict[str, float]:
        """At the moment of an outer step, whose parameters move afterwards."""
        bound, found = bind("mean_teacher", form="released", inner_optimizer=sgd(rate), rate=Learned(rate)), {}

        def follow(look: Look) -> bool:
            assert look.slope is not None
            central = (look.holdout(rate + eps) - look.holdout(rate - eps)) / (2 * eps)
            found.update(slope=float(look.slope), central=float(central), change=float(look.change()))
            found.update(other=float(look.holdout(holdout)))
            return False

        bound.algorithm.settings.rate.follow = follow  # type: ignore[method-assign, union-attr]
        bound.algorithm.step(bound.batch, bound.holdout)
        return found

    first, second = seen(0.02, 0.07), seen(0.07, 0.07)
    assert first["slope"] == pytest.approx(first["central"], rel=1e-6)
    assert first["other"] == pytest.approx(second["other"], rel=1e-10)
    assert 0 < first["change"] < second["change"]


def test_the_change_is_a_root_mean_square_over_rows() -> None:
    before, after = torch.zeros(2, 2), torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert float(change_of(before, after)) == pytest.approx(math.sqrt(12.5))


@pytest.mark.parametrize("text", ["learnt", "trust", "trust(0)", "trust(-1)", "trust(x)", "trust(1e400)"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="trust"):
        parse_rate(text)
    with pytest.raises(RecipeError, match=r"problem\.inner\.rate"):
        recipes.load(MOONS, "sample", (f"problem.inner.rate={text}",))


@pytest.mark.parametrize("rate", ["learned", "line_search", "trust(0.1)"])
def test_a_rate_goes_on_bit_for_bit_after_an_interruption(rate: str, tmp_path: Path) -> None:
    sets = ("train.steps=24", "train.eval_every=24", "train.checkpoint_every=12", f"problem.inner.rate={rate}",
            "problem.form=released", "problem.inner.steps=1", "train.threads=1")  # fmt: skip
    recipe = recipes.load(MOONS, "sample", sets)
    whole = Session(recipe, tmp_path / "whole", say=lambda m: None)
    first = whole.run()
    assert whole.algorithm.lookahead.rate is not None and whole.algorithm.lookahead.rate != recipe.problem_spec.inner.lr
    (tmp_path / "again").mkdir()
    again = Session(recipe, tmp_path / "again", say=lambda m: None)
    (tmp_path / "again" / "checkpoints").mkdir()
    kept = sorted((tmp_path / "whole" / "checkpoints").iterdir())
    middle = next(path for path in kept if "12" in path.name)
    (tmp_path / "again" / "checkpoints" / middle.name).write_bytes(middle.read_bytes())
    again.resume()
    assert again.run()["weights_sha256"] == first["weights_sha256"]


# what a run is told ------------------------------------------------------------------------------------------------------------


def values(ratio: float, **more: float) -> dict[str, float]:
    return {"hypergradient_norm": ratio, "base_gradient_norm": 1.0, "mask_rate": 1.0, "lookahead_weight": 1.0, **more}


def test_a_hypergradient_too_short_to_matter_is_said_once() -> None:
    watcher = Alarms(0.1, "approx", "")
    said = [line for step in range(10) for line in watcher.look(values(1e-4 if step > 3 else 1.0), step == 9)]
    assert len(said) == 1
    assert "less than 0.1% as long as the base gradient in 6 of 10 measured steps" in said[0]
    assert "problem.form" in said[0]


@pytest.mark.parametrize(
    ("ratio", "options", "more"),
    [
        (2e-3, {}, {}),
        (1e-5, {"rescaled": True}, {}),
        (1e-5, {}, {"mask_rate": 0.0}),
        (1e-9, {}, {"label_change": 0.01}),
    ],
)
def test_what_is_long_enough_or_no_matter_is_not(ratio: float, options: Any, more: dict[str, float]) -> None:
    watcher = Alarms(0.1, "approx", "", **options)
    assert not [line for step in range(10) for line in watcher.look(values(ratio) | more, step == 9)]


def test_labels_moved_below_resolution_and_long_runs() -> None:
    watcher = Alarms(0.1, "approx", "")
    said = [line for _ in range(EARLY) for line in watcher.look(values(1.0, label_change=3e-11), False)]
    assert len(said) == 1
    assert "labels were moved by less than 1e-06" in said[0]
    again = Alarms(0.1, "approx", "")
    again.load_state(watcher.state())
    assert not again.look(values(1.0, label_change=3e-11), True)


def looks(before: float, after: float) -> dict[str, float]:
    return values(1.0, holdout_before=before, holdout_after=after)


def test_a_rise_of_the_holdout_loss_alone_is_no_warning() -> None:
    """On digits L2I helps most with rises of 27 to 137%: no rise below the network's first loss is a fault."""
    watcher = Alarms(0.1, "approx", "")
    losses = [(2.3, 2.5), *[(0.1, 0.24)] * 30, *[(0.02, 0.9)] * 30]
    assert not [line for n, (b, a) in enumerate(losses) for line in watcher.look(looks(b, a), n == len(losses) - 1)]
    assert not watcher.raised


def test_a_lookahead_worse_than_the_network_began_is_said_once_and_after_a_pause() -> None:
    watcher = Alarms(0.1, "approx", "")
    watcher.look(looks(0.7, 0.8), False)
    again = Alarms(0.1, "approx", "")
    again.load_state(watcher.state())
    said = [line for _ in range(20) for line in again.look(looks(0.3, 1.6), False)]
    assert len(said) == 1 and "from 0.34 to 1.52 (means of 10 measured steps), and the run began with 0.7" in said[0]
    assert "lower problem.inner.lr (now 0.1)" in said[0] and again.raised
    small = Alarms(0.1, "approx", "")
    assert not [line for _ in range(20) for line in small.look(looks(1e-4, 0.05), False)], "it may rise and be small"
