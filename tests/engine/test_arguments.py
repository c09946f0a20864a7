"""What is no tree of tensors, no scalar, no list of batches is refused in a sentence; types and shapes are kept."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from metaimpute.engine import (
    Batches,
    CannotDifferentiate,
    EstimatorError,
    FunctionalModel,
    HeadNotFound,
    UnsupportedOptimizer,
    adam,
    clip_norm,
    get_estimator,
    hypergradient,
    momentum,
    scheduled,
    sgd,
    unroll,
)
from metaimpute.engine.pytree import filled, leaves_of, tensors, tree_map, with_tensors

EVERY = ("exact", "mixed", "forward", "finite_difference", "cg(2)", "first_order", "truncated(1)")
Pair = namedtuple("Pair", "a b")


def inner(p: Any, c: Any, b: Any) -> Tensor:
    return (p["w"] * c).square().sum()


def outer(p: Any, c: Any, b: Any) -> Tensor:
    return p["w"].sum()


def run(theta: Any, c: Any, name: str = "exact", optimizer: Any = None, **options: Any) -> Any:
    return hypergradient(options.pop("inner", inner), outer, theta, c, options.pop("batches", Batches([None], None)),
                         optimizer or sgd(0.1), name, seed=0, **options)  # fmt: skip


@dataclasses.dataclass
class Weights:
    w: Tensor


@pytest.mark.parametrize("where", ["the start", "the coupling"])
@pytest.mark.parametrize(
    ("value", "way"),
    [
        (Weights(torch.ones(2)), "register"),
        (nn.ParameterDict({"w": torch.ones(2)}), r"dict\(parameterdict\)"),
        (nn.Linear(2, 2), r"FunctionalModel\(module\)\.params"),
        (np.ones(2), r"torch\.as_tensor"),
        (np.float64(0.5), "make it a tensor"),
        (0.5, "make it a tensor"),
        ((p for p in [torch.ones(2)]), "used up"),
        (nn.Linear(2, 2).parameters(), "used up"),
        ({"w": torch.ones(2), "temperature": 0.5}, "make it a tensor"),
        ({"w": [torch.ones(2), np.ones(2)]}, r"\['w'\]\[1\] is a ndarray"),
        (lambda: torch.ones(2).to_sparse(), "to_dense"),
        (lambda: torch.ones(2, device="meta"), "without values"),
        (object(), "register"),
        ({torch.ones(2)}, "a set"),
    ],
)
def test_what_is_no_tree_of_tensors_is_refused(value: Any, way: str, where: str) -> None:
    value = value() if callable(value) and not isinstance(value, nn.Module) else value
    theta, c = ({"w": torch.ones(2)}, value) if where == "the coupling" else (value, torch.ones(2))
    with pytest.raises(CannotDifferentiate, match=f"{where}.*{way}"):
        run(theta, c)
    with pytest.raises(CannotDifferentiate, match=f"{where}.*{way}"):
        unroll(inner, theta, c, [None], sgd(0.1), 1)


def test_a_registered_class_is_a_tree() -> None:
    @dataclasses.dataclass
    class Registered:
        w: Tensor
        n: int = 3

    torch.utils._pytree.register_dataclass(Registered)
    found = run({"w": torch.ones(2)}, Registered(torch.ones(2)), inner=lambda p, c, b: inner(p, c.w, b))
    assert isinstance(found.grad_c, Registered) and found.grad_c.n is None
    torch.testing.assert_close(found.grad_c.w, run({"w": torch.ones(2)}, torch.ones(2)).grad_c)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: [t, None], lambda t: (None, t), lambda t: {"x": t, "n": 3, "s": "word", "flag": True}, lambda t: Pair(t, None),
        lambda t: OrderedDict(a=t), lambda t: {"x": {"y": [t]}, "mask": torch.tensor([True, False])}, lambda t: [[], t, {}],
    ],
)  # fmt: skip
def test_trees_with_other_things_beside_tensors(wrap: Any, name: str) -> None:
    def unwrapped(tree: Any) -> Tensor:
        return tensors(tree)[0]

    reference = run({"w": torch.ones(2)}, torch.full((2,), 0.5), name)
    found = hypergradient(
        lambda p, c, b: inner({"w": unwrapped(p)}, unwrapped(c), b), lambda p, c, b: unwrapped(p).sum(),
        wrap(torch.ones(2)), wrap(torch.full((2,), 0.5)), Batches([None], None), sgd(0.1), name, seed=0,
    )  # fmt: skip
    torch.testing.assert_close(unwrapped(found.grad_c), reference.grad_c)
    torch.testing.assert_close(unwrapped(found.theta_k), reference.theta_k["w"])


def test_no_coupling_is_fine() -> None:
    found = run(
        {"w": torch.ones(2)}, None, inner=lambda p, c, b: p["w"].square().sum(), optimizer=sgd(torch.tensor(0.1))
    )
    assert found.grad_c is None and float(found.grad_optimizer["lr"]) == -4.0


# trees -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tree",
    [
        {"a": torch.ones(1), "b": [torch.zeros(2), (3, None, "x")]}, [], (), None, torch.ones(2), Pair(torch.ones(1), [2]),
        OrderedDict(z=torch.ones(1), a=2), {"d": {}}, [[[torch.ones(1)]], True],
    ],
)  # fmt: skip
def test_trees_are_walked_as_torchs_pytrees_are(tree: Any) -> None:
    from torch.utils import _pytree

    same = [a is b for a, b in zip(leaves_of(tree), _pytree.tree_leaves(tree), strict=True)]
    assert all(same)
    numbered = filled(tree, range(len(same)))
    assert _pytree.tree_leaves(numbered) == list(range(len(same)))
    assert _pytree.tree_structure(numbered) == _pytree.tree_structure(tree)
    assert leaves_of(tree_map(lambda x: 7, tree)) == [7] * len(same)
    replaced = with_tensors(tree, [torch.full_like(t, 5.0) for t in tensors(tree)])
    assert all(float(t.mean()) == 5.0 for t in tensors(replaced))


# scalars -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("lr", [torch.tensor([0.1], dtype=torch.float64), torch.tensor(0.1, dtype=torch.float64), 0.1])
def test_parameters_keep_type_and_shape(name: str, dtype: torch.dtype, shape: tuple[int, ...], lr: Any) -> None:
    theta = {"w": torch.ones(shape, dtype=dtype)}
    for rule in (
        sgd(lr),
        momentum(lr, torch.tensor([0.9])),
        adam(lr),
        clip_norm(sgd(lr), 1.0),
        scheduled(sgd(lr), [1.0, 0.5]),
    ):
        if name == "cg(2)" and "transforms" in rule.options:
            continue
        found = run(theta, torch.ones(2, dtype=dtype), name, rule, steps=2)
        assert found.theta_k["w"].dtype == dtype and found.theta_k["w"].shape == shape
        assert found.grad_c.dtype == dtype


def test_a_hyperparameter_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UnsupportedOptimizer, match=r"lr has shape \[3, 1\] and a parameter \[2\]"):
        run({"w": torch.ones(2)}, torch.ones(2), optimizer=sgd(torch.ones(3, 1)))
    with pytest.raises(UnsupportedOptimizer, match=r"not a list.*per_step"):
        sgd([0.1, 0.2])
    with pytest.raises(UnsupportedOptimizer, match="not a str"):
        sgd("0.1")
    with pytest.raises(UnsupportedOptimizer, match="not a tuple"):
        adam((0.1, 0.1))
    assert float(run({"w": torch.ones(2)}, torch.ones(2), optimizer=sgd(np.float64(0.1))).outer_loss) < 2


@pytest.mark.parametrize(
    "name", ["exact", "mixed", "forward", "cg(3)", "finite_difference", "neumann(2)", "truncated(2)"]
)
def test_complex_tensors_have_the_gradient_of_their_real_view(name: str) -> None:
    torch.manual_seed(0)
    w, x = torch.randn(4, 3, dtype=torch.complex128), torch.randn(6, 4, dtype=torch.complex128)
    c = torch.randn(6, dtype=torch.complex128)

    def loss(p: Any, c: Any, b: Any) -> Tensor:
        return (
            (c * (x @ p["w"])[:, 0]).abs().square().mean()
            + p["w"].abs().square().sum()
            + 0.01 * (p["w"] ** 3).real.sum()
        )

    def end(p: Any, c: Any, b: Any) -> Tensor:
        return ((p["w"] * (1 + 2j)) ** 2).real.sum() + c.imag.sum()

    def real(function: Any) -> Any:
        return lambda p, c, b: function({"w": torch.view_as_complex(p["w"])}, torch.view_as_complex(c), b)

    found = hypergradient(loss, end, {"w": w}, c, Batches([None], None), sgd(0.1), name, steps=2, seed=0)
    other = hypergradient(real(loss), real(end), {"w": torch.view_as_real(w)}, torch.view_as_real(c), Batches([None], None),
                          sgd(0.1), name, steps=2, seed=0)  # fmt: skip
    torch.testing.assert_close(torch.view_as_real(found.grad_c), other.grad_c, rtol=1e-8, atol=1e-10)
    with pytest.raises(EstimatorError, match="view_as_real"):
        run({"w": w}, c, "forward_gradient(1)", inner=loss)


@pytest.mark.parametrize("name", EVERY)
def test_tensors_whose_entries_share_a_place_are_taken(name: str) -> None:
    w, c = torch.ones(1, 3).expand(4, 3), torch.full((1,), 0.5).expand(4, 3)
    found = run({"w": w}, c, name, steps=2)
    torch.testing.assert_close(found.grad_c, run({"w": w.clone()}, c.clone(), name, steps=2).grad_c)


# batches -----------------------------------------------------------------------------------------------------------------


def test_batches_are_a_list() -> None:
    data = DataLoader([1, 2, 3])
    for batches in (data, iter([1, 2]), {1, 2}, (x for x in [1])):
        with pytest.raises(CannotDifferentiate, match=r"itertools\.islice"):
            run({"w": torch.ones(2)}, torch.ones(2), batches=Batches(batches, None))  # type: ignore[arg-type]
        with pytest.raises(CannotDifferentiate, match=r"itertools\.islice"):
            unroll(inner, {"w": torch.ones(2)}, torch.ones(2), batches, sgd(0.1), 2)  # type: ignore[arg-type]


# in place ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("which", ["parameters", "coupling"])
def test_a_loss_that_changes_its_arguments_is_refused(name: str, which: str) -> None:
    def changing(p: Any, c: Any, b: Any) -> Tensor:
        with torch.no_grad():
            (p["w"] if which == "parameters" else c).mul_(1.1)
        return inner(p, c, b)

    with pytest.raises(CannotDifferentiate, match=f"{which} in place"):
        run({"w": torch.ones(2)}, torch.ones(2), name, inner=changing)


@pytest.mark.parametrize(
    "after", [nn.ReLU(inplace=True), nn.Hardtanh(inplace=True), nn.SiLU(inplace=True), nn.Dropout(0.5, inplace=True)]
)
def test_an_in_place_operation_after_the_last_layer_is_no_head(after: nn.Module) -> None:
    model = FunctionalModel(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3), after))
    with pytest.raises(HeadNotFound, match="left as it is"):
        model.features(model.params, torch.randn(5, 4))


def test_a_last_layer_that_is_used_twice_is_no_head() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x).tanh())

    model = FunctionalModel(Twice())
    with pytest.raises(HeadNotFound, match="used once"):
        model.features(model.params, torch.randn(5, 4))
    assert get_estimator("head").name == "head"


def quadratic(params: Any, coupling: Any, batch: Any) -> Tensor:
    shift = 0.0 if batch is None else batch
    return (params["w"] - (0.0 if coupling is None else coupling) - shift).square().sum()


def test_a_hypergradient_needs_neither_batches_nor_a_coupling() -> None:
    params = {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    goal = torch.tensor([0.5, 0.5], dtype=torch.float64)
    one = torch.tensor([0.1, 0.2], dtype=torch.float64)
    plain = hypergradient(quadratic, quadratic, params, goal, optimizer=sgd(0.1))
    written = hypergradient(quadratic, quadratic, params, goal, Batches([None], None), sgd(0.1))
    assert torch.equal(plain.grad_coupling, written.grad_c)
    assert torch.equal(plain.params["w"], written.theta_k["w"]) and torch.equal(
        plain.grad_params["w"], written.grad_theta_0["w"]
    )
    several = hypergradient(quadratic, quadratic, params, goal, [one, 2 * one], sgd(0.1), outer_batch=one)
    same = hypergradient(quadratic, quadratic, params, goal, Batches([one, 2 * one], one), sgd(0.1))
    assert torch.equal(several.grad_c, same.grad_c)
    repeated = hypergradient(quadratic, quadratic, params, goal, one, sgd(0.1), steps=3)
    assert torch.equal(
        repeated.grad_c,
        hypergradient(quadratic, quadratic, params, goal, Batches([one], None), sgd(0.1), steps=3).grad_c,
    )
    alone = hypergradient(quadratic, quadratic, params, optimizer=sgd(torch.tensor(0.1, dtype=torch.float64)))
    assert alone.grad_coupling is None and float(alone.grad_optimizer["lr"]) != 0


def test_former_names_go_on_working_with_a_note() -> None:
    params, goal = {"w": torch.ones(2)}, torch.zeros(2)
    with pytest.warns(DeprecationWarning, match=r"unroll\(\): theta_0= is called params= now"):
        old = unroll(quadratic, theta_0=params, coupling=goal, batches=[None], optimizer=sgd(0.1), steps=2)
    new = unroll(quadratic, params, goal, optimizer=sgd(0.1), steps=2)
    pair = unroll(quadratic, params, goal, (None, None), sgd(0.1), 2)
    assert torch.equal(old.params["w"], new.params["w"]) and torch.equal(pair.params["w"], new.params["w"])
    with pytest.warns(DeprecationWarning, match="theta= is called params= now"):
        hypergradient(quadratic, quadratic, theta=params, coupling=goal, optimizer=sgd(0.1))
    with pytest.raises(TypeError, match="was given params and theta, its former name"):
        hypergradient(quadratic, quadratic, params=params, theta=params, optimizer=sgd(0.1))


def test_what_is_not_to_be_left_out_is_said() -> None:
    params = {"w": torch.ones(2)}
    with pytest.raises(UnsupportedOptimizer, match="optimizer is a rule, such as sgd"):
        hypergradient(quadratic, quadratic, params)
    with pytest.raises(UnsupportedOptimizer, match="optimizer is a rule, such as sgd"):
        unroll(quadratic, params)
    with pytest.raises(TypeError, match="which holds one"):
        hypergradient(quadratic, quadratic, params, None, Batches([None], None), sgd(0.1), outer_batch=1)
    with pytest.raises(CannotDifferentiate, match="not a DataLoader"):
        hypergradient(quadratic, quadratic, params, None, DataLoader([1.0]), sgd(0.1))
