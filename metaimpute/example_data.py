"""Data to try the package on, written where the user says: few labels, and the true ones of the rest in a file beside.

Nothing but what is installed is needed for images and tables, which come from scikit-learn. Texts are the movie-review
snippets that ``metaimpute data get snippets`` fetches once.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ("negative", "positive")


def write_images(folder: Path, *, labels: int = 40, unlabelled: int = 1000, seed: int = 0) -> str:
    """Scikit-learn's handwritten digits, 8 x 8 pixels: ``labelled/CLASS/``, as many of each class, and ``unlabelled/``.

    The true label of each unlabelled image is in ``FOLDER_truth.csv`` beside the folder, by the id that ``metaimpute impute``
    writes.

    Returns:
        One line that says what was written.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    pixels, targets = load_digits(return_X_y=True)
    images = np.clip(pixels.reshape(-1, 8, 8) * 255 / 16, 0, 255).astype(np.uint8)
    order = np.random.default_rng(seed).permutation(len(images))
    kept = [int(i) for c in range(10) for i in order[targets[order] == c][: labels // 10]]
    rest = [int(i) for i in order if i not in set(kept)][:unlabelled]

    def save(i: int, name: str) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i]).save(folder / name)

    for number, i in enumerate(kept):
        save(i, f"labelled/{targets[i]}/{number:04d}.png")
    rows = []
    for number, i in enumerate(rest):
        save(i, f"unlabelled/{number:04d}.png")
        rows.append([f"unlabelled/{number:04d}.png", targets[i]])
    truth = truth_of(folder)
    _write(truth, ["id", "label"], rows)
    return f"wrote {len(kept)} labelled and {len(rest):,} unlabelled images to {folder}, truth to {truth}"


def write_table(file: Path, *, share: float = 0.05, seed: int = 0) -> str:
    """Scikit-learn's breast cancer data, with the column ``diagnosis`` left in for a ``share`` of the rows.

    The blanked diagnoses are in ``FILE_truth.csv`` beside it.

    Returns:
        One line that says what was written.
    """
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer(as_frame=True)
    table = found.data.round(5)
    table.insert(0, "id", [f"T{number:03d}" for number in range(len(table))])
    table["diagnosis"] = found.target_names[found.target]
    order = np.random.default_rng(seed).permutation(len(table))
    blank = np.sort(order[round(share * len(table)) :])
    held_back = table.loc[blank, ["id", "diagnosis"]].rename(columns={"diagnosis": "label"})
    table.loc[blank, "diagnosis"] = ""
    truth = truth_of(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(file, index=False)
    held_back.to_csv(truth, index=False)
    return f"wrote {len(table):,} rows, {len(table) - len(blank)} with a label, to {file}, truth to {truth}"


def write_texts(file: Path, *, labels: int = 40, unlabelled: int = 1000, seed: int = 0) -> str:
    """Snippets of film reviews with the column ``opinion``, left in for ``labels`` of them, half of each class.

    The other labels are in ``FILE_truth.csv`` beside it.

    Returns:
        One line that says what was written.

    Raises:
        MissingData: when the snippets are not here and cannot be fetched.
    """
    from .tasks.snippets import fetch_snippets, find_snippets, read_snippets

    texts, found = read_snippets(find_snippets() or fetch_snippets(), neutral=1.0)
    targets, rng = np.array(found), np.random.default_rng(seed)
    order = rng.permutation(len(texts))
    kept = np.concatenate([order[targets[order] == c][: labels // 2] for c in (0, 1)])
    rest = order[~np.isin(order, kept)][:unlabelled]
    shown = rng.permutation(np.concatenate([kept, rest])).tolist()
    labelled, rows, held_back = set(kept.tolist()), [], []
    for number, i in enumerate(shown):
        name, label = f"R{number:04d}", NAMES[targets[i]]
        rows.append([name, texts[i], label if i in labelled else ""])
        if i not in labelled:
            held_back.append([name, label])
    truth = truth_of(file)
    _write(file, ["id", "text", "opinion"], rows)
    _write(truth, ["id", "label"], held_back)
    return f"wrote {len(shown):,} texts, {len(kept)} with a label, to {file}, truth to {truth}"


WRITERS: dict[str, Callable[..., str]] = {"images": write_images, "text": write_texts, "table": write_table}


def truth_of(path: Path) -> Path:
    """The file beside ``path`` that holds the labels held back."""
    return path.with_name(f"{path.stem}_truth.csv")


def _write(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)
