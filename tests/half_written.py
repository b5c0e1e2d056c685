"""What a writer that was killed leaves behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_DYING = """
import os, signal, sys
from mmray.storage import Workspace
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
Workspace(sys.argv[1]).write_bytes(b"half", "f")
"""


def leave_half(folder: Path) -> None:
    """A half-written file in a folder, of a process of this machine that is gone."""
    subprocess.run([sys.executable, "-c", _DYING, str(folder)], check=False)
    assert half_written(folder)


def half_written(root: Path | str) -> list[Path]:
    """Such files anywhere below."""
    return list(Path(root).rglob(".partial-*"))
