"""The paper's Fig. 2 and Fig. 3 from run directories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import torch

from ..batches.outputs import Landmarks
from ..errors import UserError
from ..training.evaluation import predictions
from .console import system_name
from .runs import Run

BEFORE, AFTER, TRUTH = "#e07b00", "#0091b3", "#1a9641"
WATCHED = tuple(f"update_{what}_{when}" for what in ("holdout", "test") for when in ("before", "after"))


class NoFigure(UserError, ValueError):
    """A figure these runs hold no data for, with the reason."""


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise NoFigure("drawing needs matplotlib; pip install 'metaimpute[bench]'") from None

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def smoothed(values: Sequence[float], width: int) -> list[float]:
    """Means over windows that end at each point, shorter at the beginning."""
    total, found = 0.0, []
    for place, value in enumerate(values):
        total += value - (values[place - width] if place >= width else 0.0)
        found.append(total / min(place + 1, width))
    return found


def label_updates(run: Run, path: Path) -> None:
    """Fig. 2: loss on the hold-out batch and on test examples, before and after each label update, over training.

    Raises:
        NoFigure: when the run did not record it.
    """
    steps, values = run.series(*WATCHED)
    if len(steps) < 2:
        raise NoFigure(
            f"{run.folder} did not record losses around label updates; run it with --set train.watch_test=300"
        )
    plt = _pyplot()
    figure, axes = plt.subplots(2, 1, figsize=(7, 6), layout="constrained", sharex=True)
    width = max(1, len(steps) // 20)
    for ax, what, pair in zip(axes, ("hold-out batch", "test examples"), (values[:2], values[2:]), strict=True):
        for series, colour, label in zip(pair, (BEFORE, AFTER), ("before the update", "after the update"), strict=True):
            ax.plot(steps, series, color=colour, alpha=0.25, linewidth=0.8)
            ax.plot(steps, smoothed(series, width), color=colour, label=label)
        lower = sum(after < before for before, after in zip(*pair, strict=True)) / len(steps)
        mean = sum(after / max(before, 1e-12) - 1 for before, after in zip(*pair, strict=True)) / len(steps)
        ax.set_title(f"{what}: lower after the update in {lower:.0%} of steps, mean change {mean:+.2%}", fontsize=10)
        ax.set_ylabel("loss")
        if max(map(max, pair)) > 10 * min(map(min, pair)):
            ax.set_yscale("log")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    axes[1].set_xlabel("training step" + (f" (bold: mean of {width} measurements)" if width > 1 else ""))
    result = run.result
    figure.suptitle(
        f"{system_name(result)}, {result.source}, {result.labels} labels ({result.profile})",
        fontsize=11,
        parse_math=False,
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def faces(runs: Sequence[Run], target: Path | IO[bytes], count: int = 6) -> None:
    """Fig. 3: test faces with true and predicted landmarks; above where the last run gains most on the first, below its worst.

    Args:
        runs: runs on the same test faces, the base method first. target: of a PNG.

    Raises:
        NoFigure: when these are not runs on the same landmarks.
    """
    sessions = [run.restored() for run in runs]
    output = sessions[0].task.output
    if not isinstance(output, Landmarks):
        raise NoFigure(f"{runs[0].folder} predicts no landmarks")
    pools = [session.data.test for session in sessions]
    if any(
        session.task.name != sessions[0].task.name or len(pool) != len(pools[0])
        for session, pool in zip(sessions, pools, strict=True)
    ):
        raise NoFigure("these runs have different test faces")
    predicted, errors, truth = [], [], None
    for session in sessions:
        raw = predictions(
            session.evaluated_module(), session.task, session.data.test, session.recipe.train.eval_batch, session.device
        )
        known, kind = session.data.test.targets, session.task.output
        assert known is not None and isinstance(kind, Landmarks)
        predicted.append(kind.points(raw))
        errors.append(kind.error(raw, known))
        truth = kind.points(known)
    assert truth is not None
    gain = (errors[0] if len(runs) > 1 else -errors[-1]) - errors[-1]
    rows = {
        "largest gains": gain.argsort(descending=True)[:count],
        "largest errors": errors[-1].argsort(descending=True)[:count],
    }
    plt = _pyplot()
    figure, axes = plt.subplots(2, count, figsize=(2.1 * count, 5), layout="constrained")
    pictures = pools[0].take(torch.cat(list(rows.values())))
    names = [system_name(run.result) for run in runs]
    for place, ax in enumerate(axes.flat):
        face = int(torch.cat(list(rows.values()))[place])
        picture = pictures[place][0]
        side = picture.shape[-1]
        ax.imshow(picture, cmap="gray", extent=(0, side, side, 0), vmin=0, vmax=255)
        ax.scatter(*truth[face].T, s=38, facecolors="none", edgecolors=TRUTH, linewidths=1.4, label="truth")
        for points, name, colour in zip(predicted, names, (BEFORE, AFTER, "#7b3294", "#d7191c"), strict=False):
            marker = {"marker": "x", "s": 34, "linewidths": 1.4} if colour == BEFORE and len(runs) > 1 else {"s": 13}
            ax.scatter(*points[face].T, color=colour, label=name, zorder=2 if "marker" in marker else 3, **marker)
        ax.set_title(" / ".join(f"{error[face]:.1f}%" for error in errors), fontsize=8)
        ax.set_xlim(0, side)
        ax.set_ylim(side, 0)
        ax.set_xticks([])
        ax.set_yticks([])
    for row, name in enumerate(rows):
        axes[row][0].set_ylabel(name, fontsize=9)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    last = runs[-1].result
    figure.suptitle(
        f"{last.source}, {last.labels} labels; above each face its error, in this order", fontsize=10, parse_math=False
    )
    figure.savefig(target, dpi=150)
    plt.close(figure)
