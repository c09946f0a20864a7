"""A Ray cluster, https://docs.ray.io: reached within a bounded time, or refused in a sentence."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import MISSING
from .board import Board
from .calls import Call, ClusterError, Desk, Lost, Reached, Refused
from .node import Sent, carry_out, refusal, sent
from .same import versions

CONNECT, CHECK = 10.0, 120.0  # seconds to reach an address, and for every node to say what it has
CLIENT = "ray://"


class NoRay(ClusterError):
    """Ray is not installed. Ends a command with exit code 3."""

    exit_code = MISSING


@contextlib.contextmanager
def ray_cluster(address: str = "auto", cpus: float = 1, gpus: float = 0) -> Iterator[RayCluster]:
    """A connection to a cluster that runs already.

    Args:
        address: ``HOST:PORT`` of its head, ``ray://HOST:PORT`` through Ray's client, or ``auto`` for the one on this machine,
            or that RAY_ADDRESS names. cpus, gpus: that each call has to itself.

    Raises:
        NoRay: without Ray. ClusterError: when nothing answers, no node is large enough, or a node has other versions.
    """
    if not installed():
        raise NoRay("--ray needs the Python package ray; pip install 'metaimpute[ray]'")
    address = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    _answers(address)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of a default that will change
    import ray

    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
        signal.signal(signal.SIGTERM, before)  # Ray would end the process without a word
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        if address == "auto":
            raise ClusterError("no Ray cluster runs here; start one with: ray start --head") from None
        raise ClusterError(f"--ray {address}: {_first(error)}") from None
    try:
        yield RayCluster(cpus, gpus)
    finally:
        with contextlib.suppress(Exception):
            ray.shutdown()


def installed() -> bool:
    """Whether Ray is."""
    return importlib.util.find_spec("ray") is not None


def _answers(address: str) -> None:
    """Ray itself waits for minutes, and then ends the process.

    Raises:
        ClusterError: when nobody listens at an address, or something else than a Ray cluster."""
    if address in ("auto", "local"):
        if address == "local":
            raise ClusterError("--ray local would start a cluster; without a cluster use --jobs")
        return
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"--ray {address}: an address is HOST:PORT, ray://HOST:PORT, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT).close()
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "no answer"
        raise ClusterError(f"--ray {address}: nothing answers there ({reason}); is the cluster up?") from None
    if address.startswith(CLIENT):
        return  # whose own wait is bounded
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", f"{host}:{port}"]
    try:
        subprocess.run(command, timeout=3 * CONNECT, capture_output=True, check=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        raise ClusterError(f"--ray {address}: what answers there is no head of a Ray cluster") from None


def _first(error: BaseException) -> str:
    return " ".join((str(error).strip() or type(error).__name__).split())[:300]


class RayCluster:
    """The cluster that this process is connected to."""

    def __init__(self, cpus: float, gpus: float) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray = ray
        self._names = dict[Any, str]()
        wanted = {"CPU": cpus, "GPU": gpus}
        alive = [node for node in ray.nodes() if node["Alive"]]
        self.nodes = [
            node for node in alive if all(node["Resources"].get(key, 0) >= amount for key, amount in wanted.items())
        ]
        if not self.nodes:
            raise ClusterError(_too_small(alive, cpus, gpus))
        at = {one["NodeID"]: NodeAffinitySchedulingStrategy(one["NodeID"], soft=False) for one in self.nodes}
        asked = {name: ray.remote(refusal).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
                 .remote(versions()) for name, there in at.items()}  # fmt: skip
        for one in asked.values():
            if (refused := self._answered(one, CHECK)) is not None:
                raise ClusterError(refused.reason)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self._board = ray.remote(Board).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()
        self._work = ray.remote(_on_node).options(num_cpus=cpus, num_gpus=gpus, max_retries=0)

    def submit(self, call: Call) -> Any:
        return self._work.remote(sent(call), self._board)

    def ready(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        return list(self._ray.wait(list(handles), num_returns=1, timeout=seconds)[0])

    def answer(self, handle: Any) -> Any:
        return self._answered(handle, None)

    def news(self) -> list[tuple[str, Reached]]:
        with contextlib.suppress(self._ray.exceptions.RayError):
            return list(self._ray.get(self._board.news.remote(), timeout=CONNECT))
        return []

    def stop(self) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.get(self._board.stop.remote(), timeout=CONNECT)

    def drop(self, handle: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError, ValueError, TypeError):
            self._ray.cancel(handle, force=True)

    def _answered(self, handle: Any, seconds: float | None) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(handle, timeout=seconds)
        except errors.GetTimeoutError:
            return Refused(f"a node of the cluster says nothing within {seconds:.0f} seconds")
        except errors.OutOfMemoryError:
            return Lost("its node was short of memory and ended its worker")
        except errors.WorkerCrashedError:
            return Lost("its worker was killed")
        except (errors.NodeDiedError, errors.ObjectLostError, errors.LocalRayletDiedError):
            return Lost("its node died")
        except errors.TaskCancelledError:
            return Lost("it was cancelled")
        except errors.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, ModuleNotFoundError) and str(cause.name).partition(".")[0] == "metaimpute":
                return Refused("a node of the cluster has no metaimpute; install it there too, in the same version")
            return Lost(f"{type(cause).__name__}: {_first(cause or error)}")
        except errors.RaySystemError as error:
            if "No module named 'metaimpute'" in str(error):
                return Refused("a node of the cluster has no metaimpute; install it there too, in the same version")
            return Lost(_first(error))
        except errors.RayError as error:
            return Lost(_first(error))


def _too_small(nodes: Sequence[Any], cpus: float, gpus: float) -> str:
    most = {key: max((node["Resources"].get(key, 0) for node in nodes), default=0) for key in ("CPU", "GPU")}
    return (
        f"no node of the cluster has the {cpus:g} CPUs and {gpus:g} GPUs that a run is to have: the largest numbers are "
        f"{most['CPU']:g} and {most['GPU']:g}; lower --cpus-per-run or --gpus-per-run, or add a node"
    )


class _Desk:
    """A call's line to the board; the driver's silence is nothing that a call ends of.

    It waits for nothing: Ray gives the CPUs of a call that waits to another one.
    """

    def __init__(self, name: str, board: Any, folder: Path) -> None:
        self.folder, self._name, self._board = folder, name, board
        self._asked: Any = None

    def tell(self, reached: Reached) -> None:
        with contextlib.suppress(Exception):
            self._board.tell.remote(self._name, reached)

    def stopping(self) -> bool:
        if self._asked is None:
            self._asked = self._board.stopping.remote().future()
        if not self._asked.done():
            return False
        asked, self._asked = self._asked, None
        with contextlib.suppress(Exception):
            return bool(asked.result())
        return False


def _on_node(work: Sent, board: Any) -> Any:
    def desk(folder: Path) -> Desk:
        found = _Desk(work.name, board, folder)
        found.tell(Reached("starting", 0, None))
        return found

    made: Callable[[Path], Desk] = desk
    return carry_out(work, made)
