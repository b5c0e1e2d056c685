"""`mmray prepare`: every recording of a workspace to segment graphs, on Ray Data.

A task hashes a recording, leaves it alone when its part file was made from the same bytes, else extracts and publishes
the part; only a small outcome row travels back. A part's name carries a digest of all that its rows come from, so
nothing that a published parts.parquet names is ever overwritten; that file is written once they are there. A run killed
at any moment therefore leaves the old preparation whole, and the parts it finished are kept by the next run. What was
set aside is tried again each time: a full disk or a busy GPU can have been the reason.
"""

from __future__ import annotations

import itertools
import json
import time
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmray import cluster, placement, progress
from mmray.config import Config, Features, digest
from mmray.errors import ConfigError, MmrayError, RecordingError, ResourceError, WorkspaceError
from mmray.features import parts, publishing, stretches
from mmray.features.extract import shape
from mmray.features.publishing import Outcome
from mmray.placement import Want
from mmray.recordings import catalogue, matlab, signals
from mmray.recordings.sidecar import stated_rate
from mmray.schema import MODALITIES, Recording
from mmray.storage import Workspace, is_uri

# recordings share a task, whose hand-out costs some 20 ms; least and most
_GROUP_BYTES = (16 << 20, 320 << 20)  # of a task, seconds of work ...
_GROUP_RECORDINGS = (8, 32)  # ... or of so many small ones
_SHARE = 2  # a task takes this part of what is left for its core, so that the last ones are short
_MOST_TASKS = 1000  # that wait in Ray's queue: enough for as many cores, and the driver looks at each in turn
_TASK_BYTES = 512 << 20  # libraries and working arrays of a task ...
_BYTES_PER_BYTE = 6  # ... and what each byte of its recording adds,
# but no more than a stretch, measured, where it is read in such ...
_STRETCH_BYTES = {"eeg": 24 * stretches.EEG_SAMPLES, "audio": 16 * stretches.AUDIO_SAMPLES}
_MOST_BYTES = 8 * matlab.MOST_SAMPLES  # ... or than may be read whole
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
    origin = publishing.provenance(config.features, recordings)
    outcomes: dict[str, Outcome] = {}
    began_s = time.time()
    with workspace.tidied("features", key):
        with (
            cluster.session(config.cluster),
            progress.bar("prepare", len(recordings)) as advance,
            closing(_run(recordings, config, key)) as found,
        ):
            for outcome in found:
                if outcome.status == "stopped":
                    raise _STOPS.get(outcome.exit_code, MmrayError)(outcome.reason)
                outcomes[outcome.recording_id] = outcome
                advance(note=outcome.recording_id)
        publishing.refuse_copies(recordings, outcomes)
        publishing.publish(workspace, key, recordings, outcomes, origin, began_s)
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


def _run(recordings: list[Recording], config: Config, key: str) -> Generator[Outcome]:
    """Outcomes as they come. One execution for all: starting one costs as much as preparing a recording."""
    import ray.exceptions

    encoded = [m for m in MODALITIES if _encoder(m, config.features)]
    by_modality = [[recording for recording in recordings if recording.modality == m] for m in encoded]
    plain = [recording for recording in recordings if recording.modality not in encoded]
    # actors keep what they took until their side is done, so one side must fit beside the other
    together = bool(encoded)
    sides = [_mapped(chosen, config, key, together) for chosen in (plain, *by_modality) if chosen]
    settings = dict.fromkeys(side.setting for side in sides)
    for wants in [[side.want for side in sides]] if together else [[side.want] for side in sides]:
        cluster.require_room(config.cluster, "prepare", *wants, setting=" or ".join(settings))
    first, *others = (side.dataset for side in sides)
    dataset = first.union(*others) if others else first
    if not together:
        # Ray Data would start one task, learn a second later what the cluster holds, and then hand out no more than
        # fits, so that a core whose task ends waits for its next look, a tenth of a second. Ray's own queue does not.
        dataset.context.op_resource_reservation_enabled = False
    try:
        with cluster.rows(dataset) as rows:
            for row in rows:
                yield Outcome(**row)
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
    want: Want  # of one of its tasks or actors
    setting: str  # which limits how many of its tasks run at once


