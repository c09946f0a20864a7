"""Registries, memory policies, trees."""

from __future__ import annotations

import pytest
import torch

from metaimpute.engine import BadMemoryPolicy, Checkpoint, Store, parse_memory
from metaimpute.engine.pytree import cosine, dot, gradient, norm, tensors, vjp_through, with_tensors
from metaimpute.engine.registry import Registry, UnknownName


def test_memory_policies_parse_and_refuse() -> None:
    assert parse_memory("store") == Store()
    assert parse_memory(" checkpoint( 4 ) ") == Checkpoint(4)
    assert str(parse_memory("checkpoint(4)")) == "checkpoint(4)" and str(Store()) == "store"
    assert parse_memory(Checkpoint(2)) == Checkpoint(2)
    for bad, hint in [
        ("chekpoint(2)", "did you mean 'checkpoint'"),
        ("checkpoint(0)", "at least 1"),
        ("store(3)", "no argument"),
        ("", "choose"),
    ]:
        with pytest.raises(BadMemoryPolicy, match=hint):
            parse_memory(bad)


def test_registry_names_the_nearest_entry_and_refuses_duplicates() -> None:
    things: Registry[type] = Registry("thing")

    @things.register("apple")
    class Apple:
        """A fruit."""

        size: int = 3

    assert things.get("apple")(size=4).size == 4  # type: ignore[call-arg]
    assert things.summary("apple") == "A fruit." and "apple" in things and list(things) == ["apple"]
    with pytest.raises(UnknownName, match="unknown thing 'aple'; did you mean 'apple'"):
        things.get("aple")
    with pytest.raises(ValueError, match="already registered"):
        things.register("apple")(type("Pear", (), {}))


def test_trees() -> None:
    tree = {"a": torch.ones(2), "b": [torch.tensor(3), None, torch.full((1,), 2.0)]}
    assert len(tensors(tree)) == 2
    doubled = with_tensors(tree, [2 * t for t in tensors(tree)])
    assert float(dot(tree, doubled)) == 12.0
    assert float(norm(tree)) == pytest.approx(6**0.5)
    assert float(cosine(tree, doubled)) == pytest.approx(1.0)
    assert float(cosine(tree, with_tensors(tree, [0 * t for t in tensors(tree)]))) == 0.0
    assert float(norm({})) == 0.0 and float(dot({}, {})) == 0.0


def test_gradient_marks_or_fills_unused_inputs() -> None:
    a, b = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    found = gradient(a.sum(), {"a": a, "b": b}, unused="none", retain_graph=True)
    assert found["b"] is None and torch.equal(found["a"], torch.ones(2))
    assert torch.equal(gradient(a.sum(), {"a": a, "b": b})["b"], torch.zeros(2))
    constant = gradient(torch.tensor(1.0), {"a": a})
    assert torch.equal(constant["a"], torch.zeros(2))
    assert torch.equal(vjp_through({"x": torch.ones(2)}, {"x": torch.ones(2)}, {"a": a})["a"], torch.zeros(2))


def test_a_registrys_name_reaches_the_package_of_that_name() -> None:
    import copy

    import metaimpute.engine.estimators as of_estimators
    import metaimpute.engine.optimizers as of_optimizers
    from metaimpute import engine

    assert of_optimizers.sgd is engine.sgd and of_estimators.Exact is engine.estimators.get("exact")
    assert (
        engine.optimizers is of_optimizers
        and "sgd" in engine.optimizers
        and len(copy.copy(engine.optimizers).names()) > 3
    )
    with pytest.raises(AttributeError, match="the registry of inner optimizer entries has no attribute 'sgdd'"):
        of_optimizers.sgdd  # type: ignore[attr-defined]  # noqa: B018


def test_an_estimator_from_elsewhere_is_recommended_as_exact_where_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from metaimpute.engine import Estimator, EstimatorError, estimators, get_estimator

    silent, said = type("Silent", (Estimator,), {}), type("Said", (Estimator,), {"exact": True})
    monkeypatch.setattr(estimators, "_entries", {**estimators._entries, "silent": silent, "said": said})
    for wanted in ({"steps": 2}, {"steps": 1, "wrt_start": True}):
        with pytest.raises(EstimatorError, match="mixed, said") as found:
            get_estimator("approx").check(**wanted)  # type: ignore[arg-type]
        assert "silent" not in str(found.value)
