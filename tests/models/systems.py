"""Small systems, and the one question asked of all of them: does a partner reach a lone embedding?"""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import torch

from mmray import config
from mmray.graphs.population import Reference
from mmray.models.registry import build
from mmray.models.system import Batch

SHAPES = {"eeg": (12, 5), "audio": (8, 6)}
SYSTEMS = get_args(config.System)
SOLVED = ("majority", "logreg", "ridge", "trf")  # in closed form: no gradient reaches or need reach them
TRAINED = tuple(name for name in SYSTEMS if name not in SOLVED)
B = 4


def fresh(name: str, **settings):
    """A system with random weights; a population graph asks a reference that knows the batch's own subjects."""
    torch.manual_seed(0)
    sizes = {"hidden": 16, "embedding": 8, "dropout": 0.2, "sampled_neighbours": 3, "population_neighbours": 3}
    model = build(config.Model(**{"name": name, **sizes, **settings}), SHAPES, classes=2)
    with torch.no_grad():  # as after training; at the start these are 0 and pass nothing on
        for encoder in model.encoders.values():
            if hasattr(encoder, "share"):
                encoder.share.fill_(1.0)
            if getattr(encoder, "adjacency", None) is not None:
                encoder.adjacency.upper_NN.normal_()
        if model.neighbours:
            model.attach(reference())
            model.population.inter_MM.fill_(0.7)
        if getattr(model, "attention", None) is not None:
            model.attention.value_MDD.normal_()
    return model


def reference(partner: float = 1.0) -> Reference:
    """The batch's subjects 0..B-1 and as many others; `partner` scales what subject 0 has."""
    generator = torch.Generator().manual_seed(3)
    vector_RME = torch.randn(2 * B, len(SHAPES), 8, generator=generator)
    vector_RME[0] *= partner
    present_RM = torch.ones(2 * B, len(SHAPES), dtype=torch.bool)
    return Reference(vector_RME, present_RM, torch.arange(2 * B), tuple(f"s{u}" for u in range(2 * B)))


def with_other_partners(batch: Batch, modality: str) -> Batch:
    """Everything of the other modality replaced; what `modality` holds stays."""
    other = next(m for m in SHAPES if m != modality)
    return replace(
        batch,
        x=batch.x | {other: 50 * torch.randn_like(batch.x[other])},
        weight=batch.weight | {other: torch.zeros_like(batch.weight[other])},
    )


def embeddings(model, batch: Batch, modality: str, training: bool) -> torch.Tensor:
    model.train(training)
    torch.manual_seed(2)
    return model(batch).z[modality]


def leaks(model, batch: Batch, modality: str, training: bool) -> bool:
    """Whether the lone embeddings move, by however little, when every partner is another."""
    swapped = with_other_partners(batch, modality)
    return not torch.equal(*(embeddings(model, given, modality, training) for given in (batch, swapped)))
