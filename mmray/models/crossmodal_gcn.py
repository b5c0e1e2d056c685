"""The preprint's network: a graph encoder a modality, cross-modal attention, a gate and a classifier.

Two paths leave the encoders. The *lone* path makes the retrieval embedding of one recording from that recording
alone; the *fused* path joins a sample's own modalities for classification. Only the fused path ever sees a partner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from mmray import config
from mmray.graphs.adjacency import normalise_adjacency
from mmray.models.layers import CrossModalAttention, DenseGCNLayer, FeatureGate, TopKPool, readout

MAX_LOGIT_SCALE = 100.0


@dataclass(frozen=True)
class Batch:
    """B samples, each with some of M modalities; an absent modality's rows are zeros.

    Attributes:
        x: modality -> B x N x D node features.
        weight: modality -> B x N x N symmetric edge weights, zero diagonal.
        present_BM: which modalities a sample has, in the model's order.
        pair_B: int64 code of what counts as a match.
        label_B: int64 class, -1 where it is not known.
    """

    x: dict[str, Tensor]
    weight: dict[str, Tensor]
    present_BM: Tensor
    pair_B: Tensor
    label_B: Tensor


@dataclass(frozen=True)
class Output:
    """What one forward pass yields.

    Attributes:
        z: modality -> B x E retrieval embeddings, unit length, each from its own recording alone.
        logit_BC: class scores of the fused vectors.
        alpha_BMM: attention of modality i to modality j on the fused path.
        gate_BME: share of each modality in each fused feature.
        logit_scale: inverse temperature of eq. 6, at most 100.
    """

    z: dict[str, Tensor]
    logit_BC: Tensor
    alpha_BMM: Tensor
    gate_BME: Tensor
    logit_scale: Tensor


class GraphEncoder(nn.Module):
    """One modality's segment graph to one vector: GCN and pooling layers, their summed readouts, an MLP, and a skip.

    The skip is linear in the standardised node features: pooling forgets which electrode or frame a value came from,
    and much of what tells two people apart lies there.

    Args:
        nodes: N, fixed.
        width: D features a node.
        model: sizes.

    Shapes: x_BND, weight_BNN -> BE.
    """

    mean_ND: Tensor
    scale_ND: Tensor

    def __init__(self, nodes: int, width: int, model: config.Model) -> None:
        super().__init__()
        self.register_buffer("mean_ND", torch.zeros(nodes, width))
        self.register_buffer("scale_ND", torch.ones(nodes, width))
        self.input = nn.Linear(width, model.hidden)
        self.position_NH = nn.Parameter(torch.empty(nodes, model.hidden))
        self.convolutions = nn.ModuleList(DenseGCNLayer(model.hidden, model.hidden) for _ in range(model.layers))
        self.norms = nn.ModuleList(nn.LayerNorm(model.hidden) for _ in range(model.layers))
        self.pools = nn.ModuleList(TopKPool(model.hidden, model.pool_ratio) for _ in range(model.layers))
        self.dropout = nn.Dropout(model.dropout)
        self.head = nn.Sequential(
            nn.LayerNorm(2 * model.hidden),
            nn.Linear(2 * model.hidden, model.hidden),
            nn.ReLU(),
            nn.Dropout(model.dropout),
            nn.Linear(model.hidden, model.embedding),
        )
        self.skip = nn.Linear(nodes * width, model.embedding)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """New position embeddings; the layers reset themselves when made."""
        nn.init.normal_(self.position_NH, std=0.02)

    @torch.no_grad()
    def fit_scaler(self, x_SND: Tensor) -> None:
        """Take mean and SD of each node's features from training segments; a constant feature is only centred."""
        self.mean_ND.copy_(x_SND.mean(0))
        deviation_ND = x_SND.std(0, correction=0)
        self.scale_ND.copy_(torch.where(deviation_ND > 1e-6, deviation_ND, torch.ones_like(deviation_ND)))

    def forward(self, x_BND: Tensor, weight_BNN: Tensor) -> Tensor:
        """The segment's vector."""
        x_BND = (x_BND - self.mean_ND) / self.scale_ND
        skip_BE = self.skip(self.dropout(x_BND).flatten(1))
        h_BNH = self.input(x_BND) + self.position_NH
        summed_BR: Tensor | float = 0.0
        for convolution, norm, pool in zip(self.convolutions, self.norms, self.pools, strict=True):
            normalised_BNN = normalise_adjacency(weight_BNN)
            h_BNH = self.dropout(F.relu(norm(convolution(h_BNH, normalised_BNN))))
            h_BNH, weight_BNN = pool(h_BNH, weight_BNN, normalised_BNN)
            summed_BR = summed_BR + readout(h_BNH)
        encoded_BE: Tensor = self.head(summed_BR) + skip_BE
        return encoded_BE


