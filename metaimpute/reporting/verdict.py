"""What several systems' numbers say, in sentences: which is best, by how much, whether that is shown, what it cost, what next."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..rundir.measure import PERCENT
from .statistics import FEWEST, Paired, paired

NAMES = 3  # of systems in a sentence, at most
LEVEL = 0.05  # of the signed-rank test
MOST_SEEDS = 100  # that anyone would run


@dataclass(frozen=True)
class Standing:
    """A system among those compared.

    Attributes:
        values: seed to its number; lower is better. seconds: of training a run, their mean. control: whether it stands in for a
            method to show what the method's gain is not. fair: whether it was measured on the same data as the others.
    """

    name: str
    values: Mapping[int, float]
    seconds: float | None = None
    control: bool = False
    fair: bool = True


@dataclass(frozen=True)
class Verdict:
    """Sentences, the most important first.

    Attributes:
        best: name of the best system; None where none can be named. lines: what is known. next: what to do now. seeds: how many
            that would take in all, where it is more of them. named: the systems that the sentences hold, the best first.
    """

    best: str | None
    lines: tuple[str, ...]
    next: str
    seeds: int | None = None
    named: tuple[str, ...] = ()


def verdict(standings: Sequence[Standing], base: str | None, metric: str, rows: int | None = None) -> Verdict:
    """What systems' numbers say.

    Args:
        base: name of the one that the others are compared with. metric: of the numbers, e.g. ``error %``. rows: each was
            measured on.
    """
    known = [one for one in standings if one.values and one.fair]
    if not known:
        said = "No system has a test error to be compared by."
        return Verdict(None, (said,), "finish the runs; of data without a test set each run says what error it expects")
    most = max(len(one.values) for one in known)
    ranked = sorted(
        (one for one in known if len(one.values) == most), key=lambda one: statistics.mean(one.values.values())
    )
    best = ranked[0]
    of = f" of {rows:,} test rows" if rows and metric == PERCENT else ""
    seeds = "one seed" if most == 1 else f"mean of {most} seeds"
    if len(known) == 1:
        values = best.values.values()
        between = f", from {min(values):.4g} to {max(values):.4g}" if most > 1 else ""
        lines = [f"{best.name}: {amount(best, metric, of)}, {seeds}{between}. Nothing here to compare it with."]
        return Verdict(None, (*lines, *filter(None, [_cost(best, None)])), "another system on the same seeds")
    against = next((one for one in known if one.name == base), None)
    who = f"{best.name}, the baseline, is best" if best is against else f"{best.name} is best"
    lines = [f"{who}: {amount(best, metric, of)}, {seeds}."]
    rivals = [against] if against is not None and against is not best else []
    controls = [one for one in ranked[1:] if one.control]
    if controls and not best.control:
        rivals += [controls[0]] if controls[0] not in rivals else []
    if len(ranked) > 1 and ranked[1] not in rivals:
        rivals.append(ranked[1])
    found = {rival.name: paired(rival.values, best.values) for rival in rivals}
    lines += [_against(best, rival, found[rival.name], metric, rival is against) for rival in rivals]
    close = _close(best, ranked[1:], found)
    if close:
        lines.append(close)
    left = [one.name for one in known if len(one.values) < most]
    if left:
        lines.append(f"{listed(left)} {'has' if len(left) == 1 else 'have'} fewer seeds and cannot be best.")
    cost = _cost(
        best, against if against is not None and against is not best else ranked[1] if len(ranked) > 1 else None
    )
    if cost:
        lines.append(cost)
    if len(ranked) > 2:
        lines.append(f"It was picked as the best of {len(ranked)} by these same numbers, which flatters it.")
    deciding = found[rivals[-1].name] if rivals else None
    return Verdict(best.name, tuple(lines), *_next(deciding, most), tuple(one.name for one in (best, *rivals)))


def amount(one: Standing, metric: str, of: str = "") -> str:
    """A system's mean in words: ``17.4% of 500 test rows wrong``, or ``RMSE 6.63``."""
    return said_amount(statistics.mean(one.values.values()), metric, of)


