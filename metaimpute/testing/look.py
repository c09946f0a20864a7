"""What two losses do that explains a gradient: cuts, noise, derivatives written by hand, what they do not depend on."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.utils._pytree import keystr, tree_flatten_with_path

from ..engine import BilevelMap
from ..engine.cuts import Cuts
from ..engine.operators import names_of
from ..engine.pytree import Tree, as_leaves, gradient, tensors, with_tensors
from ..engine.replay import BadMemoryPolicy, require_closed
from .report import Report


def look(problem: BilevelMap, report: Report) -> bool:
    """Notes on cuts, noise and dependences; whether the map itself is noisy."""
    theta, c = as_leaves(problem.theta_0), as_leaves(problem.c)
    fresh = replace(problem)
    for which in ("inner", "outer"):
        fresh.ledger.watch = cuts = Cuts()
        with torch.enable_grad():
            loss = fresh.inner(0, theta, c) if which == "inner" else fresh.outer(theta, c)
        fresh.ledger.watch = None
        if cuts.gradients:
            report.notes.append(
                f"the {which} loss cuts gradients ({', '.join(cuts.gradients)}): derivatives take what is cut for "
                f"constant, finite "
                "differences move it"
            )
        for source in cuts.noise:
            report.notes.append(f"the {which} loss draws noise from {source}, which no seed replays")
        try:
            require_closed(loss, (theta, c))
        except BadMemoryPolicy as found:
            report.notes.append(str(found).replace("inner loss", f"{which} loss"))
        written = sorted(
            {n for n in names_of(loss) if not n.endswith(("Backward0", "Backward1", "Backward2", "Backward4"))}
        )
        written = [n for n in written if "::" not in n and "Backward" in n and not n.endswith("_copy")]
        if written:
            report.notes.append(f"the {which} loss has derivatives written by hand ({', '.join(written[:3])})")
        parts = {"theta": theta, "c": c}
        slopes = (
            gradient(loss, parts, unused="none")
            if loss.requires_grad
            else with_tensors(parts, [None] * len(tensors(parts)))
        )
        _note_unused(which, slopes, report)
    first, second = float(problem.value()), float(problem.value())
    noisy = first != second and not (first != first and second != second) and abs(first - second) > 1e-13 * abs(first)
    if noisy:
        report.notes.append(
            f"the bilevel map gave {first:.9g} and then {second:.9g}: no derivative of it means anything"
        )
    return noisy


def _note_unused(which: str, slopes: dict[str, Tree], report: Report) -> None:
    """What a loss does not depend on: parameters one by one, the inner loss's coupling as a whole."""
    flat = {part: tree_flatten_with_path(tree)[0] for part, tree in slopes.items()}
    unused = {part: [keystr(path) for path, leaf in pairs if leaf is None] for part, pairs in flat.items()}
    if which == "inner" and flat["c"] and len(unused["c"]) == len(flat["c"]):
        report.notes.append("the inner loss does not depend on the coupling")
    names = unused["theta"]
    if names and len(names) == len(flat["theta"]):
        report.notes.append(
            f"the {which} loss does not depend on any parameter: does it use the module's own, or detached ones?"
        )
    elif names:
        report.notes.append(
            f"the {which} loss does not depend on {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        )
