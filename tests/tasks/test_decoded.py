"""Decoded images come from the cache with the same bits, until their file changes; a cache that is no use is no error."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metaimpute.tasks import decoded as place
from metaimpute.tasks.base import TaskError
from metaimpute.tasks.decoded import Decoded


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setenv("METAIMPUTE_CACHE", str(tmp_path / "cache"))
    folder, rng = tmp_path / "images", np.random.default_rng(0)
    (folder / "deep").mkdir(parents=True)
    found = [folder / "one.png", folder / "deep" / "two.png", folder / "three.png"]
    for path in found:
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(path)
    clear = Image.new("RGBA", (12, 12), (0, 0, 0, 0))
    clear.save(folder / "clear.png")
    return [*found, folder / "clear.png"]


def read(images: list[Path], limit: float = 0.0) -> tuple[Decoded, list[torch.Tensor]]:
    reader = Decoded(8, limit, images[0].parent)
    return reader, [image for image in reader.several(images) if image is not None]


def never(path: Path, side: int) -> None:
    raise AssertionError(f"{path} is decoded again")


def test_a_second_reader_decodes_nothing(images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first, before = read(images)
    monkeypatch.setattr(place, "decode", never)
    second, after = read(images)
    assert len(after) == 4 and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert first.transparent == second.transparent == {images[-1]}, "what is said of an image is kept too"
    assert [image.shape for image in after] == [(3, 8, 12)] * 3 + [(3, 8, 8)]
    with pytest.raises(AssertionError, match="decoded again"):  # another side is another image
        Decoded(9, 0, images[0].parent).several(images)


def test_a_changed_file_is_decoded_again(images: list[Path]) -> None:
    _, before = read(images)
    state = images[1].stat()
    Image.fromarray(np.full((20, 30, 3), 7, dtype=np.uint8)).save(images[1])
    os.utime(images[1], ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    _, after = read(images)
    assert bool((after[1] == 7).all()) and torch.equal(before[0], after[0])


@pytest.mark.parametrize("harm", ["garbage", "cut short", "folder in its place", "no folder to be made"])
def test_a_cache_that_is_no_use_is_no_error(harm: str, images: list[Path], tmp_path: Path) -> None:
    _, before = read(images)
    (file,) = (tmp_path / "cache" / "images").iterdir()
    content = file.read_bytes()
    if harm == "garbage":
        file.write_bytes(b"not a database" * 99)
    elif harm == "cut short":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.unlink()
        if harm == "folder in its place":
            file.mkdir()
        else:
            file.parent.rmdir()
            file.parent.write_text("a file")
    for _ in range(2):
        _, after = read(images)
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    if harm in ("garbage", "cut short"):
        assert len(file.read_bytes()) == len(content), "it is begun anew"


def test_a_damaged_value_is_made_anew(images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reader, before = read(images)
    kept = reader._kept
    assert kept is not None
    keys = [key for path in images if (key := reader._key(path))]
    values = kept.get(keys)
    kept.put({key: value[:-1] for key, value in values.items()})
    assert all(torch.equal(a, b) for a, b in zip(before, read(images)[1], strict=True)) and kept.get(keys) == values


def test_memory_holds_no_more_than_it_may_and_bad_files_are_named(images: list[Path]) -> None:
    one = 3 * 8 * 12
    reader, _ = read(images, limit=2.5 * one)
    assert reader.held <= 2.5 * one and len(reader.images) == 2
    bad = images[0].with_name("bad.png")
    bad.write_bytes(b"no image")
    assert reader.several([bad, images[0]])[0] is None and reader.readable([images[0], bad]) == [True, False]
    with pytest.raises(TaskError, match="bad.png cannot be read as an image"):
        reader(bad)
