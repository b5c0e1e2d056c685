"""What every trained system shares: the batch, the two paths out of the encoders, the heads and the scalers.

A system is an encoder a modality and a fusion; nothing else differs between them. The *lone* path makes the retrieval
embedding of one recording from that recording alone; the *fused* path joins a sample's own modalities for
classification. Only the fused path ever sees a partner, so a subclass that overrides `fuse` cannot leak.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from mmray import config
from mmray.features.table import Segments
from mmray.graphs.population import STRANGER, Reference
from mmray.models.dropout import Dropout
from mmray.models.population import Borrowed

MAX_LOGIT_SCALE = 100.0

Fused = tuple[Tensor, Tensor | None, Tensor | None]


@dataclass(frozen=True)
class Batch:
    """B samples of S segments a modality, each with some of M modalities; an absent modality's rows are zeros.

    Attributes:
        x: modality -> BS x N x D node features, a sample's segments one after the other.
        weight: modality -> BS x N x N symmetric edge weights, zero diagonal.
        present_BM: which modalities a sample has, in the model's order.
        pair_B: int64 code of what counts as a match.
        label_B: int64 class, -1 where it is not known.
        subject_B: int64 code of the sample's subject in the reference set; STRANGER where it is not there.
        segments: S; a sample's vector is the mean over them.
    """

    x: dict[str, Tensor]
    weight: dict[str, Tensor]
    present_BM: Tensor
    pair_B: Tensor
    label_B: Tensor
    subject_B: Tensor
    segments: int = 1


@dataclass(frozen=True)
class Output:
    """What one forward pass yields.

    Attributes:
        z: modality -> B x E retrieval embeddings, unit length, each from its own recording alone.
        logit_BC: class scores of the fused vectors.
        alpha_BMM: attention of modality i to modality j on the fused path; None where the system has none.
        gate_BME: share of each modality in each fused feature; None where the system has none.
        logit_scale: inverse temperature of eq. 6, at most 100.
    """

    z: dict[str, Tensor]
    logit_BC: Tensor
    alpha_BMM: Tensor | None
    gate_BME: Tensor | None
    logit_scale: Tensor


class Encoder(nn.Module):
    """One modality's segment graph to one vector, from node features that training segments standardise.

    A subclass takes x_BND and weight_BNN and calls `standardised` first.

    Args:
        nodes: N, fixed.
        width: D features a node.
    """

    mean_ND: Tensor
    scale_ND: Tensor

    def __init__(self, nodes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean_ND", torch.zeros(nodes, width))
        self.register_buffer("scale_ND", torch.ones(nodes, width))

    @torch.no_grad()
    def fit_scaler(self, x_SND: Tensor, subject_id_S: NDArray[np.str_], recording_id_S: NDArray[np.str_]) -> None:
        """Take mean and SD of each node's features from training segments; a constant feature is only centred.

        Args:
            subject_id_S: whose they are, for a subclass that looks at people as well ...
            recording_id_S: ... and at how one person's recordings differ.
        """
        self.mean_ND.copy_(x_SND.mean(0))
        deviation_ND = x_SND.std(0, correction=0)
        self.scale_ND.copy_(torch.where(deviation_ND > 1e-6, deviation_ND, torch.ones_like(deviation_ND)))

    def standardised(self, x_BND: Tensor) -> Tensor:
        """Each node's features in SD of the training segments."""
        return (x_BND - self.mean_ND) / self.scale_ND


