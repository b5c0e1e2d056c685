"""`mmray prepare`: every recording of a workspace to segment graphs, on Ray Data.

A task hashes a recording, leaves it alone when its part file was made from the same bytes, else extracts and publishes
the part; only a small outcome row travels back. A part's name carries a digest of all that its rows come from, so
nothing that a published parts.parquet names is ever overwritten; that file is written last. A run killed at any moment
therefore leaves the old preparation whole, and the parts it finished are kept by the next run.
"""

from __future__ import annotations

import importlib.metadata
import json
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mmray import cluster, progress
from mmray.config import Config, Features, digest
from mmray.errors import ConfigError, MmrayError, RecordingError, ResourceError, WorkspaceError
from mmray.features.extract import decisions, extract, shape
from mmray.features.quality import Decisions
from mmray.recordings import catalogue
from mmray.recordings.sidecar import Stated, stated_rate
from mmray.recordings.signals import content_sha256
from mmray.schema import DECISIONS, MODALITIES, PARTS, QUARANTINE, Recording
from mmray.storage import Workspace, is_uri

_VERSIONS = ("mmray", "mne", "librosa", "scipy", "numpy")
_GROUP_BYTES = 16 << 20  # small recordings share a task: starting one costs as much as a clip
_GROUP_RECORDINGS = 8
_TASK_BYTES = 512 << 20  # libraries and working arrays of a task ...
_BYTES_PER_BYTE = 6  # ... and what each byte of its recording adds
_TASK_RETRIES = 3  # as Ray's own for tasks
_MOST_REASONS = 10  # lines a terminal gets; quarantine.parquet has them all
_STOPS = {error.exit_code: error for error in (ConfigError, WorkspaceError, ResourceError)}


@dataclass(frozen=True)
class PrepareSummary:
    """What `mmray prepare` tells.

    Attributes:
        digest: names features/<digest>.
        prepared: recordings computed in this run, by modality; `unchanged` were there already.
        quarantined: recordings set aside, by modality; `reasons` has (recording_id, reason) of each.
        segments: published segments, by modality.
    """

    digest: str
    prepared: dict[str, int]
    unchanged: dict[str, int]
    quarantined: dict[str, int]
    segments: dict[str, int]
    reasons: list[tuple[str, str]]

    def render(self) -> str:
        """As lines for a terminal."""
        lines = [f"features {self.digest}"]
        for modality in MODALITIES:
            lines.append(
                f"{modality:<9}{self.segments[modality]} segments; recordings: {self.prepared[modality]} prepared, "
                f"{self.unchanged[modality]} unchanged, {self.quarantined[modality]} quarantined"
            )
        lines.extend(f"  quarantined {recording_id}: {reason}" for recording_id, reason in self.reasons[:_MOST_REASONS])
        if len(self.reasons) > _MOST_REASONS:
            lines.append(f"  ... and {len(self.reasons) - _MOST_REASONS} more in quarantine.parquet")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Outcome:
    recording_id: str
    status: str  # prepared, unchanged, quarantined, or stopped: the run cannot go on
    segments: int = 0
    source_sha256: str = ""
    part: str = ""
    reason: str = ""
    exit_code: int = 0
    decided: str = "{}"  # JSON: one type, whatever a modality's decisions are


