"""Recordings that the tests of this package share."""

from __future__ import annotations

from pathlib import Path

from mmray.config import EEG, Audio, Features
from mmray.recordings.feis_epochs import CHANNELS
from mmray.schema import Recording

# the settings of the FEIS study: one-second epochs, one-second clips
FEIS = Features(
    eeg=EEG(montage="colin27_1020", channels=CHANNELS, segment_s=1.0, neighbours=4),
    audio=Audio(segment_s=1.0, trim_db=None),
)
_EEGLAB_CHANNELS = """
FPz F3 Fz F4 FC5 FC1 FC2 FC6 T7 C3 C4 Cz T8 CP5 CP1 CP2 CP6 P7 P3 Pz P4 P8 PO7 PO3 POz PO4 PO8 O1 Oz O2
"""
EEGLAB = EEG(montage="colin27_1020", channels=tuple(_EEGLAB_CHANNELS.split()))


def recording(path: Path, modality: str, reader: str, subject: str = "s1", name: str | None = None) -> Recording:
    return Recording(
        recording_id=name or f"{subject}-{modality}-{path.stem}",
        subject_id=subject,
        pair_id=subject,
        modality=modality,
        session="1",
        task="rest",
        label=1,
        label_name="one",
        path=str(path),
        reader=reader,
        size_bytes=path.stat().st_size,
    )
