"""trf: the control for windows that were recorded together, a backward temporal response function (Crosse et al. 2016,
doi 10.3389/fnhum.2016.00604).

One feature of the voice is reconstructed from all electrodes' samples at that moment and shortly after,

    r(t) = sum_n sum_l w_nl x_n(t + l),    w = (X^T X + s m I)^-1 X^T y,

with m the mean of X^T X's diagonal. A window's vector is its reconstruction, or its voice's true course, less its mean:
their cosine is Pearson's correlation over time. Feature y and strength s are those that validation subjects prefer.
What it reaches, no network was needed for. Where a node's values are no course in time, as band powers are not, it
finds nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from mmray import config
from mmray.features.table import Segments
from mmray.models.closed_form import CHUNK, ClosedForm
from mmray.models.system import Encoder

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


class Reconstruction(Encoder):
    """Electrodes' samples to the course of a voice's feature.

    Args:
        nodes: N electrodes.
        width: D samples of each.
        frames: J frames of the voice in the same window; samples are averaged, or repeated, to as many.
        lags: L frames that a response lasts, the present one included.

    Shapes: x_BND, weight_BNN (ignored) -> BJ.
    """

    weight_NL: Tensor

    def __init__(self, nodes: int, width: int, frames: int, lags: int) -> None:
        super().__init__(nodes, width)
        self.frames = frames
        self.register_buffer("weight_NL", torch.randn(nodes, lags))  # until solved

    def forward(self, x_BND: Tensor, weight_BNN: Tensor) -> Tensor:
        """The reconstruction, less its mean."""
        course_BJ = torch.einsum("bnlj,nl->bj", self.lagged(x_BND), self.weight_NL)
        return course_BJ - course_BJ.mean(1, keepdim=True)

    def lagged(self, x_BND: Tensor) -> Tensor:
        """Each electrode now and up to L - 1 frames later, B x N x L x J; 0 past the window's end."""
        lags = self.weight_NL.shape[1]
        x_BNJ = F.adaptive_avg_pool1d(self.standardised(x_BND), self.frames)
        return F.pad(x_BNJ, (0, lags - 1)).unfold(2, self.frames, 1)


class Course(Encoder):
    """A voice's nodes, which are frames, to the course of one of its features.

    Shapes: x_BJD, weight_BJJ (ignored) -> BJ.
    """

    chosen_D: Tensor

    def __init__(self, nodes: int, width: int) -> None:
        super().__init__(nodes, width)
        self.register_buffer("chosen_D", F.one_hot(torch.tensor(width - 1), width).float())

    def forward(self, x_BND: Tensor, weight_BNN: Tensor) -> Tensor:
        """The chosen feature in time, less its mean."""
        course_BJ = self.standardised(x_BND) @ self.chosen_D
        return course_BJ - course_BJ.mean(1, keepdim=True)


class TRF(ClosedForm):
    """Reconstruction against course, and logistic regression on both."""

    def __init__(self, shapes: dict[str, tuple[int, int]], classes: int, model: config.Model) -> None:
        frames = shapes["audio"][0]
        # the same span as a filter in time has on one side, so that both systems see the same response
        lags = model.time_span // 2 + 1
        encoders = {"eeg": Reconstruction(*shapes["eeg"], frames, lags), "audio": Course(*shapes["audio"])}
        super().__init__({m: encoders[m] for m in shapes}, frames * len(shapes), classes, model)

    @torch.no_grad()
    def fit_closed_form(self, training: dict[str, Segments], score: Callable[[], float]) -> None:
        """Solve for every feature and strength, keep those of the best validation MRR, then fit the classifier."""
        scalp, voice = self.encoders["eeg"], self.encoders["audio"]
        assert isinstance(scalp, Reconstruction)
        assert isinstance(voice, Course)
        axes_XX, spread_X, answer_XD = self._moments(training, scalp, voice)

        def solve(choice: tuple[int, float]) -> float:
            feature, strength = choice
            shrunk_X = spread_X + strength * spread_X.mean().clamp(min=torch.finfo(torch.float64).tiny)
            weight_X = axes_XX @ (answer_XD[:, feature] / shrunk_X)
            scalp.weight_NL.copy_(weight_X.view_as(scalp.weight_NL))
            voice.chosen_D.copy_(F.one_hot(torch.tensor(feature), len(voice.chosen_D)))
            return score()

        solve(max(((f, s) for f in range(len(voice.chosen_D)) for s in STRENGTHS), key=solve))
        self._fit_logistic(training)

    def _moments(
        self, training: dict[str, Segments], scalp: Reconstruction, voice: Course
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvectors and eigenvalues of X^T X over all windows' frames, and X^T Y in their axes, X = N x L."""
        device, size = scalp.weight_NL.device, scalp.weight_NL.numel()
        square_XX = torch.zeros(size, size, dtype=torch.float64, device=device)
        cross_XD = torch.zeros(size, len(voice.chosen_D), dtype=torch.float64, device=device)
        eeg, audio = training["eeg"], training["audio"]
        row = {pair: number for number, pair in enumerate(audio.pair_id_S.tolist())}
        both = np.array([(n, row[pair]) for n, pair in enumerate(eeg.pair_id_S.tolist()) if pair in row])
        for chosen_C2 in np.array_split(both, -(-len(both) // CHUNK)):
            x_XF = scalp.lagged(_tensor(eeg.x_SND[chosen_C2[:, 0]], device)).flatten(1, 2).transpose(0, 1).flatten(1)
            y_CJD = voice.standardised(_tensor(audio.x_SND[chosen_C2[:, 1]], device))
            y_FD = (y_CJD - y_CJD.mean(1, keepdim=True)).flatten(0, 1)
            square_XX += (x_XF @ x_XF.T).double()
            cross_XD += (x_XF @ y_FD).double()
        spread_X, axes_XX = torch.linalg.eigh(square_XX)
        return axes_XX, spread_X.clamp(min=0), axes_XX.T @ cross_XD

    def lone(self, modality: str, encoded_BE: Tensor, subject_B: Tensor) -> Tensor:
        """As System.lone."""
        return F.normalize(encoded_BE.float(), dim=-1)


def _tensor(x_SND: NDArray[np.float32], device: torch.device) -> Tensor:
    return torch.from_numpy(x_SND).to(device)
