"""FEIS: fourteen-channel EEG with imagined speech, and phonemes in the participants' own voices.

160 one-second epochs of 256 samples a participant (12: 112), and 16 voice clips each but for 05, who has none. EEG is
not time-locked to the clips: a match is a person. The label is whether a person speaks English natively, known of 01 to
14.
"""

from __future__ import annotations

import re
from pathlib import Path

from mmray.errors import RecordingError
from mmray.recordings.feis_epochs import read_epochs
from mmray.recordings.found import RECORDING_ID, Found, Unplaced, entries
from mmray.recordings.study import Expected, StudyKind
from mmray.schema import Recording

_NATIVE = {"04", "05", "06", "07", "08", "10", "13"}
_PARTICIPANTS = {f"{number:02d}" for number in range(1, 15)}  # whose mother tongue is known


def find(root: Path) -> Found:
    """List one EEG recording and the voice clips of each participant, and count the epochs.

    Raises:
        RecordingError: neither data_eeg nor data_wav is there.
    """
    eeg, wav = root / "data_eeg", root / "data_wav"
    if not eeg.is_dir() and not wav.is_dir():
        raise RecordingError(
            f"recordings: {root} holds neither data_eeg nor data_wav; name FEIS's own folder with --root"
        )
    recordings: list[Recording] = []
    unplaced: list[Unplaced] = []
    epochs = 0
    for folder in entries(eeg) if eeg.is_dir() else []:
        for path in entries(folder) if _is_participant(folder) else [folder]:
            if path.name != "articulators.zip" or not path.is_file():
                unplaced.append(Unplaced(str(path), "not a participant's articulators.zip"))
                continue
            recordings.append(_recording(folder.name, "eeg", "", path))
            try:
                epochs += len(read_epochs(path, channels=())[1])
            except RecordingError as error:
                unplaced.append(Unplaced(str(path), f"its epochs are not in the count: {error}"))
    for folder in entries(wav) if wav.is_dir() else []:
        voice = folder / "wavs"
        for path in entries(voice) if _is_participant(folder) and voice.is_dir() else [folder]:
            if path.suffix.lower() == ".wav" and path.is_file() and RECORDING_ID.fullmatch(path.stem):
                recordings.append(_recording(folder.name, "audio", f"-{path.stem}", path))
            else:
                unplaced.append(Unplaced(str(path), "not a participant's wavs/<phoneme>.wav"))
    return Found(recordings, unplaced, (f"{epochs:,} one-second EEG epochs",) if epochs else ())


def _is_participant(folder: Path) -> bool:
    return folder.is_dir() and re.fullmatch(r"[0-9]{2}", folder.name) is not None


def _recording(participant: str, modality: str, suffix: str, path: Path) -> Recording:
    label = int(participant in _NATIVE) if participant in _PARTICIPANTS else None
    subject = f"feis-{participant}"
    return Recording(
        recording_id=f"{subject}-{modality}{suffix}",
        subject_id=subject,
        pair_id=subject,
        modality=modality,
        session="1",
        task="articulators" if modality == "eeg" else "phonemes",
        label=label,
        label_name=None if label is None else ("non-native", "native")[label],
        path=str(path),
        reader="feis" if modality == "eeg" else "soundfile",
        size_bytes=path.stat().st_size,
    )


STUDY = StudyKind(
    find,
    title="FEIS",
    citation="S. Wellington, J. Clayton, Fourteen-channel EEG with Imagined Speech (FEIS) dataset, v1.0, University of "
    "Edinburgh (2019)",
    doi="10.5281/zenodo.3369178",
    licence="ODC-BY 1.0",
    expected=(Expected("eeg", 21, {"articulators": 1}), Expected("audio", 20, {"phonemes": 16})),
)