def projection(width: int, model: config.Model) -> nn.Sequential:
    """The MLP from a readout to the vector z, the same in every system."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, model.hidden),
        nn.ReLU(),
        Dropout(model.dropout),
        nn.Linear(model.hidden, model.embedding),
    )


class System(nn.Module):
    """Encoders, a fusion, a classifier and the temperature of eq. 6.

    By itself it joins modalities by concatenation, z = W [z_1; ...; z_M] + b with zeros for an absent one, and embeds a
    lone recording as its normalised vector.

    Attributes:
        neighbours: reference samples that a lone query is joined to; 0 where the system has no population graph.
        reference: the training subjects' samples; until one is attached, cross-modal slots of lone queries stay empty.

    Args:
        encoders: modality -> its encoder; their order is the order of M.
        classes: C.
        model: sizes.
    """

    fusion: nn.Module
    temperature: Tensor
    neighbours: int = 0
    reference: Reference | None = None

    def __init__(self, encoders: Mapping[str, Encoder], classes: int, model: config.Model) -> None:
        super().__init__()
        self.modalities = tuple(encoders)
        self.encoders = nn.ModuleDict(encoders)
        self.make_fusion(model)
        self.classifier = nn.Linear(model.embedding, classes)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.register_buffer("temperature", torch.ones(()))

    def make_fusion(self, model: config.Model) -> None:
        """Build what `fuse` uses."""
        self.fusion = nn.Linear(len(self.modalities) * model.embedding, model.embedding)

    def fit_scalers(
        self,
        x: dict[str, Tensor],
        subject_id: dict[str, NDArray[np.str_]],
        recording_id: dict[str, NDArray[np.str_]],
    ) -> None:
        """Fit every modality's scaler on training segments, modality -> S x N x D, and whose and of what each is."""
        for modality, x_SND in x.items():
            encoder = self.encoders[modality]
            assert isinstance(encoder, Encoder)
            encoder.fit_scaler(x_SND, subject_id[modality], recording_id[modality])

    def begin(self, training: dict[str, Segments]) -> None:
        """Set weights, before the first step, that the training subjects' pairs tell without a gradient.

        The scalers are fitted already. By itself a system begins where its seed put it.

        Args:
            training: modality -> segments of the training subjects, and of nobody else.
        """

    def attach(self, reference: Reference) -> None:
        """Let lone queries ask these reference samples from now on."""
        self.reference = reference

    def encode(self, modality: str, x_BND: Tensor, weight_BNN: Tensor) -> Tensor:
        """A segment's vector, from that segment alone: what `embed` and `fuse` start from, one row a segment."""
        encoded_BE: Tensor = self.encoders[modality](x_BND, weight_BNN)
        return encoded_BE

    def embed(self, modality: str, x_BND: Tensor, weight_BNN: Tensor, subject_B: Tensor | None = None) -> Tensor:
        """Retrieval embedding of lone recordings, B x E, unit length: of each by itself and of the reference alone.

        Args:
            subject_B: code of each recording's subject in the reference, whose rows are masked; None: strangers.
        """
        encoded_BE = self.encode(modality, x_BND, weight_BNN)
        if subject_B is None:
            subject_B = torch.full((len(encoded_BE),), STRANGER, device=encoded_BE.device)
        return self.lone(modality, encoded_BE, subject_B)

    def fuse(self, encoded: dict[str, Tensor], present_BM: Tensor) -> Fused:
        """Join a sample's own modalities; for classification, never for a retrieval query about one of them.

        Returns:
            fused_BE, and alpha_BMM and gate_BME where the system has them.
        """
        slot_BME = torch.stack([encoded[m] for m in self.modalities], 1) * present_BM[..., None]
        return self.fusion(slot_BME.flatten(1)), None, None

    def classify(self, fused_BE: Tensor) -> Tensor:
        """Class scores, B x C; over the temperature that validation subjects set, which is 1 in training."""
        logit_BC: Tensor = self.classifier(fused_BE)
        return logit_BC / self.temperature

    def logit_scale(self) -> Tensor:
        """Inverse temperature of eq. 6."""
        return self.log_scale.exp().clamp(max=MAX_LOGIT_SCALE)

    def forward(self, batch: Batch) -> Output:
        """Both paths over a batch; one call, so that DDP sees every parameter, the temperature included."""
        rows = len(batch.pair_B)
        encoded = {
            m: self.encode(m, batch.x[m], batch.weight[m]).view(rows, batch.segments, -1).mean(1)
            for m in self.modalities
        }
        fused_BE, alpha_BMM, gate_BME = self.fuse(encoded, batch.present_BM)
        return Output(
            z={m: self.lone(m, encoded_BE, batch.subject_B) for m, encoded_BE in encoded.items()},
            logit_BC=self.classify(fused_BE),
            alpha_BMM=alpha_BMM,
            gate_BME=gate_BME,
            logit_scale=self.logit_scale(),
        )

    def lone(self, modality: str, encoded_BE: Tensor, subject_B: Tensor) -> Tensor:
        """The embedding that a lone segment's vector becomes; it is given no partner to leak."""
        return F.normalize(encoded_BE.float(), dim=-1)

    def borrowed(self, modality: str, encoded_BE: Tensor, subject_B: Tensor) -> dict[str, Borrowed]:
        """Modality -> what filled its slot when `lone` embedded these; empty without a population graph."""
        return {}

    def _alone(self, modality: str, encoded_BE: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """A lone segment as a sample whose other modalities are absent: slots of zeros, and present_BM."""
        slots = {m: encoded_BE if m == modality else torch.zeros_like(encoded_BE) for m in self.modalities}
        present_M = torch.tensor([m == modality for m in self.modalities], device=encoded_BE.device)
        return slots, present_M.expand(len(encoded_BE), -1)
