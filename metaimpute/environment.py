"""What a result was measured on: versions, machine, device, command."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path

import torch
from typing_extensions import NotRequired, TypedDict  # typing's own is not enough for pydantic before Python 3.12

from .errors import UserError

PACKAGES = ("metaimpute", "torch", "torchvision", "higher", "transformers", "datasets", "scikit-learn", "numpy")


class Environment(TypedDict):
    """Versions, machine, device and command of a run."""

    python: str
    system: str
    device: str
    cores: int | None
    threads: int
    processes: NotRequired[int]
    packages: dict[str, str]
    command: str


class NoDevice(UserError, ValueError):
    """A device that torch does not know or does not have. Ends a command with exit code 2."""


def pick_device(name: str) -> torch.device:
    """``auto``: the first accelerator torch finds, else the CPU.

    Raises:
        NoDevice: for a device torch does not know or does not have.
    """
    if name == "auto":
        return torch.device(accelerator() or "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
        raise NoDevice(f"device '{name}' is not available: {first}") from None
    return device


def accelerator() -> str | None:
    """Name of an available accelerator, or None."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return None if found is None else found.type


def device_name(device: torch.device) -> str:
    """Kind and make, e.g. ``cuda (NVIDIA H100 80GB HBM3)``."""
    module = None if device.type == "cpu" else torch.get_device_module(device)
    of = getattr(module, "get_device_name", None)
    return f"{device.type} ({of(device) if of else platform.processor() or platform.machine()})"


def describe(device: torch.device) -> Environment:
    """Environment of a run, for ``result.json``."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "device": device_name(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "packages": versions,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
