"""What outlives a driver that is killed, or that Ray's own code ends because its raylet was: no handler runs then.

A process of its own, run by this file's name. It waits for the driver's last word on its standard input; without one it
says what happened. It removes the session's folder and, unless all went well, those of Ray's processes that use it:
some do not notice the end, others wait a minute for one another. Of a scratch folder it waits for the end alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

WELL, TOLD = b"well", b"told"  # the driver's last word: it ended as it should, or has said itself why not
_QUIET = 20  # looks in a row, a tenth of a second apart, that find nothing left
_LONGEST_S = 60


@contextmanager
def scratch(prefix: str, parent: str | None = None) -> Iterator[str]:
    """A temporary folder for the block, gone also where this process is killed inside it.

    Args:
        parent: where to make it; None: the usual place.
    """
    folder = tempfile.mkdtemp(prefix=prefix, dir=parent)
    command = [sys.executable, "-IS", __file__, folder]
    kept = subprocess.Popen(  # nosec B603 # our own file, no shell
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield folder
    finally:
        kept.communicate()


def keep(folder: str, word: str) -> None:
    """Wait for the last word, then clean up.

    Args:
        folder: of the session; its random name tells the session's processes from all others.
        word: what to say where the driver could not.
    """
    ended = sys.stdin.buffer.read()
    if not ended:
        print(word, file=sys.stderr, flush=True)
    wanted, quiet, deadline = (1 if ended == WELL else _QUIET), 0, time.monotonic() + _LONGEST_S
    while quiet < wanted and time.monotonic() < deadline:
        found = 0 if ended == WELL else _end_processes(folder)
        shutil.rmtree(folder, ignore_errors=True)
        quiet = 0 if found or os.path.exists(folder) else quiet + 1
        time.sleep(0 if quiet == wanted else 0.1)


def _end_processes(folder: str) -> int:
    """Kill Ray's processes of this session; how many there were."""
    import psutil

    found = 0
    for process in psutil.process_iter(["cmdline"]):
        if process.pid == os.getpid():
            continue  # names the folder as well
        command = " ".join(process.info["cmdline"] or [])
        try:
            named = folder in command and "/ray/" in command
            if named or (command.startswith("ray::") and any(folder in file.path for file in process.open_files())):
                process.kill()
                found += 1
        except psutil.Error:
            continue
    return found


def _wait(folder: str) -> None:
    """Until whoever holds the other end of the standard input is gone; then remove the folder."""
    sys.stdin.buffer.read()
    deadline = time.monotonic() + _LONGEST_S
    while os.path.exists(folder) and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)  # again, while a process that outlives ours still writes there
        time.sleep(0.1 if os.path.exists(folder) else 0)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        _wait(sys.argv[1])
    else:
        keep(*sys.argv[1:])
