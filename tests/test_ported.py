"""The ported examples run as their first lines say, and give the numbers of the packages that they come from."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

PORTED = Path(__file__).parents[1] / "examples" / "ported"
SCRIPTS = ("from_higher", "from_torchopt", "from_learn2learn", "from_betty")


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"ported_{name}", PORTED / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def original(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is not installed; its numbers cannot be compared with")


def assert_same(found: list[Tensor], wanted: list[Tensor]) -> None:
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_every_script_is_here_is_short_and_says_how_to_run_it() -> None:
    assert {path.stem for path in PORTED.glob("*.py")} == set(SCRIPTS)
    for name in SCRIPTS:
        text = (PORTED / f"{name}.py").read_text()
        assert len(text.splitlines()) < 100 and f"    python examples/ported/{name}.py\n" in text


def test_higher(float64: None, capsys: pytest.CaptureFixture[str]) -> None:
    ported, higher = script("from_higher"), original("higher")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    theirs, rates = copy.deepcopy(model), [torch.tensor(-2.0, requires_grad=True) for _ in range(2)]
    stock = [torch.optim.SGD(net.parameters(), lr=1.0) for net in (model, theirs)]
    outer = [
        torch.optim.Adam([*net.parameters(), rate], lr=0.01) for net, rate in zip((model, theirs), rates, strict=True)
    ]
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        tasks = ported.waves(generator)
        for one in outer:
            one.zero_grad()
        ported.meta_loss(model, stock[0], rates[0], tasks).backward()
        for x, y, x_new, y_new in tasks:
            override = {"lr": [rates[1].exp()]}
            with higher.innerloop_ctx(theirs, stock[1], copy_initial_weights=False, override=override) as (fast, rule):
                for _ in range(ported.STEPS):
                    rule.step(mse_loss(fast(x), y))
                (mse_loss(fast(x_new), y_new) / len(tasks)).backward()
        assert_same([p.grad for p in model.parameters()], [p.grad for p in theirs.parameters()])
        assert_same([rates[0].grad], [rates[1].grad])
        for one in outer:
            one.step()
    assert_same([*model.parameters(), rates[0]], [*theirs.parameters(), rates[1]])
    torch.set_default_dtype(torch.float32)
    before, after = ported.main(iterations=30)
    assert after < 0.8 * before and "from the learned one" in capsys.readouterr().out


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_torchopt(momentum: float, float64: None) -> None:
    ported, torchopt = script("from_torchopt"), original("torchopt")
    (x, y), clean, _ = [(a.double(), b) for a, b in ported.digits()]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10))
    theirs = copy.deepcopy(net)
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=momentum)
    meta = torchopt.MetaSGD(theirs, lr=0.1, momentum=momentum)
    for turn in range(3):
        rows = torch.arange(20) + 20 * turn
        found = ported.weights_of(net, sgd, x[rows], y[rows], clean)
        factors = torch.zeros(20, requires_grad=True)
        state, of_rule = torchopt.extract_state_dict(theirs), torchopt.extract_state_dict(meta)
        meta.step((factors * ported.losses(theirs, x[rows], y[rows])).sum())
        slopes = torch.autograd.grad(ported.losses(theirs, *clean).mean(), factors)[0]
        torchopt.recover_state_dict(theirs, state)
        torchopt.recover_state_dict(meta, of_rule)
        wanted = (-slopes).clamp_min(0)
        wanted = wanted / wanted.sum()
        assert_same([found], [wanted])
        sgd.zero_grad()
        (found * ported.losses(net, x[rows], y[rows])).sum().backward()
        sgd.step()
        meta.step((wanted * ported.losses(theirs, x[rows], y[rows])).sum())
        torchopt.stop_gradient(theirs)
        torchopt.stop_gradient(meta)
        assert_same(list(net.parameters()), list(theirs.parameters()))


def test_torchopts_adam() -> None:
    """MetaAdam over three steps, its state carried: what its tutorial on meta-learned initialisations takes."""
    torchopt = original("torchopt")
    from metaimpute import inner

    torch.set_default_dtype(torch.float64)
    x, y, x_new, y_new = torch.randn(10, 4), torch.randn(10, 1), torch.randn(10, 4), torch.randn(10, 1)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
    theirs, weights = copy.deepcopy(net), torch.rand(10, 1, requires_grad=True)
    with inner(net, torch.optim.Adam(net.parameters(), lr=0.1)) as block:
        for _ in range(3):
            block.step((weights * (net(x) - y).square()).mean())
        found = torch.autograd.grad(mse_loss(net(x_new), y_new), [weights, *block.start.values()])
    start, meta = list(theirs.parameters()), torchopt.MetaAdam(theirs, lr=0.1)
    for _ in range(3):
        meta.step((weights * (theirs(x) - y).square()).mean())
    assert_same(list(found), list(torch.autograd.grad(mse_loss(theirs(x_new), y_new), [weights, *start])))


def test_the_reweighted_digits(capsys: pytest.CaptureFixture[str]) -> None:
    plain, reweighted = script("from_torchopt").main(steps=60)
    assert reweighted > plain - 0.1 and "reweighted" in capsys.readouterr().out


@pytest.mark.parametrize("first_order", [False, True])
def test_learn2learn(first_order: bool, float64: None) -> None:
    ported, l2l = script("from_learn2learn"), original("learn2learn")
    train, _ = [(x.double(), y) for x, y in ported.digits()]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, ported.WAYS))
    generator, theirs = torch.Generator().manual_seed(1), copy.deepcopy(model)
    maml = l2l.algorithms.MAML(theirs, lr=ported.RATE, first_order=first_order)
    outer = [torch.optim.Adam(net.parameters(), lr=3e-3) for net in (model, theirs)]
    for _ in range(3):
        x, y, x_new, y_new = ported.task(train, generator)
        for one in outer:
            one.zero_grad()
        cross_entropy(ported.adapted(model, x, y, x_new, first_order), y_new).backward()
        learner = maml.clone()
        for _ in range(ported.STEPS):
            learner.adapt(cross_entropy(learner(x), y))
        cross_entropy(learner(x_new), y_new).backward()
        assert_same([p.grad for p in model.parameters()], [p.grad for p in theirs.parameters()])
        for one in outer:
            one.step()


def test_the_few_shot_digits(capsys: pytest.CaptureFixture[str]) -> None:
    before, after = script("from_learn2learn").main(iterations=60)
    assert after > before and "meta-learned" in capsys.readouterr().out


def test_bettys_alternation_is_that_of_an_unroll(float64: None) -> None:
    """A round's gradient is that of the same steps unrolled from where the last round ended, Adam's moments included."""
    from metaimpute.engine import FunctionalModel, adam, unroll

    ported = script("from_betty")
    train, validation, _ = [(x.double(), y) for x, y in ported.digits()]
    torch.manual_seed(0)
    classifier, log_decay = nn.Linear(128, 10), torch.full((128,), -3.0, requires_grad=True)
    theirs, other = copy.deepcopy(classifier), torch.full((128,), -3.0, requires_grad=True)
    ported.alternate(classifier, log_decay, train, validation, rounds=1)
    model, upper = FunctionalModel(theirs), torch.optim.Adam([other], lr=0.1)

    def loss(theta: Any, c: Tensor, batch: Any) -> Tensor:
        return cross_entropy(model(theta, batch[0]), batch[1]) + (c.exp() * theta["weight"].square()).sum()

    end = unroll(loss, model.params, other, [train], adam(0.02), ported.UNROLL)
    cross_entropy(model(end.params, validation[0]), validation[1]).backward()
    upper.step()
    assert_same([log_decay], [other])
    assert_same(list(classifier.parameters()), list(end.params.values()))


def test_the_learned_decays(capsys: pytest.CaptureFixture[str]) -> None:
    fixed, learned, pixels, noise = script("from_betty").main(rounds=60)
    assert noise > 1.2 * pixels and "learned ones" in capsys.readouterr().out
