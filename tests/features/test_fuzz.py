"""Two hundred damaged files of eleven formats in one preparation: none stops it, each is prepared or quarantined."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import soundfile

from mmray.config import EEG, Audio, Cluster, Config, Features
from mmray.errors import RecordingError
from mmray.features import pipeline
from mmray.features.extract import extract
from mmray.recordings.feis_epochs import CHANNELS
from mmray.schema import recordings_table
from mmray.storage import Workspace
from tests.features.recordings import recording
from tests.recordings.made_files import rhythms, write_brainvision, write_edf, write_egi, write_three_channels

FILES = 200
SECONDS = 6
# EGI's, MODMA's and the text files name no such electrodes: whole ones are read and then refused for that
SETTINGS = Features(
    eeg=EEG(montage="standard_1020", channels=("F3", "F4", "T7", "T8", "O1", "O2"), segment_s=1.0, neighbours=2),
    audio=Audio(segment_s=1.0, trim_db=None),
)


def sound_files(folder: Path) -> list[Path]:
    """One whole file of each format, small."""
    names = list(SETTINGS.eeg.channels)
    data = rhythms(6, SECONDS, 128)
    folder.mkdir()
    made = [
        write_edf(folder / "whole.edf", data, names, 128),
        write_edf(folder / "whole.bdf", data, names, 128),
        write_brainvision(folder / "whole.vhdr", data, names, 128),
        write_egi(folder / "whole.raw", rhythms(129, SECONDS, 250), 250, {"TRSP": [100]}),
        write_three_channels(folder / "whole.txt", rhythms(3, SECONDS, 250)),
    ]
    array = {"rest": rhythms(129, SECONDS, 250), "samplingRate": np.array([[250.0]])}
    scipy.io.savemat(folder / "whole.mat", array)
    scipy.io.savemat(folder / "packed.mat", array, do_compression=True)
    made += [folder / "whole.mat", folder / "packed.mat"]
    lines = ["Time:256Hz,Epoch," + ",".join(CHANNELS) + ",Label,Stage,Flag"]
    for number, row in enumerate(4200 + rhythms(14, SECONDS, 256).T):
        lines.append(f"{number / 256},{number // 256}," + ",".join(f"{v:.3f}" for v in row) + ",goose,articulators,")
    with zipfile.ZipFile(folder / "feis.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("articulators.csv", "\n".join(lines))
    made.append(folder / "feis.zip")
    time = np.arange(2 * 16000) / 16000
    wave = 0.3 * np.sin(2 * np.pi * 150 * time) * (1 + 0.5 * np.sin(2 * np.pi * 3 * time))
    for suffix in ("wav", "flac", "ogg"):
        soundfile.write(folder / f"whole.{suffix}", wave, 16000)
        made.append(folder / f"whole.{suffix}")
    return made


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Bytes flipped, mostly in the header; or cut short; or numbers in the header made enormous, or zeros put there."""
    body = bytearray(content)
    header = min(len(body), 1024)
    match rng.integers(5):
        case 0:
            for at in rng.integers(0, header, size=rng.integers(1, 20)):
                body[at] ^= 1 << rng.integers(8)
        case 1:
            for at in rng.integers(0, len(body), size=rng.integers(1, 200)):
                body[at] = rng.integers(256)
        case 2:
            del body[rng.integers(0, len(body)) :]
        case 3:
            at = int(rng.integers(0, max(1, header - 8)))
            body[at : at + 4] = rng.choice([b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"9999", b"-999"])
        case _:
            at = int(rng.integers(0, header))
            body[at : at + 64] = bytes(len(body[at : at + 64]))
    return bytes(body)


def reader_of(path: Path) -> tuple[str, str]:
    readers = {".mat": "modma-mat", ".txt": "modma-txt", ".zip": "feis", ".wav": "soundfile", ".flac": "soundfile"}
    reader = readers.get(path.suffix, "soundfile" if path.suffix == ".ogg" else "mne")
    return ("audio" if reader == "soundfile" else "eeg"), reader


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    whole = sound_files(folder / "whole")
    found = []
    for seed in range(FILES):
        rng = np.random.default_rng(seed)
        source = whole[seed % len(whole)]
        place = folder / f"{seed:03d}"
        place.mkdir()
        for file in source.parent.glob(f"{source.stem}.*") if source.suffix == ".vhdr" else [source]:
            # BrainVision: the header alone is damaged, its data lies beside it
            content = file.read_bytes()
            (place / file.name).write_bytes(damaged(content, rng) if file == source else content)
        modality, reader = reader_of(source)
        found.append(recording(place / source.name, modality, reader, f"s{seed:03d}", f"f{seed:03d}"))
    return found


def leftovers() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).glob("mmray-*")}


def test_none_of_two_hundred_damaged_files_stops_the_batch(fuzzed, ray_session, tmp_path):
    before = leftovers()
    workspace = Workspace(str(tmp_path))
    workspace.write_table(recordings_table(fuzzed), "recordings.parquet")
    settings = Config(workspace=str(tmp_path), features=SETTINGS, cluster=Cluster())
    summary = pipeline.prepare(settings)
    assert sum(summary.prepared.values()) + sum(summary.quarantined.values()) == FILES
    assert sum(summary.prepared.values()) > 20
    assert sum(summary.quarantined.values()) > 20
    reasons = dict(summary.reasons)
    assert len(reasons) == sum(summary.quarantined.values())
    unforeseen = {name: why for name, why in reasons.items() if "please report it" in why}
    assert unforeseen == {}
    for one in fuzzed:
        assert reasons.get(one.recording_id, one.path).startswith(one.path)
    assert leftovers() == before


def resident() -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells a process's memory there")
def test_damaged_files_leave_no_memory_behind(fuzzed):
    def through() -> None:
        for one in fuzzed[:88]:
            try:
                extract(one, SETTINGS)
            except RecordingError:
                continue

    through()
    before = resident()
    through()
    assert resident() - before < 32 << 20
