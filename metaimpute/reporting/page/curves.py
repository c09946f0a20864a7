"""What was measured while runs trained: errors, losses, imputed labels, gradients, label updates."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ...rundir.layout import LABELS
from ...rundir.stored import read_bytes
from ..figures import WATCHED
from ..runs import Run
from .blocks import Block, Figure, Grid, Section, System, Words, drawable, drawn, overlay, points_of, seeds_as_lines
from .svg import Line, chart

EXAMPLES = 12  # label trajectories shown of a system
CLASSES = 10  # of one trajectory
LOOK_AHEAD = ("holdout_before", "holdout_after")


def learning(systems: Sequence[System]) -> Section | None:
    """Errors and losses over training."""
    metric = systems[0].result.metric
    figures = [
        *overlay(systems, "validation_error", f"Validation {metric}"),
        *overlay(systems, "test_error", f"Test {metric}"),
        *overlay(systems, "loss", "Training loss"),
    ]
    if any(len(set(_values([system], "lr"))) > 1 for system in systems):
        figures += overlay(systems, "lr", "Learning rate")
    several = any(len(system.runs) > 1 for system in systems)
    intro = "Bold: the mean over seeds. Faint: each seed." if several else ""
    return _section("learning", "Learning curves", figures, systems, intro)


def imputed(systems: Sequence[System]) -> Section | None:
    """Of the labels the method gave itself: how many counted, how many were right."""
    active = [system for system in systems if any(rate > 0 for rate in _values([system], "mask_rate"))]
    rates, scores = _values(active, "mask_rate"), _values(active, "imputed_accuracy")
    figures: list[Figure] = []
    if any(rate < 1 for rate in rates):
        figures += overlay(active, "mask_rate", "Labels that count, %", y=(0, 100), factor=100)
    if all(0 <= score <= 1 for score in scores):
        figures += overlay(active, "imputed_accuracy", "Labels that are right, %", y=(0, 100), factor=100)
        if any(rate not in (0, 1) for rate in rates):
            title = "Labels that are right, % of those that count"
            figures += overlay(active, "imputed_accuracy_used", title, y=(0, 100), factor=100)
    else:  # of values the agreement is minus the error
        figures += overlay(active, "imputed_accuracy", "Error of the imputed values", factor=-1)
    figures += overlay(active, "label_change", "Mean change of a label by its update")
    intro = "The labels the method gave unlabelled examples, in each measured batch"
    intro += ", against the truth, which training never sees." if scores else "."
    if rates and min(rates) == 1:
        intro += " Every one of them counted (mask rate 1)."
    return _section("imputed", "Imputed labels", figures, active, intro)


def trajectories(systems: Sequence[System]) -> Section | None:
    """How the labels of a few unlabelled examples changed, from ``labels.jsonl`` of each system's first seed."""
    blocks: list[Block] = []
    for system in systems:
        figures = _trajectories(system.runs[0])
        if figures:
            blocks.append(Grid(figures, f"{system.full_name}, seed {system.result.seed}", small=True))
    intro = "The labels of a few fixed unlabelled examples over training. Bold: what each ended as."
    return Section("trajectories", "Label trajectories", blocks, intro) if blocks else None


def _trajectories(run: Run) -> list[Figure]:
    """One chart per example; none where nothing, or nothing readable, was recorded."""
    try:
        lines = [json.loads(line) for line in read_bytes(run.folder / LABELS).decode().splitlines()]
        ids, truth = lines[0]["ids"], lines[0].get("truth") or [None] * len(lines[0]["ids"])
        tracks = [
            [
                [(float(line["step"]), float(line["labels"][place][n])) for line in lines]
                for n in range(len(lines[0]["labels"][place]))
            ]
            for place in range(len(ids))
        ]
        shown = list(zip(ids, tracks, truth, strict=False))[:EXAMPLES]
        return [_trajectory(str(name), track, true, run) for name, track, true in shown if len(lines) > 1 and track]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return []


