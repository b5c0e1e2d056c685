"""Prepared segments in memory: arrays a model can batch, read from the part files that a preparation published."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from numpy.typing import NDArray

from mmray.errors import WorkspaceError
from mmray.schema import Modality
from mmray.storage import Workspace


@dataclass(frozen=True)
class Segments:
    """S segment graphs of one modality; rows are in segment_id order.

    Attributes:
        x_SND: node features, float32.
        neighbour_SNK: directed nearest neighbours of each node, int16.
        weight_SNK: their weights, float32, non-negative.
        task_S: what the person did, as rest, or a kind of clip.
        label_S: class, or -1 where it is not known.
    """

    modality: str
    segment_id_S: NDArray[np.str_]
    recording_id_S: NDArray[np.str_]
    subject_id_S: NDArray[np.str_]
    pair_id_S: NDArray[np.str_]
    task_S: NDArray[np.str_]
    label_S: NDArray[np.int8]
    start_s_S: NDArray[np.float32]
    x_SND: NDArray[np.float32]
    neighbour_SNK: NDArray[np.int16]
    weight_SNK: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.segment_id_S)

    @property
    def shape(self) -> tuple[int, int]:
        """Nodes and features a node."""
        return self.x_SND.shape[1], self.x_SND.shape[2]

    def take(self, index: NDArray[Any]) -> Segments:
        """The rows at these positions, or where a mask is true."""
        columns = {name: getattr(self, name)[index] for name in self.__dataclass_fields__ if name != "modality"}
        return Segments(modality=self.modality, **columns)


def from_table(table: pa.Table) -> Segments:
    """Rows of a features table as arrays, sorted by segment_id."""
    table = table.take(pc.sort_indices(table, [("segment_id", "ascending")])).combine_chunks()

    def text(name: str) -> NDArray[np.str_]:
        return np.asarray(table[name].to_numpy(zero_copy_only=False), dtype=np.str_)

    def tensor(name: str) -> NDArray[Any]:
        column = table[name]
        if column.num_chunks == 1:
            array: NDArray[Any] = column.chunk(0).to_numpy_ndarray()
            return array
        return np.concatenate([chunk.to_numpy_ndarray() for chunk in column.chunks])

    return Segments(
        modality=str(table["modality"][0].as_py()),
        segment_id_S=text("segment_id"),
        recording_id_S=text("recording_id"),
        subject_id_S=text("subject_id"),
        pair_id_S=text("pair_id"),
        task_S=text("task"),
        label_S=table["label"].fill_null(-1).to_numpy().astype(np.int8),
        start_s_S=table["start_s"].to_numpy(),
        x_SND=tensor("x"),
        neighbour_SNK=tensor("neighbour"),
        weight_SNK=tensor("weight"),
    )


def load(
    workspace: Workspace, features_digest: str, modality: Modality, subjects: Collection[str] | None = None
) -> Segments:
    """Read a modality's prepared segments, of some subjects or of all.

    Only part files named in features/<digest>/parts.parquet are read, so a preparation under way is never seen half.

    Raises:
        WorkspaceError: nothing was prepared under this digest, or no segment of these subjects is there.
    """
    folder = ("features", features_digest)
    if not workspace.exists(*folder, "parts.parquet"):
        raise WorkspaceError(
            f"features/{features_digest} is not in workspace {workspace.root}; run `mmray prepare` with this config"
        )
    parts = workspace.read_table(*folder, "parts.parquet")
    paths = parts.filter(pc.equal(parts["modality"], modality))["path"].to_pylist()
    if not paths:
        raise WorkspaceError(f"features/{features_digest} holds no {modality} segments; see its quarantine.parquet")
    files = [workspace.path(*folder, path) for path in sorted(paths)]
    wanted = None if subjects is None else pc.field("subject_id").isin(sorted(subjects))
    try:
        table = pads.dataset(files, filesystem=workspace.filesystem, format="parquet").to_table(filter=wanted)
    except (OSError, pa.ArrowException) as error:
        raise WorkspaceError(
            f"features/{features_digest}: a part that parts.parquet names cannot be read: {error}; run `mmray prepare` "
            "again, and on several nodes see that all of them share the workspace"
        ) from error
    if table.num_rows == 0:
        raise WorkspaceError(f"features/{features_digest} holds no {modality} segments of the chosen subjects")
    return from_table(table)