def _mapped(recordings: list[Recording], config: Config, key: str, together: bool) -> _Mapped:
    """Outcomes to be of recordings without an encoder, or of one modality with its own; biggest first."""
    features, hardware = config.features, config.cluster
    encoder = _encoder(recordings[0].modality, features)
    threads, gpus = (hardware.encoder_cpus, hardware.encoder_gpus) if encoder else (hardware.task_cpus, 0.0)
    cpus = threads if together else cluster.busy_cpus(hardware, threads)
    setting = "cluster.encoder_cpus or cluster.encoder_gpus" if encoder else "cluster.task_cpus"
    workspace = Workspace(config.workspace)
    memory = _TASK_BYTES + max(_bytes_of(recording) for recording in recordings)
    want = cluster.task_want(config.cluster, Want(cpus=cpus, gpus=gpus, memory_bytes=memory))
    where = placement.options(want.where)

    def task(row: dict[str, Any]) -> list[dict[str, Any]]:
        cluster.limit_threads(threads)
        group = [Recording(**fields) for fields in json.loads(row["group"])]
        return [asdict(_prepare_one(member, features, workspace, key)) for member in group]

    class Actor:
        """Keeps its process, and with it the encoder that the first recording constructs there."""

        def __call__(self, row: dict[str, Any]) -> list[dict[str, Any]]:
            return task(row)

    at_once = max(1, int(cluster.cores(hardware) / max(threads, 1)))
    groups = [
        {"group": json.dumps([asdict(recording) for recording in group])} for group in _groups(recordings, at_once)
    ]
    data = cluster.data()
    dataset = data.from_items(groups, override_num_blocks=len(groups))
    if encoder:
        pool = data.ActorPoolStrategy(min_size=1, max_size=len(groups))
        # Ray Data would send a recording that ends its actor to a new one for ever, and has no other word for it yet
        again = {"max_task_retries": _TASK_RETRIES}
        with warnings.catch_warnings(category=DeprecationWarning, action="ignore"):
            dataset = dataset.flat_map(
                Actor, compute=pool, num_cpus=cpus, num_gpus=gpus, memory=memory, **again, **where
            )
    else:
        waiting = data.TaskPoolStrategy(size=min(_MOST_TASKS, len(groups)))
        dataset = dataset.flat_map(task, compute=waiting, num_cpus=cpus, memory=memory, **where)
    return _Mapped(dataset, want, setting)


def _encoder(modality: str, features: Features) -> str | None:
    return (features.eeg if modality == "eeg" else features.audio).encoder


def _bytes_of(recording: Recording) -> int:
    """What a recording adds to its task's memory."""
    by_size = _BYTES_PER_BYTE * signals.bytes_on_disk(recording)
    # what is larger than may be read whole is refused by its task
    return min(
        by_size, _STRETCH_BYTES[recording.modality] if signals.is_streamed(recording) else _BYTES_PER_BYTE * _MOST_BYTES
    )


def _groups(recordings: list[Recording], at_once: int) -> Iterator[list[Recording]]:
    """The recordings of each task, biggest first: a share of what is left, so that all cores end at about one time.

    Guided self-scheduling (Polychronopoulos and Kuck 1987, doi 10.1109/TC.1987.5009495), within bounds.
    """
    size_of = {recording.recording_id: signals.bytes_on_disk(recording) for recording in recordings}
    ordered = sorted(recordings, key=lambda r: (-size_of[r.recording_id], r.recording_id))
    left_bytes, first = sum(size_of.values()), 0
    while first < len(ordered):
        most_bytes = np.clip(left_bytes / (_SHARE * at_once), *_GROUP_BYTES)
        most = int(np.clip((len(ordered) - first) / (_SHARE * at_once), *_GROUP_RECORDINGS))
        sizes = itertools.accumulate(size_of[recording.recording_id] for recording in ordered[first : first + most])
        group = ordered[first : first + max(1, sum(size <= most_bytes for size in sizes))]
        left_bytes -= sum(size_of[recording.recording_id] for recording in group)
        first += len(group)
        yield group


def _prepare_one(recording: Recording, features: Features, workspace: Workspace, key: str) -> Outcome:
    sha = ""
    try:
        sha, samples_sha = signals.content(recording.path)
        stated = None if is_uri(recording.path) else stated_rate(Path(recording.path))
        made_from = parts.made_from(recording, features, sha, stated)
        part = f"{recording.modality}/{recording.recording_id}-{made_from}.parquet"
        status, there = "unchanged", parts.there(workspace, "features", key, part)
        if there is None:
            status, there = "prepared", parts.write(workspace, ("features", key), part, recording, features, sha)
        rows, decided = there
        return Outcome(recording.recording_id, status, rows, sha, samples_sha, part, decided=json.dumps(decided))
    except RecordingError as error:
        return Outcome(recording.recording_id, "quarantined", source_sha256=sha, reason=str(error))
    except MmrayError as error:
        # an exception would reach the driver as Ray's; an outcome reaches it as what it is
        return Outcome(recording.recording_id, "stopped", reason=str(error), exit_code=error.exit_code)
    except Exception as error:  # a damaged file can raise anything in the libraries below, and must not stop the others
        reason = f"{recording.path}: {type(error).__name__}: {error}; no reader should fail like this, please report it"
        return Outcome(recording.recording_id, "quarantined", source_sha256=sha, reason=reason)


def _summarise(key: str, recordings: list[Recording], outcomes: dict[str, Outcome]) -> PrepareSummary:
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
