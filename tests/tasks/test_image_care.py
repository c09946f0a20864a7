"""Images from anywhere: bounded before they are decoded, shown on white, and what is left out of a folder is said."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, features

from metaimpute.cli import main
from metaimpute.tasks import ImageFolder, OwnImages, TaskError
from metaimpute.tasks.image_listing import LeftOut, images_in
from metaimpute.tasks.image_reading import read_image, sides_of

from .. import fake_data

TINY = "train.steps=2", "train.eval_every=2", "train.batch=4", "train.unlabelled_batch=4", "train.threads=1"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return fake_data.make_own_images(tmp_path)


def warnings_of(folder: Path) -> tuple[str, ...]:
    return OwnImages(folder=str(folder), size=16).load(0).warnings


def png_header(width: int, height: int) -> bytes:
    """A PNG file that says it has so many pixels, all black; a few kilobytes whatever their number."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\0" * -(-width // 8)) * height
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("width", "height", "side", "message"),
    [
        (1, 1_000_000, 16, "1 x 1,000,000 pixels: more than 100 times as long as wide"),
        (100_000, 3, 16, "more than 100 times as long"),
        (12_000, 8_000, 16, "12,000 x 8,000 pixels are more than 90,000,000"),
        (100, 9_000, 4096, "would be more than 90,000,000 with a shorter side of 4096"),
    ],
)
@pytest.mark.filterwarnings("ignore:Image size")
def test_an_image_that_would_fill_the_memory_is_refused_before_it_is_decoded(
    width: int, height: int, side: int, message: str, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(png_header(width, height))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TaskError, match=rf"a\.png cannot be read as an image \(.*{message}"):
        read_image(tmp_path / "a.png", side)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000
    assert sides_of(tmp_path / "a.png") == ((100, 9_000) if side == 4096 else (0, 0))


def test_a_large_photograph_is_still_read(tmp_path: Path) -> None:
    Image.new("L", (6_000, 3_000), 7).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 16).shape == (3, 16, 32)


def test_init_and_run_leave_such_an_image_out_and_name_it(folder: Path) -> None:
    (folder / "unlabelled" / "a.png").write_bytes(png_header(1, 200_000))
    for words in (["init", "images", "my_images"], ["run", "my_images.yaml", *(f"--set={s}" for s in TINY)]):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, done.output
        assert "left out 1 image that cannot be read: unlabelled/a.png" in " ".join(done.output.split())


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes and links")
def test_what_is_left_out_is_counted_and_nothing_else_is_opened(folder: Path, tmp_path: Path) -> None:
    bare, image = folder / "unlabelled", (folder / "unlabelled" / "0.png").read_bytes()
    assert warnings_of(folder) == ("only 9 test images: the test result is a rough guess",)
    for name in (".ipynb_checkpoints/0-checkpoint.png", ".thumb.png", "@eaDir/x.jpg", "notes.txt", "a.heic", "plain"):
        (bare / name).parent.mkdir(exist_ok=True)
        (bare / name).write_bytes(image)
    os.mkfifo(bare / "pipe.png")
    (bare / "gone.png").symlink_to(tmp_path / "nowhere")
    (bare / "album").symlink_to(shutil.copytree(bare / "more", tmp_path / "elsewhere"))
    (bare / ".DS_Store").write_bytes(b"")
    (folder / "labelled" / "stray.png").write_bytes(image)
    heard = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(bare)  # the name of a socket is short
    heard.bind("s.png")
    os.chdir(here)
    said = next(line for line in warnings_of(folder) if line.startswith("left out of my_images: "))
    assert said.removeprefix("left out of my_images: ").split(", ")[:2] == ["3 hidden", "2 pipes or devices"]
    assert said.endswith("and 2 other kinds")
    left = LeftOut()
    assert len(images_in(bare, left)) == 24
    assert left.counts == {"hidden": 3, "pipes or devices": 2, ".txt": 1, ".heic": 1, "without a suffix": 1,
                           "linked folders": 1, "links that lead nowhere": 1}  # fmt: skip
    for words in (["init", "images", "my_images"], ["check", "my_images.yaml"]):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0 and said in " ".join(done.output.split()), done.output
    heard.close()


