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
    return mean_vector(segment_vectors(model, segments))


def segment_vectors(model: System, segments: Segments) -> NDArray[np.float32]:
    """Unit embeddings of segments, S x E."""
    encoded_SE = inference.encode(model, segments.modality, batches.graphs(segments, torch.device("cpu")))
    return inference.embed(model, segments.modality, segments.subject_id_S, encoded_SE)


def mean_vector(z_SE: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of one recording's unit embeddings, made unit length again."""
    vector_E: NDArray[np.float32] = group_vectors(z_SE, np.zeros(len(z_SE), dtype=np.int64), 1)[0].astype("f4")
    return vector_E
