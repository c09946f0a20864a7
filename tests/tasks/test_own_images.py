"""One's own images: three folders are a task, and what is wrong with them is said in a line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metaimpute.tasks import ImageFolder, MissingData, OwnImages, TaskError
from metaimpute.tasks.base import TaskData
from metaimpute.tasks.image_reading import read_image

from .. import fake_data


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METAIMPUTE_DATA", str(tmp_path))
    return fake_data.make_own_images(tmp_path)


def load(folder: Path, seed: int = 0, **options: object) -> tuple[OwnImages, TaskData]:
    task = OwnImages(folder=str(folder), size=16, **options)  # type: ignore[arg-type]
    return task, task.load(seed)


def test_folders_become_pools_of_the_right_classes(folder: Path) -> None:
    task, data = load(folder)
    assert task.label_names == ["class0", "class1", "class2"] and task.output.size == 3
    assert (len(data.labelled), len(data.unlabelled), len(data.test)) == (15, 24, 9)
    assert data.source == "my_images (test: 9 images, given)"
    for pool in (data.labelled, data.test):
        named = [name.split("/")[1] for name in task.row_names(pool)]
        assert [f"class{target}" for target in pool.targets.tolist()] == named
    assert set(data.unlabelled.targets.tolist()) == {-1}
    assert task.row_names(data.unlabelled)[0] == "unlabelled/0.png"
    assert task.view(data.unlabelled.take(torch.arange(3)), "strong", torch.Generator()).shape == (3, 3, 16, 16)


def test_a_share_of_the_labelled_images_is_the_test_set_where_none_is_given(folder: Path) -> None:
    shutil.rmtree(folder / "test")
    task, data = load(folder, test_share=0.2, validation=3)
    assert torch.bincount(data.test.targets).tolist() == [1, 1, 1]
    assert torch.bincount(data.validation.targets).tolist() == [1, 1, 1]
    assert torch.bincount(data.labelled.targets).tolist() == [4, 3, 2]
    assert "20% of the labelled images held out" in data.source
    _, other = load(folder, seed=5, test_share=0.2, validation=3)
    assert torch.equal(data.test.ids, other.test.ids) and torch.equal(data.validation.ids, other.validation.ids)
    with pytest.raises(TaskError, match="validation: 12 asked, but only 12 examples"):
        load(folder, validation=12)


def test_images_that_cannot_be_read_are_left_out_and_named(folder: Path) -> None:
    for name in ("labelled/class0/a.jpg", "unlabelled/b.png", "unlabelled/more/c.png", "test/class1/d.png"):
        (folder / name).write_bytes(b"no image")
    whole = (folder / "unlabelled" / "0.png").read_bytes()
    (folder / "unlabelled" / "0.png").write_bytes(whole[: len(whole) // 2])
    task, data = load(folder)
    assert (len(data.labelled), len(data.unlabelled), len(data.test)) == (15, 23, 9)
    said = next(line for line in data.warnings if "cannot be read" in line)
    assert said.startswith("left out 5 images") and "labelled/class0/a.jpg" in said and said.endswith("and 2 more")
    assert task.warnings(0) == data.warnings
    for path in folder.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(TaskError, match="folder: none of the 52 images"):
        load(folder)


def test_leaks_few_labels_and_small_sets_are_warned_of(folder: Path) -> None:
    shutil.copy(folder / "test/class1/0.png", folder / "unlabelled/copy.png")
    for i in range(3):
        (folder / f"labelled/class2/{i}.png").unlink()
    _, data = load(folder)
    assert data.warnings == (
        "few training labels: 'class2' 1",
        "1 of 9 test images also occur in the training data, which flatters the result: test/class1/0.png",
        "only 9 test images: the test result is a rough guess",
    )
    shutil.rmtree(folder / "unlabelled/more")
    assert any("unlabelled images beside" in line for line in load(folder, labels=0)[1].warnings) is False
    for path in list((folder / "unlabelled").glob("*.png"))[3:]:
        path.unlink()
    assert "only 3 unlabelled images beside 12 labelled ones: little to learn from" in load(folder)[1].warnings


def test_what_is_wrong_with_the_folder_is_named(folder: Path) -> None:
    (folder / "labelled/class9").mkdir()
    with pytest.raises(TaskError, match="folder: no training label of class 'class9'"):
        load(folder)
    (folder / "labelled/class9").rmdir()
    (folder / "test/odd").mkdir()
    with pytest.raises(TaskError, match="classes that labelled/ does not have: odd"):
        load(folder)
    (folder / "test/odd").rmdir()
    shutil.rmtree(folder / "unlabelled")
    with pytest.raises(TaskError, match="unlabelled holds no images"):
        load(folder)
    with pytest.raises(MissingData, match=r"nowhere/labelled/\) not found"):
        OwnImages(folder="nowhere").load(0)
    with pytest.raises(TaskError, match="folder: name the folder"):
        OwnImages().check()
    for name in ("class1", "class2"):
        shutil.rmtree(folder / "labelled" / name)
    with pytest.raises(TaskError, match="folder: there is only the class 'class0'"):
        OwnImages(folder=str(folder)).check()


def test_new_images_are_read_and_class_names_survive_without_the_data(folder: Path, tmp_path: Path) -> None:
    task, data = load(folder)
    names, raw = task.read(folder / "unlabelled")
    assert (
        len(names) == len(raw) == 24
        and names[:2] == ["unlabelled/0.png", "unlabelled/10.png"]
        and "unlabelled/more/1.png" in names
    )
    assert task.read(folder / "unlabelled/0.png")[0] == ["unlabelled/0.png"]
    shutil.copytree(folder / "unlabelled", tmp_path / "elsewhere" / "new")
    assert task.read(tmp_path / "elsewhere" / "new")[0][:2] == ["0.png", "10.png"]
    with pytest.raises(TaskError, match="holds no images"):
        task.read(tmp_path / "nothing")
    task.save(tmp_path)
    later = OwnImages(folder="gone", size=16)
    assert later.label_names is None and later.output.size == 2
    later.restore(tmp_path)
    assert later.label_names == task.label_names and later.output == task.output and later.input_shape == (3, 16, 16)
    for path in (tmp_path / "task.json", tmp_path):
        (tmp_path / "task.json").write_text("[]") if path.suffix else (tmp_path / "task.json").unlink()
        with pytest.raises(TaskError, match=r"task\.json cannot be read"):
            later.restore(tmp_path)


def test_rows_of_an_image_folder_are_named_by_their_paths(tmp_path: Path) -> None:
    folder = fake_data.make_image_folder(tmp_path)
    task = ImageFolder(folder=str(folder), labels=6, size=16)
    assert task.row_names(task.load(0).test)[0] == "val/class0/0.png"
    assert task.label_names == ["class0", "class1", "class2"]


def test_images_are_turned_upright(tmp_path: Path) -> None:
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:, :12] = 255  # light on the left; turned by 90 degrees clockwise: light above
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=turned)
    found = read_image(tmp_path / "a.png", 16)
    assert found.shape == (3, 24, 16) and bool((found[:, :12] == 255).all()) and bool((found[:, 12:] == 0).all())


@pytest.mark.parametrize(("kind", "top"), [(np.uint16, 65535), (np.int32, 100_000), (np.float32, 1.0)])
def test_deep_grey_images_are_scaled_and_not_clipped(kind: type, top: float, tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 16)[None].repeat(16, 0)
    Image.fromarray((ramp * top).astype(kind)).save(tmp_path / "a.tif")
    found = read_image(tmp_path / "a.tif", 16)
    expected = torch.from_numpy(np.round(ramp * 255)).expand(3, -1, -1)
    assert float((found - expected).abs().max()) <= 1
    Image.fromarray(np.full((16, 16), top).astype(kind)).save(tmp_path / "a.tif")
    assert int(read_image(tmp_path / "a.tif", 16).max()) == 0


def test_new_images_that_cannot_be_read_are_left_out_and_said(folder: Path) -> None:
    task, _ = load(folder)
    new = folder / "unlabelled"
    (new / "00.png").write_bytes(b"no image")
    names, raw = task.read(new)
    assert len(names) == len(raw) == 24 and "unlabelled/00.png" not in names
    assert task.read_warnings == ["left out 1 image that cannot be read: unlabelled/00.png"]
    task.read(new / "0.png")
    assert task.read_warnings == []
    with pytest.raises(TaskError, match=r"00\.png cannot be read as an image"):
        task.read(new / "00.png")
    for path in new.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(TaskError, match="none of the 25 images in .* can be read"):
        task.read(new)