def test_a_class_may_be_a_linked_folder_and_its_images_linked_files(folder: Path, tmp_path: Path) -> None:
    moved = (folder / "labelled" / "class1").rename(tmp_path / "pictures")
    (folder / "labelled" / "class1").symlink_to(moved)
    (folder / "unlabelled" / "one.png").symlink_to(moved / "0.png")
    assert len(images_in(folder / "unlabelled")) == 25
    assert OwnImages(folder=str(folder), size=16).load(0).labelled.targets.bincount().tolist() == [6, 5, 4]


@pytest.mark.parametrize(("suffix", "kind"), [(".jfif", "JPEG"), (".JPE", "JPEG"), (".gif", "GIF"), (".avif", "AVIF")])
def test_other_names_of_images_are_read(suffix: str, kind: str, tmp_path: Path) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    Image.new("RGB", (20, 20), (200, 10, 10)).save(tmp_path / f"a{suffix}", format=kind)
    assert len(images_in(tmp_path)) == 1
    mean = read_image(tmp_path / f"a{suffix}", 16).float().mean((1, 2))
    assert (mean - torch.tensor([200.0, 10.0, 10.0])).abs().max() < 12


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_hidden_colours_of_transparent_images_do_not_show(mode: str, folder: Path) -> None:
    """The left half is transparent with a dark colour beneath, the right one solid grey."""
    pixels = np.full((24, 24, 4), 90, np.uint8)
    pixels[..., 3] = 255
    pixels[:, :12] = (10, 10, 10, 0)
    path = folder / "unlabelled" / "0.png"
    if mode in ("RGBA", "LA"):
        Image.fromarray(pixels).convert(mode).save(path)
    elif mode == "P":
        Image.fromarray(pixels[..., 0]).convert("P").save(path, transparency=10)
    else:
        Image.fromarray(pixels[..., :3]).save(path, transparency=(10, 10, 10))
    found = read_image(path, 24)
    assert found[:, :, :12].float().mean() > 250 and abs(float(found[:, :, 12:].float().mean()) - 90) < 2
    assert "read 1 partly transparent image on white: unlabelled/0.png" in warnings_of(folder)
    assert OwnImages(folder=str(folder), size=16).load(0).unlabelled.ids.shape == (24,)


def test_an_opaque_image_with_an_alpha_channel_is_as_it_was(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", 16).permute(1, 2, 0).numpy(), pixels)


def test_names_that_are_not_utf_8_are_spelled_in_the_labels(folder: Path) -> None:
    try:
        os.rename(os.fsencode(folder / "unlabelled" / "0.png"), os.fsencode(folder / "unlabelled") + b"/caf\xe9.png")  # noqa: PTH104
        os.rename(os.fsencode(folder / "labelled" / "class1"), os.fsencode(folder / "labelled") + b"/\xff")  # noqa: PTH104
        os.rename(os.fsencode(folder / "test" / "class1"), os.fsencode(folder / "test") + b"/\xff")  # noqa: PTH104
    except OSError:
        pytest.skip("this file system has no such names")
    for words in (
        ["init", "images", "my_images"],
        ["run", "my_images.yaml", "--out", "r", *(f"--set={s}" for s in TINY)],
        ["impute", "r", "--out", "labels.csv"],
        ["predict", "r", "my_images/unlabelled"],
        ["report", "r"],
    ):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, done.output
    written = Path("labels.csv").read_text(encoding="utf-8")
    assert "unlabelled/caf\\xe9.png," in written
    assert OwnImages(folder="my_images").label_names == ["\\xff", "class0", "class2"]


def test_an_image_folder_says_what_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fake_data.make_image_folder(tmp_path)
    (folder / "train" / "class0" / "notes.txt").write_text("x")
    assert ImageFolder(folder=str(folder), labels=6, size=16).load(0).warnings == ("left out of images: 1 .txt",)


def test_predict_says_it_too(folder: Path) -> None:
    (folder / "unlabelled" / "notes.txt").write_text("x")
    task = OwnImages(folder=str(folder), size=16)
    task.read(folder / "unlabelled")
    assert task.read_warnings == ["left out of unlabelled: 1 .txt"]
