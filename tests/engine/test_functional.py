"""Pure functions of modules: buffers, heads, attention, noise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from metaimpute.engine import FunctionalModel, HeadNotFound, derive_seed, double_differentiable, fixed_rng


def test_calls_leave_running_statistics_alone_unless_asked() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model, reference = FunctionalModel(net), nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    reference.load_state_dict(net.state_dict())
    x = torch.randn(8, 3)
    before = {n: b.clone() for n, b in model.buffers.items()}
    out = model(model.params, x)
    assert all(torch.equal(before[n], b) for n, b in model.buffers.items())
    torch.testing.assert_close(out, reference(x))
    with model.updating_buffers():
        model(model.params, x)
        with model.updating_buffers(False):
            model(model.params, 5 * x)
    for name, buffer in reference.named_buffers():
        torch.testing.assert_close(model.buffers[name], buffer)
    after = {n: b.clone() for n, b in model.buffers.items()}
    model(model.params, x)
    assert all(torch.equal(after[n], b) for n, b in model.buffers.items())


def test_features_and_readout_compose_to_the_model() -> None:
    model = FunctionalModel(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    x = torch.randn(5, 3)
    features = model.features(model.params, x)
    assert features.shape == (5, 4)
    torch.testing.assert_close(model.readout(model.params, features), model(model.params, x))
    assert model.head == ("2.weight", "2.bias")


def test_a_head_without_bias_and_a_named_head() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))
    model = FunctionalModel(net)
    assert model.head == ("1.weight",)
    x = torch.randn(5, 3)
    torch.testing.assert_close(model.readout(model.params, model.features(model.params, x)), net(x))
    with pytest.raises(HeadNotFound, match="not a linear layer"):
        FunctionalModel(net, head="7")


def test_a_model_that_changes_its_heads_output_is_refused() -> None:
    model = FunctionalModel(nn.Sequential(nn.Linear(3, 2), nn.Softmax(-1)))
    with pytest.raises(HeadNotFound, match="not that of its last linear layer"):
        model.features(model.params, torch.randn(2, 3))
    with pytest.raises(HeadNotFound, match="no linear layer"):
        _ = FunctionalModel(nn.Conv1d(1, 1, 1)).head


def test_tied_weights_are_one_parameter_and_move_together() -> None:
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    b.weight = a.weight
    model = FunctionalModel(nn.Sequential(a, b))
    assert list(model.params) == ["0.weight", "0.bias", "1.bias"]
    changed = {**model.params, "0.weight": torch.zeros(3, 3)}
    torch.testing.assert_close(model(changed, torch.randn(4, 3)), b.bias.expand(4, 3))


@pytest.mark.parametrize("training", [True, False])
def test_attention_is_twice_differentiable_without_the_user_doing_anything(training: bool) -> None:
    """Under stock settings the fused kernels raise on a second derivative; the context routes around them."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double().train(training)
    model, x = FunctionalModel(layer), torch.randn(2, 5, 8, dtype=torch.float64)

    def loss(scale: torch.Tensor) -> torch.Tensor:
        return model({n: scale * p for n, p in model.params.items()}, x).pow(3).sum()

    with double_differentiable():
        assert torch.autograd.gradgradcheck(loss, torch.tensor(1.0, dtype=torch.float64, requires_grad=True))
    assert torch.backends.mha.get_fastpath_enabled()


def test_fixed_rng_replays_and_restores() -> None:
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    with fixed_rng(7):
        first = torch.rand(3)
    with fixed_rng(7):
        assert torch.equal(first, torch.rand(3))
    assert torch.equal(expected, torch.rand(1))


def test_derived_seeds_do_not_collide() -> None:
    seeds = {derive_seed(s, a, b) for s in range(20) for a in range(20) for b in range(20)}
    assert len(seeds) == 8000
    assert all(0 <= s < 2**63 for s in seeds)
    assert derive_seed(1, 2) != derive_seed(2, 1)
