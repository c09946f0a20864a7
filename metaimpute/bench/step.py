"""The cost of one training step, method x problem x estimator, against the limits that counting passes gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from rich.table import Table
from torch import Tensor

from ..batches import Batch, Labelled, Unlabelled
from ..batches.outputs import Classes
from ..engine import get_estimator, parse_memory, sgd
from ..methods import methods
from ..models.wrn import WideResNet
from ..problems import Context, Sizes, problems
from ..progress import counted
from ..ranges import Precision
from ..training.algorithm import Algorithm1
from ..training.lookahead import OuterSettings
from ..training.precision import functional
from .measure import machine, paired_times, peak_bytes, ratio

CLASSES = 10


@dataclass(frozen=True)
class Config:
    """One kind of training step. ``limit``: its cost in base steps when no pass is made twice, from counting passes."""

    method: str
    problem: str
    estimator: str = "exact"
    schedule: Literal["algorithm1", "fused"] = "algorithm1"
    psi: Literal["kept", "recomputed"] = "kept"
    inner: Literal["all", "unlabelled"] = "all"
    limit: float | None = None

    @property
    def name(self) -> str:
        if self.problem == "none":
            return f"{self.method} alone"
        psi = "" if self.psi == "kept" else ", psi recomputed"
        inner = "" if self.inner == "all" else ", inner loss C_U alone"
        return f"{self.method} + {self.problem}, {self.estimator}, {self.schedule}{psi}{inner}"


@dataclass(frozen=True)
class Speed:
    """How a step is carried out: the keys of ``train`` that change no formula."""

    precision: Precision = "float32"
    compile: bool = False
    channels_last: bool = False
    fused: bool = False


def limit_of(config: Config, mu: int = 1) -> float | None:
    """Base step and additions in units of one forward pass of a labelled batch; a backward pass counts 2.

    Mean Teacher's base step: 3 for labelled, 3 mu for unlabelled, mu for the teacher. FixMatch's: 3, 3 mu for the strong view, mu
    for the weak. The outer step adds psi (3 mu, with its backward pass), the inner step (3 mu, and 3 for C_T where the inner
    loss has it; features alone for approx and head: mu and 1), the hold-out batch (3; features alone 1), and for exact labels one
    forward-mode pass of the unlabelled batch (3 mu; FixMatch's shared pass has the labelled rows in it: 3 more). A fused step
    has taken its inner step already. Reverse over reverse has no limit here.
    """
    base, with_labels = 3 + 3 * mu + mu, config.inner == "all"
    shared = config.method == "fixmatch" and with_labels
    if config.estimator in ("approx", "head"):
        added = 3 * mu + mu + (1 if with_labels else 0) + 1
    elif config.estimator == "mixed":
        inner = 0 if config.schedule == "fused" else 3 * mu + (3 if with_labels else 0)
        added = 3 * mu + inner + 3 + 3 * mu + (3 if shared else 0)
    else:
        return None
    return (base + added + (mu if config.psi == "recomputed" else 0)) / base


class Bench:
    """WRN-16-2 on random images, with one labelled batch, mu unlabelled ones and a hold-out batch."""

    def __init__(self, batch: int, mu: int, side: int = 32, device: str = "cpu") -> None:
        self.batch, self.mu, self.side, self.device = batch, mu, side, device

    def algorithm(self, config: Config, speed: Speed | None = None) -> tuple[Algorithm1, Batch, Labelled]:
        torch.manual_seed(0)
        speed = speed or Speed()
        output, n, m = Classes(CLASSES), self.batch, self.batch * self.mu
        module = WideResNet(16, 2, 3, CLASSES).to(self.device)
        if speed.channels_last:
            module.to(memory_format=torch.channels_last)
        model = functional(module, None, speed.precision)

        def pictures(count: int) -> Tensor:
            return torch.randn(count, 3, self.side, self.side).to(self.device)

        def targets(count: int) -> Tensor:
            return torch.randint(0, CLASSES, (count,)).to(self.device)

        def rows(count: int) -> Tensor:
            return torch.arange(count, device=self.device)

        batch = Batch(
            Labelled(pictures(n), targets(n), rows(n)),
            Unlabelled(pictures(m), pictures(m), rows(m)),
            0.5,
            0,
        )
        holdout = Labelled(pictures(n), targets(n), rows(n))
        options = {"threshold": 0.0} if config.method == "fixmatch" else {}
        method = methods.get(config.method)(**options).bind(output)
        problem = problems.get(config.problem)()
        problem.bind(Context(model, method, output, Sizes(n, m, CLASSES), inner=config.inner))
        estimator, _, memory = config.estimator.partition("/")
        kept = parse_memory(memory or "store")
        settings = OuterSettings(
            get_estimator(estimator), sgd(0.1), kept, schedule=config.schedule, psi=config.psi, compile=speed.compile
        )
        base = torch.optim.SGD(module.parameters(), lr=1e-4, momentum=0.9, fused=speed.fused or None)
        return Algorithm1(model, method, problem, settings, base, None, None, seed=0), batch, holdout

    def work(self, config: Config, speed: Speed | None = None) -> Callable[[], Any]:
        algorithm, batch, holdout = self.algorithm(config, speed)
        given = None if config.problem == "none" else holdout
        return lambda: algorithm.step(batch, given)


def configurations(method: str, mu: int) -> list[Config]:
    found = [Config(method, "none", limit=1.0)]
    for schedule in ("algorithm1", "fused"):
        for estimator in ("approx", "head", "mixed", "exact"):
            if schedule == "fused" and estimator in ("approx", "head"):
                continue
            found.append(Config(method, "l2i", estimator, schedule))
    found += [Config(method, "l2i", "mixed", schedule, "recomputed") for schedule in ("algorithm1", "fused")]
    found += [Config(method, "l2i", estimator, inner="unlabelled") for estimator in ("approx", "mixed")]
    found.append(Config(method, "l2i_learnable", "mixed"))
    return [dataclasses.replace(c, limit=limit_of(c, mu)) if c.problem == "l2i" else c for c in found]


def sweep(
    pairs: Iterable[tuple[str, int]],
    *,
    batch: int = 16,
    repeats: int = 5,
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measures every configuration for ``(method, mu)`` pairs, in turn within each."""
    rows = []
    pairs = list(pairs)
    for method, mu in counted(pairs, "methods", len(pairs)):
        bench = Bench(batch, mu, device=device)
        configs = {c.name: c for c in configurations(method, mu)}
        works = {name: bench.work(config) for name, config in configs.items()}
        say(f"{method}, mu = {mu}: timing {len(works)} kinds of step")
        times = paired_times(works, repeats)
        base = f"{method} alone"
        peaks = {name: peak_bytes(work) for name, work in works.items()}
        for name, config in configs.items():
            wall = ratio(times[name], times[base])
            rows.append(
                {
                    **asdict(config),
                    "name": name,
                    "mu": mu,
                    "wall": wall[0],
                    "wall_low": wall[1],
                    "wall_high": wall[2],
                    "peak": peaks[name],
                    "peak_ratio": peaks[name] / peaks[base],
                }
            )
    return {
        "benchmark": "step",
        "model": "WRN-16-2",
        "batch": batch,
        "repeats": repeats,
        "machine": machine(device),
        "rows": rows,
    }


def table(result: dict[str, Any]) -> Table:
    """Measured cost beside the limit."""
    view = Table(
        title=f"{result['model']}, batch {result['batch']}: one training step in units of the base method's step",
        title_justify="left",
    )
    view.add_column("step")
    for column in ("mu", "wall", "range", "limit", "over limit", "peak MiB", "x base"):
        view.add_column(column, justify="right")
    for row in result["rows"]:
        limit = row["limit"]
        view.add_row(
            row["name"],
            str(row["mu"]),
            f"{row['wall']:.2f}",
            f"{row['wall_low']:.2f}-{row['wall_high']:.2f}",
            "-" if limit is None else f"{limit:.2f}",
            "-" if limit is None else f"{row['wall'] / limit - 1:+.0%}",
            f"{row['peak'] / 2**20:.1f}",
            f"{row['peak_ratio']:.2f}",
        )
    return view
