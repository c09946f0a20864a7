"""Small bilevel problems in float64 that cover what networks do: normalise, drop out, attend, embed, share weights.

Each is a few dozen to a few hundred parameters, so that finite differences of the whole map are exact to about 1e-9.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaimpute.engine import (
    Batches,
    BilevelMap,
    Factored,
    FunctionalModel,
    InnerOptimizer,
    LabelRows,
    StructuredLoss,
    parse_memory,
)
from metaimpute.engine.pytree import tree_map

CLASSES = 3


class TinyTransformer(nn.Module):
    """Embedding, one stock encoder layer with dropout, mean pooling, linear head."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=dropout, batch_first=True, activation="gelu")
        self.head = nn.Linear(4, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(tokens)).mean(1))


class Tied(nn.Module):
    """Two layers that share one weight, one parameter that takes no part, one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, CLASSES)
        self.second.weight = self.first.weight
        self.unused = nn.Parameter(torch.ones(2))
        self.first.bias.requires_grad_(False)

    def _apply(self, *arguments: Any) -> nn.Module:
        super()._apply(*arguments)
        self.second.weight = self.first.weight  # some devices' tensors come as two
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Recurrent(nn.Module):
    """Embedding, one recurrent layer, the last state, linear head."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.embed, self.cell, self.head = nn.Embedding(7, 3), kind(3, 4, batch_first=True), nn.Linear(4, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.cell(self.embed(tokens))[0][:, -1])


class HuggingFace(nn.Module):
    """A BERT of the transformers library, with its own dropout and attention, at toy size."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=7, hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=5,
            max_position_embeddings=4, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
        )  # fmt: skip
        self.bert = BertModel(config, add_pooling_layer=False)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.bert(input_ids=tokens).last_hidden_state.mean(1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.3), nn.Linear(5, CLASSES))


def convnet() -> nn.Module:
    """Convolution, BatchNorm in training mode, smooth activation, pooling."""
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Softplus(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(8, CLASSES),
    )  # fmt: skip


def convnet_eval() -> nn.Module:
    net = convnet()
    net[1].running_mean.uniform_(-0.2, 0.2)  # type: ignore[operator,union-attr]
    return net.eval()


def vectors(n: int) -> Tensor:
    return torch.randn(n, 4)


def pictures(n: int) -> Tensor:
    return torch.randn(n, 1, 4, 4)


def token_rows(n: int) -> Tensor:
    return torch.randint(0, 7, (n, 3))


def unpadded_rows(n: int) -> Tensor:
    """No token 0: an embedding leaves its padding row out of every gradient, though not out of the forward pass."""
    return torch.randint(1, 7, (n, 3))


ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "mlp_dropout": (mlp, vectors),
    "conv_batchnorm": (convnet, pictures),
    "conv_batchnorm_eval": (convnet_eval, pictures),
    "transformer_dropout": (TinyTransformer, token_rows),
    "tied_unused_frozen": (Tied, vectors),
    "lstm": (lambda: Recurrent(nn.LSTM), token_rows),
    "gru": (lambda: Recurrent(nn.GRU), token_rows),
    "hugging_face_bert": (HuggingFace, unpadded_rows),
}


@dataclass
class Case:
    """A bilevel problem ready for any estimator."""

    model: FunctionalModel
    inner: Callable[..., Tensor]
    outer: Callable[..., Tensor]
    coupling: Any
    batches: Batches
    structured_inner: StructuredLoss
    structured_outer: StructuredLoss

    def bilevel_map(self, optimizer: InnerOptimizer, steps: int, memory: str = "store", seed: int = 11) -> BilevelMap:
        return BilevelMap(
            self.inner, self.outer, self.model.params, self.coupling, self.batches, optimizer, steps,
            parse_memory(memory), seed,
        )  # fmt: skip


def make_case(
    architecture: str, *, consistency: str = "squared", steps: int = 1, direct: bool = True,
    device: Any = "cpu", dtype: torch.dtype = torch.float64,
) -> Case:  # fmt: skip
    """Imputed-label problem with one inner batch per step.

    Args:
        consistency: ``"squared"`` or ``"cross_entropy"`` between predictions and the coupling's labels.
        direct: let the outer loss depend on the coupling directly too.
        device, dtype: where the problem lives and in which precision; its numbers are the same on all.
    """
    torch.manual_seed(5)
    build, sample = ARCHITECTURES[architecture]
    model = FunctionalModel(build().to(device, dtype))
    inner_batches = [(sample(4), torch.randint(0, CLASSES, (4,)), sample(5)) for _ in range(steps)]
    holdout = (sample(4), torch.randint(0, CLASSES, (4,)))
    labels = torch.randn(5, CLASSES).softmax(-1).to(device, dtype)
    inner_batches, holdout = tree_map(
        lambda x: x.to(device, dtype if x.is_floating_point() else None), (inner_batches, holdout)
    )

    def unlabelled(logits: Tensor, z: Tensor) -> Tensor:
        if consistency == "squared":
            return ((logits.softmax(-1) - z) ** 2).sum(-1).mean()
        return -(z * logits.log_softmax(-1)).sum(-1).mean()

    def free(theta: Any, batch: Any) -> Tensor:
        return F.cross_entropy(model(theta, batch[0]), batch[1])

    def coupled(theta: Any, c: Any, batch: Any) -> Tensor:
        return 1.5 * unlabelled(model(theta, batch[2]), c["labels"])

    def inner(theta: Any, c: Any, batch: Any) -> Tensor:
        return free(theta, batch) + coupled(theta, c, batch)

    def outer(theta: Any, c: Any, batch: Any) -> Tensor:
        return F.cross_entropy(model(theta, batch[0]), batch[1]) + (0.1 * c["labels"].pow(3).sum() if direct else 0.0)

    def features(theta: Any, batch: Any) -> Any:
        return model.features(theta, batch[0]), model.features(theta, batch[2])

    def readout(theta: Any, found: Any, c: Any, batch: Any) -> Tensor:
        supervised = F.cross_entropy(model.readout(theta, found[0]), batch[1])
        return supervised + 1.5 * unlabelled(model.readout(theta, found[1]), c["labels"])

    def outer_readout(theta: Any, found: Any, c: Any, batch: Any) -> Tensor:
        loss = F.cross_entropy(model.readout(theta, found), batch[1])
        return loss + (0.1 * c["labels"].pow(3).sum() if direct else 0.0)

    def rows(c: Any, found: Any, batch: Any) -> LabelRows:
        return LabelRows(c["labels"], torch.full((5,), 1.5 / 5, device=device), found[1])

    return Case(
        model, inner, outer, {"labels": labels}, Batches(inner_batches, holdout),
        StructuredLoss(inner, model.head, factored=Factored(features, readout, rows)),
        StructuredLoss(
            outer, model.head, factored=Factored(lambda theta, b: model.features(theta, b[0]), outer_readout)
        ),
    )  # fmt: skip
