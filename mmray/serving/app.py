"""`mmray serve`: the endpoint on Ray Serve. One hop: behind HAProxy each replica holds the encoder and the index."""

from __future__ import annotations

import asyncio
import http.client
import logging
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mmray import cluster, keeper, placement
from mmray.config import Config, Serve
from mmray.errors import ConfigError, ResourceError
from mmray.index import store
from mmray.placement import Want
from mmray.serving import front, keys
from mmray.serving.guard import Guard, is_loopback
from mmray.storage import Workspace

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from mmray.serving.live import Live
    from mmray.serving.metrics import Board

_NAME = "mmray"
_READY_S = 120.0
_LATER_S = 5  # Serve's own limit: the guard's comes first and says more
_SHORTEST_KEY = 16
_WILDCARDS = (
    "0.0.0.0",  # nosec B104 # compared, not bound
    "::",
)


@dataclass(frozen=True)
class Endpoint:
    """A running endpoint."""

    url: str
    key: str

    @property
    def link(self) -> str:
        """What to open first; it carries the key."""
        return f"{self.url}/?key={quote(self.key, safe='')}"


def serve(config: Config, key: str | None = None) -> None:
    """Serve until interrupted (SIGINT, SIGTERM), then stop what was started; on a cluster, deploy and leave it there.

    Args:
        key: what callers must send; None makes one and prints it in a link.

    Raises:
        ConfigError: the key is too short, or Serve runs on the cluster with another host, port or time limit.
        WorkspaceError: there is no whole index, or its run is damaged, edited or of other weights by now.
        ResourceError: the port is taken, or Ray or a replica does not start.
    """
    if cluster.address(config.cluster):
        check(config, key)
        with cluster.session(config.cluster):
            _announce(deploy(config, key), key, "`serve shutdown` on the cluster ends it")
        return
    stop = threading.Event()
    with running(config, key) as endpoint, _interrupted(stop):  # Ray sets handlers of its own when it starts
        _announce(endpoint, key, "Ctrl-C stops it")
        stop.wait()


@contextmanager
def running(config: Config, key: str | None = None) -> Iterator[Endpoint]:
    """An endpoint on an embedded Ray that answers for as long as the block runs. Raises as `serve`."""
    check(config, key)
    _refuse_taken(config.serve.host, config.serve.port)
    with (
        keeper.scratch("mms-", front.short_folder()) as folder,
        cluster.environment(front.settings(folder, config.serve.request_timeout_s)),
        cluster.session(config.cluster),
    ):
        from ray import serve as ray_serve

        try:
            yield deploy(config, key)
        finally:
            ray_serve.shutdown()


def check(config: Config, key: str | None = None) -> None:
    """Refuse what cannot be served before Ray starts. Raises ConfigError and WorkspaceError as `serve`."""
    if key is not None and (len(key) < _SHORTEST_KEY or not (key.isascii() and key.isprintable())):
        raise ConfigError(f"serve: the key must be at least {_SHORTEST_KEY} printable ASCII characters")
    workspace = Workspace(config.workspace)
    manifest = store.read_manifest(workspace, store.current(workspace))
    keys.read(workspace)
    from mmray.serving.retriever import run_of

    run_of(workspace, manifest)  # a replica that cannot open it would end in Ray's words, not in ours


def _refuse_far_replicas(host: str) -> None:
    """On loopback a replica refuses other machines, and so the front of another node."""
    import ray

    nodes = [str(node["NodeManagerAddress"]) for node in ray.nodes() if node["Alive"]]
    if len(nodes) > 1 and _is_loopback_host(host) and not all(map(_is_loopback_host, nodes)):
        raise ConfigError(
            f"serve: serve.host={host} answers one machine, and this cluster has {len(nodes)} nodes: a replica would "
            "refuse the front of another. Set serve.host=0.0.0.0, with the cluster's ports closed to the outside"
        )


def _refuse_another_place(settings: Serve) -> None:
    """Serve keeps the place and the time limit that it was started with; of others it logs a warning."""
    from ray.serve.context import _get_global_client  # as serve.start asks; no public call tells

    running = _get_global_client(raise_if_no_controller_running=False)
    if running is None:
        return
    there = running.http_config
    limit_s = there.request_timeout_s and round(there.request_timeout_s - _LATER_S, 6)  # as it was set, to the digit
    for name, kept in {"host": there.host, "port": there.port, "request_timeout_s": limit_s}.items():
        asked = getattr(settings, name)
        if kept != asked:
            raise ConfigError(
                f"serve: Serve runs on this cluster with serve.{name}={kept} and keeps it; {asked} is asked for. Run "
                f"`serve shutdown` on the cluster first, or keep serve.{name}"
            )


def _is_loopback_host(host: str) -> bool:
    return host == "localhost" or is_loopback((host, 0))


def _announce(endpoint: Endpoint, given: str | None, end: str) -> None:
    made = "" if given else f"\nkey: {endpoint.key}\n{endpoint.link}"
    print(f"mmray serves at {endpoint.url}; every route asks for the key; {end}{made}", flush=True)


