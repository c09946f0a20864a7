"""The snippets' release is fetched from where pip looks, checked before it is opened, and none of its code is run."""

from __future__ import annotations

import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from metaimpute import fetch
from metaimpute.tasks import IMDb, MissingData, sdist, snippets

LINES = [f"{i}\t{(-1) ** i * 1.5}\tsnippet {i} {'good' if i % 2 == 0 else 'bad'} film" for i in range(3000)]


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METAIMPUTE_DATA", raising=False)
    monkeypatch.setenv("METAIMPUTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("metaimpute.tasks.imdb._datasets_cache", lambda: None)
    monkeypatch.setattr(sdist, "default_index", (tmp_path / "pypi").as_uri)
    monkeypatch.setattr(sdist, "pip_settings", dict)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A release whose build code leaves a mark, with its checksums as those that are known."""
    inner, outer, text = io.BytesIO(), io.BytesIO(), "\r\n".join(LINES).encode()
    with tarfile.open(fileobj=inner, mode="w:gz") as tar:
        info = tarfile.TarInfo(snippets.MEMBER)
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr(snippets.ARCHIVE, inner.getvalue())
        archive.writestr("vaderSentiment-0.5/setup.py", f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr(snippets, "ARCHIVE_SHA256", hashlib.sha256(inner.getvalue()).hexdigest())
    monkeypatch.setattr(snippets, "RELEASE_SHA256", hashlib.sha256(outer.getvalue()).hexdigest())
    return outer.getvalue()


def index(folder: Path, content: bytes) -> Path:
    """A package index on disk, as pip reads one."""
    page = folder / "vadersentiment"
    page.mkdir(parents=True)
    (page / "vader Sentiment-0.5.zip").write_bytes(content)
    (page / "other").mkdir()
    (page / "other" / snippets.RELEASE).write_bytes(content)
    links = f'<a href="../x.zip">x</a><A HREF="other/{snippets.RELEASE}#sha256=0">y</A>'
    (page / "index.html").write_text(f"<html>{links}</html>")
    return folder


def test_the_snippets_are_fetched_verified_and_kept(
    release: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index(tmp_path / "pypi", release)
    found = IMDb(source="imdb_or_snippets", labels=20, validation=100)
    found.prepare_inputs = lambda texts: texts  # type: ignore[assignment,return-value]
    data = found.load(0)
    assert data.source.startswith("movie snippets") and len(data.test) == 2000 and len(data.unlabelled) == 880
    assert not (tmp_path / "ran").exists()
    monkeypatch.setattr(snippets, "fetch", lambda *_: pytest.fail("the second load needs no network"))
    assert len(IMDb(source="snippets").load(1).test) == 2000


def test_nothing_of_another_release_is_opened(release: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index(tmp_path / "pypi", release + b"\0")
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("opened before it was checked"))
    with pytest.raises(
        MissingData, match=r"pypi/vadersentiment/: the checksum of vaderSentiment-0\.5\.zip does not match"
    ):
        snippets.fetch_snippets()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("setting", ["index-url", "extra-index-url", "find-links", "find-links as file:"])
def test_pips_own_places_are_searched(
    setting: str, release: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = index(tmp_path / "mirror", release)
    folder = place / "vadersentiment" / "other"
    value = {"find-links": str(folder), "find-links as file:": folder.as_uri()}.get(setting, place.as_uri())
    known = {setting.split()[0]: f"{value} {tmp_path.as_uri()}" if setting != "index-url" else value}
    monkeypatch.setattr(sdist, "pip_settings", lambda: known)
    assert snippets.fetch_snippets().read_text(encoding="utf-8").splitlines() == LINES
    if setting.startswith("find-links"):
        assert list(sdist.places("a", {**known, "no-index": "true"})) == known["find-links"].split()


class Served(http.server.BaseHTTPRequestHandler):
    content = b""
    asked: list[str | None] = []

    def do_GET(self) -> None:
        self.asked.append(self.headers["Authorization"])
        page = b'<a href="/files/vaderSentiment-0.5.zip#sha256=ab">z</a>'
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.content if self.path.startswith("/files/") else page)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(release: bytes) -> Iterator[int]:
    Served.content, Served.asked = release, []
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Served)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found.server_address[1]
    found.shutdown()
    found.server_close()


def test_an_index_with_a_password_is_asked_with_it_and_named_without(
    server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(sdist, "pip_settings", lambda: {"index-url": f"http://me:s%40cret@127.0.0.1:{server}/simple/"})
    assert snippets.fetch_snippets().exists() and len(Served.asked) == 2
    assert Served.asked[0] == "Basic bWU6c0BjcmV0"
    with pytest.raises(sdist.NotFetched) as caught:
        sdist.fetch("other", "other-1.zip", "")
    assert f"http://127.0.0.1:{server}/simple/other/: no other-1.zip" in str(caught.value) and "cret" not in str(
        caught.value
    )


def test_pips_settings_are_read_by_their_strength(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://a/simple\ncert = c\n[download]\nindex-url = https://b/simple\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_CERT", "d")
    monkeypatch.setenv("PIP_FIND_LINKS", "/x /y")
    found = sdist.pip_settings()
    assert (
        found["index-url"] == "https://b/simple"
        and found["cert"] == "d"
        and found["find-links"].split() == ["/x", "/y"]
    )


def test_what_is_fetched_from_the_hub_is_pinned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    class Parts:
        def save_to_disk(self, folder: str) -> None:
            pass

    monkeypatch.setattr("datasets.load_dataset", lambda name, revision: asked.append(revision) or Parts())
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, revision, allow_patterns: asked.append(revision)
    )
    fetch.SOURCES["imdb"].get()
    fetch.SOURCES["bert-base-uncased"].get()
    assert len(asked) == 2 and all(len(revision) == 40 and int(revision, 16) for revision in asked)


def test_weights_of_the_pinned_commit_are_found_in_the_hubs_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Downloaded by commit, they stand under no branch's name."""
    from metaimpute.models.bert import BERT, BERT_REVISION

    folder = tmp_path / "hub" / f"models--{BERT.replace('/', '--')}" / "snapshots" / BERT_REVISION
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "vocab.txt"):
        (folder / name).write_text("")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert fetch.SOURCES["bert-base-uncased"].find() == folder
