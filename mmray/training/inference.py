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
from mmray.models.system import Encoder, System
from mmray.training.batches import Graphs
from mmray.training.losses import dealt_back

CHUNK = 256


@torch.no_grad()
def encode(model: System, modality: str, graphs: Graphs, rank: int = 0, world: int = 1) -> Tensor:
    """Vectors before attention of all segments, S x E, on the model's device; each worker makes every world-th."""
    made = [model.encode(modality, *graphs.take(row_B)) for row_B in _chunks(graphs, rank, world)]
    return dealt_back(torch.cat(made), world)[: len(graphs.x_SND)]


@torch.no_grad()
def embed(model: System, modality: str, subject_id_S: NDArray[np.str_], encoded_SE: Tensor) -> NDArray[np.float32]:
    """Lone retrieval embeddings, S x E, unit length; nobody is their own neighbour.

    Args:
        subject_id_S: whose segments they are.
        encoded_SE: what `encode` made of them.
    """
    if model.reference is None:
        code_S = torch.full((len(encoded_SE),), STRANGER, device=encoded_SE.device)
    else:
        code_S = model.reference.codes(subject_id_S.tolist())
    rows = zip(torch.split(encoded_SE, CHUNK), torch.split(code_S, CHUNK), strict=True)
    array: NDArray[np.float32] = torch.cat([model.lone(modality, *row) for row in rows]).cpu().numpy()
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
def subject_logits(
    model: System, encoded: dict[str, Tensor], segments: dict[str, Segments], subjects: NDArray[np.str_]
) -> Tensor:
    """Class scores of people, U x C: each modality's mean vector over a person's segments, fused.

    A modality that a person lacks stays out, so that a lone modality classifies by itself.

    Args:
        encoded: modality -> vectors of all segments, from `encode`.
        subjects: whom to classify, sorted.
    """
    slots, present = {}, []
    for modality, part in segments.items():
        chosen_S = np.isin(part.subject_id_S, subjects)
        vector_SE = encoded[modality]
        row_S = torch.as_tensor(np.flatnonzero(chosen_S), device=vector_SE.device)
        group_S = torch.as_tensor(np.searchsorted(subjects, part.subject_id_S[chosen_S]), device=vector_SE.device)
        count_U = torch.bincount(group_S, minlength=len(subjects))
        total_UE = vector_SE.new_zeros(len(subjects), vector_SE.shape[1]).index_add_(0, group_S, vector_SE[row_S])
        slots[modality] = total_UE / count_U.clamp(min=1)[:, None]
        present.append(count_U > 0)
    fused_UE, _, _ = model.fuse(slots, torch.stack(present, 1))
    return model.classify(fused_UE)


@torch.no_grad()
def classify_person(model: System, encoded: dict[str, Tensor]) -> tuple[NDArray[np.float32], dict[str, float] | None]:
    """Class probabilities of one person, C, as `subject_logits`, and each modality's share in the fused vector.

    Args:
        encoded: modality -> vectors of all of the person's segments, from `encode`; an absent modality is left out.

    Returns:
        The share is the gate's mean over features, else the attention's over the person's modalities, in parts of 1;
        None where the system has neither.
    """
    mean = {m: vector_SE.mean(0, keepdim=True) for m, vector_SE in encoded.items()}
    present_1M = torch.tensor([[m in mean for m in model.modalities]])
    slots = {m: mean[m] if m in mean else torch.zeros_like(_of_nothing(model, m)) for m in model.modalities}
    fused_1E, alpha_1MM, gate_1ME = model.fuse(slots, present_1M)
    probability_C: NDArray[np.float32] = model.classify(fused_1E).softmax(-1)[0].numpy()
    share_M = None
    if gate_1ME is not None:
        share_M = gate_1ME[0].mean(1)
    elif alpha_1MM is not None:
        share_M = alpha_1MM[0][present_1M[0]].mean(0)
    if share_M is None:
        return probability_C, None
    held = {m: float(share_M[i]) for i, m in enumerate(model.modalities) if m in mean}
    return probability_C, {m: share / sum(held.values()) for m, share in held.items()}


def _of_nothing(model: System, modality: str) -> Tensor:
    """What the encoder makes of a graph of zeros, 1 x E: a system may have vectors of its own width a modality."""
    encoder = model.encoders[modality]
    assert isinstance(encoder, Encoder)
    nodes, width = encoder.mean_ND.shape
    return model.encode(modality, torch.zeros(1, nodes, width), torch.zeros(1, nodes, nodes))


def _chunks(graphs: Graphs, rank: int, world: int) -> tuple[Tensor, ...]:
    """A worker's rows; the last is taken more than once where that gives all equally many."""
    segments = len(graphs.x_SND)
    row_S = torch.arange(segments + -segments % world, device=graphs.x_SND.device).clamp(max=segments - 1)
    return torch.split(row_S[rank::world], CHUNK)
