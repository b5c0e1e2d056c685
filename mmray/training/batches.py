"""Segments as tensors, and a draw of them as the batch that a model takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmray.features.table import Segments
from mmray.graphs.adjacency import dense_adjacency
from mmray.models.system import Batch
from mmray.training.sampling import Draw


@dataclass(frozen=True)
class Graphs:
    """One modality's S segment graphs on one device, and whose they are."""

    x_SND: Tensor
    neighbour_SNK: Tensor
    weight_SNK: Tensor
    subject_id_S: NDArray[np.str_]

    def take(self, row_B: Tensor) -> tuple[Tensor, Tensor]:
        """Node features and dense edge weights of some rows: x_BND, weight_BNN."""
        return self.x_SND[row_B], dense_adjacency(self.neighbour_SNK[row_B], self.weight_SNK[row_B])


def graphs(segments: Segments, device: torch.device) -> Graphs:
    """A modality's arrays as tensors."""
    return Graphs(
        torch.tensor(segments.x_SND, device=device),
        torch.tensor(segments.neighbour_SNK, device=device),
        torch.tensor(segments.weight_SNK, device=device),
        segments.subject_id_S,
    )


def batch(of: dict[str, Graphs], draw: Draw) -> Batch:
    """The drawn segments; rows of an absent modality are zeros."""
    device = next(iter(of.values())).x_SND.device
    row_BMS = torch.as_tensor(draw.row_BMS, device=device)
    x: dict[str, Tensor] = {}
    weight: dict[str, Tensor] = {}
    for column, (modality, modality_graphs) in enumerate(of.items()):
        row_R = row_BMS[:, column].flatten()
        x_RND, weight_RNN = modality_graphs.take(row_R.clamp(min=0))
        here_R11 = (row_R >= 0)[:, None, None]
        x[modality], weight[modality] = x_RND * here_R11, weight_RNN * here_R11
    return Batch(
        x,
        weight,
        row_BMS[..., 0] >= 0,
        torch.as_tensor(draw.pair_B, device=device),
        torch.as_tensor(draw.label_B, device=device),
        torch.as_tensor(draw.subject_B, device=device),
        row_BMS.shape[2],
    )
