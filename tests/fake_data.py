"""Tiny data sets in their canonical form on disk, for tests of tasks and recipes. Each maker returns the folder it made.

Pictures carry their class as brightness, so a small network can learn them; faces carry a bright square at each landmark.
"""

from __future__ import annotations

import csv
import gzip
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

WORDS = [
    "the", "a", "film", "movie", "was", "is", "good", "bad", "great", "awful", "plot", "actor", "scene", "and", "but",
    "very", "it", "of", "in",
]  # fmt: skip
FACE = np.array([[0.35, 0.33], [0.65, 0.33], [0.5, 0.5], [0.38, 0.66], [0.62, 0.66]])  # (x, y) as shares of the sides


def _pixels(rng: np.random.Generator, label: int, classes: int, shape: tuple[int, ...]) -> np.ndarray:
    return (255 * (label + 0.5) / classes + rng.normal(0, 3, shape)).clip(0, 255).astype(np.uint8)


def _pickled(path: Path, content: dict[str, object]) -> None:
    """As numpy 1 under Python 2 wrote them: protocol 2, arrays rebuilt by ``numpy.core``."""
    path.write_bytes(pickle.dumps(content, protocol=2).replace(b"numpy._core", b"numpy.core"))


def _cifar(path: Path, labels: list[int], classes: int, key: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = np.stack([_pixels(rng, label, classes, (3072,)) for label in labels])
    _pickled(path, {"batch_label": path.name, key: labels, "data": data, "filenames": [f"{i}.png" for i in labels]})


def make_cifar10(folder: Path, per_class: int = 10, test_per_class: int = 2) -> Path:
    """``cifar-10-batches-py/`` with ``per_class`` training images of each class, spread over five files."""
    target = folder / "cifar-10-batches-py"
    target.mkdir(parents=True)
    labels = [label for _ in range(per_class) for label in range(10)]
    for number in range(5):
        _cifar(target / f"data_batch_{number + 1}", labels[number::5], 10, "labels", number)
    _cifar(target / "test_batch", list(range(10)) * test_per_class, 10, "labels", 9)
    return target


def make_cifar100(folder: Path, per_class: int = 4, test_per_class: int = 1) -> Path:
    """``cifar-100-python/`` with ``per_class`` training images of each class."""
    target = folder / "cifar-100-python"
    target.mkdir(parents=True)
    _cifar(target / "train", list(range(100)) * per_class, 100, "fine_labels", 0)
    _cifar(target / "test", list(range(100)) * test_per_class, 100, "fine_labels", 1)
    return target


def write_idx(path: Path, values: np.ndarray, compress: bool) -> None:
    """An array of unsigned bytes in the IDX format of MNIST."""
    head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
    content = head + values.astype(np.uint8).tobytes()
    path.with_name(path.name + ".gz" * compress).write_bytes(gzip.compress(content) if compress else content)


def make_fashion_mnist(folder: Path, per_class: int = 10, test_per_class: int = 2, compress: bool = False) -> Path:
    """``FashionMNIST/raw/`` as torchvision keeps it."""
    target = folder / "FashionMNIST" / "raw"
    target.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", per_class), ("t10k", test_per_class)):
        labels = list(range(10)) * count
        pixels = np.stack([_pixels(rng, label, 10, (28, 28)) for label in labels])
        write_idx(target / f"{part}-images-idx3-ubyte", pixels, compress)
        write_idx(target / f"{part}-labels-idx1-ubyte", np.array(labels), compress)
    return target


def _image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_image_folder(
    folder: Path, classes: int = 3, per_class: int | Sequence[int] = 8, val_per_class: int = 2,
    size: tuple[int, int] = (80, 100), name: str = "images", suffix: str = ".png",
) -> Path:  # fmt: skip
    """``name/train/CLASS/*`` and ``name/val/CLASS/*``; sizes are (height, width)."""
    target, rng = folder / name, np.random.default_rng(0)
    counts = [per_class] * classes if isinstance(per_class, int) else per_class
    for label in range(classes):
        for part, count in (("train", counts[label]), ("val", val_per_class)):
            for i in range(count):
                pixels = _pixels(rng, label, classes, (*size, 3))
                _image(target / part / f"class{label}" / f"{i}{suffix}", pixels)
    return target


def make_tiny_imagenet(
    folder: Path, classes: int = 3, per_class: int = 8, val_per_class: int = 2, name: str = "tiny-imagenet-200"
) -> Path:
    """``train/WNID/images/*.JPEG`` and ``val/val_annotations.txt`` with ``val/images/``."""
    target, rng, lines = folder / name, np.random.default_rng(0), []
    for label in range(classes):
        wnid = f"n{label:08d}"
        for i in range(per_class):
            _image(target / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", _pixels(rng, label, classes, (64, 64, 3)))
        for i in range(val_per_class):
            file = f"val_{label * val_per_class + i}.JPEG"
            _image(target / "val" / "images" / file, _pixels(rng, label, classes, (64, 64, 3)))
            lines.append(f"{file}\t{wnid}\t0\t0\t62\t62")
    (target / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    return target


def face(rng: np.random.Generator, size: tuple[int, int], inside: tuple[float, float, float, float]) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """A dark picture with a bright square at each landmark of a face that fills a box.

    Args:
        size: (width, height). inside: left, top, right, bottom of the box in pixels.

    Returns:
        pixels ``[h, w, 3]`` and points ``[5, 2]`` as (x, y).
    """
    left, top, right, bottom = inside
    corner, sides = np.array([left, top]), np.array([right - left, bottom - top])
    points = corner + sides * (FACE + rng.normal(0, 0.02, FACE.shape))
    pixels = np.full((size[1], size[0], 3), 40, np.uint8)
    half = max(sides.min() / 40, 1.0)
    for x, y in points:
        pixels[int(y - half) : int(np.ceil(y + half)), int(x - half) : int(np.ceil(x + half))] = 230
    return pixels, points


def make_mtfl(folder: Path, train: int = 24, test: int = 6, separator: str = "/") -> Path:
    """``MTFL/`` with both lists; training images in the three sizes of the original."""
    target, rng = folder / "MTFL", np.random.default_rng(0)
    kinds = (
        ("lfw_5590", (250, 250), (57, 66, 197, 206)), ("net_7876", (400, 400), (40, 40, 360, 360)),
        ("net_7876", (160, 216), (29, 29, 131, 131)),
    )  # fmt: skip
    lists: dict[str, list[str]] = {"training.txt": [], "testing.txt": []}
    for name, count in (("training.txt", train), ("testing.txt", test)):
        for i in range(count):
            place, size, box = kinds[i % 3] if name == "training.txt" else ("AFLW", (150, 150), (0, 0, 150, 150))
            pixels, points = face(rng, size, box)
            _image(target / place / f"{i}.png", pixels)
            numbers = " ".join(f"{value:.4f}" for value in [*points[:, 0], *points[:, 1]])
            lists[name].append(f" {place}{separator}{i}.png {numbers} 1 2 2 3 ")
    for name, lines in lists.items():
        (target / name).write_text("\n".join(lines) + "\n \n")
    return target


def make_aflw(folder: Path, train: int = 30, test: int = 6) -> Path:
    """``aflw_release-2/`` with lists, keypoints in 64-bit .mat files as (y, x), and images of unequal sides."""
    from scipy.io import savemat

    target, rng = folder / "aflw_release-2", np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        names, found, sizes = [], [], []
        for i in range(count):
            width, height = 100 + 3 * i, 120
            pixels, points = face(rng, (width, height), (0, 0, width, height))
            names.append(f"{part}-{i}.png")
            _image(target / "output" / names[-1], pixels)
            found.append(points[:, ::-1])
            sizes.append((height, width))
        (target / f"aflw_{part}_images.txt").write_text("\n".join(names) + "\n")
        savemat(target / f"aflw_{part}_keypoints.mat", {"gt": np.array(found), "hw": np.array(sizes)})
    return target


def make_imdb(folder: Path, train: int = 12, unsup: int = 10, test: int = 6) -> Path:
    """``aclImdb/`` with so many reviews of each sort."""
    rng, target = np.random.default_rng(0), folder / "aclImdb"
    parts = {"train/pos": train, "train/neg": train, "train/unsup": unsup, "test/pos": test, "test/neg": test}
    for part, count in parts.items():
        (target / part).mkdir(parents=True)
        for i in range(count):
            text = f"{part.replace('/', ' ')} {i}<br />" + " ".join(rng.choice(WORDS, 30))
            (target / part / f"{i}_7.txt").write_text(text)
    return target


def make_own_images(
    folder: Path, labelled: Sequence[int] = (6, 5, 4), unlabelled: int = 24, test: int = 3, name: str = "my_images"
) -> Path:
    """``name/labelled/CLASS/``, ``unlabelled/`` with a folder inside, and ``test/CLASS/`` unless ``test`` is 0."""
    target, rng, classes = folder / name, np.random.default_rng(0), len(labelled)
    for label, count in enumerate(labelled):
        for part, number in (("labelled", count), ("test", test)):
            for i in range(number):
                _image(target / part / f"class{label}" / f"{i}.png", _pixels(rng, label, classes, (20, 24, 3)))
    for i in range(unlabelled):
        place = target / "unlabelled" / ("more" if i % 2 else "")
        _image(place / f"{i}.png", _pixels(rng, i % classes, classes, (20, 24, 3)))
    return target


def make_listed_images(folder: Path, count: int = 36, labelled: int = 18, name: str = "my_images") -> Path:
    """Images below ``name/`` in no order, and beside it ``labels.csv`` with the labels of the first ``labelled`` ones."""
    target, rng, rows = folder / name, np.random.default_rng(0), []
    for i in range(count):
        place = ("", "roll 1", "roll 2/late")[i % 4 % 3]
        _image(target / place / f"{i:02}.png", _pixels(rng, i % 3, 3, (20, 24, 3)))
        if i < labelled:
            rows.append({"file": f"{place}/{i:02}.png".lstrip("/"), "label": ("cat", "dog", "fox")[i % 3]})
    write_csv(folder / "labels.csv", rows)
    return target


def write_csv(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    """A CSV file with a column for each key of the first row."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def make_own_text(folder: Path, labelled: int = 16, unlabelled: int = 40, name: str = "my_texts.csv") -> Path:
    """Texts of the class "good" or "bad" by a word in them; the first ``labelled`` rows have a label."""
    rng, rows = np.random.default_rng(0), []
    for i in range(labelled + unlabelled):
        label = ("good", "bad")[i % 2]
        words = [*rng.choice(WORDS, 12).tolist(), label, f"w{i}"]
        rows.append({"id": f"t{i}", "text": " ".join(words), "label": label if i < labelled else ""})
    return write_csv(folder / name, rows)


def make_own_table(
    folder: Path, labelled: int = 30, unlabelled: int = 60, values: bool = False, name: str = "my_table.csv"
) -> Path:
    """Numbers, words and gaps; the target is "low", "mid" or "high", or with ``values`` 100 + 10 x + noise."""
    rng, rows = np.random.default_rng(0), []
    for i in range(labelled + unlabelled):
        x, kind = rng.normal(), ("red", "blue")[int(rng.integers(2))]
        target = (
            f"{100 + 10 * x + rng.normal():.2f}" if values else ("low", "mid", "high")[int(np.digitize(x, [-0.5, 0.5]))]
        )
        row: dict[str, object] = {"id": f"r{i}", "x": f"{x:.4f}", "colour": kind if i % 7 else "", "flag": i % 3 == 0}
        row |= {"noise": f"{rng.normal():.3f}" if i % 5 else "", "target": target if i < labelled else ""}
        rows.append(row)
    return write_csv(folder / name, rows)
