"""Lone embeddings of segments, as every stage makes them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mmray.features.table import Segments
from mmray.models.system import System
from mmray.training import batches, inference


def embedded(model: System, part: Segments) -> NDArray[np.float32]:
    """Lone embeddings of one modality's segments."""
    encoded_SE = inference.encode(model, part.modality, batches.graphs(part, torch.device("cpu")))
    return inference.embed(model, part.modality, part.subject_id_S, encoded_SE)
