"""What an upload's header claims is judged before anything is decoded."""

from __future__ import annotations

import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import soundfile

from mmray.config import Config
from mmray.errors import RecordingError
from mmray.serving.sniff import refuse_hostile
from tests.recordings.made_files import rhythms, write_edf
from tests.serving.asgi import app_of, ask, parts

HOUR = 3600.0
ELECTRODES = [f"E{number}" for number in range(1, 129)]


def wav_header(path: Path, rate: int, channels: int, samples: int) -> Path:
    size = 2 * channels * samples
    head = b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt "
    head += struct.pack("<IHHIIHH", 16, 1, channels, rate, 2 * channels * rate, 2 * channels, 16)
    path.write_bytes(head + b"data" + struct.pack("<I", size) + bytes(size))
    return path


def matlab_73(path: Path, samples: int, rate: float, extra: int = 0) -> Path:
    """Compressed chunks that were never written: a few kilobytes that unpack to as much as is claimed."""
    with h5py.File(path, "w") as file:
        file.create_dataset("rest", (samples, 129), "f8", chunks=(min(samples, 1000), 129), compression="gzip")
        file["samplingRate"] = np.array([[rate]])
        if extra:
            file.create_dataset("extra", (extra,), "f8", chunks=(1 << 16,), compression="gzip")
    return path


def matlab_5(path: Path, samples: int) -> Path:
    """A compressed array of which only the head is there."""
    inner = struct.pack("<IIII", 6, 8, 6, 0) + struct.pack("<IIii", 5, 8, 129, samples)
    inner += struct.pack("<II", 1, 4) + b"rest" + bytes(4) + struct.pack("<II", 9, 8 * 129 * samples)
    body = zlib.compress(struct.pack("<II", 14, len(inner) + 8 * 129 * samples) + inner + bytes(1 << 16))
    path.write_bytes(
        b"MATLAB 5.0".ljust(124) + struct.pack("<H", 0x0100) + b"IM" + struct.pack("<II", 15, len(body)) + body
    )
    return path


def csv_zip(path: Path, rows: int) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("articulators.csv", b"0" * rows)
    return path


def crowded_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(3000):
            archive.writestr(f"{number}", b"")
    return path


@pytest.mark.parametrize(
    ("make", "study", "reason"),
    [
        (lambda p: wav_header(p, 16000, 1, 16000 * 61), "modma", "lasts 61 s, and at most 60 s"),
        (lambda p: wav_header(p, 1, 1, 1000), "modma", "claims 1 samples a second"),
        (lambda p: matlab_73(p, 1 << 24, 250.0), "modma", "unpacks to 16512 MiB"),
        (lambda p: matlab_73(p, 20_000, 250.0, extra=1 << 30), "modma", "unpacks to 8211 MiB"),
        (lambda p: matlab_73(p, 20_000, 250.0), "modma", "lasts 80 s"),
        (lambda p: matlab_73(p, 61, 1.0), "modma", "128 or 129 channels"),
        (lambda p: matlab_73(p, 200, 1.0), "modma", "lasts 200 s"),
        (lambda p: matlab_73(p, 200, 1e-300), "modma", "lasts"),
        (lambda p: matlab_73(p, 200, float("nan")), "modma", "samplingRate"),
        (lambda p: matlab_5(p, 1 << 20), "modma", "unpacks to 1032 MiB"),
        (lambda p: write_edf(p.with_suffix(".edf"), rhythms(4, 70, 100), ELECTRODES[:4], 100), "modma", "lasts 70 s"),
        (lambda p: csv_zip(p, 80 << 20), "feis", "unpacks to 80 MiB"),
        (crowded_zip, "feis", "far more than the one CSV"),
    ],
)  # fmt: skip
def test_a_file_that_would_take_too_much_is_refused_by_its_header(
    tmp_path: Path, make, study: str, reason: str
) -> None:
    path = make(tmp_path / "upload")
    tracemalloc.start()
    try:
        with pytest.raises(RecordingError, match=reason):
            refuse_hostile(path, study, 60.0)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_many_samples_in_a_short_time_are_refused_too(tmp_path: Path) -> None:
    """A rate that a header makes up cannot make a long recording short."""
    with pytest.raises(RecordingError, match=r"128 channels of 300,000 samples are more than"):
        refuse_hostile(matlab_73(tmp_path / "upload", 300_000, 1e6), "modma", HOUR)


def test_silence_that_unpacks_to_gigabytes_is_refused_by_its_header(tmp_path: Path) -> None:
    """Eight channels at 655 kHz: half a megabyte of FLAC whose first window would be 1.6 GiB."""
    path = tmp_path / "upload.flac"
    soundfile.write(path, np.zeros((655_350, 8), np.int16), 655_350)
    with pytest.raises(RecordingError, match=r"8 channels at 655350 Hz are more than the 1,048,576 samples a second"):
        refuse_hostile(path, "modma", HOUR)


@pytest.mark.parametrize("suffix", [".wav", ".mat", ".edf"])
def test_a_recording_within_the_limits_passes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"upload{suffix}"
    if suffix == ".wav":
        soundfile.write(path, np.zeros((16000, 64)), 16000)  # 64 channels are many and no harm
    elif suffix == ".mat":
        scipy.io.savemat(path, {"rest": rhythms(129, 2, 250), "samplingRate": [[250.0]]}, do_compression=True)
    else:
        write_edf(path, rhythms(4, 3, 100), ELECTRODES[:4], 100)
    refuse_hostile(path, "modma", HOUR)


def test_over_http_they_are_422_under_the_uploads_name_and_leave_nothing(config: Config, tmp_path: Path) -> None:
    app = app_of(config, max_recording_s=60)
    made = {
        "lasts 61 s": wav_header(tmp_path / "long", 16000, 1, 16000 * 61),
        "1 samples a second": wav_header(tmp_path / "slow", 1, 1, 1000),
        "unpacks to": matlab_73(tmp_path / "bomb", 1 << 24, 250.0),
        "electrode": write_edf(tmp_path / "unknown.edf", rhythms(4, 3, 250), ["A", "B", "C", "D"], 250),
        "archive": csv_zip(tmp_path / "zip", 100),
    }
    for reason, path in made.items():
        for route in ("/v1/search", "/v1/classify"):
            answer = ask(app, "POST", route, files=parts(path), data={"target": "eeg"} if "search" in route else {})
            assert answer.status_code == 422, reason
            detail = answer.json()["detail"]
            assert detail.startswith("upload: "), detail
            assert reason in detail
            assert str(tmp_path) not in detail
            assert "/tmp" not in detail


def test_a_voice_of_64_channels_is_answered(config: Config, tmp_path: Path) -> None:
    wave, rate = soundfile.read(Path(config.workspace).parent / "study" / "s1-audio-1.wav")
    soundfile.write(tmp_path / "many.wav", np.repeat(wave[:, None], 64, axis=1), rate)
    fields = {"target": "audio", "top_k": 1}
    many = ask(app_of(config), "POST", "/v1/search", files=parts(tmp_path / "many.wav"), data=fields).json()
    assert many["matches"][0]["recording_id"] == "s1-audio-1"