def deploy(config: Config, key: str | None) -> Endpoint:
    """Put the application on the session's Ray, replacing one that is there, and wait until it answers."""
    from ray import serve as ray_serve
    from ray.exceptions import RayActorError
    from ray.serve.config import HTTPOptions
    from ray.serve.exceptions import RayServeException

    key = key or secrets.token_urlsafe(32)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    settings = config.serve
    _refuse_far_replicas(settings.host)
    cluster.require_room(config.cluster, "serve", _want(config), setting="serve.replicas")
    http_options = HTTPOptions(
        host=settings.host,
        port=settings.port,
        request_timeout_s=settings.request_timeout_s + _LATER_S,
    )
    # on loopback one front is enough, and a second node on this machine could not have the port as well
    fronts = "HeadOnly" if _is_loopback_host(settings.host) else "EveryNode"
    _refuse_another_place(settings)
    with suppress(RayActorError):  # of a front that was killed as it started: Serve's controller makes another
        ray_serve.start(proxy_location=fronts, http_options=http_options, logging_config=_LOGGING)
    try:
        ray_serve.run(application_of(config, keys.digest(key)), name=_NAME, route_prefix="/", logging_config=_LOGGING)
    except (RuntimeError, RayServeException, RayActorError) as error:
        raise ResourceError(
            "serve: no replica started; see the Serve log of this Ray session, and `mmray doctor` for memory and "
            f"cores ({str(error).splitlines()[0]})"
        ) from error
    # a wildcard address is where it listens, not where one can ask
    host = "127.0.0.1" if settings.host in _WILDCARDS else settings.host
    _wait_until_ready(host, settings.port, key)
    return Endpoint(f"http://{f'[{host}]' if ':' in host else host}:{settings.port}", key)


def _want(config: Config) -> Want:
    """What the replicas take, and where they may stand."""
    memory = int(config.cluster.replica_gib * (1 << 30))
    cpus = config.cluster.task_cpus
    return Want(config.serve.replicas, cpus=cpus, memory_bytes=memory, where=placement.lasting())


_LOGGING = {"log_level": "WARNING", "enable_access_log": False}  # its lines hold whole addresses; see mmray.access


def application_of(config: Config, started: str | None) -> Any:
    """The application as Serve takes it.

    Args:
        started: digest of a key that is valid beside the workspace's; None for theirs alone.
    """
    from ray import serve as ray_serve
    from ray.serve.config import BackpressureConfig

    settings = config.serve

    class Replica:
        """The encoder and the index in one process."""

        def __init__(self) -> None:
            cluster.limit_threads(config.cluster.task_cpus)

        def __serve_build_asgi_app__(self) -> Any:
            from mmray.serving.access import start_log
            from mmray.serving.live import Live
            from mmray.serving.metrics import ClusterBoard

            name = ray_serve.get_replica_context().replica_tag
            start_log(settings.access_log, name)
            self._live = Live(Workspace(config.workspace), settings.top_k_limit)
            return stack(config, self._live, started, name, ClusterBoard(settings.refresh_s))

        async def check_health(self) -> None:
            """Serve replaces a replica that cannot answer."""
            await asyncio.to_thread(self._live.check)

    size: dict[str, Any] = {"num_replicas": settings.replicas}
    if settings.replicas_max is not None:
        # half of what a replica takes at once: the next one is ready before this one is full
        wanted = max(1, settings.max_ongoing_requests // 2)
        bounds = {"min_replicas": settings.replicas, "max_replicas": settings.replicas_max}
        size = {"autoscaling_config": {**bounds, "target_ongoing_requests": wanted}}
    want = _want(config)
    actor_options = {"num_cpus": want.cpus, **placement.options(want.where)}
    actor_options |= {"memory": want.memory_bytes} if want.memory_bytes else {}
    deployment = ray_serve.deployment(
        name="Retriever",
        **size,
        max_ongoing_requests=settings.max_ongoing_requests,
        max_queued_requests=settings.max_queued_requests,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        ray_actor_options=actor_options,
        graceful_shutdown_timeout_s=settings.request_timeout_s,
        max_constructor_retry_count=2,
    )
    return deployment(ray_serve.ingress()(Replica)).bind()


def stack(config: Config, live: Live, started: str | None, replica: str, board: Board | None = None) -> ASGIApp:
    """What a replica serves, from the outside in: counts, guard, metrics, routes; and the thread that renews it.

    Args:
        started: see application_of.
        replica: its name, on its metrics.
        board: where the other replicas' figures are; None where it is alone.
    """
    from mmray.serving.access import Observed
    from mmray.serving.http import routes
    from mmray.serving.live import watch
    from mmray.serving.metrics import Page

    settings = config.serve
    keyring = keys.Keyring(started, Workspace(config.workspace), settings.replicas)
    page = Page(routes(live, settings), replica, live, board)
    watch(settings.refresh_s, live.refresh)
    watch(settings.refresh_s, keyring.refresh, page.publish)  # a large index takes minutes to fetch, a revoked key none
    guard = Guard(
        page,
        keys=keyring,
        loopback_only=_is_loopback_host(settings.host),
        max_body_bytes=int(settings.max_upload_mb * 1e6),
        timeout_s=settings.request_timeout_s,
    )
    return Observed(guard)


def _wait_until_ready(host: str, port: int, key: str) -> None:
    """Until the front has a replica behind it: a deployed one takes HAProxy's health checks a moment to be seen."""
    end = time.monotonic() + _READY_S
    seen = "no connection"
    while time.monotonic() < end:
        connection = http.client.HTTPConnection(host, port, timeout=10)
        try:
            connection.request("GET", "/healthz", headers={"X-API-Key": key})
            status = connection.getresponse().status
            if status == 200:
                return
            seen = f"status {status}"
        except (OSError, http.client.HTTPException) as error:
            seen = type(error).__name__
        finally:
            connection.close()
        time.sleep(0.1)
    raise ResourceError(f"serve: the endpoint did not answer on {host}:{port} within {_READY_S:.0f} s ({seen})")


def _refuse_taken(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ResourceError(
                f"serve: cannot listen on {host}:{port}: {error.strerror}; choose another serve.port, or serve.host"
            ) from error


@contextmanager
def _interrupted(stop: threading.Event) -> Iterator[None]:
    """Let SIGINT and SIGTERM set the event; a second one interrupts at once."""

    def handle(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
