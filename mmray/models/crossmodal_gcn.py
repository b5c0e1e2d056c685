"""The preprint's network: a graph encoder a modality, cross-modal attention, a gate, a classifier, a population graph.

Population graph, attention, gate and pooling can each be switched off for ablation. Without the population graph a lone
query's cross-modal slots stay empty; without attention a sample's vectors pass unchanged, and a message is added;
without the gate they are averaged; without pooling every node stays.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from mmray import config
from mmray.graphs.adjacency import normalise_adjacency
from mmray.models.dropout import Dropout
from mmray.models.layers import (
    MOMENTS,
    CrossModalAttention,
    DenseGCNLayer,
    FeatureGate,
    LearnedAdjacency,
    TopKPool,
    moments,
    readout,
)
from mmray.models.nodes import TimeFilter, node_encoder
from mmray.models.population import Borrowed, PopulationGraph
from mmray.models.system import Encoder, Fused, System, projection

NAMED_NODES = ("eeg",)  # modalities whose nodes are places


class GraphEncoder(Encoder):
    """One modality's segment graph to one vector: GCN and pooling layers, their summed readouts, an MLP, and a skip.

    The skip is linear, and the layers' share starts at zero and is learned: a few dozen people fit the layers long
    before these tell anything of others. Of electrodes the skip sees every node's features, since pooling forgets
    which electrode a value came from, and much of what tells two people apart lies there. Frames of a voice have no
    such names, so of them it sees each feature's mean, SD and extremes over the nodes: the tenth frame of one segment
    is nothing to another's, and a learned adjacency, one weight a pair of places, is for electrodes alone. Both are
    more numbers than there are people, so the skip takes only the directions in which the training people's means
    differ most, each in SD over these people. Where windows are paired and `model.time_steps` is set, the skip filters
    along time instead and keeps its order: samples of the electrodes, or features of the frames, which then are the
    same moments as the other modality's. Filters over a node's values are for electrodes alone too: these can hold
    a wave, and a frame holds descriptors.

    Args:
        nodes: N, fixed.
        width: D features a node.
        model: sizes.
        named: whether node n is the same place in every segment, as an electrode is.

    Shapes: x_BND, weight_BNN -> BE.
    """

    centre_F: Tensor
    axes_FK: Tensor

    def __init__(self, nodes: int, width: int, model: config.Model, named: bool) -> None:
        super().__init__(nodes, width)
        self.named = named
        self.input = node_encoder(width, model, in_time=named)
        self.position_NH = nn.Parameter(torch.empty(nodes, model.hidden))
        self.adjacency = LearnedAdjacency(nodes) if model.learned_adjacency and named else None
        self.convolutions = nn.ModuleList(DenseGCNLayer(model.hidden, model.hidden) for _ in range(model.layers))
        self.norms = nn.ModuleList(nn.LayerNorm(model.hidden) for _ in range(model.layers))
        pools = model.layers if model.pooling else 0
        self.pools = nn.ModuleList(TopKPool(model.hidden, model.pool_ratio) for _ in range(pools))
        self.dropout = Dropout(model.dropout)
        self.head = projection(2 * model.hidden, model)
        self.share = nn.Parameter(torch.empty(()))
        self.skip: TimeFilter | nn.Linear
        if model.time_steps is None:
            seen = (nodes if named else MOMENTS) * width
            self.register_buffer("centre_F", torch.zeros(seen))
            self.register_buffer("axes_FK", torch.randn(seen, model.components) / seen**0.5)  # until fitted
            self.skip = nn.Linear(model.components, model.embedding)
        else:
            series = nodes if named else width
            self.skip = TimeFilter(series, model.time_steps, model.embedding, model.time_span)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """New position embeddings, no share yet and a small skip; the layers reset themselves when made.

        From small weights the skip first learns the directions in which the modalities agree most; from large ones it
        keeps what it started with, which is noise to new people.
        """
        nn.init.normal_(self.position_NH, std=0.02)
        nn.init.zeros_(self.share)
        if isinstance(self.skip, TimeFilter):
            self.skip.filters.reset_parameters()
            return
        nn.init.normal_(self.skip.weight, std=0.1 / self.skip.in_features**0.5)
        nn.init.zeros_(self.skip.bias)

    def forward(self, x_BND: Tensor, weight_BNN: Tensor) -> Tensor:
        """The segment's vector."""
        x_BND = self.standardised(x_BND)
        skip_BE = self._skipped(x_BND)
        h_BNH = self.input(x_BND) + self.position_NH
        if self.adjacency is not None:
            weight_BNN = self.adjacency(weight_BNN)
        normalised_BNN = normalise_adjacency(weight_BNN)
        summed_BR: Tensor | float = 0.0
        for depth, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            h_BNH = self.dropout(F.relu(norm(convolution(h_BNH, normalised_BNN))))
            if self.pools:
                h_BNH, weight_BNN = self.pools[depth](h_BNH, weight_BNN, normalised_BNN)
                if depth + 1 < len(self.pools):
                    normalised_BNN = normalise_adjacency(weight_BNN)
            summed_BR = summed_BR + readout(h_BNH)
        encoded_BE: Tensor = skip_BE + self.share * self.head(summed_BR)
        return encoded_BE

    @torch.no_grad()
    def fit_scaler(self, x_SND: Tensor, subject_id_S: NDArray[np.str_]) -> None:
        """Also take the principal components of the training people's means, each in SD over these people.

        With fewer people than components the last are 0.
        """
        super().fit_scaler(x_SND, subject_id_S)
        if isinstance(self.skip, TimeFilter):
            return
        mean_UF = torch.stack(
            [
                self._seen(
                    self.standardised(x_SND[torch.as_tensor(subject_id_S == subject, device=x_SND.device)])
                ).mean(0)
                for subject in np.unique(subject_id_S)
            ]
        )
        if not mean_UF.isfinite().all():
            return  # the loss will not be finite either, and the fit says so
        self.centre_F.copy_(mean_UF.mean(0))
        # float64, so that rounding does not mix axes of near-equal spread
        _, singular_R, axis_RF = torch.linalg.svd((mean_UF - self.centre_F).double(), full_matrices=False)
        rank = int((singular_R > 1e-6 * singular_R[0].clamp(min=1e-6)).sum())
        kept = min(self.axes_FK.shape[1], rank)
        axis_KF, deviation_K = axis_RF[:kept], singular_R[:kept] / max(len(mean_UF) - 1, 1) ** 0.5
        sign_K = axis_KF.gather(1, axis_KF.abs().argmax(1, keepdim=True)).sign()  # an SVD leaves it open
        self.axes_FK.zero_()
        self.axes_FK[:, :kept] = (sign_K * axis_KF / deviation_K[:, None]).T.to(self.axes_FK)

    def _skipped(self, x_BND: Tensor) -> Tensor:
        """What reaches the vector without a graph layer, B x E."""
        if isinstance(self.skip, TimeFilter):
            filtered_BE: Tensor = self.skip(x_BND if self.named else x_BND.transpose(1, 2))
            return filtered_BE
        skip_BE: Tensor = self.skip((self._seen(x_BND) - self.centre_F) @ self.axes_FK)
        return skip_BE

    def _seen(self, x_BND: Tensor) -> Tensor:
        """What the skip sees of standardised node features, B x F."""
        return (x_BND if self.named else moments(x_BND)).flatten(1)


