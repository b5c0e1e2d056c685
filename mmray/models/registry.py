"""Which network a config names."""

from __future__ import annotations

from mmray import config
from mmray.models.system import System


def build(model: config.Model, shapes: dict[str, tuple[int, int]], classes: int) -> System:
    """The untrained network.

    Each system is imported when it is asked for: PyG's layers, which two of them use, take seconds to import.

    Args:
        model: its name and sizes; an unknown name is refused when the config is read.
        shapes: modality -> (nodes, features a node).
        classes: classes of the label.
    """
    match model.name:
        case "crossmodal_gcn":
            from mmray.models.crossmodal_gcn import CrossModalGCN

            return CrossModalGCN(shapes, classes, model)
        case "gcn":
            from mmray.models.baselines.gcn import GCN

            return GCN(shapes, classes, model)
        case "gat":
            from mmray.models.baselines.gat import GAT

            return GAT(shapes, classes, model)
        case "graphsage":
            from mmray.models.baselines.graphsage import GraphSAGE

            return GraphSAGE(shapes, classes, model)
        case "strucgcn":
            from mmray.models.baselines.strucgcn import StrucGCN

            return StrucGCN(shapes, classes, model)
        case "mamsa":
            from mmray.models.baselines.mamsa import MAMSA

            return MAMSA(shapes, classes, model)
        case "clip":
            from mmray.models.baselines.clip import CLIP

            return CLIP(shapes, classes, model)
        case "majority":
            from mmray.models.baselines.majority import Majority

            return Majority(shapes, classes, model)
        case "logreg":
            from mmray.models.baselines.logreg import LogReg

            return LogReg(shapes, classes, model)
        case "ridge":
            from mmray.models.baselines.ridge import Ridge

            return Ridge(shapes, classes, model)
        case "trf":
            from mmray.models.baselines.trf import TRF

            return TRF(shapes, classes, model)
