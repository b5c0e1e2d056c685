"""Folders as in EAV: `<subject>/EEG/*` and `<subject>/Audio/*` of people who talk, voice by voice.

EAV's own EEG is MATLAB (`subject1_eeg.mat`, without electrode names or sampling rate) and is listed as not read: export
it to EDF or EEGLAB beside it. Its voices are `002_Trial_02_Speaking_Neutral_Aud.wav`: the emotion becomes the task, not
the label, which is a person's. Every other EEG and audio file in such folders is taken as it is.
"""

from __future__ import annotations

import re
from pathlib import Path

from mmray.errors import RecordingError
from mmray.recordings.formats import AUDIO_SUFFIXES, COMPANIONS, EEG_SUFFIXES
from mmray.recordings.found import NO_FILE, Found, Unplaced, entries, size_of
from mmray.recordings.study import Expected, StudyKind
from mmray.schema import Modality, Recording

_FOLDERS: dict[str, Modality] = {"eeg": "eeg", "audio": "audio"}
_SUFFIXES = {"eeg": EEG_SUFFIXES, "audio": AUDIO_SUFFIXES}
_CLIP = re.compile(r"[0-9]+_Trial_[0-9]+_([A-Za-z]+)_([A-Za-z]+)_aud", re.IGNORECASE)
_EMOTIONS = ("neutral", "anger", "happiness", "sadness", "calmness")


def find(root: Path) -> Found:
    """List the recordings of every subject's folder.

    Raises:
        RecordingError: no folder holds EEG/ or Audio/.
    """
    recordings: list[Recording] = []
    unplaced: list[Unplaced] = []
    places = 0
    for subject in entries(root):
        for folder in entries(subject) if subject.is_dir() else []:
            modality = _FOLDERS.get(folder.name.lower())
            if modality is None or not folder.is_dir():
                continue
            places += 1
            for path in entries(folder):
                item = _recording(subject.name, modality, path)
                if isinstance(item, Recording):
                    recordings.append(item)
                elif item:
                    unplaced.append(item)
    if not places:
        raise RecordingError(f"recordings: no folder of {root} holds EEG/ or Audio/; name the folder of the subjects")
    return Found(recordings, unplaced)


def _recording(subject: str, modality: Modality, path: Path) -> Recording | Unplaced | None:
    suffix = path.suffix.lower()
    if suffix in (samples for suffixes in COMPANIONS.values() for samples in suffixes):
        return None
    if suffix not in _SUFFIXES[modality]:
        return Unplaced(str(path), f"not read: none of {' '.join(_SUFFIXES[modality])}")
    if (size := size_of(str(path))) is None:
        return Unplaced(str(path), NO_FILE)
    clip = _CLIP.fullmatch(path.stem)
    name = f"{subject}-{modality}-{path.stem}"
    return Recording(
        recording_id=re.sub(r"[^A-Za-z0-9_-]+", "-", name),
        subject_id=subject,
        pair_id=subject,
        modality=modality,
        session="1",
        task=f"{clip[1]}-{clip[2]}".lower() if clip else "recording",
        label=None,
        label_name=None,
        path=str(path),
        reader="mne" if modality == "eeg" else "soundfile",
        size_bytes=size,
    )


STUDY = StudyKind(
    find,
    title="EAV",
    citation="Lee et al., EAV: EEG-Audio-Video Dataset for Emotion Recognition in Conversational Contexts, "
    "Scientific Data 11 (2024), 1026",
    doi="10.1038/s41597-024-03838-4",
    licence="restricted, on request (doi 10.5281/zenodo.10205702)",
    expected=(
        Expected("eeg", 42, {"recording": 1}),
        Expected("audio", 42, {f"speaking-{emotion}": 20 for emotion in _EMOTIONS}),
    ),
)
