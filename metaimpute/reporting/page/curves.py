"""What was measured while runs trained: errors, losses, imputed labels, gradients, label updates."""

from __future__ import annotations

from collections.abc import Sequence

from ..figures import WATCHED
from .blocks import Block, Figure, Grid, Group, Section, System, drawable, drawn, overlay, points_of, seeds_as_lines
from .svg import LARGE
from .tracks import tracks

LOOK_AHEAD = ("holdout_before", "holdout_after")


def learning(group: Group) -> Section | None:
    """How the error went while runs trained."""
    systems, chosen = (
        group.featured,
        group.compared.measure == "validation_last",
    )  # chosen on those rows, and not on others
    figures = [
        *overlay(systems, "validation_error", f"Validation {group.metric}", size=LARGE),
        *([] if chosen else overlay(systems, "test_error", f"Test {group.metric}", size=LARGE)),
    ]
    several = any(len(system.runs) > 1 for system in systems)
    intro = "Bold: the mean over seeds. Faint: each seed." if several and len(systems) <= 2 else ""
    intro = "Means over seeds." if several and len(systems) > 2 else intro
    if len(systems) < len(group.systems):
        intro = (
            f"{intro} Drawn: the best, its baseline and its nearest rivals, of {len(group.systems)} systems.".strip()
        )
    if not figures:
        return None
    return Section("learning", "How the error fell in training", [Grid(figures, kind="large")], intro, systems)


def losses(group: Group) -> Section | None:
    """Training loss and learning rate."""
    systems = group.featured
    figures = overlay(systems, "loss", "Training loss", size=LARGE)
    if any(len(set(_values([system], "lr"))) > 1 for system in systems):
        figures += overlay(systems, "lr", "Learning rate", size=LARGE)
    return _section("losses", "Training loss", figures, systems, "")


def imputed(group: Group) -> Section | None:
    """Of the labels the method gave itself: how many counted, how many were right."""
    active = [one for one in group.featured if any(rate > 0 for rate in _values([one], "mask_rate"))]
    rates, scores = _values(active, "mask_rate"), _values(active, "imputed_accuracy")
    figures: list[Figure] = []
    if any(rate < 1 for rate in rates):
        figures += overlay(active, "mask_rate", "Labels that count, %", y=(0, 100), factor=100, size=LARGE)
    if all(0 <= score <= 1 for score in scores):
        used = any(rate not in (0, 1) for rate in rates)
        title = "Labels that are right, % of those that count" if used else "Labels that are right, %"
        metric = "imputed_accuracy_used" if used else "imputed_accuracy"
        figures += overlay(active, metric, title, y=(0, 100), factor=100, size=LARGE)
    else:  # of values the agreement is minus the error
        figures += overlay(active, "imputed_accuracy", "Error of the imputed values", factor=-1, size=LARGE)
    figures += overlay(active, "label_change", "Mean change of a label by its update", size=LARGE)
    intro = "The labels the method gave unlabelled examples, in each measured batch"
    intro += ", against the truth, which training never sees." if scores else "."
    if rates and min(rates) == 1:
        intro += " Every one of them counted (mask rate 1)."
    return _section("imputed", "The labels it gave itself", figures, active, intro)


def trajectories(group: Group) -> Section | None:
    """How the answers for a few unlabelled examples changed, from ``labels.jsonl`` of the best system's first seed."""
    system = group.best
    figures = tracks(system.runs[0])
    whose = f" {system.full_name}, seed {system.result.seed}." if len(group.systems) > 1 else ""
    intro = "A few fixed unlabelled rows over training: what each ended as is bold, the way there thin." + whose
    title = "How its answers for single rows changed"
    return Section("trajectories", title, [Grid(figures)], intro, folded=True) if figures else None


def hypergradients(group: Group) -> Section | None:
    """Size and direction of the two gradients, and what the look-ahead does to the hold-out loss."""
    active = [system for system in group.pair if any(norm > 0 for norm in _values([system], "hypergradient_norm"))]
    if not active:
        return None
    figures = [figure for system in active for figure in _norms(system)]
    figures += overlay(active, "cosine", "Cosine of the two", y=(-1, 1))
    looks = [f for s in active for f in _before_and_after(s, s.titled("Hold-out loss"), *LOOK_AHEAD)]
    intro = (
        "The base step's gradient beside the hypergradient, and the hold-out loss before and after the look-ahead. One that "
        "raises it a little is no fault; one that leaves it above where the run began has too large an inner learning rate."
    )
    if not any(_values([system], WATCHED[0]) for system in active):
        intro += " Losses around label updates (the paper's Fig. 2) are recorded with --set train.watch_test=300."
    blocks = [Grid(figures), *([Grid(looks, "Around the look-ahead", "pairs")] if looks else [])]
    return Section("hypergradients", "Hypergradients and the look-ahead", blocks, intro, active, folded=True)


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


def label_updates(group: Group) -> Section | None:
    """Fig. 2 of the paper."""
    systems = group.pair
    blocks: list[Block] = []
    for system in systems:
        figures = _before_and_after(system, system.titled("Hold-out batch, loss"), *WATCHED[:2])
        figures += _before_and_after(system, system.titled("Test examples, loss"), *WATCHED[2:])
        if figures:
            blocks.append(Grid(figures, system.full_name, "pairs"))
    if blocks:
        intro = "Loss on the hold-out batch and on test examples just before and after each label update (the paper's Fig. 2)."
        return Section("updates", "Label updates", blocks, intro, folded=True)
    return None


def _values(systems: Sequence[System], metric: str) -> list[float]:
    """All measurements of one thing."""
    return [value for system in systems for run in system.runs for _, value in points_of(run, metric)]


def _section(slug: str, title: str, figures: Sequence[Figure], systems: Sequence[System], intro: str) -> Section | None:
    return Section(slug, title, [Grid(figures, kind="large")], intro, systems, True) if figures else None