class CrossModalGCN(nn.Module):
    """Eq. 1-4, pooling and gate of the preprint, read so that a partner never reaches a retrieval embedding.

    Args:
        shapes: modality -> (nodes, features a node); its order is the order of M.
        classes: C.
        model: sizes.
    """

    def __init__(self, shapes: dict[str, tuple[int, int]], classes: int, model: config.Model) -> None:
        super().__init__()
        self.modalities = tuple(shapes)
        self.encoders = nn.ModuleDict({m: GraphEncoder(*shape, model) for m, shape in shapes.items()})
        self.attention = CrossModalAttention(len(shapes), model.embedding)
        self.gate = FeatureGate(len(shapes), model.embedding)
        self.classifier = nn.Linear(model.embedding, classes)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def fit_scalers(self, x: dict[str, Tensor]) -> None:
        """Fit every modality's scaler on training segments, modality -> S x N x D."""
        for modality, x_SND in x.items():
            self._encoder(modality).fit_scaler(x_SND)

    def encode(self, modality: str, x_BND: Tensor, weight_BNN: Tensor) -> Tensor:
        """A segment's vector before attention, B x E: what `embed` and `fuse` start from."""
        encoded_BE: Tensor = self.encoders[modality](x_BND, weight_BNN)
        return encoded_BE

    def embed(self, modality: str, x_BND: Tensor, weight_BNN: Tensor) -> Tensor:
        """Retrieval embedding of lone recordings, B x E, unit length: a function of each recording by itself."""
        return self._lone(modality, self.encode(modality, x_BND, weight_BNN))

    def fuse(self, encoded: dict[str, Tensor], present_BM: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Join a sample's own modalities; for classification, never for a retrieval query about one of them.

        Returns:
            fused_BE, alpha_BMM, gate_BME.
        """
        attended_BME, alpha_BMM = self.attention(torch.stack([encoded[m] for m in self.modalities], 1), present_BM)
        fused_BE, gate_BME = self.gate(attended_BME, present_BM)
        return fused_BE, alpha_BMM, gate_BME

    def classify(self, fused_BE: Tensor) -> Tensor:
        """Class scores, B x C."""
        logit_BC: Tensor = self.classifier(fused_BE)
        return logit_BC

    def logit_scale(self) -> Tensor:
        """Inverse temperature of eq. 6."""
        return self.log_scale.exp().clamp(max=MAX_LOGIT_SCALE)

    def forward(self, batch: Batch) -> Output:
        """Both paths over a batch; one call, so that DDP sees every parameter, the temperature included."""
        encoded = {m: self.encode(m, batch.x[m], batch.weight[m]) for m in self.modalities}
        fused_BE, alpha_BMM, gate_BME = self.fuse(encoded, batch.present_BM)
        return Output(
            z={m: self._lone(m, encoded_BE) for m, encoded_BE in encoded.items()},
            logit_BC=self.classify(fused_BE),
            alpha_BMM=alpha_BMM,
            gate_BME=gate_BME,
            logit_scale=self.logit_scale(),
        )

    def _lone(self, modality: str, encoded_BE: Tensor) -> Tensor:
        # Only the own slot is available. A message from the reference set, what the partners of similar training
        # subjects look like, would fill the other slots here.
        own = self.modalities.index(modality)
        slots = [encoded_BE if m == modality else torch.zeros_like(encoded_BE) for m in self.modalities]
        present_M = torch.arange(len(self.modalities), device=encoded_BE.device) == own
        attended_BME, _ = self.attention(torch.stack(slots, 1), present_M.expand(len(encoded_BE), -1))
        return F.normalize(attended_BME[:, own].float(), dim=-1)

    def _encoder(self, modality: str) -> GraphEncoder:
        encoder = self.encoders[modality]
        assert isinstance(encoder, GraphEncoder)
        return encoder
