"""What looking through a study yields: recordings, and what lies there without being one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from mmray.errors import RecordingError
from mmray.schema import Modality, Recording
from mmray.storage import is_uri

RECORDING_ID = re.compile(r"[A-Za-z0-9_-]+")

UNPLACED = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Unplaced:
    """A file, folder or workbook row that could not be used as it stands, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Absent:
    """Someone whom the study's own list of people names, and who has no recording of these tasks (none: of any)."""

    subject_id: str
    modality: Modality
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """A study's recordings, what was left over, a few lines worth telling the user, and who is listed without one."""

    recordings: list[Recording]
    unplaced: list[Unplaced]
    notes: tuple[str, ...] = ()
    absent: tuple[Absent, ...] = ()


def entries(folder: Path) -> list[Path]:
    """A folder's content sorted by name, without hidden files and Excel's locks.

    Raises:
        RecordingError: the folder cannot be listed.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "~$")))
    except OSError as error:
        raise RecordingError(f"recordings: cannot list {folder}: {error.strerror}; check its permissions") from error


NO_FILE = "no file is there, or a link to one that is not; copy or fetch it (datalad get)"


def size_of(path: str) -> int | None:
    """A file's bytes on the local disk or in an object store; None where there is no such file."""
    try:
        if not is_uri(path):
            local = Path(path)
            return local.stat().st_size if local.is_file() else None
        filesystem, inside = pafs.FileSystem.from_uri(path)
        info = filesystem.get_file_info(inside)
        return int(info.size) if info.type == pafs.FileType.File else None
    except (OSError, ValueError, pa.ArrowException):
        return None
