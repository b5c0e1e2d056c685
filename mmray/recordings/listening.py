"""A study of people who do not exist and listen to speech: each trial an EEG and a voice that began at one moment.

The scalp answers the speech's envelope, convolved with a response of 0 to 250 ms, under the person's own EEG. Nothing
else is shared: traits of EEG and of voice are drawn apart, so no voice tells whose EEG it was, and only timing can.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from mmray import cluster
from mmray.config import Cluster, Listening
from mmray.errors import ConfigError
from mmray.recordings import generated, manifest, synthetic_eeg, synthetic_voice
from mmray.recordings.found import Found
from mmray.recordings.synthetic_traits import realise
from mmray.storage import Workspace

MANIFEST = "manifest.csv"
# of the net's 128, those nearest to the 10-20 system's and some between
ELECTRODES = (
    *(
        "E22",
        "E9",
        "E33",
        "E24",
        "E11",
        "E124",
        "E122",
        "E45",
        "E36",
        "E104",
        "E108",
        "E58",
        "E52",
        "E62",
        "E92",
        "E96",
    ),
    *("E70", "E75", "E83", "E28", "E117", "E13", "E112", "E6", "E41", "E103", "E55", "E37", "E87", "E67", "E77", "E72"),
)

_GENERATOR = 1  # raise it when the same seed no longer gives the same bytes
_RATE_HZ = round(synthetic_eeg.SAMPLING_RATE_HZ)
# P1, N1 and P2 of the response to a rise of the envelope: when, how wide (ms), how large
_PEAKS = ((50.0, 15.0, 0.6), (100.0, 22.0, -1.0), (180.0, 30.0, 0.7))
_RESPONSE_MS = 250.0
_PLACE_3 = (0.0, 0.35, 0.94)  # frontocentral, in unit vectors from the head's centre
_SOURCES = 6  # the nearest to it answer
_BAND_HZ = (1.0, 45.0)  # in which response and the rest are compared
_TRAITS = 8
_EDF_STEP_UV = 0.1


@dataclass(frozen=True)
class ListeningSummary:
    """What a listening study holds; `kept` says that it was there already and nothing was written."""

    root: str
    subjects: int
    trials: int
    hours: float
    kept: bool

    def render(self) -> str:
        """As lines for a terminal."""
        return (
            f"{self.root}: {'there already, kept' if self.kept else 'written'}\n"
            f"{self.subjects} listeners, {self.trials} trials, {self.hours:.1f} h of EEG and as much speech"
        )


def find(root: Path) -> Found:
    """The study's own manifest; raises RecordingError where it is not whole."""
    return manifest.find(root / MANIFEST)


def generate(out: str | Path, config: Listening, seed: int, cluster_config: Cluster) -> ListeningSummary:
    """Write a listening study, or keep the one that these settings made already.

    Raises:
        ConfigError: no folder is named.
        WorkspaceError: the folder holds something else, or cannot be written.
    """
    if not str(out):
        raise ConfigError("study.root: name the folder that the listening study is written to")
    place = Workspace(str(out))
    settings = {"generator": _GENERATOR, "seed": seed, "design": "listening", **config.model_dump(mode="json")}
    kept = generated.claim(place, settings, MANIFEST)
    if not kept:
        place.delete_partials()
        write = partial(_write_listener, place, config, seed, synthetic_eeg.lead_field())
        with cluster.session(cluster_config):
            for _ in cluster.map(write, range(config.subjects), label="listening study", config=cluster_config):
                pass
        place.write_text(_manifest(config), MANIFEST)
    trials = config.subjects * config.trials
    return ListeningSummary(place.root, config.subjects, trials, trials * config.trial_seconds / 3600, kept)


def _name(index: int, trial: int) -> str:
    return f"L{index + 1:03d}-t{trial + 1:02d}"


def _manifest(config: Listening) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["recording_id", "subject_id", "pair_id", "modality", "task", "path"])
    for index in range(config.subjects):
        for trial in range(config.trials):
            name = _name(index, trial)
            for modality, suffix in (("eeg", "edf"), ("audio", "wav")):
                rows.writerow([f"{name}-{modality}", name[:4], name, modality, "listening", f"{name}.{suffix}"])
    return text.getvalue()


