"""Settings of small sweeps over a generated study, and the fits that one left."""

from __future__ import annotations

from mmray import config
from mmray.evaluation import trials
from mmray.storage import Workspace

SWEEP = {"systems": ["ridge", "majority"], "learning_rates": [1e-3], "seeds": 2}
CALM = {"systems": ["gcn"], "learning_rates": [1e-2, 1e-3], "seeds": 2, "pbt": True}  # 12 fits


def settings_in(root, **over):
    tree = {
        "workspace": str(root),
        "model": {"hidden": 8, "embedding": 8},
        "train": {"epochs": 2, "passes": 1},
        "split": {"folds": 2, "validation_fraction": 0.4},
        "evaluate": {"bootstraps": 50, "permutations": 99},
        "cluster": {"num_cpus": 2},
        "sweep": {**SWEEP, **over},
    }
    return config.from_dict(tree)


def rows_of(settings, sweep_id):
    """Every fit but for how long it took."""
    workspace = Workspace(settings.workspace)
    rows = trials.read(workspace, trials.read_plan(workspace, sweep_id))
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
