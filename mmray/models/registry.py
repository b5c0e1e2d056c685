"""Which network a config names."""

from __future__ import annotations

from mmray import config
from mmray.models.crossmodal_gcn import CrossModalGCN


def build(model: config.Model, shapes: dict[str, tuple[int, int]], classes: int) -> CrossModalGCN:
    """The untrained network.

    Args:
        model: its name and sizes; an unknown name is refused when the config is read.
        shapes: modality -> (nodes, features a node).
        classes: classes of the label.
    """
    match model.name:
        case "crossmodal_gcn":
            return CrossModalGCN(shapes, classes, model)
