"""Segments as tensors, and a draw of them as the batch that a model takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmray.features.table import Segments
from mmray.graphs.adjacency import dense_adjacency
from mmray.models.system import Batch
from mmray.training.sampling import Draw

DENSE_BYTES = 2**29  # of one modality's edge weights in one part made dense once; more are made batch by batch
_CHUNK = 256


@dataclass(frozen=True)
class Graphs:
    """One modality's S segment graphs on one device, and whose they are.

    Attributes:
        weight_SNN: dense edge weights of all, where they were made beforehand.
    """

    x_SND: Tensor
    neighbour_SNK: Tensor
    weight_SNK: Tensor
    subject_id_S: NDArray[np.str_]
    recording_id_S: NDArray[np.str_]
    weight_SNN: Tensor | None = None

    def take(self, row_B: Tensor) -> tuple[Tensor, Tensor]:
        """Node features and dense edge weights of some rows: x_BND, weight_BNN."""
        if self.weight_SNN is not None:
            return self.x_SND[row_B], self.weight_SNN[row_B]
        return self.x_SND[row_B], dense_adjacency(self.neighbour_SNK[row_B], self.weight_SNK[row_B])


def graphs(segments: Segments, device: torch.device) -> Graphs:
    """A modality's arrays as tensors."""
    return Graphs(
        torch.tensor(segments.x_SND, device=device),
        torch.tensor(segments.neighbour_SNK, device=device),
        torch.tensor(segments.weight_SNK, device=device),
        segments.subject_id_S,
        segments.recording_id_S,
    )


def dense(of: Graphs) -> Graphs:
    """The same graphs with their edge weights made dense once, for who takes them often; unless that is too much."""
    segments, nodes = of.neighbour_SNK.shape[:2]
    if segments * nodes * nodes * of.weight_SNK.element_size() > DENSE_BYTES:
        return of
    weight_SNN = of.weight_SNK.new_empty(segments, nodes, nodes)
    for start in range(0, segments, _CHUNK):
        some = slice(start, start + _CHUNK)
        weight_SNN[some] = dense_adjacency(of.neighbour_SNK[some], of.weight_SNK[some])
    return replace(of, weight_SNN=weight_SNN)


def batch(of: dict[str, Graphs], draw: Draw) -> Batch:
    """The drawn segments; rows of an absent modality are zeros."""
    device = next(iter(of.values())).x_SND.device
    row_BMS = torch.as_tensor(draw.row_BMS, device=device)
    x: dict[str, Tensor] = {}
    weight: dict[str, Tensor] = {}
    for column, (modality, modality_graphs) in enumerate(of.items()):
        row_R = row_BMS[:, column].flatten()
        x_RND, weight_RNN = modality_graphs.take(row_R.clamp(min=0))
        if (row_R < 0).any():
            x_RND[row_R < 0] = 0.0
            weight_RNN[row_R < 0] = 0.0
        x[modality], weight[modality] = x_RND, weight_RNN
    return Batch(
        x,
        weight,
        row_BMS[..., 0] >= 0,
        torch.as_tensor(draw.pair_B, device=device),
        torch.as_tensor(draw.label_B, device=device),
        torch.as_tensor(draw.subject_B, device=device),
        row_BMS.shape[2],
    )
