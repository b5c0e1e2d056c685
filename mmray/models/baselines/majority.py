"""majority: the control that knows nobody. Its class probabilities are the training subjects' class shares.

It has no embedding of its own: everyone is the same unit vector, so that every match ranks last (see ClosedForm).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mmray import config
from mmray.features.table import Segments
from mmray.models.closed_form import ClosedForm, subject_labels
from mmray.models.system import Encoder


class Nothing(Encoder):
    """Shapes: x_BND, weight_BNN (both ignored) -> B0."""

    def forward(self, x_BND: Tensor, weight_BNN: Tensor) -> Tensor:
        """Vectors of no width."""
        return x_BND.new_zeros(len(x_BND), 0)


class Majority(ClosedForm):
    """The training class shares, whoever asks."""

    def __init__(self, shapes: dict[str, tuple[int, int]], classes: int, model: config.Model) -> None:
        super().__init__({m: Nothing(*shape) for m, shape in shapes.items()}, 0, classes, model)

    def fit_closed_form(self, training: dict[str, Segments], score: Callable[[], float]) -> None:
        """Count the labelled training subjects of each class."""
        _, label_U = subject_labels(training)
        self._set_shares(label_U)
