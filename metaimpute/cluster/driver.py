"""Calls carried out on a cluster: sent, heard, sent again where a worker has died, and brought to an end by Ctrl-C."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Literal

from .calls import Call, Cluster, ClusterError, Lost, Reached, Refused

BEAT = 0.5  # seconds between two looks at the cluster
GRACE = 120.0  # seconds that calls have to end in, once asked to
AT_ONCE = 500  # calls that are sent before one of them is over

Done = Callable[[Call, Any], None]
Next = Literal["again", "given up", "stopped"]
Died = Callable[[Call, Lost, Next], None]
Heard = Callable[[Call, Reached], None]


def carry_out(
    calls: Iterable[Call], cluster: Cluster, done: Done, died: Died, heard: Heard, retries: int, grace: float = GRACE
) -> None:
    """Sends the calls in their order, and reports each when it is over.

    Args:
        done: told of each answer. died: told of each :class:`Lost` and what comes next. retries: of a call
            whose worker has died. grace: seconds that calls have to end in after Ctrl-C.

    Raises:
        ClusterError: when a node is not fit for the work; calls under way are asked to end first, as for Ctrl-C.
        KeyboardInterrupt: when those under way have ended, or the grace is over, or it comes a second time.
    """
    waiting = deque((call, 0) for call in calls)
    under_way = dict[Any, tuple[Call, int]]()
    begun = set[str]()

    def hear() -> None:
        known = {call.name: call for call, _ in under_way.values()}
        for name, reached in cluster.news():
            begun.add(name)
            if name in known:
                heard(known[name], reached)

    def take(handle: Any, stopped: bool) -> None:
        call, deaths = under_way.pop(handle)
        found = cluster.answer(handle)
        if isinstance(found, Refused):
            raise ClusterError(found.reason)
        if not isinstance(found, Lost):
            done(call, found)
            return
        then: Next = "stopped" if stopped else "again" if deaths < retries else "given up"
        died(call, found, then)
        if then == "again":
            begun.discard(call.name)
            waiting.append((call, deaths + 1))

    try:
        while waiting or under_way:
            while waiting and len(under_way) < AT_ONCE:
                one = waiting.popleft()
                under_way[cluster.submit(one[0])] = one
            for handle in cluster.ready(list(under_way), BEAT):
                take(handle, False)
            hear()
    except (KeyboardInterrupt, ClusterError):
        cluster.stop()
        hear()
        for handle in [one for one, (call, _) in under_way.items() if call.name not in begun]:
            cluster.drop(handle)
            del under_way[handle]
        end = time.monotonic() + grace
        while under_way and time.monotonic() < end:
            for handle in cluster.ready(list(under_way), BEAT):
                _last(take, handle)
        raise
    finally:
        for handle in under_way:
            cluster.drop(handle)


def _last(take: Callable[[Any, bool], None], handle: Any) -> None:
    """Takes the answer of a call that was asked to end; one more node that is not fit changes nothing."""
    try:
        take(handle, True)
    except ClusterError:
        return
