"""Text: IMDb folders, the snippet stand-in, TF-IDF replacement, back-translations, and what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metaimpute.tasks import IMDb, MissingData, TaskError, snippets
from metaimpute.tasks.text_augment import TfIdfReplacement, Versions, passage, read_back_translations, usable

from ..fake_data import WORDS, make_imdb


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data but what the test makes."""
    monkeypatch.delenv("METAIMPUTE_DATA", raising=False)
    monkeypatch.setenv("METAIMPUTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("metaimpute.tasks.imdb._datasets_cache", lambda: None)
    monkeypatch.chdir(tmp_path)


def bound(task: IMDb) -> IMDb:
    task.prepare_inputs = lambda texts: texts
    return task


def test_imdb_folder_in_its_canonical_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_imdb(tmp_path / "here")
    monkeypatch.setenv("METAIMPUTE_DATA", str(tmp_path / "here"))
    data = bound(IMDb(labels=4, validation=2)).load(0)
    assert (len(data.labelled), len(data.unlabelled), len(data.validation), len(data.test)) == (
        4,
        24 - 4 - 2 + 10,
        2,
        12,
    )
    assert data.source == "IMDb (12 test reviews)"
    for pool in (data.labelled, data.validation, data.test):
        for text, target in zip(pool.take(torch.arange(len(pool))), pool.targets, strict=True):
            assert ("pos" in text) == bool(target) and "<br" not in text
    truth = data.unlabelled.targets
    assert int((truth == -1).sum()) == 10
    few = bound(IMDb(labels=4, unlabelled=5)).load(0)
    assert len(few.unlabelled) == 5


def test_reviews_without_a_label_have_a_shortest_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In characters, a line break as one; training reviews stay, however short, and so do the others' numbers."""
    folder = make_imdb(tmp_path / "here")
    monkeypatch.setenv("METAIMPUTE_DATA", str(tmp_path / "here"))
    for i in range(10):
        (folder / "train/unsup" / f"{i}_0.txt").unlink(missing_ok=True)
        (folder / "train/unsup" / f"{i}_7.txt").write_text("a<br />" + "\u00e9" * (490 + i))
    whole, cut = bound(IMDb(labels=4)).load(0), bound(IMDb(labels=4, shortest=500)).load(0)
    assert len(whole.unlabelled) - len(cut.unlabelled) == 8 and len(cut.unlabelled) == 20 + 2
    assert sorted(map(len, cut.unlabelled.inputs))[-2:] == [500, 501]
    assert sum(len(text) < 500 for text in cut.unlabelled.inputs) == 20
    assert set(cut.unlabelled.ids.tolist()) < set(whole.unlabelled.ids.tolist())
    assert torch.equal(whole.labelled.ids, cut.labelled.ids)
    none_left = bound(IMDb(labels=4, shortest=10_000)).load(0)
    assert len(none_left.unlabelled) == 20


def test_a_dataset_saved_by_the_datasets_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def part(labels: list[int]) -> Any:
        return datasets.Dataset.from_dict(
            {"text": [f"review {i} was good " * 3 for i in range(len(labels))], "label": labels}
        )

    saved = datasets.DatasetDict(train=part([0, 1] * 6), test=part([0, 1] * 3), unsupervised=part([-1] * 5))
    saved.save_to_disk(str(tmp_path / "here" / "imdb"))
    monkeypatch.setenv("METAIMPUTE_DATA", str(tmp_path / "here"))
    data = bound(IMDb(labels=4)).load(0)
    assert (len(data.labelled), len(data.unlabelled), len(data.test)) == (4, 13, 6)


def test_missing_imdb_says_where_it_looked_and_how_to_get_it() -> None:
    with pytest.raises(
        MissingData, match=r"IMDb reviews not found \(looked in .*aclImdb.*\); get them with: metaimpute data get imdb"
    ):
        IMDb().load(0)


def test_near_neutral_snippets_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "s.txt"
    path.write_text("1\t2.5\tlovely\n2\t-0.2\tmeh\n3\t-1.0\tdreadful\n4\tbroken\n".replace("4\tbroken\n", ""))
    assert snippets.read_snippets(path, 0.5) == (["lovely", "dreadful"], [1, 0])


def corpus() -> list[str]:
    rng = np.random.default_rng(1)
    return [" ".join(rng.choice(WORDS[:6], 20)) + f" rare{i} {rng.choice(WORDS[6:])}" for i in range(90)]


def test_tfidf_replacement_spares_informative_words_and_hits_the_asked_share() -> None:
    texts = corpus()
    augment = TfIdfReplacement.fit(texts, 0.4)
    rng = np.random.default_rng(0)
    kept_rare, changed, total = 0, 0, 0
    for i, text in enumerate(texts):
        out = augment(text, rng)
        assert len(out.split()) == len(text.split())
        kept_rare += f"rare{i}" in out.split()
        changed += sum(a != b for a, b in zip(text.split(), out.split(), strict=True))
        total += len(text.split())
    assert kept_rare == len(texts), "the word with the highest TF-IDF score has no chance of being replaced"
    assert 0.25 < changed / total < 0.45
    assert augment("", rng) == "" and TfIdfReplacement.fit(texts, 0.0)("the film", rng) == "the film"
    assert augment(texts[0], np.random.default_rng(5)) == augment(texts[0], np.random.default_rng(5))


def test_replacements_favour_uninformative_words() -> None:
    texts = corpus()
    augment = TfIdfReplacement.fit(texts, 0.4)
    chance = np.diff(augment.cumulative, prepend=0.0)
    scores = dict(zip(augment.words, chance, strict=True))
    frequent_everywhere = min(scores, key=lambda w: augment.idf[w])
    assert scores[frequent_everywhere] >= np.median(chance)


def test_strong_views_use_back_translations_and_fall_back_to_the_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_imdb(tmp_path / "here")
    monkeypatch.setenv("METAIMPUTE_DATA", str(tmp_path / "here"))
    plain = bound(IMDb(labels=4))
    pool = plain.load(0).unlabelled
    originals = pool.take(torch.arange(len(pool)))
    lines = [f"translated {t}" for t in originals]
    lines[0] = "short"
    lines[1] = "far too long " * 200
    path = tmp_path / "back.txt"
    path.write_text("\n".join(lines))
    task = bound(IMDb(labels=4, back_translations=str(path)))
    task.load(0)
    found = task.view(originals[:3], "strong", torch.Generator().manual_seed(0))
    assert found == [originals[0], originals[1], lines[2]]
    with pytest.raises(ValueError, match="3 lines for 2"):
        path.write_text("a\nb\nc\n")
        read_back_translations(path, ["x", "y"])
    with pytest.raises(TaskError, match="back_translations: .* it needs one per text"):
        bound(IMDb(labels=4, back_translations=str(path))).load(0)
    with pytest.raises(MissingData, match="back-translations"):
        IMDb(labels=4, back_translations="nowhere.txt").load(0)
    assert usable("x" * 10, "y" * 12) and not usable("x" * 9, "y" * 9) and not usable("x" * 10, "y" * 21)


def test_views_keep_the_original_unless_strong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_imdb(tmp_path / "here")
    monkeypatch.setenv("METAIMPUTE_DATA", str(tmp_path / "here"))
    task = bound(IMDb(labels=4, replace=0.5))
    texts = task.load(0).unlabelled.take(torch.arange(5))
    rng = torch.Generator().manual_seed(1)
    assert task.view(texts, "none", rng) == texts == task.view(texts, "weak", rng)
    assert task.view(texts, "strong", rng) != texts


def test_a_passage_is_a_run_of_the_texts_words() -> None:
    text = " ".join(f"w{i}" for i in range(20))
    starts = set()
    for seed in range(60):
        words = passage(text, 0.5, np.random.default_rng(seed)).split()
        start = int(words[0][1:])
        assert words == [f"w{i}" for i in range(start, start + 10)]
        starts.add(start)
    assert starts == set(range(11)), "every place is possible, the first and the last included"
    assert passage("too short to cut", 0.5, np.random.default_rng(0)) == "too short to cut"


def test_versions_are_fixed_and_alternate_between_passages_and_replacements() -> None:
    texts = corpus()
    versions = Versions(TfIdfReplacement.fit(texts, 0.5), crop=0.5, count=2)
    first, second = versions.all(texts[0])
    assert first in texts[0] and len(first.split()) == 11
    assert len(second.split()) == len(texts[0].split()) and second != texts[0]
    drawn = {versions.draw(texts[:1], torch.Generator().manual_seed(seed))[0] for seed in range(20)}
    assert drawn == {first, second}
    endless = Versions(versions.replace)
    assert len({endless.draw(texts[:1], torch.Generator().manual_seed(seed))[0] for seed in range(20)}) > 10
    assert endless.all(texts[0]) == []


def test_distinct_inputs_hold_every_view_that_training_can_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_imdb(tmp_path / "here")
    monkeypatch.setenv("METAIMPUTE_DATA", str(tmp_path / "here"))
    task = bound(IMDb(labels=4, copies=3, crop=0.5))
    data = task.load(0)
    known = set(task.distinct_inputs(data, True) or [])
    raw = data.unlabelled.take(torch.arange(len(data.unlabelled)))
    for seed in range(5):
        assert set(task.view(raw, "strong", torch.Generator().manual_seed(seed))) <= known
    assert set(raw) <= known and set(data.labelled.inputs) <= known
    assert not set(raw) & set(task.distinct_inputs(data, False) or [])
    assert bound(IMDb(labels=4)).distinct_inputs(data, True) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 0.0}, "crop: a share"), ({"replace": 1.5}, "replace: a share"), ({"copies": 0}, "copies: at least 1"),
        ({"copies": 2, "back_translations": "x.txt"}, "copies: .* none beside back_translations"),
    ],
)  # fmt: skip
def test_impossible_augmentations_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        IMDb(**options).check()


def test_real_imdb_has_its_published_sizes(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (real_data / "aclImdb").exists():
        pytest.skip("no aclImdb under METAIMPUTE_DATA")
    monkeypatch.setenv("METAIMPUTE_DATA", str(real_data))
    data = bound(IMDb(labels=20)).load(0)
    assert (len(data.labelled), len(data.unlabelled), len(data.test)) == (20, 74_980, 25_000)
    assert data.source == "IMDb (25,000 test reviews)"
