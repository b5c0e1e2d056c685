"""`mmray serve`: the endpoint on Ray Serve. One hop: behind HAProxy each replica holds the encoder and the index."""

from __future__ import annotations

import http.client
import logging
import os
import secrets
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from mmray import cluster
from mmray.config import Config
from mmray.errors import ConfigError, ResourceError
from mmray.index import store
from mmray.serving.guard import Guard, is_loopback, key_digest
from mmray.storage import Workspace

_NAME = "mmray"
_READY_S = 120.0
_SHORTEST_KEY = 16


@dataclass(frozen=True)
class Endpoint:
    """A running endpoint."""

    url: str
    key: str

    @property
    def link(self) -> str:
        """What to open first; it carries the key."""
        return f"{self.url}/v1/status?key={quote(self.key, safe='')}"


def serve(config: Config, key: str | None = None) -> None:
    """Serve until interrupted (SIGINT, SIGTERM), then stop what was started; on a cluster, deploy and leave it there.

    Args:
        key: what callers must send; None makes one and prints it in a link.

    Raises:
        ConfigError: the key is too short.
        WorkspaceError: there is no whole index, or its run is damaged, edited or of other weights by now.
        ResourceError: the port is taken, or Ray or a replica does not start.
    """
    if cluster.address(config.cluster):
        _check(config, key)
        with cluster.session(config.cluster):
            _announce(_deploy(config, key), key, "`serve shutdown` on the cluster ends it")
        return
    stop = threading.Event()
    with running(config, key) as endpoint, _interrupted(stop):  # Ray sets handlers of its own when it starts
        _announce(endpoint, key, "Ctrl-C stops it")
        stop.wait()


@contextmanager
def running(config: Config, key: str | None = None) -> Iterator[Endpoint]:
    """An endpoint on an embedded Ray that answers for as long as the block runs. Raises as `serve`."""
    _check(config, key)
    _refuse_taken(config.serve.host, config.serve.port)
    with (
        tempfile.TemporaryDirectory(prefix="mms-", dir=_short_folder()) as folder,
        _environment(_haproxy(folder)),
        cluster.session(config.cluster),
    ):
        from ray import serve as ray_serve

        try:
            yield _deploy(config, key)
        finally:
            ray_serve.shutdown()


def _check(config: Config, key: str | None) -> None:
    """Refuse what cannot be served before Ray starts."""
    if key is not None and (len(key) < _SHORTEST_KEY or not (key.isascii() and key.isprintable())):
        raise ConfigError(f"serve: the key must be at least {_SHORTEST_KEY} printable ASCII characters")
    workspace = Workspace(config.workspace)
    manifest = store.read_manifest(workspace, store.current(workspace))
    from mmray.serving.retriever import run_of

    run_of(workspace, manifest)  # a replica that cannot open it would end in Ray's words, not in ours


def _refuse_far_replicas(host: str) -> None:
    """On loopback a replica refuses other machines, and so the front of another node."""
    import ray

    nodes = sum(bool(node["Alive"]) for node in ray.nodes())
    if nodes > 1 and _is_loopback_host(host):
        raise ConfigError(
            f"serve: serve.host={host} answers one machine, and this cluster has {nodes}: a replica would refuse the "
            "front of another node. Set serve.host=0.0.0.0, with the cluster's ports closed to the outside"
        )


def _is_loopback_host(host: str) -> bool:
    return host == "localhost" or is_loopback((host, 0))


def _announce(endpoint: Endpoint, given: str | None, end: str) -> None:
    made = "" if given else f"\nkey: {endpoint.key}\n{endpoint.link}"
    print(f"mmray serves at {endpoint.url}; every route asks for the key; {end}{made}", flush=True)


def _deploy(config: Config, key: str | None) -> Endpoint:
    """Put the application on the session's Ray, replacing one that is there, and wait until it answers."""
    from ray import serve as ray_serve
    from ray.serve.config import HTTPOptions
    from ray.serve.exceptions import RayServeException

    key = key or secrets.token_urlsafe(32)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    settings = config.serve
    _refuse_far_replicas(settings.host)
    cluster.require_room("serve", settings.replicas, cpus=config.cluster.task_cpus, setting="serve.replicas")
    ray_serve.start(
        http_options=HTTPOptions(
            host=settings.host,
            port=settings.port,
            request_timeout_s=settings.request_timeout_s + 5,  # the guard's own limit comes first and says more
        )
    )
    try:
        ray_serve.run(_application(config, key_digest(key)), name=_NAME, route_prefix="/", logging_config=_LOGGING)
    except (RuntimeError, RayServeException) as error:
        raise ResourceError(
            "serve: no replica started; see the Serve log of this Ray session, and `mmray doctor` for memory and "
            f"cores ({str(error).splitlines()[0]})"
        ) from error
    # a wildcard address is where it listens, not where one can ask
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    _wait_until_ready(host, settings.port, key)
    return Endpoint(f"http://{f'[{host}]' if ':' in host else host}:{settings.port}", key)


_LOGGING = {"log_level": "WARNING", "enable_access_log": True}


def _application(config: Config, key: bytes) -> Any:
    from ray import serve as ray_serve
    from ray.serve.config import BackpressureConfig

    class Replica:
        """The encoder and the index in one process."""

        def __init__(self) -> None:
            cluster.limit_threads(config.cluster.task_cpus)

        def __serve_build_asgi_app__(self) -> Any:
            from mmray.serving.http import routes
            from mmray.serving.live import Live

            settings = config.serve
            live = Live(Workspace(config.workspace), settings.top_k_limit)
            live.watch(settings.refresh_s)
            return Guard(
                routes(live, settings),
                key=key,
                loopback_only=_is_loopback_host(settings.host),
                max_body_bytes=int(settings.max_upload_mb * 1e6),
                timeout_s=settings.request_timeout_s,
            )

    deployment = ray_serve.deployment(
        name="Retriever",
        num_replicas=config.serve.replicas,
        max_ongoing_requests=config.serve.max_ongoing_requests,
        max_queued_requests=config.serve.max_queued_requests,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        ray_actor_options={"num_cpus": config.cluster.task_cpus},
        graceful_shutdown_timeout_s=config.serve.request_timeout_s,
        max_constructor_retry_count=2,
    )
    return deployment(ray_serve.ingress()(Replica)).bind()


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


def _haproxy(folder: str) -> dict[str, str]:
    """Settings of an embedded Ray's HAProxy; a joined cluster has its own, and a user's own value wins.

    Its control socket is open to every user who can reach it, so it lies in a folder that only we can enter. Replicas
    of a front that goes with them need no half minute to leave it.
    """
    return {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        # its log lines hold whole addresses, and an address may hold the key: they go where nobody listens
        "RAY_SERVE_HAPROXY_LOG_TARGET": f"{folder}/nobody.sock",
        "RAY_SERVE_HAPROXY_STATS_PORT": str(_free_port(8404)),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(_free_port(9101)),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    }


def _short_folder() -> str | None:
    """Where to make the folder of HAProxy's sockets; None is the usual place.

    HAProxy allows a socket's path 97 bytes, and Ray adds a node's id of 56 and the name.
    """
    left = 97 - len(f"/mms-12345678/{'0' * 56}/metrics.sock")
    return None if len(os.fsencode(tempfile.gettempdir())) <= left else "/tmp"


def _free_port(wanted: int) -> int:
    """The wanted port, or any where that is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", wanted))
        except OSError:
            probe.bind(("", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


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
