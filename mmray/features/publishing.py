"""What a preparation leaves in features/<digest> besides parts: parts.parquet, which names them, and their story."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from mmray.config import Features
from mmray.errors import WorkspaceError
from mmray.features.parts import versions
from mmray.recordings import catalogue
from mmray.schema import DECISIONS, MODALITIES, PARTS, QUARANTINE, Recording
from mmray.storage import Workspace


@dataclass(frozen=True)
class Outcome:
    """What became of one recording."""

    recording_id: str
    status: str  # prepared, unchanged, quarantined, or stopped: the run cannot go on
    segments: int = 0
    source_sha256: str = ""
    samples_sha256: str = ""  # of the file with the samples alone
    part: str = ""
    reason: str = ""
    exit_code: int = 0
    decided: str = "{}"  # JSON: one type, whatever a modality's decisions are


def provenance(features: Features, recordings: list[Recording]) -> dict[str, Any]:
    """What the preparation of these recordings comes from."""
    return {
        "features": features.model_dump(mode="json"),
        "versions": versions(features),
        "recordings_sha256": catalogue.fingerprint(recordings),
    }


def refuse_copies(recordings: list[Recording], outcomes: dict[str, Outcome]) -> None:
    """Quarantine the same samples under two people, and all but the first under one.

    Of two people one would be tested on what the other was trained on; one person's segments would count twice.
    """
    same: dict[str, list[Recording]] = {}
    for recording in sorted(recordings, key=lambda r: r.recording_id):
        outcome = outcomes[recording.recording_id]
        if outcome.status != "quarantined":
            same.setdefault(outcome.samples_sha256, []).append(recording)
    for copies in same.values():
        subjects = sorted({recording.subject_id for recording in copies})
        first = copies[0]
        for recording in copies if len(subjects) > 1 else copies[1:]:
            if len(subjects) > 1:
                why = f"the same bytes belong to subjects {', '.join(subjects)}; keep the right one"
            else:
                why = f"the same bytes as {first.path} ({first.recording_id}) of the same person; counted once"
            outcome = outcomes[recording.recording_id]
            quarantined = replace(outcome, status="quarantined", segments=0, reason=f"{recording.path}: {why}")
            outcomes[recording.recording_id] = quarantined


def publish(
    workspace: Workspace,
    key: str,
    recordings: list[Recording],
    outcomes: dict[str, Outcome],
    origin: dict[str, Any],
    began_s: float,
) -> None:
    """Write quarantine, decisions, parts.parquet and what they come from, and remove parts that nobody names any more.

    Args:
        began_s: when this preparation did, seconds of the epoch. A part written since that is not its own is another
            preparation's, which has yet to publish it.

    Raises:
        WorkspaceError: a part is not to be seen from here, or the workspace cannot be written.
    """
    parts: list[dict[str, Any]] = []
    quarantine: list[dict[str, Any]] = []
    decided: list[dict[str, Any]] = []
    for recording in sorted(recordings, key=lambda r: r.recording_id):
        outcome = outcomes[recording.recording_id]
        row: dict[str, Any] = {
            "recording_id": recording.recording_id,
            "modality": recording.modality,
            "source_sha256": outcome.source_sha256 or None,
        }
        if outcome.status == "quarantined":
            named = {"subject_id": recording.subject_id, "path": recording.path, "reason": outcome.reason}
            quarantine.append(row | named)
        else:
            parts.append(row | {"path": outcome.part, "segments": outcome.segments})
            decided.append(row | {"subject_id": recording.subject_id} | json.loads(outcome.decided))
    counts = dict(Counter(outcome.status for outcome in outcomes.values()))
    folder = ("features", key)
    there = {f"{modality}/{name}" for modality in MODALITIES for name in workspace.names(*folder, modality)}
    if unseen := sorted({row["path"] for row in parts} - there):
        raise WorkspaceError(
            f"workspace {workspace.root}: {len(unseen)} parts that tasks wrote are not to be seen from here, such as "
            f"{unseen[0]}; on several nodes the workspace must be an object store or a shared disk; where another "
            "prepare of the same workspace ran meanwhile and removed them, run this one again once it is done"
        )
    before = _paths_before(workspace, key)
    workspace.write_table(pa.Table.from_pylist(quarantine, schema=QUARANTINE), *folder, "quarantine.parquet")
    workspace.write_table(pa.Table.from_pylist(decided, schema=DECISIONS), *folder, "quality.parquet")
    workspace.write_table(pa.Table.from_pylist(parts, schema=PARTS), *folder, "parts.parquet")
    # after it: rows of before must never stand beside the word that they come from the recordings of now
    workspace.write_json(origin | {"counts": counts}, *folder, "provenance.json")
    # a reader may still hold the manifest before this one: its parts stay until the next; so do those of copies, which
    # are judged anew each time
    for path in sorted(there - before - {outcome.part for outcome in outcomes.values()}):
        if (workspace.modified(*folder, path) or began_s) < began_s:
            workspace.delete(*folder, path)


def _paths_before(workspace: Workspace, key: str) -> set[str]:
    if not workspace.exists("features", key, "parts.parquet"):
        return set()
    return set(workspace.read_table("features", key, "parts.parquet")["path"].to_pylist())
