"""What an EDF or BDF file says of itself that MNE does not heed: channels' own rates, and how long it ought to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmray.errors import RecordingError
from mmray.recordings.electrodes import are_electrodes

_ANNOTATIONS = ("EDF Annotations", "BDF Annotations")
_FIXED, _A_CHANNEL = 256, 256  # bytes of the header
_SAMPLES_AT = 216  # bytes of a channel's fields before its number of samples a record


@dataclass(frozen=True)
class Header:
    """The part of the header that is looked at.

    Attributes:
        labels: C channels as they are spelt; those of annotations are channels too.
        samples: C samples a data record.
        record_s: seconds a record.
        records: how many there ought to be; -1 where the recorder never came to write it.
        contiguous: whether each record begins where the last one ended.
        promised_bytes: of the whole file; 0 where `records` is not known.
    """

    labels: tuple[str, ...]
    samples: tuple[int, ...]
    record_s: float
    records: int
    contiguous: bool
    promised_bytes: int


def read(path: Path) -> Header:
    """Raises ValueError where a number of the header is none."""
    with path.open("rb") as file:
        fixed = file.read(_FIXED)
        channels = max(0, int(_text(fixed[252:256])))
        fields = file.read(_A_CHANNEL * channels)
    labels = [fields[16 * channel :][:16] for channel in range(channels)]
    samples = [int(_text(fields[_SAMPLES_AT * channels + 8 * channel :][:8])) for channel in range(channels)]
    records, width = int(_text(fixed[236:244])), 3 if path.suffix.lower() == ".bdf" else 2
    return Header(
        tuple(label.strip().decode("latin-1") for label in labels),  # as MNE spells them
        tuple(samples),
        float(_text(fixed[244:252])) or 1.0,  # as MNE takes it
        records,
        fixed[192:197] not in (b"EDF+D", b"BDF+D"),
        _FIXED + _A_CHANNEL * channels + records * width * sum(samples) if records > 0 else 0,
    )


def _text(field: bytes) -> str:
    return field.decode("latin-1").split("\0")[0]  # some recorders fill up with NUL and not with blanks


def refuse_cut(path: Path, header: Header) -> None:
    """Raise RecordingError where the file ends before its records do; MNE would take what is there for the whole."""
    if (held := path.stat().st_size) < header.promised_bytes:
        raise RecordingError(
            f"{path}: its header promises {header.records} records, {header.promised_bytes} bytes, the file holds "
            f"{held}; it was cut short, copy it again"
        )


def other_rates(path: Path, header: Header) -> list[str]:
    """Labels of the channels that are sampled at another rate than the electrodes.

    MNE gives all channels the highest rate among them, and interpolates what it reads of the slower ones, a window at a
    time and with that window's edges; left out of the file, these channels change nothing.

    Raises:
        RecordingError: there are several rates, and the electrodes have more than one of them or cannot be told.
    """
    rate_of = [
        (label, count / header.record_s)
        for label, count in zip(header.labels, header.samples, strict=True)
        if label not in _ANNOTATIONS
    ]
    if len({rate for _, rate in rate_of}) < 2:
        return []
    electrode = are_electrodes([label for label, _ in rate_of])
    rates = {rate: label for (label, rate), is_one in zip(rate_of, electrode, strict=True) if is_one}
    if len(rates) != 1:
        examples = rates or {rate: label for label, rate in rate_of}
        told = ", ".join(f"{label!r} at {rate:g} Hz" for rate, label in sorted(examples.items())[:4])
        what = "its electrodes are" if rates else "none of its channels is named as an electrode, and they are"
        raise RecordingError(f"{path}: {what} sampled at {len(examples)} rates ({told}); export the EEG at one rate")
    [own] = rates
    return [label for label, rate in rate_of if rate != own]
