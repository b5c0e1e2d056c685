"""A study of people who do not exist, in MODMA's on-disk layout, so that MODMA's own reader reads it.

Each subject is made from (seed, index) alone and on one thread, so neither the number of workers or of their cores nor
a restart changes a byte.
`synthesis.json` is written first and says which settings made the folder; `truth.parquet` is written last, so a study
without it is not whole. Nothing but evaluation reads the truth.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mmray import cluster
from mmray.config import Cluster, Synth
from mmray.errors import ConfigError
from mmray.recordings import generated, synthetic_eeg, synthetic_voice
from mmray.recordings.synthetic_traits import Latents, draw_latents, realise
from mmray.recordings.synthetic_workbook import Person, draw_person, workbook
from mmray.storage import Workspace

TRUTH = "truth.parquet"
REST = "EEG_128channels_resting_lanzhou_2015"
AUDIO = "audio_lanzhou_2015"

_GENERATOR = 1  # raise it when the same seed no longer gives the same bytes
_MDD_SHARE = 24 / 53
# SD of nuisance in the traits' own unit, at nuisance 1: of a subject (a person's anatomy and day), of a clip (its mood)
SUBJECT_WOBBLE = 0.35
CLIP_WOBBLE = 0.5
_MATLAB_HEADER = b"MATLAB 5.0 MAT-file, Platform: GLNXA64, Created on: Thu Apr 16 10:17:00 2015"


@dataclass(frozen=True)
class SynthSummary:
    """What a synthetic study holds; `kept` says that it was there already and nothing was written."""

    root: str
    subjects: int
    mdd: int
    hc: int
    clips: int
    eeg_hours: float
    voice_hours: float
    kept: bool

    def render(self) -> str:
        """As lines for a terminal."""
        return (
            f"{self.root}: {'there already, kept' if self.kept else 'written'}\n"
            f"{self.subjects} subjects ({self.mdd} MDD, {self.hc} HC), {self.eeg_hours:.1f} h of EEG, "
            f"{self.clips} clips, {self.voice_hours:.1f} h of voice"
        )


@dataclass(frozen=True)
class _Subject:
    """All of a subject but the signals: cheap, so that driver and workers each derive it from (seed, index)."""

    person: Person
    latents: Latents
    eeg: dict[str, float]
    voice: dict[str, float]
    voice_drive_P: NDArray[np.float64]
    stem: str
    eeg_samples: int
    clip_seconds: tuple[float, ...]
    two_channels: bool
    eeg_seed: np.random.SeedSequence
    clip_seeds: tuple[np.random.SeedSequence, ...]


def generate(out: str | Path, config: Synth, seed: int, cluster_config: Cluster) -> SynthSummary:
    """Write a synthetic study, or keep the one that these settings made already.

    Args:
        out: folder or URI; new, empty, or holding a study of the same settings, whole or half-written.
        config: size, coupling, nuisance.
        seed: >= 0; same seed and settings, same bytes.
        cluster_config: where it runs; subjects are made in parallel.

    Raises:
        ConfigError: the seed is negative or no folder is named.
        WorkspaceError: the folder holds something else, or cannot be written.
    """
    if seed < 0:
        raise ConfigError(f"seed: {seed} is negative; a synthetic study wants a seed >= 0")
    if not str(out):
        raise ConfigError("study.root: name the folder that the synthetic study is written to")
    place = Workspace(str(out))
    kept = generated.claim(place, {"generator": _GENERATOR, "seed": seed, **config.model_dump(mode="json")}, TRUTH)
    subjects = [_subject(config, seed, index) for index in range(config.subjects)]
    if not kept:
        place.delete_partials()
        write = partial(_write_subject, place, config, seed, synthetic_eeg.lead_field())
        with cluster.session(cluster_config):
            for _ in cluster.map(write, range(config.subjects), label="synthetic study", config=cluster_config):
                pass
        _write_workbooks(place, [subject.person for subject in subjects])
        place.write_table(truth(config, seed), TRUTH)
    mdd = sum(subject.person.label for subject in subjects)
    return SynthSummary(
        root=place.root,
        subjects=len(subjects),
        mdd=mdd,
        hc=len(subjects) - mdd,
        clips=sum(len(subject.clip_seconds) for subject in subjects),
        eeg_hours=sum(subject.eeg_samples for subject in subjects) / synthetic_eeg.SAMPLING_RATE_HZ / 3600,
        voice_hours=sum(sum(subject.clip_seconds) for subject in subjects) / 3600,
        kept=kept,
    )


def _subject(config: Synth, seed: int, index: int) -> _Subject:
    streams = np.random.SeedSequence((seed, index)).spawn(5)
    latent_rng, person_rng, body_rng, plan_rng = (np.random.default_rng(stream) for stream in streams[:4])
    eeg_stream, *clip_streams = streams[4].spawn(1 + config.clips)
    patients = min(max(1, round(config.subjects * _MDD_SHARE)), config.subjects - 1)
    label = int(index < patients)
    person = draw_person(_subject_id(index, patients), label, person_rng)
    latents = draw_latents(label, config.label_effect, config.coupling, config.traits, latent_rng)
    wobble = SUBJECT_WOBBLE * config.nuisance
    eeg_P = wobble * body_rng.standard_normal(len(synthetic_eeg.PARAMETERS))
    voice_P = wobble * body_rng.standard_normal(len(synthetic_voice.PARAMETERS))
    # men and women differ in pitch and vocal tract; here less than in life, or nothing else would be left to find
    sex = 0.4 * config.nuisance * (1.0 if person.gender == "F" else -1.0)
    names = list(synthetic_voice.PARAMETERS)
    voice_P[names.index("f0_hz")] += sex
    voice_P[names.index("formant_scale")] += sex
    return _Subject(
        person=person,
        latents=latents,
        eeg=realise(synthetic_eeg.PARAMETERS, latents.eeg_K, eeg_P),
        voice=realise(synthetic_voice.PARAMETERS, latents.audio_K, voice_P),
        voice_drive_P=voice_P,
        stem=_stem(person.subject_id, index),
        # MODMA's run from 300 to 336 s
        eeg_samples=round(config.eeg_seconds * synthetic_eeg.SAMPLING_RATE_HZ * plan_rng.uniform(1.0, 1.12)),
        clip_seconds=tuple(
            _clip_seconds(config.clip_seconds, number, plan_rng) for number in range(1, config.clips + 1)
        ),
        two_channels=bool(plan_rng.random() < 0.15),
        eeg_seed=eeg_stream,
        clip_seeds=tuple(clip_streams),
    )


def _subject_id(index: int, patients: int) -> str:
    """0201xxxx for patients, 0202xxxx and 0203xxxx for controls; numbers have gaps, as MODMA's."""
    if index < patients:
        return f"0201{2 + index + index // 5:04d}"
    control = index - patients
    return f"{'0203' if control % 5 == 4 else '0202'}{1 + control + control // 7:04d}"


