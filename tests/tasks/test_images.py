"""Image tasks read their canonical forms and nothing else; views do to pixels what they say."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as V

from metaimpute.tasks import (
    Cifar10,
    Cifar100,
    FashionMNIST,
    ImageFolder,
    ImageNet72,
    MissingData,
    Task,
    TaskError,
    TinyImageNet,
    decoded,
    fashion_mnist,
    image_files,
    image_reading,
)  # fmt: skip
from metaimpute.tasks.image_views import ImageViews, cutout, flip_and_shift
from metaimpute.tasks.rand_augment import GREY, OPERATIONS, rand_augment

from .. import fake_data


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data but what the test makes."""
    monkeypatch.setenv("METAIMPUTE_DATA", str(tmp_path / "here"))
    monkeypatch.setenv("METAIMPUTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "SYSTEM", (tmp_path / "system",))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "here"


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


TASKS: list[tuple[Any, Task, int]] = [
    (fake_data.make_cifar10, Cifar10(labels=20, validation=10), 10),
    (fake_data.make_cifar100, Cifar100(labels=100, validation=100), 100),
    (fake_data.make_fashion_mnist, FashionMNIST(labels=20, validation=10), 10),
    (lambda f: fake_data.make_image_folder(f), ImageFolder(folder="images", labels=6, validation=3, size=16), 3),
    (lambda f: fake_data.make_image_folder(f, name="imagenet-72"), ImageNet72(label_share=0.25, validation=3), 3),
    (fake_data.make_tiny_imagenet, TinyImageNet(label_share=0.3, validation=3), 3),
]


@pytest.mark.parametrize("make, task, classes", TASKS, ids=[t.name for _, t, _ in TASKS])
def test_every_image_task_splits_its_files_and_gives_views(make: Any, task: Any, classes: int, here: Path) -> None:
    make(here)
    task.check()
    assert not task.missing() and task.output.size == classes
    data, again, other = task.load(1), task.load(1), task.load(2)
    parts = [set(pool.ids.tolist()) for pool in (data.labelled, data.unlabelled, data.validation)]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    for pool in (data.labelled, data.validation, data.test):
        assert len(set(torch.bincount(pool.targets, minlength=classes).tolist())) == 1
    assert torch.equal(data.labelled.ids, again.labelled.ids) and not torch.equal(data.labelled.ids, other.labelled.ids)
    assert torch.equal(data.validation.ids, other.validation.ids)
    raw = data.unlabelled.take(torch.arange(4))
    for kind in ("none", "weak", "strong"):
        view = task.view(raw, kind, rng(3))
        assert view.shape == (4, *task.input_shape) and view.dtype == torch.float32
        assert torch.equal(view, task.view(raw, kind, rng(3)))
        if kind != "none":
            assert not torch.equal(view, task.view(raw, kind, rng(4)))
    for pool in (data.labelled, data.test):  # the makers write the class as brightness
        pixels = task.view(pool.take(torch.arange(len(pool))), "none", rng())
        order = pixels.mean((1, 2, 3)).argsort()
        assert (pool.targets[order].diff() >= 0).all(), "each image kept its own label"


@pytest.mark.parametrize("task", [t for _, t, _ in TASKS], ids=lambda t: t.name)
def test_missing_images_say_where_to_look_and_how_to_get_them(task: Any, here: Path) -> None:
    with pytest.raises(MissingData) as caught:
        task.load(0)
    text = str(caught.value)
    assert str(here) in text and any(word in text for word in ("get it with", "put", "get "))
    assert task.missing() and task.output.size >= 2


def test_cifar_files_hold_arrays_and_nothing_else(here: Path) -> None:
    folder = fake_data.make_cifar10(here)
    (folder / "data_batch_3").write_bytes(b"\x80\x02cos\nsystem\nq\x00X\x04\x00\x00\x00trueq\x01\x85q\x02Rq\x03.")
    with pytest.raises(TaskError, match=r"data_batch_3 is not a CIFAR file .*os\.system"):
        Cifar10(labels=10, validation=0).load(0)
    (folder / "data_batch_3").write_bytes(pickle.dumps({"data": [1, 2], "labels": [0]}))
    with pytest.raises(TaskError, match="data_batch_3 is not a CIFAR file"):
        Cifar10(labels=10, validation=0).load(0)
    (folder / "data_batch_3").unlink()
    with pytest.raises(TaskError, match="data_batch_3 is not a CIFAR file .*No such file"):
        Cifar10(labels=10, validation=0).load(0)


def test_fashion_mnist_is_found_as_the_system_package(tmp_path: Path) -> None:
    made = fake_data.make_fashion_mnist(tmp_path / "elsewhere", compress=True)
    made.rename(tmp_path / "system")
    data = FashionMNIST(labels=10, validation=0).load(0)
    assert (len(data.labelled), len(data.unlabelled), len(data.test)) == (10, 90, 20)
    labels = tmp_path / "system" / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(labels.read_bytes()[:-9])
    with pytest.raises(TaskError, match=r"train-labels-idx1-ubyte\.gz cannot be read"):
        FashionMNIST(labels=10, validation=0).load(0)


def test_real_fashion_mnist_has_its_published_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Path("/usr/share/datasets/fashion-mnist")
    if not found.exists():
        pytest.skip("the Debian package dataset-fashion-mnist is not installed")
    monkeypatch.setattr(fashion_mnist, "SYSTEM", (found,))
    data = FashionMNIST(labels=100).load(0)
    assert (len(data.labelled), len(data.unlabelled), len(data.validation), len(data.test)) == (
        100,
        54_900,
        5000,
        10_000,
    )
    pixels = FashionMNIST().view(data.unlabelled.inputs, "none", rng())
    assert float(pixels.mean()) == pytest.approx(0, abs=0.01) and float(pixels.std()) == pytest.approx(1, abs=0.01)


# folders of images -------------------------------------------------------------------------------------------------


def test_a_share_is_taken_of_every_class_by_itself(here: Path) -> None:
    fake_data.make_image_folder(here, per_class=[20, 10, 5])
    data = ImageFolder(folder="images", label_share=0.2, size=16).load(0)
    assert torch.bincount(data.labelled.targets).tolist() == [4, 2, 1]
    assert len(data.unlabelled) == 28
    whole = ImageFolder(folder="images", label_share=1.0, size=16, unlabelled_includes_labelled=True).load(0)
    assert len(whole.labelled) == len(whole.unlabelled) == 35
    with pytest.raises(TaskError, match="label_share: 1 leaves no unlabelled examples"):
        ImageFolder(folder="images", label_share=1.0, size=16).load(0)


def test_images_are_resized_isotropically_and_cropped_in_place(here: Path) -> None:
    path = fake_data.make_image_folder(here, size=(80, 100)) / "train" / "class0" / "0.png"
    image = image_reading.read_image(path, 40)
    assert image.shape == (3, 40, 50) and image.dtype == torch.uint8
    ramp = torch.arange(50).expand(3, 40, 50)
    centre = image_files.squares([ramp], 40, None)
    assert centre[0, 0, 0].tolist() == list(range(5, 45))
    starts = {int(image_files.squares([ramp], 40, rng(seed))[0, 0, 0, 0]) for seed in range(200)}
    assert starts == set(range(11)), "every window, the first and the last included"


def test_images_are_read_once_within_the_memory_that_is_allowed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_data.make_image_folder(here, size=(16, 16))
    read: list[Path] = []
    real = decoded.decode
    monkeypatch.setattr(decoded, "decode", lambda path, side: read.append(path) or real(path, side))
    monkeypatch.setattr(decoded.Kept, "_on_database", lambda self, work: None)  # what is held in memory, and no more
    for gigabytes, expected in ((1.0, 6), (3 * 768 / 1e9, 9), (0.0, 12)):
        read.clear()
        pool = ImageFolder(folder="images", labels=3, size=16, cache_gb=gigabytes).load(0).unlabelled
        assert not read, "loading reads no image"
        first, second = pool.take(torch.arange(6)), pool.take(torch.arange(6))
        assert len(read) == expected
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_what_is_wrong_with_a_folder_is_named(here: Path) -> None:
    folder = fake_data.make_image_folder(here, size=(16, 16))
    broken = folder / "train" / "class1" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    data = ImageFolder(folder=str(folder), labels=3, size=16, unlabelled_includes_labelled=True).load(0)
    with pytest.raises(TaskError, match=r"class1/3\.png cannot be read as an image"):
        data.unlabelled.take(torch.arange(24))
    (folder / "val" / "class9").mkdir()
    with pytest.raises(TaskError, match="val holds classes that train/ does not have: class9"):
        ImageFolder(folder="images", labels=3, size=16).load(0)
    with pytest.raises(TaskError, match="labels: 4 cannot be spread evenly over 3 classes"):
        ImageFolder(folder="images", labels=4).check()
    with pytest.raises(TaskError, match="folder: name the folder"):
        ImageFolder().check()
    with pytest.raises(TaskError, match="labels: give a number"):
        ImageFolder(folder="images", label_share=0.0).check()
    tiny = fake_data.make_tiny_imagenet(here)
    with (tiny / "val" / "val_annotations.txt").open("a") as lines:
        lines.write("val_9.JPEG\tn99999999\t0\t0\t1\t1\n")
    with pytest.raises(TaskError, match=r"val_annotations\.txt:7: not a file and one of the 3 classes"):
        TinyImageNet(labels=3).load(0)


def test_real_tiny_imagenet_classes(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (real_data / "tiny-imagenet-20").exists():
        pytest.skip("no tiny-imagenet-20 under METAIMPUTE_DATA")
    monkeypatch.setenv("METAIMPUTE_DATA", str(real_data))
    task = TinyImageNet(folder="tiny-imagenet-20", label_share=0.05)
    data = task.load(0)
    assert (len(data.labelled), len(data.unlabelled), len(data.test)) == (500, 9500, 1000)
    assert torch.bincount(data.test.targets).tolist() == [50] * 20
    assert task.view(data.test.take(torch.arange(64)), "strong", rng()).shape == (64, 3, 64, 64)


# views -------------------------------------------------------------------------------------------------------------


def pictures(n: int, channels: int = 3, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8, generator=rng(7))


def test_weak_views_are_windows_of_the_reflected_image_or_its_mirror() -> None:
    images = pictures(400, 1, 12, 16)
    padded = torch.nn.functional.pad(images.float(), (2, 2, 2, 2), mode="reflect").to(torch.uint8)
    seen = set()
    for image, moved in zip(padded, flip_and_shift(images, rng(), flip=True, shift=2), strict=True):
        for mirrored in (False, True):
            for top in range(5):
                for left in range(5):
                    window = image[:, top : top + 12, left : left + 16]
                    if torch.equal(window.flip(-1) if mirrored else window, moved):
                        seen.add((mirrored, top, left))
                        break
    assert len(seen) == 50, "every shift up to 2 pixels, straight and mirrored, and nothing else"
    still = flip_and_shift(images, rng(), flip=False, shift=0)
    assert torch.equal(still, images)


def test_cutout_is_one_grey_square() -> None:
    views = cutout(torch.full((200, 3, 32, 32), 9, dtype=torch.uint8), rng(), 16)
    holes = views == GREY
    assert torch.equal(holes[:, 0], holes[:, 2]) and set(views.unique().tolist()) == {9, GREY}
    areas = holes[:, 0].sum((1, 2))
    assert areas.max() == 256 and areas.min() < 256, "a hole may hang over the border"


REFERENCE = {
    "identity": lambda x, level: x,
    "autocontrast": lambda x, level: V.autocontrast(x),
    "equalize": lambda x, level: V.equalize(x),
    "brightness": lambda x, level: V.adjust_brightness(x, 0.05 + 0.9 * level),
    "contrast": lambda x, level: V.adjust_contrast(x, 0.05 + 0.9 * level),
    "color": lambda x, level: V.adjust_saturation(x, 0.05 + 0.9 * level),
    "sharpness": lambda x, level: V.adjust_sharpness(x, 0.05 + 0.9 * level),
    "posterize": lambda x, level: V.posterize(x, 4 + min(int(level * 5), 4)),
    "solarize": lambda x, level: V.solarize(x, 256 * level) if level < 0.99 else x,
    "rotate": lambda x, level: _moved(x, angle=-30 * (2 * level - 1)),
    "translate_x": lambda x, level: _moved(x, translate=(-0.3 * (2 * level - 1) * x.shape[-1], 0)),
    "translate_y": lambda x, level: _moved(x, translate=(0, -0.3 * (2 * level - 1) * x.shape[-2])),
}


def _moved(x: torch.Tensor, angle: float = 0.0, translate: tuple[float, float] = (0, 0)) -> torch.Tensor:
    whole = [round(t) for t in translate]
    return V.affine(x, angle, whole, 1.0, [0.0, 0.0], interpolation=InterpolationMode.NEAREST, fill=[GREY] * len(x))


@pytest.mark.parametrize("name", REFERENCE)
@pytest.mark.parametrize("channels", [1, 3])
def test_batched_operations_equal_torchvisions_on_each_image(name: str, channels: int) -> None:
    images = pictures(11, channels, 20, 30)
    level = torch.tensor([*torch.linspace(0, 0.98, 10), 0.999])
    if name.startswith("translate"):  # levels at which the shift is a whole number of pixels
        side = images.shape[-1 if name == "translate_x" else -2]
        level = (torch.arange(-5, 6) / (0.3 * side) + 1) / 2
    for image, strength, found in zip(images, level.tolist(), OPERATIONS[name](images, level), strict=True):
        expected = REFERENCE[name](image, strength)
        off = (expected.int() - found.int()).abs() > 1
        assert off.float().mean() < (0.02 if name == "rotate" else 1e-9), f"{name} at {strength}"


def test_shears_move_rows_and_columns_by_up_to_three_tenths() -> None:
    images = torch.full((1, 1, 41, 41), GREY, dtype=torch.uint8)
    images[:, :, :, 20] = 255
    sheared = OPERATIONS["shear_x"](images, torch.ones(1))[0, 0]
    columns = (sheared == 255).float().argmax(1)
    assert int(columns[0]) == 26 and int(columns[20]) == 20 and int(columns[40]) == 14
    turned = OPERATIONS["shear_y"](images.mT.contiguous(), torch.ones(1))[0, 0]
    assert torch.equal(turned, sheared.T)


def test_every_image_draws_operations_of_its_own() -> None:
    one = pictures(1).expand(600, -1, -1, -1)
    views = rand_augment(one, rng())
    assert len(torch.unique(views.flatten(1), dim=0)) > 400
    untouched = (views == one).flatten(1).all(1).float().mean()
    assert 0 < untouched < 0.1, "two identities in a row are rare"
    assert torch.equal(one[0], pictures(1)[0]) and torch.equal(views, rand_augment(one, rng()))
    state = torch.get_rng_state()
    ImageViews((0.5,) * 3, (0.2,) * 3)(one[:5], "strong", rng())
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"


def test_operations_that_are_drawn_may_be_applied_with_a_probability() -> None:
    """At one half an image escapes both with a quarter, as in FixMatch's code; at 1 nothing more is drawn than without."""
    one = pictures(1).expand(2000, -1, -1, -1)
    share = {
        p: float((rand_augment(one, rng(), probability=p) == one).flatten(1).all(1).float().mean()) for p in (0, 0.5, 1)
    }
    assert share[0] == 1 and share[1] < 0.1
    escaped = (share[1] ** 0.5 + 1) / 2  # of one operation, which changes nothing with the root of share[1]
    assert share[0.5] == pytest.approx(escaped**2, abs=0.04)
    assert torch.equal(rand_augment(one, rng(), probability=1.0), rand_augment(one, rng()))


def test_tasks_pass_on_the_probability_of_an_operation() -> None:
    images = pictures(40)
    for options in ({}, {"augment_probability": 0.0}):
        task = Cifar10(**options)
        whole = replace(task.views, probability=options.get("augment_probability", 1.0))
        assert torch.equal(task.view(images, "strong", rng()), whole(images, "strong", rng()))
    strong, shown = (Cifar10(augment_probability=p).view(images, "strong", rng()) for p in (1.0, 0.0))
    assert not torch.equal(strong, shown)
