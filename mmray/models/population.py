"""The learnable half of the population graph: A^(inter), and how sharply a query chooses among its neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmray.graphs.population import Reference, partner_message, partners

START_SHARPNESS = 10.0


@dataclass(frozen=True)
class Borrowed:
    """What filled one slot of lone queries.

    Attributes:
        row_BK: rows of the reference.
        weight_BK: their weights; a row's sum to 1.
        share_B: of the slot in the query's vector, A^(inter) times its attention; None without attention.
    """

    row_BK: Tensor
    weight_BK: Tensor
    share_B: Tensor | None


class PopulationGraph(nn.Module):
    """Fills a lone query's cross-modal slots with what the partners of its neighbours look like.

    out_i = alone_i + sum_{j != i} A^(inter)_ij (with_j - alone_i), where alone_i attends to the own slot, and with_j
    also to slot j, filled by `graphs.population.partner_message`; at A^(inter) = 1, out_i is eq. 2-4 over both slots.
    Its diagonal is not used. An untrained graph must change nothing, by one factor of zero: of two, neither would ever
    have a gradient.

    Args:
        modalities: M.
        neighbours: k, reference samples a query is joined to.
        start: of A^(inter); above 0 where `attend` passes no message on yet, else 0.

    Shapes: encoded_BE, subject_B (codes of the reference's subjects) -> BE.
    """

    def __init__(self, modalities: int, neighbours: int, start: float) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.start = start
        self.inter_MM = nn.Parameter(torch.empty(modalities, modalities))
        self.log_sharpness_M = nn.Parameter(torch.empty(modalities))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """No message yet."""
        nn.init.constant_(self.inter_MM, self.start)
        nn.init.constant_(self.log_sharpness_M, math.log(START_SHARPNESS))

    def forward(
        self,
        own: int,
        encoded_BE: Tensor,
        subject_B: Tensor,
        reference: Reference,
        attend: Callable[[dict[int, Tensor]], Tensor],
    ) -> Tensor:
        """The query after its neighbours were asked.

        Args:
            own: position of the queries' modality.
            attend: filled slots by position -> the own slot after attention.
        """
        alone_BE = attend({own: encoded_BE})
        out_BE = alone_BE
        sharpness = self.log_sharpness_M[own].exp()
        for other in range(len(self.inter_MM)):
            if other != own:
                message_BE = partner_message(encoded_BE, subject_B, reference, own, other, self.neighbours, sharpness)
                with_BE = attend({own: encoded_BE, other: message_BE})
                out_BE = out_BE + self.inter_MM[own, other] * (with_BE - alone_BE)
        return out_BE

    def partners(
        self, own: int, other: int, encoded_BE: Tensor, subject_B: Tensor, reference: Reference
    ) -> tuple[Tensor, Tensor]:
        """Which reference rows fill a query's slot `other`, and their weights, B x K each."""
        sharpness = self.log_sharpness_M[own].exp()
        return partners(encoded_BE, subject_B, reference, own, other, self.neighbours, sharpness)
