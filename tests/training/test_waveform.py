"""Waves as node features, from files through `prepare`'s own path to a fit whose filters hear what is in them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from mmray import config
from mmray.features.extract import extract, shape
from mmray.features.table import Segments, from_table
from mmray.models.registry import build
from mmray.training import inference
from mmray.training.loop import fit
from tests.embedding import embedded
from tests.small_run import make_config, recordings

HZ = 64


def test_prepared_waves_train_a_convolution_end_to_end(tmp_path):
    settings = config.laid_over(
        make_config(tmp_path),
        {
            "features.eeg.families": ["waveform"],
            "model.node_encoder": "conv",
            "train.epochs": 2,
            "train.passes": 2,
            "train.learning_rate": 1e-2,
        },
    )
    found = recordings(tmp_path)
    segments: dict[str, Segments] = {}
    for modality in ("eeg", "audio"):
        rows = [extract(one, settings.features) for one in found if one.modality == modality and one.session == "1"]
        segments[modality] = from_table(pa.concat_tables(rows))
    assert segments["eeg"].shape == shape("eeg", settings.features) == (128, HZ)
    torch.manual_seed(0)
    model = build(settings.model, {m: part.shape for m, part in segments.items()}, classes=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    known, held = ({m: p.take(np.isin(p.subject_id_S, names)) for m, p in segments.items()} for names in (
        ["s1", "s2", "s3", "s4"], ["s5", "s6"]))  # fmt: skip
    state = fit(model, known, held, settings.train, seed=0)
    assert all(np.isfinite(record.loss) for record in state.history)
    after = state.part("best")
    moved = [name for name in before if "filters" in name and not torch.equal(before[name], after[name])]
    assert sorted(moved) == ["encoders.eeg.input.filters.bias", "encoders.eeg.input.filters.weight"]
    assert "encoders.audio.input.weight" in after, "a voice's descriptors are no wave"


def rhythms(subjects: int, segments: int = 4, seed: int = 0) -> dict[str, Segments]:
    """People whose rhythm has a frequency of their own and never the same phase; a voice tells the frequency."""
    rng = np.random.default_rng(seed)
    hertz_U = rng.uniform(4, 24, subjects)
    rows = subjects * segments
    hertz_S, time_T = np.repeat(hertz_U, segments), np.arange(HZ) / HZ
    phase_S11 = rng.uniform(0, 2 * np.pi, (rows, 1, 1))
    wave_SNT = np.sin(2 * np.pi * hertz_S[:, None, None] * time_T + phase_S11) + 0.3 * rng.normal(size=(rows, 6, HZ))
    told_SD = np.stack([np.cos(c * (hertz_S - 4) * np.pi / 20) for c in range(1, 6)], -1)
    told_SND = told_SD[:, None] + 0.05 * rng.normal(size=(rows, 8, 5))
    text = np.array([f"s{u:03d}" for u in np.repeat(np.arange(subjects), segments)])
    made = {}
    for modality, x_SND in (("eeg", wave_SNT), ("audio", told_SND)):
        nodes = x_SND.shape[1]
        ids = np.array([f"{subject}-{number % segments}" for number, subject in enumerate(text)])
        made[modality] = Segments(
            modality, ids, ids, text, text, np.full(rows, "rest"), np.full(rows, -1, np.int8),
            np.zeros(rows, np.float32), x_SND.astype(np.float32),
            np.tile((np.arange(nodes)[:, None] + [1, 2]) % nodes, (rows, 1, 1)).astype(np.int16),
            np.ones((rows, nodes, 2), np.float32),
        )  # fmt: skip
    return made


def test_filters_tell_unseen_people_by_their_rhythm(by_subject):
    model = config.Model(hidden=16, embedding=16, layers=1, node_encoder="conv", population=False, pooling=False)
    train = config.Train(epochs=16, batch_size=64, passes=6, segments=1, learning_rate=1e-2, classification_weight=0)
    segments = rhythms(180)

    def made():
        torch.manual_seed(0)
        return build(model, {m: part.shape for m, part in segments.items()}, classes=2)

    state = fit(made(), by_subject(segments, range(150)), by_subject(segments, range(150, 160)), train, seed=0)
    fitted, unseen = made(), by_subject(segments, range(160, 180))
    fitted.load_state_dict(state.part("best"))
    z = {m: embedded(fitted.eval(), part) for m, part in unseen.items()}
    assert inference.paired_mrr(z, unseen) > 0.6  # chance 0.18
