"""What Serve starts as HAProxy: Serve's configuration, closed and made to lose no request; then HAProxy itself.

Run by its file, with the standard library alone: `haproxy.py BINARY -db -f FILE ...`. Serve has no settings for these:

- Its statistics and metrics listen on every interface and ask for no key: both are taken out.
- A request that a dying replica held is asked again, where it lay whole in the buffer. A reply that breaks off is held
  back and becomes a 502, and a second pass, in front of the first, asks again for it; HAProxy alone would let the half
  of it through.
- With no replica up, HAProxy's own answer is a 503 that says when to come back, and not Serve's 500.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

_BUFFERED = 60_000  # bytes of a reply that are held back until it is whole; below RAY_SERVE_HAPROXY_TUNE_BUFSIZE
_REFUSAL = (
    "HTTP/1.1 {status}\r\nContent-Type: application/problem+json\r\nRetry-After: 2\r\nCache-Control: no-store\r\n"
    'Connection: close\r\n\r\n{{"type": "about:blank", "title": "Service Unavailable", "status": 503, '
    '"detail": "no replica answers now"}}'
)


class UnknownError(Exception):
    """Serve's configuration is not the one this was written for."""


def rewritten(text: str, folder: str) -> str:
    """Serve's configuration with the changes above.

    Args:
        folder: for the socket between the passes and the refusals.

    Raises:
        UnknownError: it listens where it is not known to, or has no front of that name.
    """
    kept: dict[str, str] = {}  # in the file's order: defaults hold for what stands after them
    for section in re.split(r"^(?=\S)", text, flags=re.MULTILINE):
        title = section.partition("\n")[0].strip()
        if title and title not in ("frontend prometheus", "listen stats"):
            kept[title] = section.rstrip() + "\n"
    if not {"global", "defaults", "frontend http_frontend"} <= set(kept):
        raise UnknownError("it lacks a section that Ray 2.60 writes")
    door = f"unix@{folder}/front.sock"
    binds = [place for section in kept.values() for place in re.findall(r"^\s*bind (.*)$", section, flags=re.M)]
    front, found = re.subn(r"^ *bind .*$", f"    bind {door} mode 600", kept["frontend http_frontend"], flags=re.M)
    if found != 1 or len(binds) != 1:
        raise UnknownError("it does not listen where Ray 2.60's does")
    kept["frontend http_frontend"] = front
    kept["defaults"] = re.sub(r"(errorfile 502) .*", rf"\1 {folder}/502.http", kept["defaults"])
    kept["defaults"] = re.sub(r"(errorfile 50[34]) .*", rf"\1 {folder}/503.http", kept["defaults"])
    # a request can be asked again once it is here whole; who does not send it is not waited for
    kept["defaults"] += "    option http-buffer-request\n    timeout http-request 20s\n"
    for title in kept:
        if title.startswith("backend http-"):
            kept[title] += (
                "    http-response wait-for-body time 20s\n"
                "    http-response set-var(txn.here) res.body_len\n"
                f"    http-response return status 502 if {{ res.body_size lt {_BUFFERED} }}"
                " { res.body_size,sub(txn.here) gt 0 }\n"
            )
    # a replica's guard ends what takes too long, so Serve need watch neither the clock nor the caller: two tasks less
    spared = "".join(
        f"    http-request set-header {name}\n"
        for name in ("x-request-timeout-seconds 0", "x-request-disconnect-disabled ?1")
    )
    outer = (
        f"frontend mmray\n    bind {binds[0]}\n{spared}    default_backend again\n"
        "backend again\n    http-reuse always\n    retry-on conn-failure empty-response junk-response 502\n"
        f"    http-response set-status 503 if {{ status 502 }}\n    server front {door}\n"
    )
    return "".join([*kept.values(), outer])


def main(arguments: list[str]) -> None:
    """Rewrite the file that `-f` names, and become HAProxy."""
    binary, *rest = arguments
    file = Path(rest[rest.index("-f") + 1])
    try:
        text = rewritten(file.read_text(), str(file.parent))
    except UnknownError as error:
        sys.exit(f"mmray: {file}: {error}; this release of Ray Serve is not known")
    for status in ("502 Bad Gateway", "503 Service Unavailable"):
        (file.parent / f"{status[:3]}.http").write_text(_REFUSAL.format(status=status), newline="")
    file.write_text(text)
    os.execv(binary, [binary, *rest])  # nosec B606 # the program that Serve names, no shell


if __name__ == "__main__":
    main(sys.argv[1:])
