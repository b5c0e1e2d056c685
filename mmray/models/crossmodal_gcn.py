"""The preprint's network: a graph encoder a modality, cross-modal attention, a gate, a classifier, a population graph.

Population graph, attention, gate and pooling can each be switched off for ablation. Without the population graph a lone
query's cross-modal slots stay empty; without attention a sample's vectors pass unchanged, and a message is added;
without the gate they are averaged; without pooling every node stays.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from mmray import config
from mmray.features.table import Segments
from mmray.graphs.adjacency import normalise_adjacency
from mmray.models.closed_form import CHUNK, group_means
from mmray.models.discriminant import canonical, discriminants
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
    before these tell anything of others. In some training batches the skip does without them, so that it goes on
    finding people by itself (stochastic depth, Huang et al. 2016, doi 10.1007/978-3-319-46493-0_39).

    Of electrodes the skip sees every node's features, since pooling forgets which electrode a value came from, and much
    of what tells two people apart lies there. Frames of a voice have no such names, so of them it sees each feature's
    mean, SD and extremes over the nodes: the tenth frame of one segment is nothing to another's, and a learned
    adjacency, one weight a pair of places, is for electrodes alone. Both are more numbers than there are people, so the
    skip takes only the directions in which the training people differ most for how much each differs from himself
    (`discriminants`), each in SD over these people. Where windows are paired and `model.time_steps` is set, the skip
    filters along time instead and keeps its order: samples of the electrodes, or features of the frames, which then are
    the same moments as the other modality's. Filters over a node's values are for electrodes alone too: these can hold
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
        self.stochastic_depth = model.stochastic_depth
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

        What of the skip no pairs tell (`CrossModalGCN.begin`) is noise to new people, and stays small.
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
        encoded_BE: Tensor = skip_BE + self._surviving() * self.share * self.head(summed_BR)
        return encoded_BE

    def _surviving(self) -> Tensor | float:
        """Whether the layers take part in a training batch; else how often they did."""
        if not self.training or self.stochastic_depth == 0:
            return 1 - self.stochastic_depth
        # times 0 instead of left out: DDP waits for every gradient
        return (torch.rand((), device=self.share.device) >= self.stochastic_depth).to(self.share.dtype)

    @torch.no_grad()
    def fit_scaler(self, x_SND: Tensor, subject_id_S: NDArray[np.str_], recording_id_S: NDArray[np.str_]) -> None:
        """Also take the directions that tell the training people apart; with too few people the last are 0."""
        super().fit_scaler(x_SND, subject_id_S, recording_id_S)
        if isinstance(self.skip, TimeFilter):
            return
        row_US = [np.flatnonzero(subject_id_S == subject) for subject in np.unique(subject_id_S)]

        def seen(person: int) -> Tensor:
            row_S = torch.as_tensor(row_US[person], device=x_SND.device)
            return self._seen(self.standardised(x_SND[row_S]))

        centre_F, axes_FK = discriminants(seen, [recording_id_S[row_S] for row_S in row_US], self.axes_FK.shape[1])
        self.centre_F.copy_(centre_F)
        self.axes_FK.copy_(axes_FK)

    @torch.no_grad()
    def taken(self, part: Segments) -> NDArray[np.float32]:
        """What the skip takes of each segment, S x K; not where it filters along time."""
        device = self.centre_F.device
        chunks = torch.split(torch.from_numpy(part.x_SND), CHUNK)
        taken: NDArray[np.float32] = (
            torch.cat([self._directions(self.standardised(x_BND.to(device))) for x_BND in chunks]).cpu().numpy()
        )
        return taken

    @torch.no_grad()
    def turn(self, weight_KJ: Tensor) -> None:
        """Let the skip's first axes be these weights of what it takes; the others stay small."""
        assert isinstance(self.skip, nn.Linear)
        weight_KJ = weight_KJ[:, : self.skip.out_features]
        self.skip.weight[: weight_KJ.shape[1]] = weight_KJ.T.to(self.skip.weight)

    def _skipped(self, x_BND: Tensor) -> Tensor:
        """What reaches the vector without a graph layer, B x E."""
        if isinstance(self.skip, TimeFilter):
            filtered_BE: Tensor = self.skip(x_BND if self.named else x_BND.transpose(1, 2))
            return filtered_BE
        skip_BE: Tensor = self.skip(self._directions(x_BND))
        return skip_BE

    def _directions(self, x_BND: Tensor) -> Tensor:
        """Standardised node features along the discriminants, B x K."""
        return (self._seen(x_BND) - self.centre_F) @ self.axes_FK

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
        # attention's values start at zero, and so what it passes on; a tenth of them is learned for retrieval at first,
        # since the classifier's vector passes through the same values
        start = 0.1 if model.attention else 0.0
        self.population = PopulationGraph(len(shapes), self.neighbours, start) if model.population else None

    def make_fusion(self, model: config.Model) -> None:
        """Eq. 2-4 and the gate, where they are not switched off."""
        modalities = len(self.modalities)
        self.attention = CrossModalAttention(modalities, model.embedding) if model.attention else None
        self.gate = FeatureGate(modalities, model.embedding) if model.gate else None

    def begin(self, training: dict[str, Segments]) -> None:
        """Turn each skip to where the training pairs' modalities agree; all else is learned from there.

        Of a few dozen pairs a solution in closed form makes more than a gradient does.
        """
        if any(isinstance(self._encoder(m).skip, TimeFilter) for m in training):
            return
        pairs_P = functools.reduce(np.intersect1d, [part.pair_id_S for part in training.values()])
        scores = [group_means(self._encoder(m).taken(p), p.pair_id_S, pairs_P)[0] for m, p in training.items()]
        weights = canonical([torch.from_numpy(score_PK) for score_PK in scores])
        for modality, weight_KJ in zip(training, weights, strict=True):
            self._encoder(modality).turn(weight_KJ)

    def _encoder(self, modality: str) -> GraphEncoder:
        encoder = self.encoders[modality]
        assert isinstance(encoder, GraphEncoder)
        return encoder

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