def _write_listener(place: Workspace, config: Listening, seed: int, lead: synthetic_eeg.LeadField, index: int) -> None:
    """One person's trials. A file that is there is whole and of these settings, so it stays."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # how many threads share a matrix product decides how its sums round
        body, *streams = np.random.SeedSequence((seed, index)).spawn(1 + config.trials)
        rng = np.random.default_rng(body)
        eeg, voice = (
            realise(table, rng.standard_normal(_TRAITS), 0.35 * config.nuisance * rng.standard_normal(len(table)))
            for table in (synthetic_eeg.PARAMETERS, synthetic_voice.PARAMETERS)
        )
        response_T, topography_E = response(rng), _topography(lead, rng)
        level_db = rng.uniform(*config.response_db)
        for trial, stream in enumerate(streams):
            name, draw = _name(index, trial), np.random.default_rng(stream)
            clip_N = synthetic_voice.synthesise(voice, config.trial_seconds, config.nuisance, draw)
            if not place.exists(f"{name}.wav"):
                place.write_bytes(_wave(clip_N), f"{name}.wav")
            if not place.exists(f"{name}.edf"):
                samples = config.trial_seconds * _RATE_HZ
                rest = synthetic_eeg.synthesise(eeg, lead, samples, config.nuisance, draw)
                answer_T = np.convolve(envelope(clip_N, samples), response_T)[:samples]
                uv_ET = with_response(rest.uv_EN[:-1], rest.bad_E[:-1], np.outer(topography_E, answer_T), level_db)
                chosen_E = [int(label[1:]) - 1 for label in ELECTRODES]
                place.write_bytes(_edf(uv_ET[chosen_E], name), f"{name}.edf")


def envelope(clip_N: NDArray[np.float64], samples: int) -> NDArray[np.float64]:
    """Mean magnitude of the speech in each sample of the EEG, standardised."""
    edge_T = np.arange(samples) * len(clip_N) // samples
    mean_T = np.add.reduceat(np.abs(clip_N), edge_T) / np.diff([*edge_T, len(clip_N)])
    return np.asarray((mean_T - mean_T.mean()) / mean_T.std())


def response(rng: np.random.Generator) -> NDArray[np.float64]:
    """A person's answer to an impulse of the envelope, at the EEG's rate: P1, N1 and P2, somewhat early or late."""
    late, size_P = np.exp(0.06 * rng.standard_normal()), np.exp(0.15 * rng.standard_normal(len(_PEAKS)))
    time_T = np.arange(0, _RESPONSE_MS, 1000 / _RATE_HZ)
    bumps = [
        size * height * np.exp(-0.5 * ((time_T - late * centre) / width) ** 2)
        for size, (centre, width, height) in zip(size_P, _PEAKS, strict=True)
    ]
    return np.asarray(np.sum(bumps, axis=0))


def _topography(lead: synthetic_eeg.LeadField, rng: np.random.Generator) -> NDArray[np.float64]:
    """What E1-E128 see of the sources that answer, referenced to Cz."""
    nearest_S = np.argsort(-(lead.position_S3 @ np.array(_PLACE_3)))[:_SOURCES]
    gain_E: NDArray[np.float64] = (lead.gain_ES - lead.gain_ES[-1])[:, nearest_S] @ np.exp(
        0.3 * rng.standard_normal(_SOURCES)
    )
    return gain_E[:-1]


def with_response(
    rest_ET: NDArray[np.float64], bad_E: NDArray[np.bool_], answer_ET: NDArray[np.float64], level_db: float
) -> NDArray[np.float64]:
    """EEG with the answer added at this level.

    Args:
        rest_ET: microvolts at 250 Hz.
        bad_E: electrodes that do not count for the level.
        answer_ET: what the electrodes would see of the response alone, in any unit.
        level_db: power of the response over that of the rest, 1 to 45 Hz, average reference, mean over electrodes.
    """
    powers = [_band_power(signal_ET[~bad_E]) for signal_ET in (rest_ET, answer_ET)]
    with_ET: NDArray[np.float64] = rest_ET + np.sqrt(10 ** (level_db / 10) * powers[0] / powers[1]) * answer_ET
    return with_ET


def _band_power(uv_ET: NDArray[np.float64]) -> float:
    from scipy import signal  # a second to import, and every study's reader is

    spectrum_EF = fft.rfft(signal.detrend(uv_ET - uv_ET.mean(0)), axis=1)
    frequency_F = fft.rfftfreq(uv_ET.shape[1], 1 / _RATE_HZ)
    inside_F = (frequency_F >= _BAND_HZ[0]) & (frequency_F <= _BAND_HZ[1])
    return float((np.abs(spectrum_EF[:, inside_F]) ** 2).mean())


def _edf(uv_ET: NDArray[np.float64], name: str) -> bytes:
    """An EDF of one-second records (Kemp et al. 1992, doi 10.1016/0013-4694(92)90009-7), with a fixed date."""
    channels, samples = uv_ET.shape
    records = samples // _RATE_HZ
    step_ET = np.clip(np.rint((uv_ET - uv_ET.mean(1, keepdims=True)) / _EDF_STEP_UV), -32768, 32767).astype("<i2")

    def field(text: object, width: int) -> bytes:
        return str(text).ljust(width).encode("ascii")

    low, high = f"{-32768 * _EDF_STEP_UV:.1f}", f"{32767 * _EDF_STEP_UV:.1f}"
    columns = [
        (ELECTRODES, 16),
        (["electrode"] * channels, 80),
        (["uV"] * channels, 8),
        ([low] * channels, 8),
        ([high] * channels, 8),
        ([-32768] * channels, 8),
        ([32767] * channels, 8),
        ([""] * channels, 80),
        ([_RATE_HZ] * channels, 8),
        ([""] * channels, 32),
    ]
    head = [(0, 8), (f"{name} X X X", 80), ("Startdate X X X X", 80), ("16.04.15", 8), ("10.17.00", 8)]
    head += [(256 * (1 + channels), 8), ("", 44), (records, 8), (1, 8), (channels, 4)]
    parts = [field(text, width) for text, width in head]
    parts += [field(text, width) for texts, width in columns for text in texts]
    in_records = step_ET[:, : records * _RATE_HZ].reshape(channels, records, _RATE_HZ).swapaxes(0, 1)
    return b"".join([*parts, in_records.tobytes()])


def _wave(clip_N: NDArray[np.float64]) -> bytes:
    import soundfile
    from scipy import signal

    buffer = io.BytesIO()
    half_N = signal.resample_poly(clip_N, 1, 2)  # a voice has nothing to say above 11 kHz
    soundfile.write(buffer, half_N, synthetic_voice.SAMPLING_RATE_HZ // 2, subtype="PCM_16", format="WAV")
    return buffer.getvalue()
