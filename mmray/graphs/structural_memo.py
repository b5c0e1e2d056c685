"""Structural similarity looked up by topology: worked out once for each graph, held sparse."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mmray.graphs.structural import Mask, structural_similarity

Entry = tuple[NDArray[np.int32], NDArray[np.float32]]


@dataclass
class StructuralMemo:
    """A' of every topology met so far.

    Attributes:
        entries: topology -> flat positions above the diagonal and their values; some 5 kB at 128 nodes.
    """

    entries: dict[bytes, Entry] = field(default_factory=dict)

    def dense(self, edge_BNN: Mask, *, keep: bool) -> NDArray[np.float32]:
        """A' of some graphs, B x N x N.

        Args:
            edge_BNN: which nodes are joined, symmetric.
            keep: hold what had to be worked out. An endpoint must not, or every upload would stay in its memory.
        """
        keys = topologies(edge_BNN)
        found = {key: self.entries[key] for key in keys if key in self.entries}
        missing = [row for row, key in enumerate(keys) if key not in found]
        if missing:
            fresh = work_out(edge_BNN[missing])
            found |= fresh
            if keep:
                self.entries |= fresh
        nodes = edge_BNN.shape[-1]
        upper_BX = np.zeros((len(keys), nodes * nodes), dtype=np.float32)
        for row, key in enumerate(keys):
            position_X, value_X = found[key]
            upper_BX[row, position_X] = value_X
        upper_BNN = upper_BX.reshape(-1, nodes, nodes)
        return upper_BNN + upper_BNN.transpose(0, 2, 1)


def topologies(edge_BNN: Mask) -> list[bytes]:
    """Sixteen bytes naming each graph's edges."""
    packed_BX = np.packbits(edge_BNN.reshape(len(edge_BNN), -1), axis=1)
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in packed_BX]


def work_out(edge_BNN: Mask) -> dict[bytes, Entry]:
    """Entries of some graphs."""
    upper_BNN = np.triu(structural_similarity(edge_BNN))
    entries = {}
    for key, upper_X in zip(topologies(edge_BNN), upper_BNN.reshape(len(edge_BNN), -1), strict=True):
        position_X = np.flatnonzero(upper_X).astype(np.int32)
        entries[key] = position_X, upper_X[position_X]
    return entries
