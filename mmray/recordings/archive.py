"""A recording inside a zip: unpacked for the time of reading into a folder that is always removed.

No name inside the archive is trusted: it decides neither where a byte is written nor what else is read. An archive that
looks made to do harm is refused as a whole.
"""

from __future__ import annotations

import lzma
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import h5py

from mmray.errors import RecordingError
from mmray.recordings.formats import AUDIO_SUFFIXES, COMPANIONS, EEG_SUFFIXES
from mmray.recordings.references import points_outside

_HEADERS = (*EEG_SUFFIXES, *AUDIO_SUFFIXES, ".mat", ".raw")
_SAMPLES = tuple(suffix for suffixes in COMPANIONS.values() for suffix in suffixes)
_MOST_BYTES = 4 << 30  # unpacked; MODMA's largest files have 74 MB
_MOST_MEMBERS = 1000
_MOST_RATIO = 100  # signals pack to a third or a half, silence to a hundredth
_SMALL = 1 << 20  # bytes; a member below this does no harm, whatever its ratio
_DAMAGED = (
    OSError,
    EOFError,
    RuntimeError,  # NotImplementedError, of a compression that Python lacks, is one
    ValueError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
)


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The one recording of an archive as a file, its data files beside it; gone when the block ends, however it ends.

    Raises:
        RecordingError: the archive is damaged, encrypted, holds a link or a name that leads out of it, unpacks to far
            more than it is, or does not hold exactly one recording. What the block raises is told with the archive's
            name.
    """
    with tempfile.TemporaryDirectory(prefix="mmray-") as folder:
        try:
            header = _unpack(path, Path(folder))
            _refuse_links(path, header)
        except _DAMAGED as error:
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise RecordingError(f"{path}: not a whole zip archive ({why}); copy it again from its source") from error
        try:
            yield header
        except RecordingError as error:
            raise RecordingError(str(error).replace(str(header), f"{path} ({header.name})")) from error


def _unpack(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        files = [info for info in archive.infolist() if not info.is_dir()]
        if len(files) > _MOST_MEMBERS:
            raise RecordingError(f"{path}: holds {len(files)} files; zip one recording with its data files")
        for info in files:
            _refuse(path, info)
        if (size := sum(info.file_size for info in files)) > min(_MOST_BYTES, shutil.disk_usage(folder).free):
            raise RecordingError(
                f"{path}: would unpack to {size >> 20} MiB, more than {_MOST_BYTES >> 20} MiB or than there is room "
                "for; unpack it yourself"
            )
        kept: dict[str, zipfile.ZipInfo] = {}
        for info in files:
            name = PurePosixPath(info.filename).name
            if name.startswith("._") or PurePosixPath(name).suffix.lower() not in (*_HEADERS, *_SAMPLES):
                continue  # a Mac's shadow of a file, a licence, a picture: never unpacked
            if kept.setdefault(name.casefold(), info) is not info:
                raise RecordingError(f"{path}: holds {name} twice; zip one recording with its data files")
        headers = [name for name in kept if PurePosixPath(name).suffix in _HEADERS]
        if len(headers) != 1:
            listed = ", ".join(sorted(headers)[:4]) or "none"
            raise RecordingError(f"{path}: wants exactly one recording, holds {len(headers)} ({listed})")
        beside = COMPANIONS.get(PurePosixPath(headers[0]).suffix, ())
        for name, info in kept.items():
            if name == headers[0] or PurePosixPath(name).suffix in beside:
                with archive.open(info) as source, (folder / PurePosixPath(info.filename).name).open("xb") as target:
                    shutil.copyfileobj(source, target)  # yields at most the declared size, and checks its CRC
        return folder / PurePosixPath(kept[headers[0]].filename).name


def _refuse(path: Path, info: zipfile.ZipInfo) -> None:
    """Raise on a member that has no place in an honest archive."""
    name = info.filename
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or name[1:2] == ":":
        why = "an absolute name"
    elif ".." in parts or "\\" in name:
        why = "a name that leads out of the archive"
    elif stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        why = "a link or a device, not a file"
    elif info.flag_bits & 0x1:
        why = "encrypted; unpack it yourself"
    elif info.file_size > _SMALL and info.file_size > _MOST_RATIO * info.compress_size:
        why = f"packed {info.file_size // max(1, info.compress_size)} to 1, as no recording is"
    else:
        return
    raise RecordingError(f"{path}: its member {name!r} is {why}; the archive is not opened")


def _refuse_links(path: Path, header: Path) -> None:
    if header.suffix.lower() in (".mat", ".set") and h5py.is_hdf5(header):
        with h5py.File(header, "r") as file:
            if points_outside(file):
                raise RecordingError(f"{path}: {header.name} refers to data in another file; save the data inside")
