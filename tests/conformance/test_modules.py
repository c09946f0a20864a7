"""A network's parameters are those of its step wherever it runs, and the user's module comes back as it was."""

from __future__ import annotations

import copy
import functools
import weakref
from collections import defaultdict, deque, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from metaimpute.engine import (
    Batches,
    CannotDifferentiate,
    FunctionalModel,
    adam,
    get_estimator,
    hypergradient,
    momentum,
    sgd,
    unroll,
)

from .problems import ARCHITECTURES

pytestmark = pytest.mark.usefixtures("float64")

X, Y = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
EVERY = (
    "exact",
    "mixed",
    "forward",
    "finite_difference",
    "cg(4)",
    "neumann(3)",
    "forward_gradient(2)",
    "first_order",
    "truncated(2)",
    "es(2)",
)
MEMORIES = ("store", "recompute", "revolve(2)")


def losses(model: Any) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    def inner(p: Any, c: Any, b: Any) -> Tensor:
        return (c * F.cross_entropy(model(p, X), Y, reduction="none")).mean()

    return inner, lambda p, c, b: F.cross_entropy(model(p, X.flip(0)), Y)


def estimate(model: Any, params: Any, name: str = "exact", steps: int = 3, **options: Any) -> Any:
    return hypergradient(*losses(model), params, torch.ones(6), Batches([None], None), momentum(0.3), name, steps=steps,
                         seed=0, **options)  # fmt: skip


def pairs() -> list[tuple[str, str]]:
    return [(name, "store") for name in EVERY] + [("exact", memory) for memory in MEMORIES[1:]]


# work that a module postpones --------------------------------------------------------------------------------------------


