"""Methods that compute with inputs say at check time where they cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from metaimpute import recipes
from metaimpute.methods import MethodError, methods
from metaimpute.recipes.source import RecipeError
from metaimpute.training.session import Session

IMDB = Path(__file__).parent.parent.parent / "recipes" / "imdb_uda.yaml"
MOONS = IMDB.with_name("two_moons.yaml")


@pytest.mark.parametrize("name", ["mixup", "mixmatch", "vat"])
def test_token_ids_are_neither_mixed_nor_perturbed(name: str) -> None:
    reason = rf"{name} adds to inputs as to numbers, and token ids are names; it takes vector or image inputs, not text"
    with pytest.raises(RecipeError, match=rf"method: {reason}"):
        recipes.load(IMDB, "sample", (f"method={{name: {name}}}",))
    methods.get(name)().check_inputs("image")
    methods.get(name)().check_inputs("vector")


@pytest.mark.parametrize("name", sorted(set(methods) - {"mixup", "mixmatch", "vat"}))
def test_other_methods_take_every_kind_of_input(name: str) -> None:
    for kind in ("vector", "image", "text"):
        methods.get(name)().check_inputs(kind)


def test_pi_model_runs_on_text() -> None:
    assert recipes.load(IMDB, "sample", ("method={name: pi_model}",)).method.name == "pi_model"


def test_the_reason_is_a_method_error() -> None:
    with pytest.raises(MethodError):
        methods.get("vat")().check_inputs("text")


def test_a_loss_without_a_gradient_is_refused(tmp_path: Path) -> None:
    from metaimpute.methods.supervised import Supervised

    class Cut(Supervised):
        def loss(self, model: Any, params: Any, batch: Any) -> Tensor:
            return super().loss(model, params, batch).detach()

    recipe = recipes.load(MOONS, "sample", ("method={name: supervised}", "problem={name: none}", "train.steps=1"))
    with pytest.raises(
        MethodError, match=r"method 'supervised': loss\(model, params, batch\) returned a value that no"
    ):
        Session(replace(recipe, method=Cut()), tmp_path / "run", say=lambda line: None).run()
