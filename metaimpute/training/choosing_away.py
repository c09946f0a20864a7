"""Candidates measured on the nodes of a cluster, each by a call of its own; the run's network, which no node has, here."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..cluster.calls import Call, Cluster, Desk, Lost, Reached
from ..cluster.driver import Next, carry_out
from ..cluster.modules import files_of, names_there
from ..ensemble.measuring import Candidate, Measure, Measured, Measurements, Report, Tournament, Unfit, here
from ..ensemble.members import members
from ..plugins import import_module, imported_from

RETRIES = 2


def on_cluster(cluster: Cluster, told: Callable[[str], None], retries: int = RETRIES) -> Measure:
    """A cluster's nodes as the place where candidates are measured, with the numbers that they have here.

    ``choose.seconds`` counts for each candidate by itself there, from its first fold.

    Args:
        told: hears of each that is tried again. retries: of a candidate whose node died; then it is left out.
    """

    def measure(candidates: Sequence[Candidate], tournament: Tournament, report: Report) -> Measurements:
        away = {one.name: one for one in candidates if one.member}
        mine = [one for one in candidates if not one.member]
        found = Measurements()
        named = imported_from()
        modules, files = tuple(named), files_of(named)

        def over(call: Call, answer: Measured | str) -> None:
            if isinstance(answer, str):
                found.left_out[call.name] = answer
            else:
                found.measured[call.name] = answer
            far[call.name] = count = len(tournament.parts[call.name]) + 1
            report(call.name, count, count)

        def died(call: Call, lost: Lost, then: Next) -> None:
            if then == "again":
                told(f"{call.name}: {lost.reason}; it is tried again")
            else:
                found.left_out[call.name] = lost.reason

        def heard(call: Call, reached: Reached) -> None:
            far[call.name] = int(reached.done)
            report(call.name, far[call.name], len(tournament.parts[call.name]) + 1)

        def beat() -> None:
            for name in list(away)[:1]:  # whoever hears of it can end it, also while no node has news
                report(name, far[name], len(tournament.parts[name]) + 1)

        far = dict.fromkeys(away, 0)
        calls = [_call(one, tournament, modules, files) for one in away.values()]
        carry_out(calls, Beating(cluster, beat), over, died, heard, retries)
        rest = here(mine, tournament, report)
        return Measurements(found.measured | rest.measured, found.left_out | rest.left_out)

    return measure


class Beating:
    """A cluster that calls a function at every look at it."""

    def __init__(self, cluster: Cluster, beat: Callable[[], None]) -> None:
        self._cluster, self._beat = cluster, beat

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cluster, name)

    def ready(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        """As the cluster's, after the call."""
        self._beat()
        return self._cluster.ready(handles, seconds)


def _call(one: Candidate, tournament: Tournament, modules: tuple[str, ...], files: dict[str, bytes]) -> Call:
    whole = tournament.examples
    own = replace(
        whole, labelled={one.form: whole.labelled[one.form]}, unlabelled={one.form: whole.unlabelled[one.form]}
    )
    arguments = (
        one.name,
        one.member,
        one.form,
        Tournament(own, {one.name: tournament.parts[one.name]}, tournament.budget),
    )
    return Call(one.name, f"{__name__}:measured", lambda: (*arguments, modules), files)


def measured(
    name: str, member: str, form: str, tournament: Tournament, modules: tuple[str, ...], desk: Desk
) -> Measured | str | Lost:
    """A candidate on a node, or why it cannot be fitted."""
    before = Path.cwd()
    os.chdir(desk.folder)
    try:
        for module in names_there(modules):
            import_module(module)
    finally:
        os.chdir(before)
    kind: Any = members.get(member)
    begun = time.perf_counter()

    def report(_: str, done: int, of: int) -> None:
        desk.tell(Reached(name, done, of))
        if desk.stopping():
            raise KeyboardInterrupt
        if done < of - 1 and time.perf_counter() - begun > tournament.budget:
            raise Unfit(f"the budget was spent after {done} of {of - 1} folds")

    try:
        found = here([Candidate(name, form, kind, kind.prior, kind.once, member)], tournament, report)
    except KeyboardInterrupt:
        return Lost("it was asked to stop")
    return found.measured.get(name) or found.left_out[name]
