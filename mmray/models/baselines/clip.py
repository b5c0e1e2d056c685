"""clip: the control without graphs, a dual encoder under the same loss (Radford et al. 2021, doi
10.48550/arXiv.2103.00020).

z = W_2 dropout(relu(W_1 vec(x) + b_1)) + b_2 on a segment's standardised node features laid end to end; edges are not
used. What it reaches, no graph was needed for. Concatenation as in gcn.
"""

from __future__ import annotations

from torch import Tensor, nn

from mmray import config
from mmray.models.dropout import Dropout
from mmray.models.system import Encoder, System


class MLPEncoder(Encoder):
    """Flattened features through one hidden layer.

    Shapes: x_BND, weight_BNN (ignored) -> BE.
    """

    def __init__(self, nodes: int, width: int, model: config.Model) -> None:
        super().__init__(nodes, width)
        self.mlp = nn.Sequential(
            nn.Linear(nodes * width, model.hidden),
            nn.ReLU(),
            Dropout(model.dropout),
            nn.Linear(model.hidden, model.embedding),
        )

    def forward(self, x_BND: Tensor, weight_BNN: Tensor) -> Tensor:
        """The segment's vector."""
        encoded_BE: Tensor = self.mlp(self.standardised(x_BND).flatten(1))
        return encoded_BE


class CLIP(System):
    """MLP encoders, joined by concatenation."""

    def __init__(self, shapes: dict[str, tuple[int, int]], classes: int, model: config.Model) -> None:
        super().__init__({m: MLPEncoder(*shape, model) for m, shape in shapes.items()}, classes, model)
