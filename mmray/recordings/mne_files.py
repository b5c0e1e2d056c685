"""EEG files that MNE reads: EDF, BDF, BrainVision, EEGLAB, FIF, EGI simple binary and what else it knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmray.errors import RecordingError
from mmray.recordings import edf_header
from mmray.recordings.electrodes import electrode_names
from mmray.recordings.matlab import MOST_SAMPLES
from mmray.recordings.sidecar import refuse_conflict

if TYPE_CHECKING:
    import mne

Spans = tuple[tuple[int, int], ...]

_JOINTS = ("boundary", "BAD boundary", "EDGE boundary")  # EEGLAB's, and MNE's where it concatenates
_NEW_SEGMENT = "New Segment/"  # BrainVision's, before its own description
_MOST_BYTES = 4 * MOST_SAMPLES  # EEGLAB writes float32


def opened(path: Path) -> tuple[float, tuple[str, ...], int, Spans, Callable[[int, int], NDArray[np.float64]]]:
    """Open a file and pick its EEG channels; no sample is read, but of EEGLAB's files that hold them inside.

    Returns:
        The sampling rate in Hz, C electrode names, the number of samples T, the spans without a discontinuity, and what
        reads the samples [start, stop) as C x (stop - start) volts.

    Raises:
        RecordingError: MNE cannot read the file, it was cut short, its data lies outside its folder, two channels are
            one electrode, its electrodes have several rates, a BIDS sidecar states another rate, or it is too large to
            be read whole and cannot be read otherwise.
    """
    with _readable(path):
        raw = _raw(path)
        raw.pick("eeg", verbose="error")
    # DataLad's files are links into a store: a header is at home where it stands, and where it leads to
    folders = (path.parent.resolve(), path.resolve().parent)
    for file in raw.filenames:
        if file is not None and Path(file).parent.resolve() not in folders:
            raise RecordingError(f"{path}: its header names data outside its folder ({file}); put it beside the header")
    rate = float(raw.info["sfreq"])
    refuse_conflict(path, rate)
    try:
        names = electrode_names(raw.ch_names)
    except RecordingError as error:
        raise RecordingError(f"{path}: {error}") from error

    def volts(start: int, stop: int) -> NDArray[np.float64]:
        with _readable(path):
            data_CT: NDArray[np.float64] = raw.get_data(start=start, stop=stop, verbose="error")
        if data_CT.shape[1] < stop - start:
            raise RecordingError(f"{path}: ends before the {stop} samples that its header promises; copy it again")
        return data_CT

    with _readable(path):
        return rate, names, int(raw.n_times), spans(raw), volts


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except RecordingError:
        raise
    except Exception as error:  # MNE raises bare Exception for an unknown FIF tag; its formats share no error type
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RecordingError(f"{path}: MNE cannot read EEG from it ({why})") from error


def spans(raw: mne.io.BaseRaw) -> Spans:
    """Sample ranges between joints, gaps and what someone marked as bad.

    EEGLAB's `boundary`, MNE's `BAD boundary` and `EDGE boundary` and BrainVision's `New Segment/` are joints, and no
    other words are: a `word boundary` is an event of the experiment. An annotation that begins with BAD, as MNE's
    convention has it (BAD_ACQ_SKIP, a filled gap, is one), is cut out for as long as it lasts.
    """
    notes = raw.annotations
    gaps = []  # a boundary's duration tells how much is gone already, so it is a gap of no samples
    for onset, duration, text in zip(notes.onset, notes.duration, notes.description, strict=True):
        if text in _JOINTS or text.startswith(_NEW_SEGMENT):
            gaps.append((onset, 0.0))
        elif text.upper().startswith("BAD"):
            gaps.append((onset, duration))
    kept, start, samples = [], 0, int(raw.n_times)
    for onset, duration in sorted(gaps):
        # onsets count from the measurement's start, dated or not; a cropped file's first sample is later than that
        begin_s = onset - raw.first_time
        first, last = raw.time_as_index([begin_s, begin_s + duration], use_rounding=True).tolist()
        kept.append((start, min(first, samples)))
        start = max(start, last)
    kept.append((start, samples))
    return tuple((start, stop) for start, stop in kept if start < stop)


def _raw(path: Path) -> Any:
    import mne

    suffix = path.suffix.lower()
    if suffix == ".raw":
        return mne.io.read_raw_egi(path, preload=False, events_as_annotations=True, verbose="error")
    if suffix in (".edf", ".bdf"):
        header = edf_header.read(path)
        edf_header.refuse_cut(path, header)
        if not header.contiguous:
            raise ValueError("its records are not contiguous, EDF+D, and MNE would join them; export EDF+C")
        return mne.io.read_raw(path, exclude=edf_header.other_rates(path, header), preload=False, verbose="error")
    if suffix == ".set" and (size := path.stat().st_size) > _MOST_BYTES:
        raise RecordingError(
            f"{path}: {size >> 20} MiB with the samples inside, which cannot be read in parts; save it as two files "
            "(.set and .fdt), or export it as EDF or FIF"
        )
    raw = mne.io.read_raw(path, preload=False, verbose="error")
    if suffix == ".set" and Path(raw.filenames[0] or path).suffix.lower() == ".set" and not raw.preload:
        raw = mne.io.read_raw(path, preload=True, verbose="error")  # MNE would round what lies inside to float32
    return raw
