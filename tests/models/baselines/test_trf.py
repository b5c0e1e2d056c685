"""The temporal response function against MNE's, and that it finds a response that was put in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from mne.decoding import TimeDelayingRidge

from mmray import config
from mmray.errors import ConfigError
from mmray.features.table import Segments
from mmray.models.baselines import trf
from mmray.models.registry import build
from mmray.training.inference import paired_mrr
from tests.embedding import embedded

ELECTRODES, FRAMES, FEATURES, LAGS = 5, 40, 3, 4
MODEL = config.Model(name="trf", time_span=2 * LAGS - 1, embedding=8)


def listeners(people=6, windows=10, noise=0.5, seed=0):
    """Voices of three features; each electrode answers the second, one to three frames later."""
    rng = np.random.default_rng(seed)
    kernel_NL = np.random.default_rng(99).normal(size=(ELECTRODES, LAGS)) * [0, 1, 1, 1]
    count = people * windows
    voice_SJD = rng.normal(size=(count, FRAMES, FEATURES))
    answer_SNJ = np.stack(
        [[np.convolve(voice_JD[:, 1], kernel)[:FRAMES] for kernel in kernel_NL] for voice_JD in voice_SJD]
    )
    x = {"eeg": answer_SNJ + noise * rng.normal(size=answer_SNJ.shape), "audio": voice_SJD}
    subject_S = np.repeat([f"s{person}" for person in range(people)], windows)
    pair_S = np.array([f"{subject}@{number % windows:08d}" for number, subject in enumerate(subject_S)])
    return {
        m: Segments(
            modality=m,
            segment_id_S=np.char.add(pair_S, m),
            recording_id_S=np.char.add(subject_S, m),
            subject_id_S=subject_S,
            pair_id_S=pair_S,
            task_S=subject_S,
            label_S=np.full(count, -1, np.int8),
            start_s_S=np.zeros(count, np.float32),
            x_SND=x_SND.astype(np.float32),
            neighbour_SNK=np.zeros((count, x_SND.shape[1], 1), np.int16),
            weight_SNK=np.zeros((count, x_SND.shape[1], 1), np.float32),
        )
        for m, x_SND in x.items()
    }


def made(segments):
    torch.manual_seed(0)
    model = build(MODEL, {m: part.shape for m, part in segments.items()}, classes=2)
    model.fit_scalers(
        {m: torch.tensor(part.x_SND) for m, part in segments.items()},
        {m: part.subject_id_S for m, part in segments.items()},
        {m: part.recording_id_S for m, part in segments.items()},
    )
    return model.eval()


def solved(segments, validation):
    model = made(segments)
    model.fit_closed_form(segments, lambda: mrr(model, validation))
    return model


def mrr(model, segments):
    return paired_mrr({m: embedded(model, part) for m, part in segments.items()}, segments)


def test_the_answer_is_found_and_the_feature_that_it_follows():
    model = solved(listeners(), listeners(seed=1))
    assert model.encoders["audio"].chosen_D.tolist() == [0, 1, 0]
    assert mrr(model, listeners(seed=2)) > 0.9


def test_where_the_scalp_does_not_listen_nothing_is_found():
    deaf = {}
    for seed in range(3):
        heard, other = listeners(seed=seed), listeners(seed=seed + 50)
        deaf[seed] = {"eeg": heard["eeg"], "audio": other["audio"]}
    assert mrr(solved(deaf[0], deaf[1]), deaf[2]) < 0.12  # chance of 60: 0.078


@pytest.mark.parametrize("strength", [1e-2, 1.0])
def test_weights_are_mnes(monkeypatch, strength):
    """MNE's ridge of delays, on the same standardised windows."""
    monkeypatch.setattr(trf, "STRENGTHS", (strength,))
    segments = listeners()
    model = solved(segments, listeners(seed=1))
    scalp, voice = model.encoders["eeg"], model.encoders["audio"]
    x_SND = scalp.standardised(torch.tensor(segments["eeg"].x_SND)).numpy().astype(float)
    y_SJ = voice.standardised(torch.tensor(segments["audio"].x_SND)).numpy()[..., 1].astype(float)
    y_SJ = y_SJ - y_SJ.mean(1, keepdims=True)
    x_TSN, y_TS1 = x_SND.transpose(2, 0, 1), y_SJ.T[..., None]
    square = sum(float((x_TSN[lag:] ** 2).sum()) for lag in range(LAGS)) / (ELECTRODES * LAGS)
    oracle = TimeDelayingRidge(-(LAGS - 1), 0, 1.0, alpha=strength * square, fit_intercept=False, edge_correction=True)
    oracle.fit(x_TSN, y_TS1)
    found_NL = scalp.weight_NL.numpy()
    expected_NL = oracle.coef_[0][:, ::-1]  # MNE counts delays, from the earliest; here leads, from the present
    np.testing.assert_allclose(found_NL, expected_NL, atol=1e-4 * np.abs(expected_NL).max())


def test_a_pair_without_its_voice_is_left_out():
    segments = listeners()
    short = segments | {"audio": segments["audio"].take(np.arange(len(segments["audio"])) % 7 > 0)}
    silent = short["eeg"].pair_id_S[::7]
    wild = short | {
        "eeg": replace(
            short["eeg"],
            x_SND=np.where(np.isin(short["eeg"].pair_id_S, silent)[:, None, None], 3.0, short["eeg"].x_SND),
        )
    }
    one, other = made(segments), made(segments)
    for model, given in ((one, short), (other, wild)):
        model.fit_closed_form(given, lambda model=model: mrr(model, listeners(seed=1)))
    assert torch.equal(one.encoders["eeg"].weight_NL, other.encoders["eeg"].weight_NL)


@pytest.mark.parametrize("over", [{"model": {"name": "trf"}}, {"model": {"time_steps": 8}}])
def test_features_without_time_are_refused(over):
    with pytest.raises(ConfigError, match=r"features\.pairing=window"):
        config.from_dict(over)
