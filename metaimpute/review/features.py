"""Rows as vectors to be compared: what a frozen network makes of them where there is one, else plain features of the content."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..engine.ambient import as_usual
from ..models.image_patches import oriented_gradients
from ..tasks.base import Pool, Task
from ..tasks.image_files import ImageFileTask

TOGETHER = 256
SIDE, COLOURS = 32, 8  # sides in pixels of what edges and colours are taken from
DIRECTIONS = 100  # of texts
SPREAD = 1e-9


@as_usual()
def features_of(task: Task, pools: list[Pool]) -> list[np.ndarray]:
    """Rows ``[n, features]`` of each pool, of mean 0 and spread 1 over all of them; texts have length 1.

    Images and texts under a frozen encoder have what it makes of them; other images have their edges and colours, other texts
    their words, weighted by how rare they are.
    """
    if task.input_kind == "text":
        seen = _encoded(task, pools)
        return _words(pools) if seen is None else _standard(seen)
    found = _encoded(task, pools)
    if found is None and isinstance(task, ImageFileTask):
        found = [_looks(pool) for pool in pools]
    return _standard([_flat(task, pool) for pool in pools] if found is None else found)


def _parts(pool: Pool) -> list[Any]:
    return [pool.take(index) for index in torch.arange(len(pool)).split(TOGETHER) if len(index)]


def _encoded(task: Task, pools: list[Pool]) -> list[np.ndarray] | None:
    """What a frozen encoder returns for each row; None where the model prepares nothing of the kind."""
    if task.prepare_inputs is None:
        return None
    rng, found = torch.Generator(device="cpu"), []
    for pool in pools:
        rows = []
        for raw in _parts(pool):
            view: Any = task.view(raw, "none", rng)
            pooled = view.get("pooled") if isinstance(view, dict) else None
            if not isinstance(pooled, torch.Tensor) or pooled.dim() != 2:
                return None
            rows.append(pooled.float().cpu())
        found.append(torch.cat(rows).numpy() if rows else None)
    width = next((len(one[0]) for one in found if one is not None), 0)
    return [np.zeros((0, width), dtype=np.float32) if one is None else one for one in found]


def _looks(pool: Pool) -> np.ndarray:
    rows = []
    for raw in _parts(pool):
        images = [F.interpolate(image[None].float() / 255, (SIDE, SIDE), mode="area") for image in raw]
        together = torch.cat(images)
        colours = F.adaptive_avg_pool2d(together, COLOURS).flatten(1)
        rows.append(torch.cat([oriented_gradients(together), colours], 1))
    return torch.cat(rows).numpy() if rows else np.zeros((0, 0), dtype=np.float32)


def _flat(task: Task, pool: Pool) -> np.ndarray:
    plain = (
        task.input_kind == "vector"
    )  # else a view may be what a network's input needs, and not what tells rows apart
    rng = torch.Generator(device="cpu")
    views: list[Any] = [task.view(raw, "none", rng) if plain else raw for raw in _parts(pool)]
    rows = [torch.as_tensor(view).float().flatten(1) for view in views]
    return torch.cat(rows).numpy() if rows else np.zeros((0, 0), dtype=np.float32)


def _words(pools: list[Pool]) -> list[np.ndarray]:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    texts = [[str(text) for text in pool.inputs] for pool in pools]
    every = [text for part in texts for text in part]
    try:
        rows = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), max_features=20_000).fit_transform(every)
    except ValueError:  # no words in any text
        return [np.zeros((len(part), 1)) for part in texts]
    if min(rows.shape) > DIRECTIONS:
        rows = TruncatedSVD(DIRECTIONS, random_state=0).fit_transform(rows)
    else:
        rows = rows.toarray()
    return _split(normalize(rows), [len(part) for part in texts])


def _standard(parts: list[np.ndarray]) -> list[np.ndarray]:
    rows = np.concatenate([part for part in parts if len(part)]).astype(np.float32)
    spread = rows.std(0, dtype=np.float64)
    scale = np.where(spread > SPREAD, spread, 1.0).astype(np.float32)
    rows -= rows.mean(0, dtype=np.float64).astype(np.float32)
    rows /= scale
    return _split(rows, [len(part) for part in parts])


def _split(rows: np.ndarray, counts: list[int]) -> list[np.ndarray]:
    return np.split(rows, np.cumsum(counts)[:-1])
