"""mamsa: gated cross-modal attention with a common representation (after Wang, Ren & Yu, EAAI 140 (2024)
109731).

Our reading, from its abstract alone; attn(q, k) is scaled dot-product attention of queries q over keys and values k.
    tokens          t_m = attn(learned queries, nodes of m): T vectors a modality, which `encode` lays end to end
    gates           [g_1; ...; g_M] = sigmoid(W [s_1; ...; s_M]), s_m the mean of t_m; for two, g_e and g_a
    common          c = mean_m attn(g_m t_m, g_j t_j of the other modalities j)
    refined         r_m = LayerNorm(t_m + attn(t_m, c))
    class query     q_m = attn(learned query, r_m)
    hierarchical    h_m = relu(W_m [q_m; mean c]), then fused = W [h_1; ...; h_M]
A lone recording has no other modality: its common representation attends to its own tokens, its gate sees zeros in the
other slots, and q_m is its embedding. Nothing of a partner enters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from mmray import config
from mmray.models.dropout import Dropout
from mmray.models.system import Encoder, Fused, System


class Attention(nn.Module):
    """One head of scaled dot-product attention with its own maps (Vaswani et al. 2017, eq. 1).

    Shapes: query_BQE, key_BKE, available_BK (bool; each row needs one) -> BQE.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))

    def forward(self, query_BQE: Tensor, key_BKE: Tensor, available_BK: Tensor | None = None) -> Tensor:
        """Each query's mix of values."""
        mask = None if available_BK is None else available_BK[:, None, :]
        query, key, value = self.query(query_BQE), self.key(key_BKE), self.value(key_BKE)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class TokenEncoder(Encoder):
    """Nodes with their positions, summed up by learned queries into T tokens, laid end to end.

    Shapes: x_BND, weight_BNN (ignored) -> B x TE.
    """

    def __init__(self, nodes: int, width: int, model: config.Model) -> None:
        super().__init__(nodes, width)
        self.input = nn.Linear(width, model.embedding)
        self.position_NE = nn.Parameter(torch.empty(nodes, model.embedding))
        self.query_TE = nn.Parameter(torch.empty(model.tokens, model.embedding))
        self.attention = Attention(model.embedding)
        self.dropout = Dropout(model.dropout)
        self.norm = nn.LayerNorm(model.embedding)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """New positions and queries."""
        nn.init.normal_(self.position_NE, std=0.02)
        nn.init.normal_(self.query_TE)

    def forward(self, x_BND: Tensor, weight_BNN: Tensor) -> Tensor:
        """The segment's tokens."""
        h_BNE = F.relu(self.dropout(self.input(self.standardised(x_BND))) + self.position_NE)
        token_BTE: Tensor = self.norm(self.attention(self.query_TE.expand(len(h_BNE), -1, -1), h_BNE))
        return token_BTE.flatten(1)


class MAMSA(System):
    """Gates, a common representation, refinement, a class query and hierarchical fusion."""

    def __init__(self, shapes: dict[str, tuple[int, int]], classes: int, model: config.Model) -> None:
        super().__init__({m: TokenEncoder(*shape, model) for m, shape in shapes.items()}, classes, model)

    def make_fusion(self, model: config.Model) -> None:
        """The maps of the formulas above."""
        modalities, width = len(self.modalities), model.embedding
        self.gate = nn.Linear(modalities * width, modalities * width)
        self.common, self.refine, self.pick = Attention(width), Attention(width), Attention(width)
        self.norm = nn.LayerNorm(width)
        self.query_E = nn.Parameter(torch.randn(width))
        self.first = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(modalities))
        self.fusion = nn.Linear(modalities * width, width)

    def fuse(self, encoded: dict[str, Tensor], present_BM: Tensor) -> Fused:
        """Both levels of the fusion; an absent modality adds zeros to the second."""
        picked_BME, common_BTE, gate_BME = self._refined(encoded, present_BM)
        mean_BE = common_BTE.mean(1)
        levels = [
            F.relu(first(torch.cat([picked_BME[:, m], mean_BE], -1))) * present_BM[:, m, None]
            for m, first in enumerate(self.first)
        ]
        return self.fusion(torch.cat(levels, -1)), None, gate_BME

    def _refined(self, encoded: dict[str, Tensor], present_BM: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, modalities = present_BM.shape
        slot_BMX = torch.stack([encoded[m] for m in self.modalities], 1) * present_BM[..., None]
        token_BMTE = slot_BMX.view(rows, modalities, -1, len(self.query_E))
        gate_BME = torch.sigmoid(self.gate(token_BMTE.mean(2).flatten(1))).view(rows, modalities, -1)
        gated_BMTE = gate_BME[:, :, None] * token_BMTE
        tokens = token_BMTE.shape[2]
        commons = []
        for m in range(modalities):
            other_BM = present_BM.clone()
            other_BM[:, m] = False
            other_BM[:, m] = ~other_BM.any(1)  # alone: its own tokens
            available_BK = other_BM.repeat_interleave(tokens, 1)
            commons.append(self.common(gated_BMTE[:, m], gated_BMTE.flatten(1, 2), available_BK))
        share_BM = present_BM / present_BM.sum(1, keepdim=True).clamp(min=1)
        common_BTE = torch.einsum("bm,bmte->bte", share_BM.to(token_BMTE.dtype), torch.stack(commons, 1))
        picked = []
        for m in range(modalities):
            refined_BTE = self.norm(token_BMTE[:, m] + self.refine(token_BMTE[:, m], common_BTE))
            picked.append(self.pick(self.query_E.expand(len(refined_BTE), 1, -1), refined_BTE)[:, 0])
        return torch.stack(picked, 1), common_BTE, gate_BME * present_BM[..., None]

    def lone(self, modality: str, encoded_BE: Tensor, subject_B: Tensor) -> Tensor:
        """As System.lone."""
        picked_BME, _, _ = self._refined(*self._alone(modality, encoded_BE))
        return F.normalize(picked_BME[:, self.modalities.index(modality)].float(), dim=-1)