class Postponing(nn.Module):
    """Runs its middle block at once, or postpones it to the backward pass in one of several ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last, self.how = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3), "at once"
        self.listed = [self.middle]
        self.bound = self.block
        self.partial = functools.partial(self.block)
        own = self

        def closed(z: Tensor) -> Tensor:
            return own.block(z)

        self.closed = closed

    def block(self, z: Tensor) -> Tensor:
        return self.middle(torch.tanh(z)).tanh()

    def forward(self, x: Tensor) -> Any:
        h = self.first(x).tanh()
        if self.how == "at once":
            return self.last(self.block(h))
        if self.how == "lazily":
            return lambda: self.last(self.block(h))
        if self.how == "saved tensors":
            kept: list[Tensor] = []

            def pack(t: Tensor) -> Any:
                return len(kept) if kept.append(t) else len(kept) - 1

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda n: kept[n]):
                return self.last(self.block(h))
        block = {
            "checkpoint": self.block, "listed": lambda z: self.listed[0](torch.tanh(z)).tanh(), "bound": self.bound,
            "partial": self.partial, "closed": self.closed,
        }[self.how]  # fmt: skip
        return self.last(checkpoint(block, h, use_reentrant=False))


@pytest.mark.parametrize("how", ["checkpoint", "listed", "bound", "partial", "closed", "saved tensors", "lazily"])
@pytest.mark.parametrize(("name", "memory"), pairs())
def test_postponed_work_sees_the_parameters_of_its_step(how: str, name: str, memory: str) -> None:
    torch.manual_seed(0)
    net = Postponing()
    model, found = FunctionalModel(net), []
    for net.how in ("at once", how):
        call = (lambda p, x: model(p, x)()) if net.how == "lazily" else model
        found.append(estimate(call, model.params, name, memory=memory))
    torch.testing.assert_close(found[1].grad_c, found[0].grad_c, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found[1].theta_k, found[0].theta_k, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("memory", MEMORIES)
def test_postponed_work_in_a_plain_unroll(memory: str) -> None:
    torch.manual_seed(0)
    net = Postponing()
    model, found = FunctionalModel(net), []
    for net.how in ("at once", "checkpoint"):
        weights = torch.ones(6, requires_grad=True)
        end = unroll(losses(model)[0], model.params, weights, [None], adam(0.1), 3, memory=memory).params
        found.append(torch.autograd.grad(losses(model)[1](end, None, None), weights)[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", ["exact", "mixed", "cg(2)", "first_order"])
@pytest.mark.parametrize("data_first", [True, False])
def test_reentrant_checkpointing_is_refused_with_the_way_out(name: str, data_first: bool) -> None:
    """Applied to the data it gives no gradient at all, and torch raises no error."""

    class Reentrant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            if data_first:
                return self.b(checkpoint(lambda z: self.a(z).tanh(), x, use_reentrant=True))
            return checkpoint(lambda z: self.b(z.tanh()), self.a(x), use_reentrant=True)

    model = FunctionalModel(Reentrant())
    with pytest.raises(ValueError, match="use_reentrant=False"):
        estimate(model, model.params, name)


@pytest.mark.parametrize("name", ["exact", "mixed"])
def test_hugging_faces_gradient_checkpointing(name: str) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=7, hidden_size=4, num_hidden_layers=2, num_attention_heads=2, intermediate_size=5,
        max_position_embeddings=4, num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    net = BertForSequenceClassification(config).double().train()
    tokens, model = torch.randint(1, 7, (6, 3)), FunctionalModel(net)

    def call(p: Any, x: Tensor) -> Tensor:
        return model(p, input_ids=tokens).logits

    plain = estimate(call, model.params, name)
    net.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert net.is_gradient_checkpointing
    torch.testing.assert_close(estimate(call, model.params, name).grad_c, plain.grad_c, rtol=1e-9, atol=1e-12)
    net.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(ValueError, match="gradient_checkpointing_kwargs"):
        estimate(call, model.params, name)


def test_a_module_reached_through_an_object_of_another_kind_has_the_steps_parameters() -> None:
    class Helper:
        def __init__(self, owner: nn.Module) -> None:
            self.owner = owner

        def run(self, x: Tensor) -> Tensor:
            return self.owner.inside(x)  # type: ignore[operator]

    class Owner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.head = nn.Linear(4, 5), nn.Linear(5, 3)
            self.helper = Helper(self)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.helper.run(x).tanh())

    net = Owner()
    model = FunctionalModel(net)
    before = copy.deepcopy(net.state_dict())

    def by_hand(p: Any, x: Tensor) -> Tensor:
        h = F.linear(x, p["inside.weight"], p["inside.bias"]).tanh()
        return F.linear(h, p["head.weight"], p["head.bias"])

    torch.testing.assert_close(estimate(model, model.params).grad_c, estimate(by_hand, model.params).grad_c)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.is_leaf for p in net.parameters())


class Reaching(nn.Module):
    """Reaches its first layer by a way that torch does not know of."""

    shared: Any = None

    def __init__(self, way: str) -> None:
        super().__init__()
        self.first, self.last, self.way = nn.Linear(4, 5), nn.Linear(5, 3), way
        made = {
            "deque": lambda: deque([self.first]), "defaultdict": lambda: defaultdict(list, a=self.first),
            "namedtuple": lambda: Held(self.first), "slots": lambda: Slotted(self.first), "weakref": lambda: weakref.ref(self.first),
            "default": lambda: lambda z, m=self.first: m(z), "keyword": lambda: named(self.first), "set": lambda: {self.first},
            "nested": lambda: [{"a": (Slotted([self.first]),)}], "parameters": lambda: deque([self.first.weight, self.first.bias]),
        }  # fmt: skip
        if way in made:
            self.extra = made[way]()
        elif way == "unregistered":
            object.__setattr__(self, "extra", nn.Sequential(self.first))
        elif way == "unregistered in a list":
            self.extra = [nn.Sequential(self.first)]
        elif way == "class":
            type(self).shared = self.first
        elif way == "global":
            GLOBAL["first"] = self.first
        elif way == "added later":
            self.extra = None

    def reach(self, x: Tensor) -> Tensor:
        way, extra = self.way, getattr(self, "extra", None)
        if way in ("deque", "unregistered in a list"):
            return extra[0](x)
        if way == "defaultdict":
            return extra["a"](x)
        if way in ("namedtuple", "slots"):
            return extra.m(x)
        if way == "weakref":
            return extra()(x)
        if way == "set":
            return next(iter(extra))(x)
        if way == "nested":
            return extra[0]["a"][0].m[0](x)
        if way == "parameters":
            return F.linear(x, extra[0], extra[1])
        if way == "class":
            return type(self).shared(x)
        if way == "global":
            return GLOBAL["first"](x)
        return extra(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.reach(x).tanh())


class Slotted:
    __slots__ = ("m",)

    def __init__(self, m: Any) -> None:
        self.m = m


def named(layer: nn.Module) -> Any:
    return lambda z, *, m=layer: m(z)


Held = namedtuple("Held", "m")
GLOBAL: dict[str, Any] = {}
WAYS = (
    "deque", "defaultdict", "namedtuple", "slots", "weakref", "default", "keyword", "set", "nested", "unregistered",
    "unregistered in a list", "class", "global",
)  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("name", "memory"), [("exact", "store"), ("exact", "recompute"), ("mixed", "store"), ("forward", "store")]
)
def test_a_part_reached_by_another_way_has_the_steps_parameters(way: str, name: str, memory: str) -> None:
    torch.manual_seed(0)
    net = Reaching(way)
    model, before = FunctionalModel(net), state_of(net)

    def by_hand(p: Any, x: Tensor) -> Tensor:
        h = F.linear(x, p["first.weight"], p["first.bias"]).tanh()
        return F.linear(h, p["last.weight"], p["last.bias"])

    found = estimate(model, model.params, name, memory=memory)
    torch.testing.assert_close(found.grad_c, estimate(by_hand, model.params).grad_c, rtol=1e-9, atol=1e-12)
    assert_untouched(net, before)


@pytest.mark.parametrize("name", ["exact", "mixed", "forward", "cg(2)", "finite_difference", "first_order"])
def test_a_bare_parameter_reached_by_another_way_is_refused_where_it_is_used(name: str) -> None:
    model = FunctionalModel(Reaching("parameters"))
    with pytest.raises(CannotDifferentiate, match="cannot be followed"):
        estimate(model, model.params, name)
    plain = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    reference = estimate(FunctionalModel(plain), dict(plain.named_parameters()), name)
    plain.optimizer = torch.optim.Adam(
        plain.parameters()
    )  # holds parameters, and the forward pass does not use them so
    found = estimate(FunctionalModel(plain), dict(plain.named_parameters()), name)
    torch.testing.assert_close(found.grad_c, reference.grad_c)


def test_another_way_that_is_added_after_wrapping_is_seen() -> None:
    torch.manual_seed(0)
    net = Reaching("added later")
    model = FunctionalModel(net)
    del net.extra
    net.extra, net.more = deque([net.first]), 1
    net.way = "deque"
    net2 = Reaching("deque")
    net2.load_state_dict(net.state_dict())
    other = FunctionalModel(net2)
    torch.testing.assert_close(estimate(model, model.params).grad_c, estimate(other, other.params).grad_c)


def test_a_table_by_module_is_found_under_the_twin() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.scale = {self.layer: 3.0}

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * self.scale.get(self.layer, 1.0)

    model = FunctionalModel(Scaled())
    torch.testing.assert_close(model(model.params, X), 3 * model.module.layer(X))


# the user's module -------------------------------------------------------------------------------------------------------


def siamese() -> nn.Module:
    shared = nn.Linear(4, 4)
    return nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(4, 3))


def shared_norm() -> nn.Module:
    norm = nn.BatchNorm1d(4)
    return nn.Sequential(nn.Linear(4, 4), norm, nn.Tanh(), nn.Linear(4, 4), norm, nn.Linear(4, 3))


class Remembers(nn.Module):
    """Keeps a loss of its own, a count and a cache, as mixtures of experts and probes do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.calls, self.cache = nn.Linear(4, 5), nn.Linear(5, 3), 0, {}
        self.own_loss: Any = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).tanh()
        self.calls += 1
        self.own_loss = h.square().mean()
        return self.b(h)


