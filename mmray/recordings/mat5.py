"""The numeric arrays of a MATLAB 5 file, for input that may be damaged or hostile.

scipy.io.loadmat (1.17.1) ended the whole process with a segmentation fault when bytes near a file's start were
overwritten, and readers here serve uploads. Format: "MAT-File Format", MathWorks, chapter 1.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_NUMERIC_CLASSES = range(6, 16)  # double ... uint64; the others are cells, structs, objects, text and sparse
_COMPLEX = 0x0800
_HEAD = 4096  # bytes of an element that hold its flags, dimensions and name


@dataclass(frozen=True)
class Matrix:
    """One real numeric array; its values stay where they are until `values`.

    Attributes:
        shape: as MATLAB tells it, rows first.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    body: memoryview  # the element's content, as stored
    packed_size: int  # bytes it unpacks to, 0 where it is not compressed
    start: int  # of the values in the content
    stop: int

    def values(self) -> NDArray[np.generic]:
        """The array, in MATLAB's column order; a view of the file's bytes where those are not compressed.

        Raises:
            ValueError: the values are cut short.
            zlib.error: they do not unpack.
        """
        content: memoryview | bytes = self.body
        if self.packed_size:
            unpacker = zlib.decompressobj()
            content = unpacker.decompress(self.body, self.packed_size)
            unpacker.decompress(unpacker.unconsumed_tail, 8)  # padding, and the check sum behind it
            if not unpacker.eof:
                raise ValueError("a compressed array is cut short or longer than it says")
        flat = np.frombuffer(content[self.start : self.stop], dtype=self.dtype)
        return flat.reshape(self.shape, order="F")


def matrices(path: Path) -> dict[str, Matrix]:
    """The real numeric arrays of a file by name.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not MATLAB 5, or an element does not fit into the file.
        struct.error: a header is cut short.
        zlib.error: a compressed header does not unpack.
    """
    content = memoryview(path.read_bytes())
    order = {b"IM": "<", b"MI": ">"}.get(bytes(content[126:128]))
    if order is None or struct.unpack(order + "H", content[124:126])[0] != 0x0100:
        raise ValueError("its header is not MATLAB 5's")
    found: dict[str, Matrix] = {}
    position = _HEADER
    while position < len(content):
        kind, size = struct.unpack_from(order + "II", content, position)
        body = content[position + 8 : position + 8 + size]
        if len(body) < size:
            raise ValueError(f"an element of {size} bytes has {len(body)} left")
        if kind == _MATRIX:
            _add(found, order, body, body, 0)
        elif kind == _COMPRESSED:
            head = zlib.decompressobj().decompress(body, _HEAD)
            inner_kind, inner_size = struct.unpack_from(order + "II", head)
            if inner_kind == _MATRIX:
                _add(found, order, memoryview(head), body, inner_size + 8)
        else:
            raise ValueError(f"an element of unknown type {kind}")
        position += 8 + size
    return found


def _add(found: dict[str, Matrix], order: str, head: memoryview, body: memoryview, packed_size: int) -> None:
    first = 8 if packed_size else 0  # a compressed element brings its own tag
    _, start, _, after = _element(order, head, first)
    (flags,) = struct.unpack_from(order + "I", head, start)
    if flags & 0xFF not in _NUMERIC_CLASSES or flags & _COMPLEX:
        return
    _, start, stop, after = _element(order, head, after)
    shape = struct.unpack(f"{order}{(stop - start) // 4}i", head[start:stop])
    _, start, stop, after = _element(order, head, after)
    name = bytes(head[start:stop]).decode("ascii", "replace")
    kind, start, stop, _ = _element(order, head, after)
    if kind not in _DTYPES:
        raise ValueError(f"array {name!r} is stored as unknown type {kind}")
    dtype = np.dtype(order + _DTYPES[kind])
    if min(shape, default=-1) < 0 or math.prod(shape) * dtype.itemsize != stop - start:
        raise ValueError(f"array {name!r} says it is {'x'.join(map(str, shape))}, and has {stop - start} bytes")
    if stop > (packed_size or len(body)):
        raise ValueError(f"array {name!r} is longer than its element")
    found[name] = Matrix(shape, dtype, body, packed_size, start, stop)


def _element(order: str, content: memoryview, position: int) -> tuple[int, int, int, int]:
    """Type, start and stop of the data element at a position, and where the next begins."""
    kind, size = struct.unpack_from(order + "II", content, position)
    if kind >> 16:  # a small element: size and type share four bytes, up to four bytes of data follow
        return kind & 0xFFFF, position + 4, position + 4 + (kind >> 16), position + 8
    return kind, position + 8, position + 8 + size, position + 8 + -(-size // 8) * 8