class CrossModalGCN(System):
    """Eq. 1-4, pooling and gate of the preprint, read so that a partner never reaches a retrieval embedding.

    Args:
        shapes: modality -> (nodes, features a node); its order is the order of M.
        classes: C.
        model: sizes and ablation switches.
    """

    attention: CrossModalAttention | None
    gate: FeatureGate | None
    population: PopulationGraph | None

    def __init__(self, shapes: dict[str, tuple[int, int]], classes: int, model: config.Model) -> None:
        super().__init__(
            {m: GraphEncoder(*shape, model, m in NAMED_NODES) for m, shape in shapes.items()}, classes, model
        )
        self.neighbours = model.population_neighbours if model.population else 0
        self.population = PopulationGraph(len(shapes), self.neighbours) if model.population else None

    def make_fusion(self, model: config.Model) -> None:
        """Eq. 2-4 and the gate, where they are not switched off."""
        modalities = len(self.modalities)
        self.attention = CrossModalAttention(modalities, model.embedding) if model.attention else None
        self.gate = FeatureGate(modalities, model.embedding) if model.gate else None

    def fuse(self, encoded: dict[str, Tensor], present_BM: Tensor) -> Fused:
        """Attend across a sample's own modalities, then gate them."""
        attended_BME, alpha_BMM = self._attend(encoded, present_BM)
        if self.gate is None:
            attended_BME = attended_BME * present_BM[..., None]
            return attended_BME.sum(1) / present_BM.sum(1).clamp(min=1)[:, None], alpha_BMM, None
        fused_BE, gate_BME = self.gate(attended_BME, present_BM)
        return fused_BE, alpha_BMM, gate_BME

    def _attend(self, encoded: dict[str, Tensor], present_BM: Tensor) -> tuple[Tensor, Tensor | None]:
        slot_BME = torch.stack([encoded[m] for m in self.modalities], 1)
        if self.attention is None:
            return slot_BME, None
        attended_BME, alpha_BMM = self.attention(slot_BME, present_BM)
        return attended_BME, alpha_BMM

    def _attend_some(self, slots: dict[int, Tensor]) -> tuple[Tensor, Tensor | None]:
        """As `_attend`, over the slots that are filled, by their position; the others are masked."""
        some_BE = next(iter(slots.values()))
        filled = {m: slots.get(i, torch.zeros_like(some_BE)) for i, m in enumerate(self.modalities)}
        present_M = torch.tensor([i in slots for i in range(len(self.modalities))], device=some_BE.device)
        return self._attend(filled, present_M.expand(len(some_BE), -1))

    def lone(self, modality: str, encoded_BE: Tensor, subject_B: Tensor) -> Tensor:
        """As System.lone."""
        own = self.modalities.index(modality)

        def attend(slots: dict[int, Tensor]) -> Tensor:
            """The own slot after attention over those that are filled."""
            if self.attention is None:
                return torch.stack(list(slots.values())).sum(0)
            return self._attend_some(slots)[0][:, own]

        if self.population is None or self.reference is None:
            return F.normalize(attend({own: encoded_BE}).float(), dim=-1)
        asked_BE = self.population(own, encoded_BE, subject_B, self.reference, attend)
        return F.normalize(asked_BE.float(), dim=-1)

    @torch.no_grad()
    def borrowed(self, modality: str, encoded_BE: Tensor, subject_B: Tensor) -> dict[str, Borrowed]:
        """As System.borrowed."""
        if self.population is None or self.reference is None:
            return {}
        own, found = self.modalities.index(modality), {}
        for position, other in enumerate(self.modalities):
            if position == own:
                continue
            row_BK, weight_BK = self.population.partners(own, position, encoded_BE, subject_B, self.reference)
            share_B = None
            if self.attention is not None:
                message_BE = torch.einsum("bk,bke->be", weight_BK, self.reference.vector_RME[row_BK, position])
                _, alpha_BMM = self._attend_some({own: encoded_BE, position: message_BE})
                assert alpha_BMM is not None
                share_B = self.population.inter_MM[own, position] * alpha_BMM[:, own, position]
            found[other] = Borrowed(row_BK, weight_BK, share_B)
        return found
