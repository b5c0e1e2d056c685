"""Nothing that is fitted knows a test subject, in any system: bit by bit, and the comparison is shown to see."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load

from mmray import config
from mmray.storage import Workspace
from mmray.training import reference, trainer
from mmray.training.checkpoint import MODEL
from tests.training.conftest import features_for

PEOPLE = {"subjects": 18, "segments": 2, "lone": 2}
SYSTEMS = pytest.mark.parametrize("name", get_args(config.System))


def fitted(prepared: Any, folder: Any, name: str, split: bytes | None = None, **changed: Any) -> Workspace:
    """A workspace with one finished run; `split` is the file of folds, drawn anew where None."""
    settings = config.from_dict(
        {
            "workspace": str(folder),
            "features": features_for(name),
            "model": {"name": name, "hidden": 8, "embedding": 8, "population_neighbours": 2},
            "train": {"epochs": 2, "batch_size": 6, "passes": 1},
            "split": {"folds": 3, "validation_fraction": 0.4},
            "evaluate": {"bootstraps": 10, "permutations": 99},
        }
    )
    workspace: Workspace = prepared(settings.workspace, settings, **PEOPLE, **changed)
    if split is not None:  # a label, once flipped, would draw other folds, which are drawn but once
        workspace.write_bytes(split, "splits", "default.json")
    trainer.train(settings)
    return workspace


def kept(workspace: Workspace) -> dict[str, NDArray[Any]]:
    """Every number that a fit leaves: weights, scalers, temperature, reference, optimiser, validation figures."""
    (run,) = workspace.names("runs")
    found = {}
    for file in (MODEL, reference.FILE, trainer.CHECKPOINT):
        if workspace.exists("runs", run, file):
            arrays = load(workspace.read_bytes("runs", run, file))
            found |= {f"{file}: {key}": array for key, array in arrays.items()}
    history = workspace.read_table("runs", run, "history.parquet").drop_columns(["device"])  # no number
    found |= {f"history: {column}": history[column].to_numpy() for column in history.column_names}
    held = {"train", "validation"}
    rows = workspace.read_table("runs", run, "embeddings.parquet").sort_by("segment_id").to_pylist()
    found["embeddings"] = np.array([row["z"] for row in rows if row["role"] in held])
    rows = workspace.read_table("runs", run, "predictions.parquet").sort_by("subject_id").to_pylist()
    found["probabilities"] = np.array([row["probability"] for row in rows if row["role"] in held])
    return found


def moved(one: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]]) -> list[str]:
    assert one.keys() == other.keys()
    return [key for key, array in one.items() if array.tobytes() != other[key].tobytes()]


@SYSTEMS
def test_values_and_labels_of_test_subjects_reach_nothing_that_is_fitted(tmp_path, prepared, name):
    calm = fitted(prepared, tmp_path / "calm", name)
    split = calm.read_bytes("splits", "default.json")
    fold = calm.read_json("splits", "default.json")["parts"][0]
    before = kept(calm)
    assert len(before) > 10
    assert f"{MODEL}: temperature" in before

    test = fold["test"]
    changed = {"scaled": dict.fromkeys(test, 1e6), "flipped": tuple(test)}
    assert moved(before, kept(fitted(prepared, tmp_path / "test", name, split, **changed))) == []

    # the comparison has power: one training subject, heard louder or labelled otherwise, is seen at once
    louder = {"scaled": {fold["train"][0]: 1e6}}
    assert f"{MODEL}: encoders.eeg.mean_ND" in moved(
        before, kept(fitted(prepared, tmp_path / "loud", name, split, **louder))
    )
    relabelled = {"flipped": tuple(fold["train"][:3])}
    assert f"{MODEL}: classifier.bias" in moved(
        before, kept(fitted(prepared, tmp_path / "label", name, split, **relabelled))
    )
