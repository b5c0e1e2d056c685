"""The only place that starts Ray, and `map`: a pure function over items, with progress.

An embedded Ray is the default; RAY_ADDRESS or `cluster.address` joins one that runs. Sessions nest: a stage may open
one inside another's, and only the outermost closes what it started.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from mmray import keeper, placement, progress
from mmray.config import Cluster
from mmray.errors import ResourceError
from mmray.placement import Node, Want
from mmray.quota import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

# set before anything imports ray; a user's own value wins
_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # our own bar counts recordings, not blocks
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # what Ray Data still asks of a session that broke would start another Ray
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # of Ray Data's own actors; ours are raised where a result is taken
    # else ray.init waits for as many workers as cores, and for ever where one dies while it starts (ray issue 40131)
    "RAY_prestart_worker_first_driver": "0",
}
# the node's address becomes 127.0.0.1, and Ray's own processes then listen on loopback alone
_ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
_EXECUTION_S = 60.0  # for an execution of Ray Data's to end
_LOOK_S = 2.0  # between looks at the nodes while some are missing
_KILLED = (
    "was killed, mostly for want of memory; what is finished is kept: run the same command again, with a lower "
    "cluster.num_cpus where it happens again"
)


@contextmanager
def session(config: Cluster) -> Iterator[None]:
    """Ray for the block: the one already here, the one at the address, or an embedded one that ends with it.

    Raises:
        ResourceError: there is nothing at the address, or the embedded Ray cannot start, or was killed.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    joined = address(config)
    with environment({} if joined else _ALONE):  # read once, when ray is imported; what we start need not inherit it
        import ray.exceptions

    if ray.is_initialized():
        yield
        return
    if joined:
        try:
            _knock(joined)
            ray.init(address=joined, log_to_driver=True, logging_level=logging.WARNING)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise ResourceError(
                f"cluster: no Ray answers at {joined}: {error}; start one with `ray start --head`, "
                "or unset RAY_ADDRESS and cluster.address for an embedded one"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()
        return
    # a short path: Ray's sockets live under it and AF_UNIX allows 107 bytes
    folder = tempfile.mkdtemp(prefix="mmray-")  # ours alone; Ray opens the folder it is given to every user
    # Other users of this machine reach Ray's ports: a token known to this process tree alone guards them, and no file
    # holds it.
    # RAY_AUTH_MODE stays unset: ray.init then turns token authentication on itself, also where ray was imported before.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    kept = _keeper(folder)
    ending = keeper.TOLD
    try:
        try:
            ray.init(
                address="local",
                num_cpus=config.num_cpus or max(4, usable_cores()),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
                _temp_dir=f"{folder}/r",
            )
        except Exception as error:  # the bare class, where a process of Ray's died while it started
            raise ResourceError(f"cluster: the embedded Ray did not start: {error}; see `mmray doctor`") from error
        yield
        ending = keeper.WELL
    except (ray.exceptions.LocalRayletDiedError, ray.exceptions.NodeDiedError) as error:
        raise ResourceError(f"cluster: the embedded Ray {_KILLED}") from error
    finally:
        ray.shutdown()
        kept.communicate(ending)


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Variables for the block; a user's own value wins."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _keeper(folder: str) -> subprocess.Popen[bytes]:
    """A process that waits for this one's last word, or its end without one; see `keeper`."""
    word = f"mmray: cluster: the embedded Ray or the process that started it {_KILLED}"
    command = [sys.executable, "-I", keeper.__file__, folder, word]  # by its file: mmray need not be imported
    return subprocess.Popen(  # nosec B603 # our own file, no shell
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )


def address(config: Cluster) -> str | None:
    """The cluster to join, or None where an embedded Ray is started."""
    return config.address or os.environ.get("RAY_ADDRESS") or None


def _knock(place: str) -> None:
    """Raise OSError where nobody listens: Ray's own client ends the whole process there."""
    host, _, port = place.rpartition(":")
    if host and port.isdigit() and "://" not in place:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def task_want(config: Cluster, want: Want) -> Want:
    """A task's want, with the nodes it keeps to on this session's cluster: see `placement.restartable`."""
    return replace(want, where=placement.restartable(want, nodes(), config.spot))


def limit_threads(cpus: float) -> None:
    """Hold this process's native thread pools to its share of the machine; call it at the top of a task."""
    threads = max(1, int(cpus))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(threads)
    from threadpoolctl import threadpool_limits

    threadpool_limits(threads)


def nodes() -> list[Node]:
    """The session's nodes that take new work: up, and not about to be taken away."""
    import ray
    from ray._private.state import state  # as Ray Train asks; the public node list does not tell

    leaving = state.get_draining_nodes()
    return [
        Node(node["NodeID"], node["Resources"], node["Labels"])
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in leaving
    ]


def require_room(config: Cluster, stage: str, *wants: Want, setting: str, beside_cpus: float = 0.0) -> None:
    """Refuse what the session's nodes could not hold even when idle; Ray would wait for it without a word.

    Open-source Ray does not tell which nodes its autoscaler could add. With `cluster.wait_s` it is asked for them, and
    what has not come by then is missing.

    Args:
        stage: who asks.
        wants: what must run at once.
        setting: what to lower.
        beside_cpus: taken by something else of the stage.

    Raises:
        ResourceError: less fits; it says what, where it may stand, and how much is there.
    """
    end = time.monotonic() + config.wait_s
    asked = False
    try:
        while (found := placement.missing(wants, nodes(), beside_cpus)) is not None:
            want, held = found
            if time.monotonic() >= end:
                elsewhere = placement.room(replace(want, where=placement.ANYWHERE), nodes(), beside_cpus) - held
                raise ResourceError(
                    f"{stage}: {want.describe()}, and the nodes that are up hold {held}"
                    + (f" ({elsewhere} on other nodes)" if elsewhere > 0 else "")
                    + f"; lower {setting}, or start more or larger nodes"
                )
            if not asked:
                room = f"{want.describe()}, and {held} would fit; waiting up to {config.wait_s:g} s for more nodes"
                print(f"{stage}: {room}", file=sys.stderr, flush=True)
            asked = True
            _ask_for(wants)  # at each look: the cluster keeps one word alone, and another stage may have had its own
            time.sleep(min(_LOOK_S, max(0.0, end - time.monotonic())))
    finally:
        if asked:  # also where Ctrl-C ends the wait: the word outlives this job, and nodes would stay up for it
            _ask_for(())


def _ask_for(wants: Sequence[Want]) -> None:
    """Tell the autoscaler, where there is one, what nodes must hold; an empty sequence takes the word back."""
    from ray.autoscaler.sdk import request_resources

    each = [want for want in wants for _ in range(want.count)]
    request_resources(
        bundles=[want.resources() for want in each],
        bundle_label_selectors=[{k: v for k, v in want.where[0].items() if k != placement.NODE_ID} for want in each],
    )


def logical_cpus() -> float:
    """CPUs of the session's Ray, as Ray counts them."""
    import ray

    return float(ray.cluster_resources().get("CPU", 1))


def cores(config: Cluster) -> int:
    """How many busy single-threaded tasks the session's nodes have cores for.

    An embedded Ray counts at least 4 CPUs on any machine, so that its own small tasks never wait; a cluster counts what
    its nodes were started with.
    """
    return int(logical_cpus()) if address(config) else min(int(logical_cpus()), usable_cores())


def busy_cpus(config: Cluster, threads: float) -> float:
    """CPUs that Ray counts for a task which keeps so many cores busy, so that no more run at once than `cores` hold."""
    each = logical_cpus() / cores(config)
    return threads if each <= 1 else min(threads * each, max(threads, logical_cpus()))


def data() -> Any:
    """The module ray.data, its plan and pace kept off the terminal, and errors too, which are raised as well."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    return ray.data


@contextmanager
def rows(dataset: Any) -> Iterator[Iterator[dict[str, Any]]]:
    """A dataset's rows for the block; its execution is over when the block is left, also early.

    `Dataset.iter_rows` leaves threads behind that ask Ray for more, and where one asks after the session's end, Ray
    ends the whole process with code 1, before it has said why it stopped.
    """
    found = _fetched(dataset)
    try:
        yield found
    finally:
        found.close()
        for thread in threading.enumerate():
            if thread.name.startswith("StreamingExecutor"):  # Ray itself waits for 2 s alone
                thread.join(_EXECUTION_S)


def _fetched(dataset: Any) -> Generator[dict[str, Any]]:
    """Rows, by no other thread than the caller's and the execution's own."""
    import ray
    from ray.data.block import BlockAccessor

    for bundle in dataset.iter_internal_ref_bundles():
        for block in ray.get(bundle.block_refs):
            yield from BlockAccessor.for_block(block).iter_rows(public_row_format=True)


def map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    label: str,
    config: Cluster = Cluster(),
    cpus: float = 1.0,
) -> Iterator[Result]:
    """Run a pure function over items on the session's cluster; results come in the items' order.

    A task whose worker dies is run again. The number in flight is bounded, so neither items nor results pile up.

    Args:
        function: picklable, without side effects that a second run would double.
        items: small; large inputs belong in files.
        label: what the progress bar says.
        config: the session's.
        cpus: share of the cluster one item takes, and its thread count.

    Raises:
        Whatever `function` raised, as its own type.
        ResourceError: there is no room for one item, or an item's worker died every time.
    """
    import ray

    want = task_want(config, Want(cpus=cpus))
    require_room(config, label, want, setting="cluster.task_cpus")

    def run(item: Item) -> Result:
        limit_threads(cpus)
        return function(item)

    task = ray.remote(run).options(num_cpus=cpus, max_retries=3, **placement.options(want.where))
    todo = list(items)
    in_flight = max(2, int(2 * logical_cpus() / cpus))
    with progress.bar(label, len(todo)) as advance:
        waiting: dict[int, Any] = {}
        submitted = 0
        for position in range(len(todo)):
            while submitted < len(todo) and submitted < position + in_flight:
                waiting[submitted] = task.remote(todo[submitted])
                submitted += 1
            try:
                result: Result = ray.get(waiting.pop(position))
            except ray.exceptions.RayTaskError as error:
                _cancel(waiting)
                raise error.cause from None
            except ray.exceptions.RayError as error:
                _cancel(waiting)
                raise ResourceError(
                    f"{label}: a worker died again and again ({type(error).__name__}), mostly for want of memory; "
                    "set cluster.num_cpus lower so that fewer run at once, then run the same command again"
                ) from error
            advance()
            yield result


def _cancel(waiting: dict[int, Any]) -> None:
    import ray

    for reference in waiting.values():
        ray.cancel(reference, force=True)