def prepare(config: Config, strict: bool = False) -> PrepareSummary:
    """Bring features/<digest> up to date with recordings.parquet.

    Only new or changed recordings are computed. One that cannot be used is listed in quarantine.parquet with its
    reason, and the run goes on; rows of recordings that are gone from recordings.parquet disappear.

    Args:
        strict: raise, once everything usable is published, when a recording was quarantined.

    Raises:
        RecordingError: no recording is usable; or, under `strict`, one is not.
        ConfigError: the settings fit no recording (unknown montage, too many neighbours, ...).
        WorkspaceError: `mmray recordings` was not run, or the workspace cannot be written.
        ResourceError: the cluster cannot hold one task.
    """
    workspace = Workspace(config.workspace)
    recordings = catalogue.load(workspace)
    for modality in MODALITIES:
        if any(recording.modality == modality for recording in recordings):
            shape(modality, config.features)
    if config.features.pairing == "window":
        _require_one_a_trial(recordings)
    key = digest(config.features)
    workspace.delete_partials("features", key)
    provenance = _provenance(config.features, recordings)
    refused = _refused(workspace, key, provenance)
    outcomes: dict[str, _Outcome] = {}
    with cluster.session(config.cluster), progress.bar("prepare", len(recordings)) as advance:
        for outcome in _run(recordings, config, key, refused):
            if outcome.status == "stopped":
                raise _STOPS.get(outcome.exit_code, MmrayError)(outcome.reason)
            outcomes[outcome.recording_id] = outcome
            advance(note=outcome.recording_id)
    _refuse_copies(recordings, outcomes)
    _publish(workspace, key, recordings, outcomes, provenance)
    summary = _summarise(key, recordings, outcomes)
    listed = "\n".join(f"  {reason}" for _, reason in summary.reasons[:_MOST_REASONS])
    if not sum(summary.segments.values()):
        raise RecordingError(f"prepare: none of {len(recordings)} recordings is usable:\n{listed}")
    if strict and summary.reasons:
        raise RecordingError(
            f"prepare --strict: {len(summary.reasons)} of {len(recordings)} recordings were quarantined:\n{listed}"
        )
    return summary


def _require_one_a_trial(recordings: list[Recording]) -> None:
    """Two EEGs of one trial would both claim its windows."""
    of_trial: dict[tuple[str, str], str] = {}
    for recording in recordings:
        first = of_trial.setdefault((recording.pair_id, recording.modality), recording.recording_id)
        if first != recording.recording_id:
            raise ConfigError(
                f"features.pairing=window needs one {recording.modality} recording a pair_id; {recording.pair_id} has "
                f"{first} and {recording.recording_id}: name each trial in the manifest's column pair_id"
            )


def _run(
    recordings: list[Recording], config: Config, key: str, refused: dict[tuple[str, str], tuple[str, str]]
) -> Iterator[_Outcome]:
    """Outcomes as they come. One execution for all modalities: starting one costs as much as preparing a recording."""
    import ray.exceptions

    by_modality = [[recording for recording in recordings if recording.modality == m] for m in MODALITIES]
    sides = [_mapped(chosen, config, key, refused) for chosen in by_modality if chosen]
    settings = dict.fromkeys(side.setting for side in sides)
    first, *others = (side.dataset for side in sides)
    dataset = first.union(*others) if others else first
    try:
        for row in dataset.iter_rows():
            yield _Outcome(**row)
    except (
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.RayActorError,
        ray.exceptions.OutOfMemoryError,
        ray.exceptions.NodeDiedError,
    ) as error:
        raise ResourceError(
            f"prepare: a worker was killed again and again, mostly for want of memory ({type(error).__name__}); raise "
            f"{' or '.join(settings)} so that fewer run at once, then run the same command again"
        ) from error


class _Mapped(NamedTuple):
    dataset: Any
    setting: str  # which limits how many of its tasks run at once


