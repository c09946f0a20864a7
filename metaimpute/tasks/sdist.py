"""One file of a package index: found where pip would look, checked, and never built or run.

``pip download`` runs the build code of a source distribution to learn its metadata. This asks the same places for the file
alone: pip's ``find-links``, ``index-url`` and ``extra-index-url``, from its files and from ``PIP_*``, as ``pip config list``
tells them, by the simple repository API (packaging.python.org, "Simple repository API").
"""

from __future__ import annotations

import ast
import base64
import hashlib
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit
from urllib.request import Request, url2pathname, urlopen

from ..errors import MISSING, UserError

LONGEST = 64 * 2**20  # bytes
SECONDS = 60


def default_index() -> str:
    """The index that pip takes where its settings name none; none where there is no pip."""
    try:
        from pip._internal.models.index import PyPI
    except ImportError:
        return ""
    return str(PyPI.simple_url)


class NotFetched(UserError, RuntimeError):
    """A file that no index has, or has with the content that was asked for. Ends a command with exit code 3."""

    exit_code = MISSING


def fetch(package: str, file: str, sha256: str) -> bytes:
    """The content of a package's file.

    Args:
        package: its name. file: of the release that is wanted. sha256: of its content.

    Raises:
        NotFetched: saying what each place had instead.
    """
    reasons = []
    settings = pip_settings()
    for place in places(package, settings):
        try:
            for name, url in links(place, settings):
                if name == file:
                    content = read(url, settings)
                    if hashlib.sha256(content).hexdigest() == sha256:
                        return content
                    reasons.append(f"{_plain(place)}: the checksum of {file} does not match")
                    break
            else:
                reasons.append(f"{_plain(place)}: no {file}")
        except (OSError, ValueError, HTTPException) as error:  # of urllib, and of addresses that are none
            reasons.append(f"{_plain(place)}: {error}")
    raise NotFetched("; ".join(reasons) or "pip is set up to look nowhere")


def pip_settings() -> dict[str, str]:
    """What pip is set up with, the strongest source of each setting; nothing where there is no pip."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    found: dict[str, str] = {}
    for section in ("global", "download", ":env:"):  # each over the one before
        for line in done.stdout.splitlines():
            key, _, value = line.partition("=")
            if key.startswith(f"{section}."):
                found[key.removeprefix(f"{section}.")] = str(ast.literal_eval(value))
    return found


def places(package: str, settings: dict[str, str]) -> Iterator[str]:
    """Addresses of pages, or folders, that may link to a package's files."""
    yield from settings.get("find-links", "").split()
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        return
    name = re.sub(r"[-_.]+", "-", package).lower()
    for index in (settings.get("index-url") or default_index(), *settings.get("extra-index-url", "").split()):
        if index:
            yield f"{index.rstrip('/')}/{name}/"


def links(place: str, settings: dict[str, str]) -> Iterator[tuple[str, str]]:
    """File name and address of everything that a page links to, or a folder holds."""
    folder = _local(place)
    if folder is not None and folder.is_dir():
        if not (folder / "index.html").is_file():
            yield from ((path.name, path.resolve().as_uri()) for path in sorted(folder.iterdir()) if path.is_file())
            return
        place = (folder / "index.html").resolve().as_uri()
    page = _Links()
    page.feed(read(place, settings).decode("utf-8", "replace"))
    for target in page.targets:
        url = urljoin(place, target)
        yield unquote(urlsplit(url).path).rpartition("/")[2], url


def read(url: str, settings: dict[str, str]) -> bytes:
    """What lies at an address: ``https``, ``http`` or ``file``.

    Raises:
        OSError, ValueError: when it cannot be had, or is too long.
    """
    path = _local(url)
    if path is not None:
        content = path.read_bytes()
    else:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise ValueError(f"no address that can be fetched: {parts.scheme}")
        request = Request(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="")))
        request.add_header("Accept", "application/vnd.pypi.simple.v1+html, text/html;q=0.9, */*;q=0.1")
        if parts.username:
            known = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            request.add_header("Authorization", f"Basic {base64.b64encode(known.encode()).decode()}")
        trusted = ssl.create_default_context(cafile=settings.get("cert")) if parts.scheme == "https" else None
        with urlopen(request, timeout=SECONDS, context=trusted) as answer:
            content = answer.read(LONGEST + 1)
    if len(content) > LONGEST:
        raise ValueError(f"more than {LONGEST:,} bytes")
    return content


def _local(place: str) -> Path | None:
    """The path that an address of this machine stands for."""
    if place.startswith("file:"):
        return Path(url2pathname(urlsplit(place).path))
    return None if "://" in place else Path(place).expanduser()


def _plain(place: str) -> str:
    """An address without the password in it."""
    parts = urlsplit(place)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


class _Links(HTMLParser):
    """The targets of a page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.targets += [value for name, value in attrs if name == "href" and value]
