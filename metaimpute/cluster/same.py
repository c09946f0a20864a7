"""Whether two machines would compute the same: their Python, packages and this package's code."""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "transformers", "timm")


@functools.cache
def versions() -> dict[str, str]:
    """Of everything that numbers depend on; packages that are not installed are left out."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2]), "metaimpute": _of_the_code()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _of_the_code() -> str:
    """A digest of this package's Python files: its version number stays the same between two commits."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return f"code {digest.hexdigest()[:8]}"


def difference(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """What a node has otherwise than the driver, in words; nothing where they are the same."""
    apart = [name for name in here if there.get(name) != here[name]]
    return ", ".join(f"{name} {there.get(name, 'not at all')} and not {here[name]}" for name in apart)
