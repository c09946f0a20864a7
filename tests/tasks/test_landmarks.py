"""Landmarks: files as published, targets that follow their pixels through every view, the normalised error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metaimpute.batches.motion import LabelMotion, between
from metaimpute.batches.outputs import Landmarks
from metaimpute.methods import methods
from metaimpute.tasks import AFLW, MTFL, LandmarkTask, MissingData, TaskError
from metaimpute.tasks.landmarks import POINTS, SIDE, Placement
from metaimpute.training.data import BatchSizes, BatchSource

from .. import fake_data


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data but what the test makes."""
    monkeypatch.setenv("METAIMPUTE_DATA", str(tmp_path / "here"))
    monkeypatch.setenv("METAIMPUTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "here"


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bright(image: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
    """Centre of the brightness within 5 pixels of a point, in pixels from the left top corner, ``[2]`` as (x, y)."""
    centres = torch.arange(SIDE) + 0.5
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    weight = (image - image.median()).clamp_min(0) * ((x - near[0]).abs() < 5) * ((y - near[1]).abs() < 5)
    return torch.stack([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


@pytest.mark.parametrize("separator", ["/", "\\"])
def test_mtfl_lists_and_windows(here: Path, separator: str) -> None:
    fake_data.make_mtfl(here, separator=separator)
    task = MTFL(labels=4, validation=3)
    data = task.load(0)
    assert (len(data.labelled), len(data.unlabelled), len(data.validation), len(data.test)) == (4, 17, 3, 6)
    for pool in (data.labelled, data.unlabelled, data.test):
        points = task.output.points(pool.targets)
        shares = torch.tensor(fake_data.FACE, dtype=torch.float32) * SIDE
        assert (points.mean(0) - shares).abs().max() < 2.5, "every source's face fills its window alike"
        for face, own in zip(pool.inputs, points, strict=True):
            for point in own:
                assert (bright(face[0].float(), point) - point).norm() < 0.75


def test_aflw_keypoints_are_row_and_column_and_its_last_rows_validate(here: Path) -> None:
    fake_data.make_aflw(here)
    task = AFLW(labels=3, validation=5)
    data = task.load(0)
    assert (len(data.labelled), len(data.unlabelled), len(data.validation), len(data.test)) == (3, 22, 5, 6)
    assert sorted(data.validation.ids.tolist()) == [25, 26, 27, 28, 29]
    for pool in (data.labelled, data.unlabelled, data.validation, data.test):
        for face, own in zip(pool.inputs, task.output.points(pool.targets), strict=True):
            for point in own:
                assert (bright(face[0].float(), point) - point).norm() < 0.75
    assert AFLW().validation == round(0.1 * 10_122), "the paper's 10% of 10,122"


@pytest.mark.parametrize("task", [MTFL, AFLW])
def test_shares_splits_and_standardised_targets(task: Any, here: Path) -> None:
    fake_data.make_mtfl(here, train=50)
    fake_data.make_aflw(here, train=50)
    made = task(label_share=0.2, validation=10)
    made.check()
    data, again, other = made.load(1), made.load(1), task(label_share=0.2, validation=10).load(2)
    assert len(data.labelled) == 8 and len(data.unlabelled) == 32
    parts = [set(pool.ids.tolist()) for pool in (data.labelled, data.unlabelled, data.validation)]
    assert len(parts[0] | parts[1] | parts[2]) == 50
    assert torch.equal(data.labelled.ids, again.labelled.ids) and not torch.equal(data.labelled.ids, other.labelled.ids)
    assert torch.equal(data.validation.ids, other.validation.ids)
    assert float(data.labelled.targets.mean(0).abs().max()) < 1e-5
    assert float(data.labelled.targets.std(0, correction=0).max()) < 1 + 1e-5
    torch.testing.assert_close(made.output.standardized(made.output.points(data.test.targets)), data.test.targets)
    whole = task(label_share=0.2, validation=10, unlabelled_includes_labelled=True).load(1)
    assert len(whole.unlabelled) == 40, "the released code of the paper keeps labelled faces among the unlabelled"


def loaded(here: Path, **options: Any) -> tuple[LandmarkTask, Any]:
    fake_data.make_mtfl(here, train=60)
    task = MTFL(labels=20, validation=0, **options)
    return task, task.load(0).unlabelled


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("kind", ["weak", "strong"])
def test_moved_landmarks_sit_on_the_same_feature(here: Path, kind: Any, flip: bool) -> None:
    task, pool = loaded(here, flip=flip, cutout=0, shift=6)
    images, motion = task.moved_view(pool.inputs, kind, rng())
    points = task.output.points(motion.apply(pool.targets))
    moved = (points - task.output.points(pool.targets)).norm(dim=-1)
    assert float(moved.mean()) > 2, "the view moves faces at all"
    for image, own in zip(images, points, strict=True):
        for point in own:
            assert (bright(image[0], point) - point).norm() < 0.75
    left_of = points[:, 0, 0] < points[:, 1, 0]
    assert left_of.all() and (points[:, 3, 0] < points[:, 4, 0]).all(), "left stays left in a mirror image"


def test_a_mirror_image_changes_the_names_of_eyes_and_mouth_corners() -> None:
    points = torch.tensor([[[10.0, 20], [40, 22], [26, 30], [15, 44], [38, 45]]])
    mirror = Placement(torch.diag(torch.tensor([-1.0, 1.0]))[None], torch.zeros(1, 2), torch.tensor([True]))
    found = mirror.motion(Landmarks(10)).apply(points.flatten(1)).view(1, POINTS, 2)
    assert found.tolist() == [[[20.0, 22], [50, 20], [34, 30], [22, 45], [45, 44]]]


def test_weak_views_shift_by_whole_pixels_and_reflect(here: Path) -> None:
    task, pool = loaded(here, shift=4)
    images, motion = task.moved_view(pool.inputs, "weak", rng())
    shift = (task.output.points(motion.apply(pool.targets)) - task.output.points(pool.targets))[:, 0]
    torch.testing.assert_close(shift, shift.round(), rtol=0, atol=1e-4)
    assert shift.abs().max() <= 4.001 and len({tuple(s) for s in shift.round().tolist()}) > 20
    right, down = (int(v) for v in shift[0].round().tolist())
    padded = torch.nn.functional.pad(pool.inputs[:1].float() / 255, (4, 4, 4, 4), mode="replicate")[0, 0]
    window = padded[4 - down : 64 - down, 4 - right : 64 - right]
    inner = slice(5, 55)
    torch.testing.assert_close(images[0, 0, inner, inner], window[inner, inner], rtol=0, atol=1e-4)
    plain, none = task.moved_view(pool.inputs, "none", rng())
    assert none is None and torch.equal(plain, pool.inputs.float() / 255)


def test_motions_undo_and_follow_each_other(here: Path) -> None:
    task, pool = loaded(here, flip=True)
    _, first = task.moved_view(pool.inputs, "strong", rng(1))
    _, second = task.moved_view(pool.inputs, "strong", rng(2))
    labels = pool.targets
    torch.testing.assert_close(first.inverse().apply(first.apply(labels)), labels, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        first.then(second).apply(labels), second.apply(first.apply(labels)), rtol=1e-3, atol=1e-3
    )
    carried = between(first, second)
    torch.testing.assert_close(carried.apply(first.apply(labels)), second.apply(labels), rtol=1e-3, atol=1e-3)
    assert between(None, None) is None and between(None, first) is first and isinstance(carried, LabelMotion)


def test_batches_carry_targets_and_truth_with_the_views(here: Path) -> None:
    fake_data.make_mtfl(here, train=40)
    task = MTFL(labels=10, validation=0)
    data = task.load(0)
    source = BatchSource(
        task, methods.get("mean_teacher")(), data.labelled, data.unlabelled, data.labelled, BatchSizes(6, 8, 4), "weak", 10,
        0, torch.device("cpu"),
    )  # fmt: skip
    batch = source.batch(3)
    for inputs, targets in (
        (batch.labelled.inputs, batch.labelled.targets), (batch.unlabelled.strong, batch.unlabelled.truth),
    ):  # fmt: skip
        for image, own in zip(inputs, task.output.points(targets), strict=True):
            for point in own:
                assert (bright(image[0], point) - point).norm() < 0.75
    back = batch.unlabelled.motion.inverse().apply(batch.unlabelled.truth)
    for image, own in zip(batch.unlabelled.weak, task.output.points(back), strict=True):
        assert (bright(image[0], own[2]) - own[2]).norm() < 0.75


def test_the_error_is_the_distance_as_a_share_of_the_eyes_distance() -> None:
    truth = torch.tensor([[10.0, 20, 40, 20, 25, 30, 15, 40, 35, 40], [0.0, 0, 6, 8, 5, 5, 2, 9, 8, 9]])
    found = truth.clone()
    found[0, :2] += torch.tensor([3.0, 4.0])  # 5 pixels off at one of five points, eyes 30 apart: 100 * 5 / 5 / 30
    found[1] += torch.tensor([0.0, 2.0]).repeat(5)  # 2 pixels off at every point, eyes 10 apart: 20 percent
    plain = Landmarks(10)
    torch.testing.assert_close(plain.error(found, truth), torch.tensor([100 / 30, 20.0]))
    assert plain.measures(found, truth)["failure_rate"].tolist() == [0.0, 100.0]
    assert plain.agreement(found, truth).tolist() == [1.0, 0.0]
    scaled = Landmarks(10, mean=tuple(range(10)), std=tuple(range(1, 11)))
    mean, std = torch.arange(10.0), torch.arange(1.0, 11.0)
    error = scaled.error((found - mean) / std, (truth - mean) / std)
    torch.testing.assert_close(error, torch.tensor([100 / 30, 20.0]))


def test_what_is_wrong_with_the_files_is_named(here: Path) -> None:
    folder = fake_data.make_mtfl(here)
    listing = folder / "training.txt"
    good = listing.read_text()
    listing.write_text(good.replace(" 1 2 2 3 ", "", 1).rsplit(" ", 3)[0] + "\nlfw_5590/1.png 1 2 three\n")
    with pytest.raises(TaskError, match=r"training\.txt:\d+: not 'path x1\.\.x5"):
        MTFL(labels=4).load(0)
    listing.write_text(good)
    (folder / "AFLW" / "2.png").write_bytes(b"no image")
    with pytest.raises(TaskError, match=r"AFLW/2\.png cannot be read as an image"):
        MTFL(labels=4, validation=0).load(0)
    for options, message in (
        ({"label_share": 0.0}, "labels: give a number"), ({"shift": 31}, "shift: at most"), ({"zoom": 0.95}, "zoom: at most"),
    ):  # fmt: skip
        with pytest.raises(TaskError, match=message):
            MTFL(**options).check()
    (folder / "AFLW" / "2.png").unlink()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "AFLW" / "2.png")
    with pytest.raises(TaskError, match="labels: 100 asked, but there are only 24"):
        MTFL(labels=100, validation=0).load(0)
    with pytest.raises(TaskError, match="validation: 24 asked"):
        MTFL(validation=24).load(0)
    release = fake_data.make_aflw(here)
    with pytest.raises(TaskError, match="validation: 30 asked"):
        AFLW(validation=30).load(0)
    (release / "aflw_train_images.txt").write_text("train-0.png\n")
    with pytest.raises(TaskError, match=r"aflw_train_keypoints\.mat: gt has shape \(30, 5, 2\) for 1 images"):
        AFLW(validation=0).load(0)
    (release / "aflw_train_keypoints.mat").write_bytes(b"no mat file")
    with pytest.raises(TaskError, match=r"aflw_train_keypoints\.mat cannot be read"):
        AFLW(validation=0).load(0)


@pytest.mark.parametrize("task, words", [(MTFL(), "MTFL.zip"), (AFLW(), "aflw_release-2")], ids=["mtfl", "aflw"])
def test_missing_faces_say_where_to_look_and_how_to_get_them(task: Any, words: str, here: Path) -> None:
    with pytest.raises(MissingData, match=words) as caught:
        task.load(0)
    assert str(here) in str(caught.value) and task.missing() and task.output.size == 10


def test_real_mtfl_faces_have_one_scale(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (real_data / "MTFL").exists():
        pytest.skip("no MTFL under METAIMPUTE_DATA")
    monkeypatch.setenv("METAIMPUTE_DATA", str(real_data))
    task = MTFL(label_share=0.05)
    data = task.load(0)
    assert len(data.test) == 2995
    eyes = {}
    for name in ("unlabelled", "test"):
        points = task.output.points(getattr(data, name).targets)
        assert ((points > 0) & (points < SIDE)).all(-1).all(-1).float().mean() > 0.999, "landmarks lie in the window"
        eyes[name] = float((points[:, 0] - points[:, 1]).norm(dim=-1).mean())
    assert eyes["unlabelled"] == pytest.approx(eyes["test"], rel=0.03)
    guess = torch.zeros_like(data.unlabelled.targets)
    assert 14 < float(task.output.error(guess, data.unlabelled.targets).mean()) < 19  # the paper: 16.58 on AFLW