def said_amount(value: float, metric: str, of: str = "") -> str:
    if metric == PERCENT:
        return f"{value:.1f}%{of} wrong"
    name = metric.removesuffix(" %")
    return f"{name} {value:.1f}%" if name != metric else f"{name} {value:.4g}"


def shown(found: Paired | None, metric: str) -> str:
    """Whether a difference of means is more than chance, in words with what says so."""
    if found is None:
        return "not shown, they share fewer than two seeds"
    count = len(found.differences)
    lower = f"on {found.lower} of {count} seeds"
    if found.low is None or found.high is None:
        return f"not shown, {count} seeds are too few for an interval (less {lower})"
    low, high = (_far(abs(end), metric) for end in (found.low, found.high))
    if found.low <= 0 <= found.high:
        return f"not shown (95% interval: from {low} less to {high} more; less {lower})"
    between = f"{high} to {low} less" if found.high < 0 else f"{low} to {high} more"
    if found.p is not None and found.p < LEVEL:
        return f"shown (95% interval: {between}; less {lower}, p {found.p:.3f})"
    doubt = "" if found.p is None else f", but p {found.p:.2f}"
    return f"likely (95% interval: {between}; less {lower}{doubt})"


def _far(gap: float, metric: str) -> str:
    return f"{gap:.1f}" if metric.endswith("%") else f"{gap:.3g}"


def _against(best: Standing, rival: Standing, found: Paired | None, metric: str, is_base: bool) -> str:
    gap = statistics.mean(rival.values.values()) - statistics.mean(best.values.values())
    far = _far(-found.mean if found is not None else gap, metric)
    points = " points" if metric.endswith("%") else ""
    what = "the baseline " if is_base else "the best control, " if rival.control else "the next best, "
    than = f"as much as {what}{rival.name}" if float(far) == 0 else f"{far}{points} less than {what}{rival.name}"
    return f"That is {than} ({amount(rival, metric)}): {shown(found, metric)}."


def _close(best: Standing, others: Sequence[Standing], said: Mapping[str, Paired | None]) -> str:
    """Others, beside those spoken of already, that the best is not told apart from."""
    found = []
    for one in others:
        pair = paired(one.values, best.values)
        if one.name not in said and pair is not None and pair.low is not None and pair.high is not None:
            found += [one.name] if pair.low <= 0 <= pair.high else []
    return f"{listed(found)} {'is' if len(found) == 1 else 'are'} not told apart from it either." if found else ""


def _cost(best: Standing, other: Standing | None) -> str:
    if not best.seconds:
        return ""
    own = f"A run of {best.name} took {duration(best.seconds)}"
    if other is None or not other.seconds:
        return f"{own}."
    times = best.seconds / other.seconds
    if 0.9 <= times <= 1.1:
        return f"{own}, as long as {other.name}."
    if times < 1:
        return f"{own}; one of {other.name} {duration(other.seconds)}, {1 / times:.1f} times as long."
    return f"{own}, {times:.1f} times as long as {other.name} ({duration(other.seconds)})."


def _next(found: Paired | None, seeds: int) -> tuple[str, int | None]:
    """What would settle it, and with how many seeds in all."""
    if seeds < FEWEST:
        return f"run at least {FEWEST} seeds: fewer have no interval", FEWEST
    if found is None or found.low is None or found.high is None or not found.mean:
        return "run every system on the same seeds", None
    if found.low <= 0 <= found.high:
        spread = statistics.stdev(found.differences)
        needed = max(math.ceil((1.96 * spread / abs(found.mean)) ** 2), seeds + 1)
        if needed > MOST_SEEDS:
            return (
                f"take the cheaper one: a difference as small as this would take over {MOST_SEEDS} seeds to show",
                None,
            )
        return f"run about {needed} seeds, which would show a difference of this size", needed
    if found.p is not None and found.p >= LEVEL:
        return f"run {seeds + 3} seeds, to make sure", seeds + 3
    return "use it, after a check on seeds that have not been looked at", None


def duration(seconds: float) -> str:
    """Time for a person: ``0.8 s``, ``32 s``, ``4 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and 4 more``."""
    if len(names) > NAMES:
        return f"{', '.join(names[: NAMES - 1])} and {len(names) - NAMES + 1} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
