"""One vector a recording: the one path that indexing, files and uploads share."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mmray.evaluation.retrieval import group_vectors
from mmray.features.table import Segments
from mmray.models.system import System
from mmray.training import batches, inference


def recording_vector(model: System, segments: Segments) -> NDArray[np.float32]:
    """Mean of a recording's unit segment embeddings, made unit length again, as in the evaluation; E floats.

    Args:
        model: in evaluation mode, on the CPU.
        segments: all of one recording.
    """
    encoded_SE = inference.encode(model, segments.modality, batches.graphs(segments, torch.device("cpu")))
    z_SE = inference.embed(model, segments.modality, segments.subject_id_S, encoded_SE)
    vector_E: NDArray[np.float32] = group_vectors(z_SE, np.zeros(len(segments), dtype=np.int64), 1)[0].astype("f4")
    return vector_E
