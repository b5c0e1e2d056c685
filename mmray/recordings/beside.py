"""Which files beside a recording's own belong to it: a header's samples and markers, and what a long FIF goes on in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_HEADER_BYTES = 1 << 16  # BrainVision names its files at the top
_NAMED = re.compile(rb"^\s*(DataFile|MarkerFile)\s*=\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)
_SPLIT = re.compile(r"_split-([0-9]+)")


class Beside(NamedTuple):
    """Names in the recording's folder, of files that may be missing there."""

    samples: tuple[str, ...] = ()  # of which all samples come
    others: tuple[str, ...] = ()


def names(path: Path) -> Beside:
    """What the reader of this file opens too.

    A name that leads out of the folder is left out; the reader refuses it.
    """
    suffix, stem = path.suffix.lower(), path.stem
    if suffix == ".set":
        return Beside((f"{stem}.fdt",))
    if suffix == ".vhdr":
        said = {key.lower(): _text(value) for key, value in reversed(_NAMED.findall(_head(path)))}  # the first counts
        data, markers = said.get(b"datafile"), said.get(b"markerfile")
        samples = (data,) if data else (f"{stem}.eeg", f"{stem}.dat")
        # MNE falls back on the header's own name where the markers' is out of date
        others = dict.fromkeys(name for name in (markers, f"{stem}.vmrk") if name)
        return Beside(tuple(filter(_at_home, samples)), tuple(filter(_at_home, others)))
    return Beside(others=tuple(_parts(path))) if suffix == ".fif" else Beside()


def there(path: Path) -> list[Path]:
    """All of them that exist."""
    samples, others = names(path)
    return [file for name in (*samples, *others) if (file := path.with_name(name)).is_file()]


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEADER_BYTES)
    except OSError:
        return b""  # whoever reads the recording is told


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("cp1252", "replace")  # of an older Recorder


def _at_home(name: str) -> bool:
    return "/" not in name and "\\" not in name and name not in ("", ".", "..")


def _parts(path: Path) -> list[str]:
    """The files that a FIF goes on in, as MNE names them: a_raw-1.fif, or a_split-02_eeg.fif after split 01."""
    split = _SPLIT.search(path.name)
    found: list[str] = []
    while True:
        if split:
            number = f"{int(split[1]) + len(found) + 1:0{len(split[1])}d}"
            name = f"{path.name[: split.start(1)]}{number}{path.name[split.end(1) :]}"
        else:
            name = f"{path.stem}-{len(found) + 1}{path.suffix}"
        if not path.with_name(name).is_file():
            return found
        found.append(name)
