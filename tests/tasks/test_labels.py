"""Which labels in memory are none: pandas' gaps and what the user names, whatever holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas
import pytest
from sklearn.datasets import load_wine

from metaimpute import MetaImputer, MetaImputerRegressor
from metaimpute.tasks.labels import as_labels, missing

X, TRUTH = load_wine(return_X_y=True)
GIVEN = np.arange(len(X)) % 3 == 0
WORDS = np.array(["a", "b", "c"])[TRUTH]
DAYS = np.array(["2020-01-01", "2021-01-01", "2022-01-01"], dtype="datetime64[D]")[TRUTH]
NAT = np.where(GIVEN, DAYS, np.datetime64("NaT"))
DAY = np.datetime64("1900-01-01")


def gapped(values: Any, gap: Any) -> np.ndarray:
    """An array of objects with ``gap`` where a row has no label."""
    found = np.asarray(values).astype(object)
    found[~GIVEN] = gap
    return found


NUMPYS_OWN = np.dtypes.StringDType() if hasattr(np.dtypes, "StringDType") else object
CASES: dict[str, tuple[Any, Any]] = {
    "strings, ?": (np.where(GIVEN, WORDS, "?"), "?"),
    "strings of any length, ?": (np.where(GIVEN, WORDS, "?").astype(NUMPYS_OWN), "?"),
    "objects, ?": (gapped(WORDS, "?"), "?"),
    "list, ?": (gapped(WORDS, "?").tolist(), "?"),
    "series, ?": (pandas.Series(gapped(WORDS, "?")), "?"),
    "pandas strings, ?": (pandas.Series(gapped(WORDS, "?"), dtype="string"), "?"),
    "categories, ?": (pandas.Series(gapped(WORDS, "?")).astype("category"), "?"),
    "strings, -1": (np.where(GIVEN, WORDS, "-1"), -1),
    "strings, -1.0": (np.where(GIVEN, WORDS, "-1.0"), -1),
    "strings, nan": (np.where(GIVEN, WORDS, "nan"), -1),
    "strings, blank": (np.where(GIVEN, WORDS, ""), -1),
    "strings that numpy made of NaN": (np.array([w if g else np.nan for w, g in zip(WORDS, GIVEN, strict=True)]), -1),
    "series as strings": (pandas.Series(WORDS, dtype=object).where(GIVEN).astype(str), -1),
    "list, pandas.NA": (gapped(WORDS, pandas.NA).tolist(), -1),
    "numbers, pandas.NA": (gapped(TRUTH, pandas.NA).tolist(), -1),
    "pandas integers": (pandas.Series(gapped(TRUTH, pandas.NA), dtype="Int64"), -1),
    "pandas truth values": (pandas.Series(gapped(TRUTH == 1, pandas.NA), dtype="boolean"), -1),
    "pandas floats, -1": (pandas.Series(gapped(TRUTH, -1.0), dtype="Float64"), -1),
    "floats, 9": (np.where(GIVEN, TRUTH, 9.0), 9),
    "whole numbers, 9.0": (np.where(GIVEN, TRUTH, 9), 9.0),
    "whole numbers, '9'": (np.where(GIVEN, TRUTH, 9), "9"),
    "bytes, 255": (np.where(GIVEN, TRUTH, 255).astype("uint8"), 255),
    "single precision": (np.where(GIVEN, TRUTH, np.nan).astype("float32"), -1),
    "large whole numbers": ([2**63 + int(t) if g else -1 for t, g in zip(TRUTH, GIVEN, strict=True)], -1),
    "days, NaT": (NAT, -1),
    "nanoseconds, NaT": (NAT.astype("datetime64[ns]"), -1),
    "series of days, NaT": (pandas.Series(NAT), -1),
    "days, a day": (np.where(GIVEN, DAYS, DAY), DAY),
    "days, a day in words": (np.where(GIVEN, DAYS, DAY), "1900-01-01"),
    "series of days, a timestamp": (pandas.Series(np.where(GIVEN, DAYS, DAY)), pandas.Timestamp(DAY)),
    "NaN named": (np.where(GIVEN, TRUTH, np.nan), np.nan),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_missing_label_is_known_in_every_kind_of_array(case: str) -> None:
    y, missing_label = CASES[case]
    found = MetaImputer(systems="network", steps=2, width=4, random_state=0, missing_label=missing_label).fit(X, y)
    assert len(found.classes_) == (2 if "truth" in case else 3)
    assert set(found.transduction_.tolist()) <= set(found.classes_.tolist())
    given = np.asarray(y, dtype=object if isinstance(y, list) else None)[GIVEN]
    assert [str(label) for label in found.transduction_[GIVEN]] == [
        str(label) for label in given.astype(found.classes_.dtype)
    ]


def test_only_pandas_gaps_are_none_where_nothing_is_named() -> None:
    labels = np.array(
        [-1, 1, None, np.nan, "-1", np.float32("nan"), pandas.NA, pandas.NaT, "", "nan", True], dtype=object
    )
    gaps = [False, False, True, True, False, True, True, True, False, False, False]
    assert missing(labels, None).tolist() == gaps
    assert missing(labels, -1).tolist() == [True, *gaps[1:4], True, True, True, True, True, True, False]
    assert missing(labels, True).tolist() == [*gaps[:8], True, True, True]
    assert missing(np.array([True, False]), 1).tolist() == [False, False], "a truth value is no number"


@pytest.mark.parametrize("word", ["?", "None", "unlabelled", "-99"])
def test_a_word_for_none_that_most_rows_have_is_asked_about(word: str) -> None:
    y = np.where(GIVEN, WORDS, word)
    with pytest.raises(
        ValueError, match=rf"y holds '{'.?' if word == '?' else word}.* in 118 of 178 rows; missing_label="
    ):
        MetaImputer(systems="network", steps=2, width=4).fit(X, y)
    assert len(MetaImputer(systems="network", steps=2, width=4, missing_label=None).fit(X, y).classes_) == 4
    assert len(MetaImputer(systems="network", steps=2, width=4, missing_label=word).fit(X, y).classes_) == 3
    two = np.where(GIVEN, "yes", word)
    assert len(MetaImputer(systems="network", steps=2, width=4).fit(X, two).classes_) == 2, (
        "without it there is nothing to tell apart"
    )


@pytest.mark.parametrize("gap", [None, np.nan, pandas.NA])
def test_a_value_is_missing_where_pandas_says_so(gap: Any) -> None:
    y = gapped(TRUTH.astype(float), gap)
    found = MetaImputerRegressor(systems="network", steps=2, width=4, random_state=0).fit(X, y)
    np.testing.assert_array_equal(found.transduction_[GIVEN], TRUTH[GIVEN])


LARGE = [10**17, 10**17 + 1, 10**17 + 100]
GAP = [*LARGE, None]
WITH_A_GAP: dict[str, Any] = {
    "Int64": pandas.Series(GAP, dtype="Int64"),
    "UInt64": pandas.Series(GAP, dtype="UInt64"),
    "array": pandas.array(GAP, dtype="Int64"),
    "index": pandas.Index(GAP, dtype="Int64"),
    "a column": pandas.DataFrame({"y": pandas.Series(GAP, dtype="Int64")}),
    "categories": pandas.Categorical(GAP, categories=LARGE),
    "series of categories": pandas.Series(pandas.Categorical(GAP, categories=LARGE)),
    "nullable categories": pandas.Series(GAP, dtype="Int64").astype("category"),
    "list": [*LARGE, float("nan")],
    "tuple": (*map(np.int64, LARGE), np.nan),
}


@pytest.mark.filterwarnings("ignore:A column-vector y was passed")
@pytest.mark.parametrize("kind", WITH_A_GAP)
def test_whole_numbers_keep_their_digits_beside_gaps(kind: str) -> None:
    found = as_labels(WITH_A_GAP[kind])
    assert found[:3].tolist() == LARGE and missing(found, -1).tolist() == [False, False, False, True]


def test_arrows_whole_numbers_keep_their_digits_beside_gaps() -> None:
    pytest.importorskip("pyarrow")
    assert as_labels(pandas.Series(GAP, dtype="int64[pyarrow]"))[:3].tolist() == LARGE


def test_classes_are_whole_numbers_where_labels_are() -> None:
    large = pandas.Series(TRUTH, dtype="Int64").where(GIVEN)
    fitted = MetaImputer(systems="network", steps=2, width=4, random_state=0)
    assert fitted.fit(X, large).classes_.tolist() == [0, 1, 2] and fitted.classes_.dtype.kind == "i"
    assert fitted.fit(X, large + LARGE[0]).classes_.tolist() == [10**17, 10**17 + 1, 10**17 + 2]
    assert set(fitted.predict(X).tolist()) <= set(fitted.classes_.tolist())


def test_what_numpy_makes_of_nan_in_an_array_of_strings_is_no_class() -> None:
    """Of None it makes 'None', which may be a class and stays one."""
    found = np.array(["a", "b", None, float("nan"), "NaN"], dtype=str)
    assert missing(found, -1).tolist() == [False, False, False, True, True]
    assert not missing(found, None).any()