def _stem(subject_id: str, index: int) -> str:
    """A name as MODMA's, cut at 27 characters."""
    day = date(2015, 4, 16) + timedelta(days=index)
    word = {3: "_rest", 7: "restnew", 11: "rest_new"}.get(index % 13, "rest")
    clock = (10 + index % 7) * 100 + 17 * (index + 1) % 60
    return f"{subject_id}{word} {day:%Y%m%d} {clock:04d}.mat"[:27]


def _clip_seconds(mean: float, number: int, rng: np.random.Generator) -> float:
    """MODMA's proportions: interview clips of `mean`, then a read story, word lists, pictures described."""
    factor = 1.0 if number <= 18 else 2.9 if number == 19 else 0.95 if number <= 25 else 2.0
    spread = 0.45 if number <= 18 else 0.2
    return float(mean * factor * np.exp(np.clip(spread * rng.standard_normal(), -0.8, 0.8) - 0.5 * spread**2))


def _write_subject(place: Workspace, config: Synth, seed: int, lead: synthetic_eeg.LeadField, index: int) -> None:
    """One subject's files. A file that is there is whole and of these settings, so it stays."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # how many threads share a matrix product decides how its sums round
        _synthesise_subject(place, config, seed, lead, index)


def _synthesise_subject(place: Workspace, config: Synth, seed: int, lead: synthetic_eeg.LeadField, index: int) -> None:
    subject = _subject(config, seed, index)
    path = (REST, f"{subject.stem}.mat")
    if not place.exists(*path):
        rng = np.random.default_rng(subject.eeg_seed)
        recording = synthetic_eeg.synthesise(subject.eeg, lead, subject.eeg_samples, config.nuisance, rng)
        place.write_bytes(_matlab(subject.stem, recording, with_events=index % 3 == 0), *path)
    for number, (seconds, stream) in enumerate(zip(subject.clip_seconds, subject.clip_seeds, strict=True), start=1):
        clip_path = (AUDIO, subject.person.subject_id, f"{number:02d}.wav")
        if place.exists(*clip_path):
            continue
        rng = np.random.default_rng(stream)
        mood_P = CLIP_WOBBLE * config.nuisance * rng.standard_normal(len(synthetic_voice.PARAMETERS))
        voice = realise(synthetic_voice.PARAMETERS, subject.latents.audio_K, subject.voice_drive_P + mood_P)
        clip_N = synthetic_voice.synthesise(voice, seconds, config.nuisance, rng)
        place.write_bytes(_wave(clip_N, subject.two_channels, rng), *clip_path)


def _matlab(stem: str, recording: synthetic_eeg.SyntheticEEG, *, with_events: bool) -> bytes:
    """A MATLAB 5 file; its header names a fixed date, where scipy's would name today."""
    from scipy.io import savemat

    name = "a" + stem.rstrip(".").replace(" ", "_") + "mat"
    content: dict[str, object] = {
        name: recording.uv_EN,
        "samplingRate": np.array([[synthetic_eeg.SAMPLING_RATE_HZ]]),
        "Impedances_0": recording.impedance_kohm_E[:, None],
    }
    if with_events:
        content["DIN_1"] = np.array([["DIN1"], [1], [1000.0]], dtype=object)
    buffer = io.BytesIO()
    savemat(buffer, content, format="5", oned_as="column")
    buffer.seek(0)
    buffer.write(_MATLAB_HEADER.ljust(116))
    return buffer.getvalue()


