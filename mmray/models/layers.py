"""The layers of the preprint's sections 3 and 4 (doi 10.20944/preprints202501.0405.v1), batched and dense.

No layer computes a statistic over the batch: a batch holds both halves of every pair, and a batch statistic would
carry a partner into a query.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class DenseGCNLayer(nn.Module):
    """The linear part of eq. 1, A-hat H W + b, on B graphs of N nodes (Kipf & Welling 2017, doi
    10.48550/arXiv.1609.02907).

    Equal to PyG's GCNConv on the same graphs; a dense product is faster at the fixed sizes used here.

    Args:
        width_in: features a node, D.
        width_out: features a node after the layer, E.

    Shapes: x_BND, normalised_BNN -> BNE, where normalised_BNN comes from `graphs.adjacency.normalise_adjacency`.
    """

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.weight_DE = nn.Parameter(torch.empty(width_in, width_out))
        self.bias_E = nn.Parameter(torch.empty(width_out))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Glorot weights, zero bias."""
        nn.init.xavier_uniform_(self.weight_DE)
        nn.init.zeros_(self.bias_E)

    def forward(self, x_BND: Tensor, normalised_BNN: Tensor) -> Tensor:
        """Mix each node with its neighbours and its features; first whichever leaves the N x N product narrower."""
        mixed: Tensor
        if x_BND.shape[-1] < self.weight_DE.shape[1]:
            mixed = (normalised_BNN @ x_BND) @ self.weight_DE + self.bias_E
        else:
            mixed = normalised_BNN @ (x_BND @ self.weight_DE) + self.bias_E
        return mixed


class LearnedAdjacency(nn.Module):
    """max(A + L, 0), L one symmetric matrix of zero diagonal for all segments (after DGCNN, Song et al. 2018, doi
    10.1109/TAFFC.2018.2817622).

    DGCNN learns max(L, 0) in the graph's place. Here L is added to it, from L = 0: the edges that a segment shows are
    where people differ, and training moves away from them only as far as it pays. The cut follows the sum, so that a
    pair that is no edge in one segment still learns from others where it is.

    Args:
        nodes: N; node n must be the same place in every graph.

    Shapes: weight_BNN -> BNN, non-negative and symmetric as eq. 1 needs it.
    """

    def __init__(self, nodes: int) -> None:
        super().__init__()
        self.upper_NN = nn.Parameter(torch.empty(nodes, nodes))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The graph's own weights alone."""
        nn.init.zeros_(self.upper_NN)

    def forward(self, weight_BNN: Tensor) -> Tensor:
        """The graphs' weights and the learned ones."""
        upper_NN = self.upper_NN.triu(1)
        return (weight_BNN + (upper_NN + upper_NN.T)).clamp(min=0)


