"""The picture of ``bench hypergradient``: for each number of steps a line a system, what it costs and how far it is off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

EXACT_BELOW = 1e-5  # relative error in float32
WRONG = 1e-3
UNROLLING = ("higher", "torchopt")  # of the other packages
FURTHEST = 1e2  # errors beyond are drawn there, as an arrow
STYLES = {  # by who computed: marker, colour, what it is called
    "func": ("o", "#1f77b4", "metaimpute"),
    "compiled": ("s", "#2a9d4a", "metaimpute, its step compiled"),
    "other": ("^", "#c8361d", "other packages"),
}


def is_exact(row: dict[str, Any]) -> bool:
    """Whether it claims exactness; a truncation that leaves nothing out counts too."""
    whole = row["estimator"].startswith("truncated") and row["error"] < EXACT_BELOW
    return whole or row["estimator"] in ("exact", "mixed", "forward") or row["backend"] in UNROLLING


def ordered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """From the bottom up: the least accurate first, the exact ones last, the cheapest on top."""
    return sorted(rows, key=lambda r: (is_exact(r), -r["wall"] if is_exact(r) else -r["error"]))


def distinct(row: dict[str, Any]) -> bool:
    """Memory policies have nothing to choose for a single step."""
    return row["steps"] > 1 or row["memory"] in ("", "store")


def plot(result: dict[str, Any], path: Path) -> None:
    """Writes the picture; see :func:`drawn`."""
    figure = drawn(result)
    figure.savefig(path, dpi=150)
    import matplotlib.pyplot as plt

    plt.close(figure)


def drawn(result: dict[str, Any]) -> Any:
    """The picture as a figure of matplotlib: left of each pair the wall time with its range, right the relative error."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    steps = sorted({row["steps"] for row in result["rows"]})
    shown = {k: ordered([r for r in result["rows"] if r["steps"] == k and distinct(r)]) for k in steps}
    height = 1.6 + 0.23 * max(map(len, shown.values()))
    figure, axes = plt.subplots(
        1, 2 * len(steps), figsize=(6.4 * len(steps), height), layout="constrained", squeeze=False,
        width_ratios=[1.7, 1.0] * len(steps),
    )  # fmt: skip
    inexact = [r["error"] for rows in shown.values() for r in rows if not is_exact(r)]
    lowest = min([*inexact, 1e-2]) / 3
    for column, k in enumerate(steps):
        cost, error = axes[0][2 * column : 2 * column + 2]
        _draw_cost(cost, shown[k])
        _draw_error(error, shown[k], lowest)
        cost.set_title(f"k = {k}", fontsize=11, loc="left")
        for ax in (cost, error):
            ax.set_ylim(-0.7, len(shown[k]) - 0.3)
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(axis="y", color="0.93", zorder=0)
            ax.tick_params(labelsize=8)
    used = dict.fromkeys(_style(row) for rows in shown.values() for row in rows)
    handles = [Line2D([], [], linestyle="", marker=m, color=c, label=name) for m, c, name in used]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    what = f"{result['model']}, {result['optimizer']}, batch {result['batch']}"
    figure.suptitle(f"{what}: what a hypergradient through k steps costs, and how far it is off", fontsize=11)
    return figure


def _style(row: dict[str, Any]) -> tuple[str, str, str]:
    return STYLES.get(row["backend"], STYLES["other"])


def _draw_cost(ax: Any, rows: list[dict[str, Any]]) -> None:
    for place, row in enumerate(rows):
        marker, colour, _ = _style(row)
        ax.plot([row["wall_low"], row["wall_high"]], [place, place], color=colour, linewidth=2, alpha=0.4, zorder=2)
        ax.scatter(row["wall"], place, s=28, color=colour, marker=marker, zorder=3)
    labels = [row["system"] + ("" if row["peak"] is None else f"  {row['peak'] / 2**20:,.0f} MiB") for row in rows]
    ax.set_yticks(range(len(rows)), labels, fontsize=8)
    exact = [row["wall_high"] for row in rows if is_exact(row)]
    if exact and max(row["wall_high"] for row in rows) > 4 * max(exact):
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
    else:
        ax.set_xlim(left=0)
    ax.set_xlabel("wall time / k plain steps: median and range", fontsize=9)


def _draw_error(ax: Any, rows: list[dict[str, Any]], lowest: float) -> None:
    ax.set_xscale("log")
    ax.set_xlim(lowest, 3 * FURTHEST)
    for place, row in enumerate(rows):
        marker, colour, _ = _style(row)
        if is_exact(row):
            said = "exact" if row["error"] < EXACT_BELOW else f"exact, {row['error']:.0e}"  # float32 over many steps
            ax.text(
                lowest * 1.2, place, said, va="center", fontsize=8, color="0.45" if row["error"] < WRONG else "#c8361d"
            )
        else:
            beyond = row["error"] > FURTHEST
            ax.scatter(
                min(row["error"], FURTHEST), place, s=28, color=colour, marker=">" if beyond else marker, zorder=3
            )
            if beyond:
                ax.text(FURTHEST / 1.5, place, f"{row['error']:.0e}", va="center", ha="right", fontsize=8)
    ax.set_yticks(range(len(rows)), [""] * len(rows))
    ax.set_xlabel("relative error to float64", fontsize=9)
