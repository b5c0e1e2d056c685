"""A batch of random graphs in which every sample has both modalities."""

from __future__ import annotations

import pytest
import torch

from mmray.models.system import Batch
from tests.models.systems import SHAPES, B


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    weight = {}
    for modality, (nodes, _) in SHAPES.items():
        upper = torch.triu(torch.rand(B, nodes, nodes, generator=generator), 1)
        weight[modality] = upper + upper.transpose(1, 2)
    return Batch(
        x={m: torch.randn(B, *shape, generator=generator) for m, shape in SHAPES.items()},
        weight=weight,
        present_BM=torch.ones(B, 2, dtype=torch.bool),
        pair_B=torch.arange(B),
        label_B=torch.tensor([0, 1, 0, -1]),
        subject_B=torch.arange(B),
    )