def frozen_max_norm() -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(6, 4, max_norm=0.5), nn.Linear(4, 3)
            self.embed.weight.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.embed(torch.arange(len(x))) + x)

    return Net()


def old_weight_norm() -> nn.Module:
    return nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))


def pruned() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    prune.random_unstructured(net[0], "weight", amount=0.3)
    return net


MODULES: dict[str, Callable[[], nn.Module]] = {
    "siamese": siamese,
    "shared_norm": shared_norm,
    "remembers": Remembers,
    "frozen_max_norm": frozen_max_norm,
    "weight_norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3)),
    "old_weight_norm": old_weight_norm,
    "spectral_norm": lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3)),
    "orthogonal": lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, 3)),
    "hardsigmoid": lambda: nn.Sequential(nn.Linear(4, 5), nn.Hardsigmoid(), nn.Linear(5, 3)),
    "pruned": pruned,
    "parameter_list": lambda: WithLists(),
}


class WithLists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ws = nn.ParameterList([torch.randn(4, 4), torch.randn(4, 3)])
        self.named = nn.ParameterDict({"bias": torch.randn(3)})

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.ws[0]).tanh() @ self.ws[1] + self.named["bias"]


def state_of(net: nn.Module) -> dict[str, Any]:
    values = [*net.named_parameters(remove_duplicate=False), *net.named_buffers(remove_duplicate=False)]
    return {
        "values": {n: v.detach().clone() for n, v in values},
        "objects": {n: id(v) for n, v in values},
        "flags": {n: (v.requires_grad, v.is_leaf, v.grad is None) for n, v in values},
        "modes": [part.training for part in net.modules()],
        "hooks": [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in net.modules()],
        "attributes": [
            {k: id(v) for k, v in vars(part).items() if not isinstance(v, dict | list)} for part in net.modules()
        ],
    }


