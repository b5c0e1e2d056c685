"""Small systems, and the one question asked of all of them: does a partner reach a lone embedding?"""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import torch

from mmray import config
from mmray.models.registry import build
from mmray.models.system import Batch

SHAPES = {"eeg": (12, 5), "audio": (8, 6)}
SYSTEMS = get_args(config.System)
SOLVED = ("majority", "logreg", "ridge")  # in closed form: no gradient reaches or need reach them
TRAINED = tuple(name for name in SYSTEMS if name not in SOLVED)
B = 4


def fresh(name: str, **settings):
    torch.manual_seed(0)
    chosen = config.Model(name=name, hidden=16, embedding=8, dropout=0.2, sampled_neighbours=3, **settings)
    return build(chosen, SHAPES, classes=2)


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
