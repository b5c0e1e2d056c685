"""Where a fit begins: of training pairs alone, and already where unseen people can be found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from mmray import config
from mmray.evaluation.retrieval import unit
from mmray.models.registry import build
from mmray.training import inference
from tests.embedding import embedded

MODEL = config.Model(name="crossmodal_gcn", hidden=8, embedding=16, components=6)


def begun(training, *, at_pairs: bool = True):
    """A system before its first step."""
    torch.manual_seed(0)
    model = build(MODEL, {m: part.shape for m, part in training.items()}, 2)
    model.fit_scalers(
        {m: torch.from_numpy(part.x_SND) for m, part in training.items()},
        {m: part.subject_id_S for m, part in training.items()},
        {m: part.recording_id_S for m, part in training.items()},
    )
    if at_pairs:
        model.begin(training)
    return model.eval()


def mrr(model, segments) -> float:
    return inference.paired_mrr({m: embedded(model, part) for m, part in segments.items()}, segments)


def test_before_the_first_step_unseen_people_are_found_where_there_is_something_to_find(generated, by_subject):
    for coupled, low, high in ((True, 0.7, 1.0), (False, 0.05, 0.35)):
        segments = generated(subjects=80, segments=4, noise=0.5, coupled=coupled)
        training, unseen = by_subject(segments, range(50)), by_subject(segments, range(50, 80))
        assert low < mrr(begun(training), unseen) <= high
        assert mrr(begun(training, at_pairs=False), unseen) < 0.35  # 0.13 is chance, of 30 people


def test_it_is_of_the_pairs_and_not_of_the_order_of_segments_or_of_who_has_no_partner(generated, by_subject):
    segments = generated(subjects=40, segments=4)
    training, unseen = by_subject(segments, range(30)), by_subject(segments, range(30, 40))
    rng = np.random.default_rng(0)
    shuffled = {m: part.take(rng.permutation(len(part))) for m, part in training.items()}
    one, other = begun(training), begun(shuffled)
    for part in unseen.values():
        cosine_S = (unit(embedded(one, part)) * unit(embedded(other, part))).sum(1)
        np.testing.assert_allclose(cosine_S, 1, atol=1e-4)
    lone = {"eeg": training["eeg"], "audio": by_subject(training, range(20))["audio"]}
    assert mrr(begun(lone), unseen) > 0.4


def test_a_partner_given_to_another_person_moves_the_start(generated, by_subject):
    training = by_subject(generated(subjects=30, segments=4), range(30))
    swapped = dict(training)
    voice = training["audio"]
    at = {name: (u + 1) % 30 for u, name in enumerate(np.unique(voice.subject_id_S))}
    order = np.concatenate([np.flatnonzero(voice.subject_id_S == name) for name in sorted(at, key=at.__getitem__)])
    kept = voice.take(np.argsort(voice.subject_id_S, kind="stable"))
    swapped["audio"] = replace(kept, x_SND=voice.x_SND[order])
    one, other = (begun(segments).encoders["eeg"].skip.weight for segments in (training, swapped))
    assert not torch.allclose(one, other, atol=1e-3)


def test_more_directions_than_the_usual_components_can_be_asked_for(generated):
    people = generated(subjects=60, segments=3)["eeg"]
    torch.manual_seed(0)
    encoder = build(MODEL.model_copy(update={"components": 40}), {"eeg": people.shape}, 2).encoders["eeg"]
    encoder.fit_scaler(torch.from_numpy(people.x_SND), people.subject_id_S, people.recording_id_S)
    assert (encoder.axes_FK.abs().sum(0) > 0).sum() == 40