class TopKPool(nn.Module):
    """Self-attention graph pooling (SAGPool, Lee et al. 2019, doi 10.48550/arXiv.1904.08082) at a fixed node count.

    score = GCN(x, A-hat); the ceil(ratio N) nodes of highest score stay, each scaled by tanh(score), with the edges
    between them. PyG's SAGPooling(GNN=GCNConv) does the same but leaves edge weights out of the score.

    Args:
        width: features a node, D.
        ratio: share of nodes kept, in (0, 1].

    Shapes: x_BND, weight_BNN, normalised_BNN -> x_BKD, weight_BKK.
    """

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio
        self.score = DenseGCNLayer(width, 1)

    def reset_parameters(self) -> None:
        """New scoring weights."""
        self.score.reset_parameters()

    def kept(self, nodes: int) -> int:
        """How many of `nodes` stay."""
        return math.ceil(self.ratio * nodes)

    def chosen(self, x_BND: Tensor, normalised_BNN: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and positions of the nodes that stay, B x K each, highest first."""
        score_BN = self.score(x_BND, normalised_BNN).squeeze(-1)
        top_BK, index_BK = score_BN.topk(self.kept(x_BND.shape[1]), dim=1)
        return top_BK, index_BK

    def forward(self, x_BND: Tensor, weight_BNN: Tensor, normalised_BNN: Tensor) -> tuple[Tensor, Tensor]:
        """The highest-scoring nodes and the graph between them."""
        top_BK, index_BK = self.chosen(x_BND, normalised_BNN)
        # whole rows of the flattened batch: several times faster than gathering element by element
        row_BK = index_BK + x_BND.shape[1] * torch.arange(len(x_BND), device=x_BND.device)[:, None]
        x_BKD = x_BND.flatten(0, 1)[row_BK] * torch.tanh(top_BK)[..., None]
        weight_BKN = weight_BNN.flatten(0, 1)[row_BK]
        return x_BKD, weight_BKN.gather(2, index_BK[:, None, :].expand(-1, index_BK.shape[1], -1))


def readout(x_BND: Tensor) -> Tensor:
    """One vector a graph: mean || max over its nodes (Lee et al. 2019, section 3.3), B x 2D."""
    return torch.cat([x_BND.mean(1), x_BND.amax(1)], dim=-1)


MOMENTS = 4


def moments(x_BND: Tensor) -> Tensor:
    """Each feature's mean, SD, largest and smallest value over the nodes, B x 4 x D."""
    # a variance of 0 has no square root to differentiate
    sd_BD = (x_BND.var(1, correction=0) + 1e-12).sqrt()
    return torch.stack([x_BND.mean(1), sd_BD, x_BND.amax(1), x_BND.amin(1)], 1)


class CrossModalAttention(nn.Module):
    """Eq. 2-4: each modality of a sample attends to the modalities that the sample has.

    score_ij = z_i^T W_ij z_j / sqrt(d);  alpha_i = softmax_j score_ij over available j;
    out_i = LayerNorm(z_i + sum_j alpha_ij V_j z_j).

    The softmax runs inside one sample, never across a batch. With a single modality available alpha is exactly 1 on
    itself and nothing of another slot enters. V starts at zero, so that vectors pass as they are until a message is
    learned (as residual branches do in Bachlechner et al. 2021, arXiv 2003.04887): random maps would turn each
    modality's space by itself, and what agreed before would no longer.

    Args:
        modalities: M.
        width: d.

    Shapes: z_BMD, present_BM (bool) -> out_BMD, alpha_BMM; alpha is 0 wherever i or j is absent.
    """

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        self.compatibility_MMDD = nn.Parameter(torch.empty(modalities, modalities, width, width))
        self.value_MDD = nn.Parameter(torch.empty(modalities, width, width))
        self.norm = nn.LayerNorm(width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Glorot compatibilities, values of zero; LayerNorm at identity."""
        bound = math.sqrt(3.0 / self.value_MDD.shape[-1])
        nn.init.uniform_(self.compatibility_MMDD, -bound, bound)
        nn.init.zeros_(self.value_MDD)
        self.norm.reset_parameters()

    def forward(self, z_BMD: Tensor, present_BM: Tensor) -> tuple[Tensor, Tensor]:
        """Attended vectors and the attention weights."""
        score_BMM = torch.einsum("bid,ijde,bje->bij", z_BMD, self.compatibility_MMDD, z_BMD) / math.sqrt(
            z_BMD.shape[-1]
        )
        available_BMM = present_BM[:, :, None] & present_BM[:, None, :]
        # not -inf: a padding row with no modality at all would turn into NaN
        score_BMM = score_BMM.float().masked_fill(~available_BMM, torch.finfo(torch.float32).min)
        alpha_BMM = score_BMM.softmax(-1) * available_BMM
        value_BMD = torch.einsum("jde,bje->bjd", self.value_MDD, z_BMD)
        return self.norm(z_BMD + alpha_BMM.to(value_BMD.dtype) @ value_BMD), alpha_BMM


class FeatureGate(nn.Module):
    """Feature-level fusion (section 4.1): of two, g = sigmoid(W [z_1; z_2] + b) and fused = g z_1 + (1 - g) z_2.

    Written for M modalities as a softmax over them of W_m [z_1; ...; z_M] + b_m, feature by feature; for two that is
    the sigmoid of the difference. A missing modality weighs exactly 0, so a lone one passes unchanged.

    Args:
        modalities: M.
        width: d.

    Shapes: z_BMD, present_BM (bool) -> fused_BD, gate_BMD.
    """

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(modalities * width, modalities * width)

    def reset_parameters(self) -> None:
        """New gate weights."""
        self.linear.reset_parameters()

    def forward(self, z_BMD: Tensor, present_BM: Tensor) -> tuple[Tensor, Tensor]:
        """The fused vector and each modality's share of each feature."""
        z_BMD = z_BMD * present_BM[..., None]
        logit_BMD = self.linear(z_BMD.flatten(1)).view_as(z_BMD).float()
        logit_BMD = logit_BMD.masked_fill(~present_BM[..., None], torch.finfo(torch.float32).min)
        gate_BMD = logit_BMD.softmax(1) * present_BM[..., None]
        return (gate_BMD.to(z_BMD.dtype) * z_BMD).sum(1), gate_BMD