def _wave(clip_N: NDArray[np.float64], two_channels: bool, rng: np.random.Generator) -> bytes:
    """24-bit PCM; a second microphone hears the same voice, a little softer."""
    import soundfile

    data = clip_N
    if two_channels:
        other_N = 0.8 * clip_N + np.abs(clip_N).max() * 2e-3 * rng.standard_normal(len(clip_N))
        data = np.stack([clip_N, other_N], axis=1)
    buffer = io.BytesIO()
    soundfile.write(buffer, data, synthetic_voice.SAMPLING_RATE_HZ, subtype="PCM_24", format="WAV")
    return buffer.getvalue()


def _write_workbooks(place: Workspace, people: list[Person]) -> None:
    for folder in (REST, AUDIO):
        # MODMA's workbooks disagree about ids: text in one, a number in the other
        content = workbook(people, ids_as_text=folder == REST)
        place.write_bytes(content, folder, f"subjects_information_{folder}.xlsx")


def truth(config: Synth, seed: int) -> pa.Table:
    """What truth.parquet holds: a row a subject, realised latents and the physical parameters they led to."""
    rows = []
    for subject in (_subject(config, seed, index) for index in range(config.subjects)):
        rows.append(
            {"subject_id": subject.person.subject_id, "label": subject.person.label}
            | {f"eeg_{k}": float(value) for k, value in enumerate(subject.latents.eeg_K)}
            | {f"audio_{k}": float(value) for k, value in enumerate(subject.latents.audio_K)}
            | {f"eeg_{name}": value for name, value in subject.eeg.items()}
            | {f"audio_{name}": value for name, value in subject.voice.items()}
        )
    table = pa.Table.from_pylist(rows)
    table = table.set_column(1, "label", table["label"].cast(pa.int8()))
    settings = {"coupling": config.coupling, "label_effect": config.label_effect, "traits": config.traits}
    return table.replace_schema_metadata({name: json.dumps(value) for name, value in settings.items()})
