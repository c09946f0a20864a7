"""Where the runs of a study are carried out, as the command's options say it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..cluster.over_ray import ray_cluster
from ..errors import UserError
from .away import on_cluster
from .workers import Place, here

RETRIES = 2


class WrongPlace(UserError, ValueError):
    """Options that do not go together. Ends a command with exit code 2."""


@dataclass(frozen=True)
class Wanted:
    """Processes of this machine, or a Ray cluster; what is None was not said.

    Attributes:
        jobs: processes. threads: of each run. address: of the cluster. cpus, gpus: of each run there. retries: of a run whose
            worker dies there.

    Raises:
        WrongPlace: for options of both.
    """

    jobs: int | None = None
    threads: int | None = None
    address: str | None = None
    cpus: int | None = None
    gpus: float | None = None
    retries: int | None = None

    def __post_init__(self) -> None:
        if self.address is not None and self.jobs is not None:
            raise WrongPlace(
                "--jobs is for this machine: with --ray as many runs go at once as the cluster has room for"
            )
        beside = {"--cpus-per-run": self.cpus, "--gpus-per-run": self.gpus, "--retries": self.retries}
        given = [name for name, value in beside.items() if value is not None]
        if self.address is None and given:
            raise WrongPlace(f"{given[0]} is for a cluster; add --ray, or leave it out")

    @property
    def processes(self) -> int:
        """Runs that share this machine."""
        return 1 if self.jobs is None else self.jobs

    @property
    def cores(self) -> int | None:
        """CPUs of a run on the cluster; None without one."""
        return None if self.address is None else self.cpus or self.threads or 1

    @contextlib.contextmanager
    def place(self, out: Path, told: Callable[[str], None]) -> Iterator[Place]:
        """The place, for as long as the block lasts. ``out``: the study's folder. ``told``: hears of runs tried again.

        Raises:
            ClusterError: where the cluster cannot be reached or is not fit.
        """
        if self.address is None or self.cores is None:
            yield here(self.processes)
            return
        gpus = self.gpus or 0
        with ray_cluster(self.address, self.cores, gpus) as cluster:
            yield on_cluster(cluster, out, RETRIES if self.retries is None else self.retries, told, gpus)
