"""A part file: the rows of one recording, written stretch by stretch, under a name that says what they come from."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
from contextlib import closing
from functools import cache

import pyarrow as pa
import pyarrow.parquet as pq

from mmray.config import Features, digest
from mmray.errors import WorkspaceError
from mmray.features import extract, quality
from mmray.recordings.sidecar import Stated
from mmray.schema import Recording
from mmray.storage import Workspace

_VERSIONS = ("mmray", "mne", "librosa", "soxr", "scipy", "numpy")


def made_from(recording: Recording, features: Features, sha: str, stated: Stated | None) -> str:
    """What a part's rows depend on besides the settings.

    The bytes and the rate that a sidecar states of them, the labels that they carry, and the software.
    """
    row = recording
    fields = (row.recording_id, row.subject_id, row.pair_id, row.modality, row.session, row.task, row.label, row.reader)
    rate = [] if stated is None else [stated.sampling_rate_hz]
    return digest(sha, json.dumps(fields), json.dumps(versions(features)), *rate)


def write(
    workspace: Workspace, folder: tuple[str, ...], part: str, recording: Recording, features: Features, sha: str
) -> tuple[int, quality.Decisions]:
    """Publish a recording's part once all of it is written, a group of rows a stretch: no more of it is in memory.

    Returns:
        Its rows, and what was decided about the recording.

    Raises:
        RecordingError, ConfigError: as `extract.rows`.
        WorkspaceError: the part cannot be written.
    """
    decided: list[quality.Decisions] = []
    count = 0
    with closing(extract.rows(recording, features, sha)) as found:
        stretches = itertools.chain([next(found)], found)  # what cannot be used is known before a file is begun
        schema = extract.schema_of(recording, features)
        with workspace.writing(*folder, part) as path, pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for rows, of_stretch in stretches:
                if rows is not None:
                    writer.write_table(rows)
                    count += rows.num_rows
                decided.append(of_stretch)
            merged = quality.merged(decided)
            writer.add_key_value_metadata({extract.DECISIONS_KEY: json.dumps(merged)})
    return count, merged


def there(workspace: Workspace, *part: str) -> tuple[int, quality.Decisions | None] | None:
    """Rows of a part file, and what was decided about its recording; None where there is none, or it is damaged."""
    try:
        with workspace.filesystem.open_input_file(workspace.path(*part)) as file:
            about = pq.read_metadata(file)
            return int(about.num_rows), extract.decisions(about.metadata)
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    except OSError as error:
        raise WorkspaceError(f"workspace {workspace.root}: cannot read {'/'.join(part)}: {error}") from error


def versions(features: Features) -> dict[str, str]:
    """The software whose change makes a part another: what always counts, and the extras that these settings use."""
    extras = {
        "mne-icalabel": features.eeg.ica,
        "python-picard": features.eeg.ica,
        "autoreject": features.eeg.autoreject,
        "opensmile": not features.audio.encoder and "egemaps" in features.audio.families,
    }
    return {name: _version(name) for name in (*_VERSIONS, *(name for name, used in extras.items() if used))}


@cache
def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"  # whoever needs it says how to install it