def _trajectory(name: str, track: list[list[tuple[float, float]]], true: int | None, run: Run) -> Figure:
    names, span = run.result.label_names or [str(n) for n in range(len(track))], (0.0, track[0][-1][0])
    if not run.result.calibration:  # values, not the probabilities of classes
        lines = [Line(line, n, str(names[n])) for n, line in enumerate(track[:CLASSES])]
        return Figure(name, chart(f"Label of {name}", lines, x=span))
    final = max(range(len(track)), key=lambda n: track[n][-1][1])
    largest = sorted(range(len(track)), key=lambda n: -max(value for _, value in track[n]))[:CLASSES]
    others = [Line(track[n], 5, faint=True) for n in largest if n != final]
    said = "" if true is None else f", truth {names[int(true)]}"
    drawing = chart(f"Label of {name}", [*others, Line(track[final], 0, str(names[final]))], x=span, y=(0.0, 1.0))
    return Figure(f"{name}{said}", drawing)


def hypergradients(systems: Sequence[System]) -> Section | None:
    """Size and direction of the two gradients, and what the look-ahead does to the hold-out loss."""
    active = [system for system in systems if any(norm > 0 for norm in _values([system], "hypergradient_norm"))]
    if not active:
        return None
    figures = [figure for system in active for figure in _norms(system)]
    figures += overlay(active, "cosine", "Cosine of the two", y=(-1, 1))
    looks = [f for s in active for f in _before_and_after(s, s.titled("Hold-out loss"), *LOOK_AHEAD)]
    intro = (
        "The base step's gradient beside the hypergradient, and the hold-out loss before and after the look-ahead. A look-ahead "
        "that raises it has too large an inner learning rate."
    )
    blocks = [Grid(figures), *([Grid(looks, "Around the look-ahead", pairs=True)] if looks else [])]
    return Section("hypergradients", "Hypergradients", blocks, intro, active)


def _norms(system: System) -> list[Figure]:
    lines, zeros = [], False
    for style, (metric, label) in enumerate((("base_gradient_norm", "base"), ("hypergradient_norm", "hyper"))):
        seeds = [points_of(run, metric) for run in system.runs]
        zeros |= any(value == 0 for points in seeds for _, value in points)
        positive = [[(step, value) for step, value in points if value > 0] for points in seeds]
        lines += [line for line in seeds_as_lines(positive, style, label) if not line.faint]
    note = "Steps with a gradient of zero are left out." if zeros else ""
    return [drawn(system.titled("Norms of the gradients"), lines, note=note)] if lines else []


def _before_and_after(system: System, title: str, before: str, after: str) -> list[Figure]:
    """Both losses in one chart, and in another their relative difference, for which the first may be too coarse."""
    lines = [
        line
        for style, (metric, label) in enumerate(((before, "before"), (after, "after")))
        for line in seeds_as_lines([points_of(run, metric) for run in system.runs], style, label)
        if not line.faint
    ]
    changes = []
    for run in system.runs:
        steps, values = run.series(before, after)
        found = zip(steps, *values, strict=True)
        changes.append([(s, 100 * (b / a - 1)) for s, a, b in found if a > 0 and drawable(a) and drawable(b)])
    change = seeds_as_lines(changes, system.number, system.key)
    if not lines or not change:
        return []
    known = [value for points in changes for _, value in points]
    lower, mean = sum(value < 0 for value in known) / len(known), sum(known) / len(known)
    note = f"Lower after in {lower:.0%} of measured steps; mean change {mean:+.2f}%."
    return [drawn(title, lines), drawn(f"{title}, change in %", change, note=note)]


def label_updates(systems: Sequence[System]) -> Section | None:
    """Fig. 2 of the paper."""
    blocks: list[Block] = []
    for system in systems:
        figures = _before_and_after(system, system.titled("Hold-out batch, loss"), *WATCHED[:2])
        figures += _before_and_after(system, system.titled("Test examples, loss"), *WATCHED[2:])
        if figures:
            blocks.append(Grid(figures, system.full_name, pairs=True))
    if blocks:
        intro = "Loss on the hold-out batch and on test examples just before and after each label update (the paper's Fig. 2)."
        return Section("updates", "Label updates", blocks, intro)
    if not any(run.learns_labels for system in systems for run in system.runs):
        return None
    said = "These runs did not record losses around label updates; run them with --set train.watch_test=300."
    return Section("updates", "Label updates", [Words([said])])


def _values(systems: Sequence[System], metric: str) -> list[float]:
    """All measurements of one thing."""
    return [value for system in systems for run in system.runs for _, value in points_of(run, metric)]


def _section(slug: str, title: str, figures: Sequence[Figure], systems: Sequence[System], intro: str) -> Section | None:
    return Section(slug, title, [Grid(figures)], intro, systems) if figures else None
