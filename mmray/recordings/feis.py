"""FEIS: fourteen-channel EEG with imagined speech, and phonemes in the participants' own voices.

S. Wellington, J. Clayton, "Fourteen-channel EEG with Imagined Speech (FEIS) dataset", v1.0 (2019), University of
Edinburgh, doi 10.5281/zenodo.3369178, ODC-BY 1.0. Participants 01-14: 160 one-second epochs of 256 samples (12: 112),
16 voice clips each but for 05, who has none. EEG is not time-locked to the clips: a match is a person. The label is
whether a person speaks English natively.
"""

from __future__ import annotations

import itertools
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from mmray.errors import RecordingError
from mmray.recordings.found import RECORDING_ID, Found, Unplaced, entries
from mmray.schema import Recording

CHANNELS = ("F3", "FC5", "AF3", "F7", "T7", "P7", "O1", "O2", "P8", "T8", "F8", "AF4", "FC6", "F4")
SAMPLING_RATE_HZ = 256.0
_NATIVE = {"04", "05", "06", "07", "08", "10", "13"}
_PARTICIPANTS = {f"{number:02d}" for number in range(1, 15)}  # whose mother tongue is known
_LARGEST_CSV = 1 << 30  # bytes; the real ones unpack to 10 MB, a bomb to far more


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


def read_epochs(
    path: Path, channels: tuple[str, ...] = CHANNELS
) -> tuple[NDArray[np.float64], tuple[tuple[int, int], ...]]:
    """Read articulators.zip without unpacking it to disk; no name inside the archive is trusted.

    Args:
        path: the zip with one CSV: `Time:256Hz, Epoch, F3, ..., F4, Label, Stage, Flag`.
        channels: columns to read; none are needed for the epochs alone.

    Returns:
        (C, T) µV as the headset wrote them, about a 4,200 offset; and each epoch's sample range [start, stop).

    Raises:
        RecordingError: the archive or its CSV is damaged, too large, or lacks a column.
    """
    options = pacsv.ConvertOptions(
        include_columns=["Epoch", *channels],
        column_types={"Epoch": pa.int64()} | dict.fromkeys(channels, pa.float64()),
    )
    try:
        with _csv_of(path) as stream:
            table = pacsv.read_csv(stream, convert_options=options)
    except pa.ArrowKeyError as error:
        raise RecordingError(f"{path}: the CSV lacks a column of FEIS: {error}") from error
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        zlib.error,
        zipfile.BadZipFile,
        pa.ArrowException,
    ) as e:
        raise RecordingError(f"{path}: not a zip with a readable CSV of FEIS ({e}); download it again") from e
    if table.num_rows == 0:
        raise RecordingError(f"{path}: the CSV holds no samples; download it again")
    epoch_T = table["Epoch"].to_numpy()
    cuts = [0, *(np.flatnonzero(np.diff(epoch_T)) + 1).tolist(), len(epoch_T)]
    data_CT = np.empty((len(channels), len(epoch_T)))
    for row, name in enumerate(channels):
        data_CT[row] = table[name].to_numpy()
    return data_CT, tuple(itertools.pairwise(cuts))


@contextmanager
def _csv_of(path: Path) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if info.filename.lower().endswith(".csv")]
        if len(members) != 1 or members[0].file_size > _LARGEST_CSV:
            raise RecordingError(
                f"{path}: wants one CSV of at most {_LARGEST_CSV >> 20} MiB, holds {len(members)}, of "
                f"{sum(info.file_size for info in members) >> 20} MiB"
            )
        with archive.open(members[0]) as stream:  # yields at most the declared size, and checks its CRC
            yield stream


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
