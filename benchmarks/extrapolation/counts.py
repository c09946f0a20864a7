"""What a pass of a network does: its operations, their floating-point operations and the bytes they move, without computing it.

Networks are on torch's meta device, where tensors have shapes and no values. FLOPs are those of ``torch.utils.flop_counter``, a
multiplication and an addition being two; bytes are those of every operation's inputs and outputs once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from metaimpute.models.resnet import DecathlonResNet
from metaimpute.models.small import SmallCNN
from metaimpute.models.text import TextClassifier
from metaimpute.models.wrn import WideResNet

META = torch.device("meta")


class Operation(NamedTuple):
    """One operation of a pass."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Pass:
    """A pass of a batch: its operations, and the bytes of what a backward pass keeps, parameters not among them."""

    operations: tuple[Operation, ...]
    kept: int

    @property
    def flops(self) -> float:
        return sum(one.flops for one in self.operations)

    def seconds(self, launch: float, flops: float, bandwidth: float) -> float:
        """Each operation takes as long as its launch, its arithmetic or its traffic, whichever is longest."""
        return sum(max(launch, one.flops / flops, one.bytes / bandwidth) for one in self.operations)


class Tally(TorchDispatchMode):
    """Takes down every operation that is no view."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = list[Operation]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        if not func.is_view and func._schema.name not in ("aten::detach", "aten::empty", "aten::empty_like"):
            count = flop_registry.get(func._overloadpacket)
            flops = count(*args, **kwargs, out_val=found) if count is not None else 0
            tensors = [one for one in tree_leaves((args, kwargs, found)) if isinstance(one, Tensor)]
            self.operations.append(Operation(flops, sum(one.numel() * one.element_size() for one in tensors)))
        return found


@contextmanager
def kept_bytes(net: nn.Module) -> Iterator[Callable[[], int]]:
    """Bytes of the tensors that autograd keeps in the block, each once."""
    own = {id(one) for one in net.parameters()}
    seen = dict[int, Tensor]()

    def keep(tensor: Tensor) -> Tensor:
        base = tensor._base if tensor._base is not None else tensor
        if id(base) not in own:
            seen[id(base)] = base
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield lambda: sum(one.numel() * one.element_size() for one in seen.values())


@dataclass(frozen=True)
class Network:
    """A network on the meta device, with what makes a batch of inputs for it."""

    name: str
    module: nn.Module
    inputs: Callable[[int], tuple[Any, ...]]
    tf32: bool  # whether torch computes it so on a card by default: convolutions, and no products

    @property
    def parameters(self) -> int:
        return sum(one.numel() for one in self.module.parameters())

    @functools.cache  # noqa: B019
    def run(self, rows: int, train: bool) -> Pass:
        """A forward pass of so many rows, and a backward one where it is to train."""
        with Tally() as tally, kept_bytes(self.module) as kept:
            if train:
                loss = self.module(*self.inputs(rows)).float().sum()
                held = kept()
                loss.backward()
            else:
                with torch.no_grad():
                    self.module(*self.inputs(rows))
                held = 0
        for one in self.module.parameters():
            one.grad = None
        return Pass(tuple(tally.operations), held)


def _images(channels: int, size: int) -> Callable[[int], tuple[Any, ...]]:
    return lambda rows: (torch.empty(rows, channels, size, size, device=META),)


def wrn(depth: int, width: int, outputs: int = 10) -> Network:
    with META:
        net = WideResNet(depth, width, 3, outputs)
    return Network(f"WRN-{depth}-{width}", net, _images(3, 32), True)


def resnet26() -> Network:
    with META:
        net = DecathlonResNet(3, 1000)
    return Network("ResNet-26", net, _images(3, 72), True)


def small_cnn(size: int = 28) -> Network:
    with META:
        net = SmallCNN(width=16).build((1, size, size), 10)
    return Network("small conv net", net, _images(1, size), True)


def bert(length: int) -> Network:
    from transformers import BertConfig, BertModel

    with META:
        encoder = BertModel(BertConfig(attn_implementation="eager"))
        net = TextClassifier(encoder, 768, 2, "cls", 0.1)

    def inputs(rows: int) -> tuple[Any, ...]:
        ids = torch.zeros(rows, length, dtype=torch.long, device=META)
        mask = torch.zeros(rows, 1, length, length, device=META)  # as the encoder would make it of full-length texts
        return ({"input_ids": ids, "attention_mask": mask},)

    return Network("BERT-base", net, inputs, False)


# seven billion parameters ------------------------------------------------------------------------------------------------


class Adapted(nn.Module):
    """A frozen linear map with a trained one of rank r beside it (Hu et al., LoRA, 2021)."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.frozen = nn.Linear(inputs, outputs, bias=False).requires_grad_(False)
        self.down, self.up = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + self.up(self.down(x))


class Decoder(nn.Module):
    """A layer of the 7B decoder of LLaMA (Touvron et al., 2023): 4096 wide, 32 heads, gated by 11008; adapters on q and v.

    Inputs and outputs ``[n, length, 4096]``. Attention is written out, as a hypergradient needs it.
    """

    WIDTH, HEADS, INNER, LAYERS, WORDS = 4096, 32, 11008, 32, 32000

    def __init__(self, rank: int) -> None:
        super().__init__()
        width = self.WIDTH
        self.norms = nn.ModuleList([nn.RMSNorm(width) for _ in range(2)]).requires_grad_(False)
        self.q, self.v = Adapted(width, width, rank), Adapted(width, width, rank)
        self.k, self.out = (nn.Linear(width, width, bias=False).requires_grad_(False) for _ in range(2))
        self.gate, self.into = (nn.Linear(width, self.INNER, bias=False).requires_grad_(False) for _ in range(2))
        self.back = nn.Linear(self.INNER, width, bias=False).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        normed = self.norms[0](x)
        q, k, v = (f(normed).view(rows, length, self.HEADS, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        share = (q @ k.transpose(2, 3) / math.sqrt(width / self.HEADS)).softmax(-1)
        x = x + self.out((share @ v).transpose(1, 2).reshape(rows, length, width))
        normed = self.norms[1](x)
        return x + self.back(nn.functional.silu(self.gate(normed)) * self.into(normed))


def decoder_layer(rank: int, length: int) -> Network:
    """One of its layers, in bfloat16; the gradient goes through its input, as it does in all but the first."""
    with META:
        net = Decoder(rank).to(torch.bfloat16)

    def inputs(rows: int) -> tuple[Any, ...]:
        return (torch.empty(rows, length, Decoder.WIDTH, dtype=torch.bfloat16, device=META, requires_grad=True),)

    return Network("7B decoder, a layer", net, inputs, False)