def assert_untouched(net: nn.Module, before: dict[str, Any]) -> None:
    after = state_of(net)
    for key in ("objects", "flags", "modes", "hooks", "attributes"):
        assert after[key] == before[key], key
    for name, value in before["values"].items():
        assert torch.equal(after["values"][name], value), name


@pytest.mark.parametrize("name", ["exact", "mixed", "forward", "cg(2)", "finite_difference"])
@pytest.mark.parametrize("architecture", MODULES)
def test_a_module_comes_back_untouched(architecture: str, name: str) -> None:
    torch.manual_seed(0)
    net = MODULES[architecture]()
    model, before = FunctionalModel(net), state_of(net)
    reference = copy.deepcopy(net.state_dict())
    result = estimate(model, model.params, name)
    assert bool(torch.isfinite(result.grad_c).all())
    assert_untouched(net, before)
    if architecture not in ("old_weight_norm", "pruned"):  # torch keeps a weight of these that is no leaf
        copy.deepcopy(net)
    copied = MODULES[architecture]()
    copied.load_state_dict(reference)
    net.eval(), copied.eval()
    torch.testing.assert_close(net(X), copied(X))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_stock_architectures_come_back_untouched(architecture: str) -> None:
    from .problems import make_case

    case = make_case(architecture)
    before = state_of(case.model.module)
    for name in ("exact", "mixed"):
        hypergradient(case.inner, case.outer, case.model.params, case.coupling, case.batches, sgd(0.1), name, seed=0)
    assert_untouched(case.model.module, before)


@pytest.mark.parametrize("architecture", ["siamese", "remembers", "shared_norm"])
def test_a_module_comes_back_untouched_when_a_loss_raises(architecture: str) -> None:
    net = MODULES[architecture]()
    model, before = FunctionalModel(net), state_of(net)
    inner, outer = losses(model)
    calls = iter(range(100))

    def raising(p: Any, c: Any, b: Any) -> Tensor:
        value = inner(p, c, b)
        if next(calls) == 2:
            raise KeyboardInterrupt
        return value

    with pytest.raises(KeyboardInterrupt):
        hypergradient(raising, outer, model.params, torch.ones(6), Batches([None], None), sgd(0.1), "mixed", steps=4)
    assert_untouched(net, before)
    assert torch.backends.mha.get_fastpath_enabled() and torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.parametrize("architecture", MODULES)
def test_every_module_kind_has_the_gradient_of_finite_differences(architecture: str) -> None:
    from metaimpute.testing import check_hypergradient

    torch.manual_seed(1)
    net = MODULES[architecture]()
    if architecture == "spectral_norm":
        net(X)  # its vectors are random until the first pass
    model = FunctionalModel(net)
    inner, outer = losses(model)
    check_hypergradient(inner, outer, model.params, torch.ones(6), steps=2, estimators=("exact", "mixed", "forward"))


def test_a_layers_own_loss_can_be_read_by_the_loss() -> None:
    net = Remembers()
    model = FunctionalModel(net)

    def inner(p: Any, c: Any, b: Any) -> Tensor:
        return losses(model)[0](p, c, b) + 0.3 * net.own_loss

    def by_hand(p: Any, c: Any, b: Any) -> Tensor:
        h = F.linear(X, p["a.weight"], p["a.bias"]).tanh()
        raw = F.linear(h, p["b.weight"], p["b.bias"])
        return (c * F.cross_entropy(raw, Y, reduction="none")).mean() + 0.3 * h.square().mean()

    found = [
        hypergradient(loss, losses(model)[1], model.params, torch.ones(6), Batches([None], None), sgd(0.3), name, steps=3, seed=0)
        for loss in (inner, by_hand)
        for name in ("exact", "mixed")
    ]  # fmt: skip
    for one in found[1:]:
        torch.testing.assert_close(one.grad_c, found[0].grad_c, rtol=1e-10, atol=1e-13)
    assert net.own_loss is None and net.calls == 0


