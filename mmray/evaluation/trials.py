"""A sweep's fits on disk: what was planned, and one file a fit, so that a report never needs a model again.

sweeps/<id>/trials.parquet is a folder: a file a fit, whole as soon as its fit ends. Whatever reads Parquet reads the
folder as one table.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from mmray import config
from mmray.config import Config
from mmray.errors import WorkspaceError
from mmray.evaluation.pooled import Tested
from mmray.schema import MODALITIES
from mmray.storage import Workspace

Row = dict[str, Any]

_HISTORY = pa.struct(
    [
        ("epoch", pa.int64()),
        ("loss", pa.float64()),
        ("retrieval_loss", pa.float64()),
        ("classification_loss", pa.float64()),
        ("validation_mrr", pa.float64()),
        ("validation_accuracy", pa.float64()),
        ("validation_cross_entropy", pa.float64()),
        ("logit_scale", pa.float64()),
        ("learning_rate", pa.float64()),
    ]
)
_BY_TASK = pa.struct([("task", pa.string()), ("subject_id", pa.string()), ("probability", pa.list_(pa.float64()))])
_MATRIX = pa.list_(pa.list_(pa.float64()))

TRIALS = pa.schema(
    [
        pa.field("trial_id", pa.string(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),  # a system, or a name of sweep.variants
        pa.field("system", pa.string(), nullable=False),
        pa.field("learning_rate", pa.float64(), nullable=False),
        pa.field("fold", pa.int64(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("config", pa.string(), nullable=False),  # JSON: every setting that the fit depends on
        pa.field("error", pa.string()),  # null: it finished
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("best_epoch", pa.int64()),
        pa.field("validation_mrr", pa.float64()),
        pa.field("validation_cross_entropy", pa.float64()),
        pa.field("history", pa.list_(_HISTORY)),
        # test subjects who have both modalities
        pa.field("subject_id", pa.list_(pa.string())),
        pa.field("label", pa.list_(pa.int64())),  # -1: not known
        pa.field("eeg", _MATRIX),  # one unit vector a subject
        pa.field("audio", _MATRIX),
        pa.field("probability", _MATRIX),
        # the same people's classes from all of their EEG and the clips of one task
        pa.field("by_task", pa.list_(_BY_TASK)),
    ]
)


@dataclass(frozen=True)
class Planned:
    """One fit of the grid."""

    trial_id: str
    variant: str
    system: str
    learning_rate: float
    fold: int
    seed: int


@dataclass(frozen=True)
class Plan:
    """sweeps/<id>/plan.json, written before the first fit: what a finished sweep holds.

    Attributes:
        data_sha256: of the features and the split; figures of two are not for one table.
    """

    sweep_id: str
    data_sha256: str
    trials: tuple[Planned, ...]


def write_plan(workspace: Workspace, plan: Plan) -> None:
    """Publish a plan."""
    workspace.write_json(asdict(plan), "sweeps", plan.sweep_id, "plan.json")


def read_plan(workspace: Workspace, sweep_id: str) -> Plan:
    """A sweep's plan.

    Raises:
        WorkspaceError: there is no such sweep, or its plan is damaged.
    """
    if not workspace.exists("sweeps", sweep_id, "plan.json"):
        there = ", ".join(n for n in workspace.names("sweeps") if workspace.exists("sweeps", n, "plan.json"))
        raise WorkspaceError(
            f"sweeps/{sweep_id} is not in workspace {workspace.root}; there: {there or 'none, run `mmray sweep`'}"
        )
    tree = workspace.read_json("sweeps", sweep_id, "plan.json")
    try:
        return Plan(tree["sweep_id"], tree["data_sha256"], tuple(Planned(**one) for one in tree["trials"]))
    except (KeyError, TypeError) as error:
        raise WorkspaceError(
            f"workspace {workspace.root}: sweeps/{sweep_id}/plan.json is damaged ({error}); run the same sweep again"
        ) from error


def read_settings(workspace: Workspace, sweep_id: str) -> Config:
    """The settings that a sweep was planned with, in the workspace that it lies in now.

    Raises:
        WorkspaceError: its config.yaml is missing or damaged.
        ConfigError: it holds a setting that this version does not know.
    """
    text = workspace.read_bytes("sweeps", sweep_id, "config.yaml")
    try:
        return config.from_dict({**yaml.safe_load(text), "workspace": workspace.root})
    except (yaml.YAMLError, TypeError) as error:
        raise WorkspaceError(
            f"workspace {workspace.root}: sweeps/{sweep_id}/config.yaml is damaged ({error}); run `mmray sweep` with "
            "its config again"
        ) from error


def newest(workspace: Workspace) -> str:
    """Id of the sweep whose plan was written last.

    Raises:
        WorkspaceError: there is none.
    """
    found = [(workspace.modified("sweeps", n, "plan.json"), n) for n in workspace.names("sweeps")]
    known = [(when, name) for when, name in found if when is not None]
    if not known:
        raise WorkspaceError(f"workspace {workspace.root} holds no sweep; run `mmray sweep` first")
    return max(known)[1]


def write(workspace: Workspace, sweep_id: str, row: Row) -> None:
    """Keep one fit; it counts from then on."""
    table = pa.Table.from_pylist([row], schema=TRIALS)
    workspace.write_table(table, "sweeps", sweep_id, "trials.parquet", f"{row['trial_id']}.parquet")


def finished(workspace: Workspace, sweep_id: str) -> set[str]:
    """Ids of the fits that are there, failed ones included."""
    names = workspace.names("sweeps", sweep_id, "trials.parquet")
    return {name.removesuffix(".parquet") for name in names if name.endswith(".parquet")}


def adopt(workspace: Workspace, plan: Plan) -> None:
    """Make ready to go on: take finished fits from the workspace's other sweeps, and let failed ones be tried again.

    A trial_id says data, settings and version, so equal ids are equal fits.

    Raises:
        WorkspaceError: a file is damaged.
    """
    place = ("sweeps", plan.sweep_id, "trials.parquet")
    for row in read(workspace, plan):
        if row["error"] is not None:
            workspace.delete(*place, f"{row['trial_id']}.parquet")
    there = finished(workspace, plan.sweep_id)
    missing = {one.trial_id: one.variant for one in plan.trials if one.trial_id not in there}
    for other in workspace.names("sweeps"):
        if other == plan.sweep_id:
            continue
        for trial_id in missing.keys() & finished(workspace, other):
            table = workspace.read_table("sweeps", other, "trials.parquet", f"{trial_id}.parquet")
            row = table.to_pylist()[0]
            if row["error"] is None and row["variant"] == missing[trial_id]:
                workspace.write_table(table, *place, f"{trial_id}.parquet")
                del missing[trial_id]


def resume_command(workspace: Workspace) -> str:
    """What a user types to go on with the newest sweep of a workspace."""
    return shlex.join(["mmray", "sweep", "--resume", "--workspace", workspace.root])


def read(workspace: Workspace, plan: Plan) -> list[Row]:
    """The planned fits that are there, in the plan's order.

    Raises:
        WorkspaceError: a file is damaged.
    """
    there, place = finished(workspace, plan.sweep_id), ("sweeps", plan.sweep_id, "trials.parquet")
    wanted = (one.trial_id for one in plan.trials if one.trial_id in there)
    tables = [workspace.read_table(*place, f"{trial_id}.parquet") for trial_id in wanted]
    rows: list[Row] = pa.concat_tables(tables).to_pylist() if tables else []
    return rows


def tested(row: Row) -> Tested:
    """A finished row as what the pooled statistics take."""
    return Tested(
        fold=row["fold"],
        seed=row["seed"],
        subject_U=tuple(row["subject_id"]),
        label_U=np.array(row["label"], dtype=np.int64),
        vector_UE={modality: np.array(row[modality]) for modality in MODALITIES},
        probability_UC=np.array(row["probability"]),
    )
