"""The vectors of every segment behind an index's recordings: where in a recording a match lies.

A safetensors file a modality, read through the page cache: `z` (S x E, float16), `start_s` (S, float32) and `first`
(N + 1, int64), so that row n of the index owns the segments first[n] to first[n + 1].
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmray.errors import WorkspaceError
from mmray.index.base import no_room

_TYPES: dict[str, Any] = {"F16": np.float16, "F32": np.float32, "I64": np.int64}


@dataclass(frozen=True)
class SegmentVectors:
    """S segments of N recordings of one modality, memory-mapped.

    Attributes:
        z_SE: unit vectors; half precision tells a recording's segments apart well enough.
        start_s_S: seconds into the recording.
        first_N1: where each recording's segments begin, and where the last one's end.
    """

    z_SE: NDArray[np.float16]
    start_s_S: NDArray[np.float32]
    first_N1: NDArray[np.int64]

    def start_s(self, row: int) -> NDArray[np.float32]:
        """Where the segments of one recording start, s, ascending."""
        return np.array(self.start_s_S[self.first_N1[row] : self.first_N1[row + 1]])

    def vectors(self, row: int) -> NDArray[np.float16]:
        """The segments of one recording."""
        return np.array(self.z_SE[self.first_N1[row] : self.first_N1[row + 1]])

    def best(self, row_K: NDArray[np.int64], query_E: NDArray[np.float32]) -> NDArray[np.float32]:
        """Where the segment of each recording that is most like a query starts, s; the earliest of equal ones."""
        if len(row_K) == 0:
            return np.empty(0, dtype=np.float32)
        from_K, count_K = self.first_N1[row_K], self.first_N1[row_K + 1] - self.first_N1[row_K]
        begin_K = np.cumsum(count_K) - count_K
        segment_T = np.arange(count_K.sum()) + np.repeat(from_K - begin_K, count_K)
        score_T = self.z_SE[segment_T].astype(np.float32) @ query_E
        best_T = score_T == np.repeat(np.maximum.reduceat(score_T, begin_K), count_K)
        place_T = np.where(best_T, np.arange(len(score_T)), len(score_T))
        start_s_K: NDArray[np.float32] = self.start_s_S[segment_T[np.minimum.reduceat(place_T, begin_K)]]
        return start_s_K


def create(path: Path, segments_N: NDArray[np.int64], width: int) -> SegmentVectors:
    """A file of zeros to fill in place, whatever its size; equal content is equal bytes.

    Args:
        segments_N: of each recording, at least one.
        width: E.

    Raises:
        WorkspaceError: the folder has no room for it.
    """
    first_N1 = np.concatenate([[0], np.cumsum(segments_N)]).astype(np.int64)
    total = int(first_N1[-1])
    tensors, offset = {}, 0
    # the widest type first: safetensors wants no gaps, and numbers must lie at multiples of their width
    for name, kind, shape in (
        ("first", "I64", [len(first_N1)]),
        ("start_s", "F32", [total]),
        ("z", "F16", [total, width]),
    ):
        size = math.prod(shape) * np.dtype(_TYPES[kind]).itemsize
        tensors[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    header = json.dumps(tensors).encode()
    header += b" " * (-len(header) % 8)
    whole = 8 + len(header) + offset
    try:
        with path.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(whole)
            if hasattr(os, "posix_fallocate"):  # not on a Mac
                # else it is a hole, and filling it through the map kills this process where the disk is full by then
                os.posix_fallocate(file.fileno(), 0, whole)
    except OSError as error:
        raise no_room(path, whole, error.strerror) from error
    made = _mapped(path, "r+")
    made.first_N1[:] = first_N1
    return made


def fill(made: SegmentVectors, row: int, z: bytes, start_s: bytes) -> None:
    """Write one recording's segments, given as bytes of float16 and float32.

    Raises:
        WorkspaceError: they are not as many as the file was made for.
    """
    own = slice(made.first_N1[row], made.first_N1[row + 1])
    start_s_S = np.frombuffer(start_s, "<f4")
    if len(start_s_S) != own.stop - own.start:
        raise WorkspaceError(
            f"index: a part holds {len(start_s_S)} segments and parts.parquet says {own.stop - own.start}; "
            "run `mmray prepare` again"
        )
    made.start_s_S[own] = start_s_S
    made.z_SE[own] = np.frombuffer(z, "<f2").reshape(len(start_s_S), -1)


def read(path: Path) -> SegmentVectors:
    """Map a file that `create` made.

    Raises:
        WorkspaceError: it is not one.
    """
    try:
        return _mapped(path, "r")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise WorkspaceError(f"index: {path.name} holds no segments ({error}); run `mmray index` again") from error


def _mapped(path: Path, mode: Any) -> SegmentVectors:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > 4096:  # damage can say anything, and this much would be read
            raise ValueError("its header is too long")
        header = json.loads(file.read(length))

    def tensor(name: str) -> NDArray[Any]:
        about = header[name]
        dtype, shape = np.dtype(_TYPES[about["dtype"]]), tuple(about["shape"])
        return np.memmap(path, dtype, mode, offset=8 + length + about["data_offsets"][0], shape=shape)

    return SegmentVectors(tensor("z"), tensor("start_s"), tensor("first"))
