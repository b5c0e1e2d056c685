"""logreg: the control that classifies without learning a representation.

Logistic regression on [mean_n x_n; sd_n x_n] over the nodes n of a segment's standardised features, the modalities end
to end, zeros and a flag where one is missing. It has no embedding of its own: everyone is the same unit vector, so that
every match ranks last (see ClosedForm).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmray import config
from mmray.features.table import Segments
from mmray.models.closed_form import ClosedForm
from mmray.models.system import Encoder


class Moments(Encoder):
    """Mean and SD over nodes.

    Shapes: x_BND, weight_BNN (ignored) -> B x 2D.
    """

    def forward(self, x_BND: Tensor, weight_BNN: Tensor) -> Tensor:
        """The segment's vector."""
        h_BND = self.standardised(x_BND)
        return torch.cat([h_BND.mean(1), h_BND.std(1, correction=0)], 1)


class LogReg(ClosedForm):
    """Logistic regression on the moments of both modalities."""

    def __init__(self, shapes: dict[str, tuple[int, int]], classes: int, model: config.Model) -> None:
        features = sum(2 * width for _, width in shapes.values())
        super().__init__({m: Moments(*shape) for m, shape in shapes.items()}, features, classes, model)

    def fit_closed_form(self, training: dict[str, Segments], score: Callable[[], float]) -> None:
        """Fit the classifier; there is nothing else."""
        self._fit_logistic(training)
