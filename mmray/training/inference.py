"""What a fitted model makes of segments: embeddings, class probabilities, and the validation figure of a fit."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmray.evaluation.retrieval import group_vectors, ranks_of_matches
from mmray.features.table import Segments
from mmray.graphs.population import STRANGER
from mmray.models.system import System
from mmray.training.batches import Graphs

CHUNK = 256
MAX_PAIRINGS = 32


@torch.no_grad()
def encode(model: System, modality: str, graphs: Graphs) -> Tensor:
    """Vectors before attention of all segments, S x E, on the model's device."""
    return torch.cat([model.encode(modality, *graphs.take(row_B)) for row_B in _chunks(graphs)])


@torch.no_grad()
def embed(model: System, modality: str, graphs: Graphs) -> NDArray[np.float32]:
    """Lone retrieval embeddings of all segments, S x E, unit length; nobody is their own neighbour."""
    if model.reference is None:
        code_S = torch.full((len(graphs.x_SND),), STRANGER, device=graphs.x_SND.device)
    else:
        code_S = model.reference.codes(graphs.subject_id_S.tolist())
    z_SE = torch.cat([model.embed(modality, *graphs.take(row_B), code_S[row_B]) for row_B in _chunks(graphs)])
    array: NDArray[np.float32] = z_SE.cpu().numpy()
    return array


def paired_mrr(z: dict[str, NDArray[np.float32]], segments: dict[str, Segments]) -> float:
    """Mean reciprocal rank over pair_ids that every modality has, averaged over the ordered pairs of modalities.

    A pair_id's vector is the normalised mean of its segments' embeddings; the gallery is the other modality's vectors
    of the same pair_ids.
    """
    shared = paired(segments)
    vectors: dict[str, Tensor] = {}
    for modality, part in segments.items():
        chosen_S = np.isin(part.pair_id_S, shared)
        group_S = np.searchsorted(shared, part.pair_id_S[chosen_S])
        vectors[modality] = torch.from_numpy(group_vectors(z[modality][chosen_S], group_S, len(shared)))
    match_Q = torch.arange(len(shared))
    mrr = [(1 / ranks_of_matches(vectors[a], vectors[b], match_Q)).mean() for a, b in itertools.permutations(z, 2)]
    return float(torch.stack(mrr).mean())


def paired(segments: dict[str, Segments]) -> NDArray[np.str_]:
    """Pair_ids that every modality has, sorted."""
    first, *others = (np.unique(part.pair_id_S) for part in segments.values())
    for other in others:
        first = np.intersect1d(first, other)
    return first


@torch.no_grad()
def subject_probabilities(
    model: System, encoded: dict[str, Tensor], segments: dict[str, Segments], subject: str
) -> NDArray[np.float32]:
    """Class probabilities of a subject, one row a pairing of its segments, at most 32 rows.

    The i-th pairing joins each modality's i-th segment, the shorter lists going round; a modality that the subject
    lacks stays out, so that a lone modality classifies by itself.
    """
    rows = {m: np.flatnonzero(part.subject_id_S == subject) for m, part in segments.items()}
    pairings = min(MAX_PAIRINGS, max(len(row) for row in rows.values()))
    slots, present = {}, []
    for modality, row in rows.items():
        chosen_P = np.resize(row, pairings) if len(row) else np.zeros(pairings, dtype=np.int64)
        slots[modality] = encoded[modality][torch.as_tensor(chosen_P, device=encoded[modality].device)]
        present.append(bool(len(row)))
    device = next(iter(slots.values())).device
    present_PM = torch.tensor(present, device=device).expand(pairings, -1)
    fused_PE, _, _ = model.fuse(slots, present_PM)
    probability: NDArray[np.float32] = model.classify(fused_PE).softmax(-1).cpu().numpy()
    return probability


def _chunks(graphs: Graphs) -> tuple[Tensor, ...]:
    return torch.split(torch.arange(len(graphs.x_SND), device=graphs.x_SND.device), CHUNK)