def _mapped(
    recordings: list[Recording], config: Config, key: str, refused: dict[tuple[str, str], tuple[str, str]]
) -> _Mapped:
    """Outcomes of one modality's recordings to be, biggest first so that the tail is short."""
    features, hardware = config.features, config.cluster
    encoder = (features.eeg if recordings[0].modality == "eeg" else features.audio).encoder
    cpus, gpus = (hardware.encoder_cpus, hardware.encoder_gpus) if encoder else (hardware.task_cpus, 0.0)
    setting = "cluster.encoder_cpus or cluster.encoder_gpus" if encoder else "cluster.task_cpus"
    workspace = Workspace(config.workspace)
    memory = _TASK_BYTES + _BYTES_PER_BYTE * max(recording.size_bytes for recording in recordings)
    cluster.require_room("prepare", cpus=cpus, gpus=gpus, memory_bytes=memory, setting=setting)

    def task(row: dict[str, Any]) -> list[dict[str, Any]]:
        cluster.limit_threads(cpus)
        group = [Recording(**fields) for fields in json.loads(row["group"])]
        return [
            asdict(_prepare_one(member, features, workspace, key, refused.get((member.recording_id, member.path))))
            for member in group
        ]

    class Actor:
        """Keeps its process, and with it the encoder that the first recording constructs there."""

        def __call__(self, row: dict[str, Any]) -> list[dict[str, Any]]:
            return task(row)

    groups = [{"group": json.dumps([asdict(recording) for recording in group])} for group in _groups(recordings)]
    data = cluster.data()
    dataset = data.from_items(groups, override_num_blocks=len(groups))
    if encoder:
        pool = data.ActorPoolStrategy(min_size=1, max_size=len(groups))
        # Ray Data would send a recording that ends its actor to a new one for ever, and has no other word for it yet
        again = {"max_task_retries": _TASK_RETRIES}
        with warnings.catch_warnings(category=DeprecationWarning, action="ignore"):
            dataset = dataset.flat_map(Actor, compute=pool, num_cpus=cpus, num_gpus=gpus, memory=memory, **again)
    else:
        dataset = dataset.flat_map(task, num_cpus=cpus, memory=memory)
    return _Mapped(dataset, setting)


def _groups(recordings: list[Recording]) -> Iterator[list[Recording]]:
    """One big recording a task, or a few small ones."""
    group: list[Recording] = []
    for recording in sorted(recordings, key=lambda r: (-r.size_bytes, r.recording_id)):
        group.append(recording)
        if len(group) == _GROUP_RECORDINGS or sum(member.size_bytes for member in group) >= _GROUP_BYTES:
            yield group
            group = []
    if group:
        yield group


def _prepare_one(
    recording: Recording, features: Features, workspace: Workspace, key: str, refused: tuple[str, str] | None
) -> _Outcome:
    sha = ""
    try:
        sha = content_sha256(recording.path)
        stated = None if is_uri(recording.path) else stated_rate(Path(recording.path))
        if refused is not None and refused[0] == sha and stated is None:  # a sidecar can have been corrected
            return _Outcome(recording.recording_id, "quarantined", source_sha256=sha, reason=refused[1])
        part = f"{recording.modality}/{recording.recording_id}-{_made_from(recording, sha, stated)}.parquet"
        status, there = "unchanged", _there(workspace, "features", key, part)
        if there is None:
            table = extract(recording, features, sha)
            workspace.write_table(table, "features", key, part)
            status, there = "prepared", (table.num_rows, decisions(table.schema.metadata))
        rows, decided = there
        return _Outcome(recording.recording_id, status, rows, sha, part, decided=json.dumps(decided))
    except RecordingError as error:
        return _Outcome(recording.recording_id, "quarantined", source_sha256=sha, reason=str(error))
    except MmrayError as error:
        # an exception would reach the driver as Ray's; an outcome reaches it as what it is
        return _Outcome(recording.recording_id, "stopped", reason=str(error), exit_code=error.exit_code)
    except Exception as error:  # a damaged file can raise anything in the libraries below, and must not stop the others
        reason = f"{recording.path}: {type(error).__name__}: {error}; no reader should fail like this, please report it"
        return _Outcome(recording.recording_id, "quarantined", source_sha256=sha, reason=reason)


def _made_from(recording: Recording, sha: str, stated: Stated | None) -> str:
    """What a part's rows depend on besides the settings.

    The bytes and the rate that a sidecar states of them, the labels that they carry, and the software.
    """
    row = recording
    fields = (row.recording_id, row.subject_id, row.pair_id, row.modality, row.session, row.task, row.label, row.reader)
    rate = [] if stated is None else [stated.sampling_rate_hz]
    return digest(sha, json.dumps(fields), json.dumps(_versions()), *rate)


def _there(workspace: Workspace, *part: str) -> tuple[int, Decisions | None] | None:
    """Rows of a part file, and what was decided about its recording; None where there is none, or it is damaged."""
    try:
        with workspace.filesystem.open_input_file(workspace.path(*part)) as file:
            about = pq.read_metadata(file)
            return int(about.num_rows), decisions(about.metadata)
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    except OSError as error:
        raise WorkspaceError(f"workspace {workspace.root}: cannot read {'/'.join(part)}: {error}") from error