@pytest.mark.parametrize("name", ["exact", "mixed", "forward"])
def test_forward_hooks_know_the_users_module_and_see_the_steps_weights(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    model, kept = FunctionalModel(net), {}

    def inner(p: Any, c: Any, b: Any) -> Tensor:
        value = losses(model)[0](p, c, b)
        return value + 0.1 * kept[net[0]].square().mean() + kept["weight"]

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        assert module is net[0]
        kept[module], kept["weight"] = output, 0.1 * net[0].weight.square().sum()

    net[0].register_forward_hook(keep)
    net[1].register_forward_hook(lambda module, args, output: output * 1.5)

    def by_hand(p: Any, c: Any, b: Any) -> Tensor:
        first = F.linear(X, p["0.weight"], p["0.bias"])
        raw = F.linear(1.5 * first.tanh(), p["2.weight"], p["2.bias"])
        value = (c * F.cross_entropy(raw, Y, reduction="none")).mean()
        return value + 0.1 * first.square().mean() + 0.1 * p["0.weight"].square().sum()

    before = state_of(net)
    found = [
        hypergradient(loss, losses(model)[1], model.params, torch.ones(6), Batches([None], None), sgd(0.3), chosen, steps=3, seed=0)
        for loss, chosen in ((inner, name), (by_hand, "exact"))
    ]  # fmt: skip
    torch.testing.assert_close(found[0].grad_c, found[1].grad_c, rtol=1e-9, atol=1e-12)
    assert_untouched(net, before)


def test_a_trainable_embedding_with_max_norm_is_refused_and_its_weight_kept() -> None:
    net = nn.Sequential(nn.Embedding(7, 4, max_norm=0.5), nn.Flatten(), nn.Linear(12, 3))
    model, before = FunctionalModel(net), net[0].weight.detach().clone()
    tokens = torch.randint(0, 7, (6, 3))
    with pytest.raises(CannotDifferentiate, match="max_norm"):
        model(model.params, tokens)
    assert torch.equal(net[0].weight, before)

    def functional(p: Any, c: Any, b: Any) -> Tensor:
        return (F.embedding(tokens, p["w"], max_norm=0.5).sum((1, 2)) * c).mean()

    weight = torch.randn(7, 4)
    with pytest.raises(CannotDifferentiate, match=r"in place \(\['w'\]\)"):
        hypergradient(
            functional, lambda p, c, b: p["w"].sum(), {"w": weight}, torch.ones(6), Batches([None], None), sgd(0.1)
        )


def test_sparse_embeddings_get_dense_gradients() -> None:
    found = []
    for sparse in (True, False):
        torch.manual_seed(0)
        model = FunctionalModel(nn.Sequential(nn.Embedding(7, 4, sparse=sparse), nn.Flatten(), nn.Linear(12, 3)))
        tokens = torch.randint(0, 7, (6, 3))
        found.append(estimate(lambda p, x, m=model, t=tokens: m(p, t), model.params).grad_c)
    torch.testing.assert_close(found[0], found[1])


# modules that cannot be taken --------------------------------------------------------------------------------------------


def test_modules_that_cannot_be_taken_are_refused_with_the_way_out() -> None:
    net = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(CannotDifferentiate, match=r"Compiled\(inner_loss\)"):
        FunctionalModel(torch.compile(net, backend="eager"))  # type: ignore[arg-type]
    with pytest.raises(CannotDifferentiate, match="TorchScript"):
        FunctionalModel(torch.jit.script(net))
    with pytest.raises(CannotDifferentiate, match=r"pass its \.module"):
        FunctionalModel(nn.DataParallel(net))
    with pytest.raises(CannotDifferentiate, match="run the module once"):
        FunctionalModel(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(CannotDifferentiate, match=r"nn\.Module, not int"):
        FunctionalModel(3)  # type: ignore[arg-type]
    with pytest.raises(CannotDifferentiate, match=r"did you mean '0\.weight'"):
        FunctionalModel(net)({"0.weigth": torch.ones(3, 4)}, X)
    tied = siamese()
    model = FunctionalModel(tied)
    with pytest.raises(CannotDifferentiate, match="tied to another"):
        model({"0.weight": torch.ones(4, 4), "2.weight": torch.zeros(4, 4)}, X)


def test_a_distributed_module_is_refused() -> None:
    net = nn.Linear(4, 3)
    wrapped = object.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = net
    with pytest.raises(CannotDifferentiate, match="would reduce no gradient"):
        FunctionalModel(wrapped)


def test_cached_parametrizations_are_refused() -> None:
    model = FunctionalModel(MODULES["weight_norm"]())
    with torch.nn.utils.parametrize.cached(), pytest.raises(CannotDifferentiate, match="cached"):
        model(model.params, X)


def test_a_submodule_exchanged_after_wrapping_is_seen() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    model = FunctionalModel(net)
    model(model.params, X)
    net[2] = nn.Linear(5, 2)
    assert model(model.params, X).shape == (6, 2)
    assert "2.weight" in model.params and get_estimator("exact").name == "exact"