def _refused(workspace: Workspace, key: str, provenance: dict[str, Any]) -> dict[tuple[str, str], tuple[str, str]]:
    """(id, path) -> (hash, reason) of what the last run quarantined, if the same software saw the same recordings."""
    folder = ("features", key)
    if not all(workspace.exists(*folder, f) for f in ("quarantine.parquet", "provenance.json", "parts.parquet")):
        return {}
    before = workspace.read_json(*folder, "provenance.json")
    if any(before.get(name) != provenance[name] for name in ("versions", "recordings_sha256")):
        return {}
    rows = workspace.read_table(*folder, "quarantine.parquet").to_pylist()
    used = workspace.read_table(*folder, "parts.parquet")["source_sha256"].to_pylist()
    held = Counter([*used, *(row["source_sha256"] for row in rows)])
    return {
        (row["recording_id"], row["path"]): (row["source_sha256"], row["reason"])
        for row in rows
        if held[row["source_sha256"]] == 1 and row["source_sha256"]  # a copy is judged anew: the other may have changed
    }


def _provenance(features: Features, recordings: list[Recording]) -> dict[str, Any]:
    return {
        "features": features.model_dump(mode="json"),
        "versions": _versions(),
        "recordings_sha256": catalogue.fingerprint(recordings),
    }


@cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _VERSIONS}


def _refuse_copies(recordings: list[Recording], outcomes: dict[str, _Outcome]) -> None:
    """Quarantine the same bytes under two people, and all but the first under one.

    Of two people one would be tested on what the other was trained on; one person's segments would count twice.
    """
    same: dict[str, list[Recording]] = {}
    for recording in sorted(recordings, key=lambda r: r.recording_id):
        outcome = outcomes[recording.recording_id]
        if outcome.status != "quarantined":
            same.setdefault(outcome.source_sha256, []).append(recording)
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


def _publish(
    workspace: Workspace,
    key: str,
    recordings: list[Recording],
    outcomes: dict[str, _Outcome],
    provenance: dict[str, Any],
) -> None:
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
            f"{unseen[0]}; on several nodes the workspace must be an object store or a shared disk"
        )
    before = _paths_before(workspace, key)
    workspace.write_table(pa.Table.from_pylist(quarantine, schema=QUARANTINE), *folder, "quarantine.parquet")
    workspace.write_table(pa.Table.from_pylist(decided, schema=DECISIONS), *folder, "quality.parquet")
    workspace.write_json(provenance | {"counts": counts}, *folder, "provenance.json")
    workspace.write_table(pa.Table.from_pylist(parts, schema=PARTS), *folder, "parts.parquet")
    # a reader may still hold the manifest before this one: its parts stay until the next; so do those of copies, which
    # are judged anew each time
    for path in sorted(there - before - {outcome.part for outcome in outcomes.values()}):
        workspace.delete(*folder, path)


def _paths_before(workspace: Workspace, key: str) -> set[str]:
    if not workspace.exists("features", key, "parts.parquet"):
        return set()
    return set(workspace.read_table("features", key, "parts.parquet")["path"].to_pylist())


def _summarise(key: str, recordings: list[Recording], outcomes: dict[str, _Outcome]) -> PrepareSummary:
    by_status: dict[str, dict[str, int]] = {
        status: dict.fromkeys(MODALITIES, 0) for status in ("prepared", "unchanged", "quarantined")
    }
    segments: dict[str, int] = dict.fromkeys(MODALITIES, 0)
    for recording in recordings:
        outcome = outcomes[recording.recording_id]
        by_status[outcome.status][recording.modality] += 1
        segments[recording.modality] += outcome.segments
    reasons = [
        (outcome.recording_id, outcome.reason)
        for _, outcome in sorted(outcomes.items())
        if outcome.status == "quarantined"
    ]
    return PrepareSummary(key, **by_status, segments=segments, reasons=reasons)
