"""The control of pairs drawn by lot: what it moves, what it leaves, and that it takes away what there was to find."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from mmray import config
from mmray.evaluation import pooled, trials
from mmray.recordings import synthetic
from mmray.recordings.splits import Fold
from mmray.storage import Workspace
from mmray.training import trainer, trial
from mmray.training.shuffled import shuffled_pairs

NAMES = [f"s{u:03d}" for u in range(24)]
FOLD = Fold(tuple(NAMES[:12]), tuple(NAMES[12:16]), tuple(NAMES[16:]))


def owners(part) -> dict[str, str]:
    """Whose each recording is said to be."""
    return dict(zip(part.recording_id_S.tolist(), part.subject_id_S.tolist(), strict=True))


def test_a_voice_goes_to_somebody_of_the_same_part_and_has_their_class(generated):
    segments = generated(subjects=24, segments=2)
    label = dict(zip(segments["eeg"].subject_id_S.tolist(), segments["eeg"].label_S.tolist(), strict=True))
    role = {subject: part for part in ("train", "validation", "test") for subject in getattr(FOLD, part)}
    found = shuffled_pairs(segments, FOLD, 1)["audio"]
    before, after = owners(segments["audio"]), owners(found)
    assert sorted(after.values()) == sorted(before.values())
    assert sum(before[r] != after[r] for r in before) > 12
    assert all(role[before[r]] == role[after[r]] for r in before)
    assert found.label_S.tolist() == [label[subject] for subject in found.subject_id_S.tolist()]


def test_the_eeg_and_every_value_stay(generated):
    segments = generated(subjects=24, segments=2)
    found = shuffled_pairs(segments, FOLD, 1)
    assert owners(found["eeg"]) == owners(segments["eeg"])
    np.testing.assert_array_equal(found["audio"].x_SND, segments["audio"].x_SND)


def test_a_seed_is_a_lot(generated):
    segments = generated(subjects=24, segments=2)
    one, again, other = (owners(shuffled_pairs(segments, FOLD, seed)["audio"]) for seed in (1, 1, 2))
    assert one == again != other


def test_a_run_of_pairs_by_lot_has_no_oracle(tmp_path, prepared):
    """The truth says whose voice was whose before the lot: it is a ceiling of the run as recorded alone."""
    settings = config.from_dict(
        {
            "workspace": str(tmp_path / "ws"),
            "study": {"kind": "synthetic", "root": str(tmp_path / "study")},
            "model": {"name": "ridge"},
            "train": {"passes": 1},
            "evaluate": {"bootstraps": 10, "permutations": 99},
        }
    )
    prepared(settings.workspace, settings, subjects=24, segments=2)
    trait_U = np.linspace(-2, 2, 24)
    truth = pa.table({"subject_id": NAMES, "label": np.zeros(24, dtype=np.int8), "eeg_0": trait_U, "audio_0": trait_U})
    told = {"coupling": "0.8", "label_effect": "0", "traits": "1"}
    Workspace(settings.study.root).write_table(truth.replace_schema_metadata(told), synthetic.TRUTH)

    def oracles(settings) -> set[str]:
        return {m.metric for m in trainer.train(settings).metrics if m.ceiling is not None}

    assert oracles(settings) == {"R@1", "R@5", "R@10", "MRR"}
    assert oracles(config.laid_over(settings, {"train.shuffled_pairs": 1})) == set()


@pytest.mark.parametrize("name", ["{}@{:08d}", "{}@{}"], ids=["padded", "not padded"])
def test_pairs_are_rotated_within_their_person(generated, name):
    segments = {
        modality: replace(
            part,
            pair_id_S=np.array([name.format(*p) for p in zip(part.subject_id_S, [*range(1, 13)] * 24, strict=True)]),
        )
        for modality, part in generated(subjects=24, segments=12).items()
    }
    found = shuffled_pairs(segments, FOLD, 1)
    assert found["eeg"] is segments["eeg"]
    before, after = segments["audio"], found["audio"]
    np.testing.assert_array_equal(after.x_SND, before.x_SND)
    np.testing.assert_array_equal(after.subject_id_S, before.subject_id_S)
    for subject in NAMES:
        own_S = before.subject_id_S == subject
        one, other = before.pair_id_S[own_S].tolist(), after.pair_id_S[own_S].tolist()
        assert sorted(one) == sorted(other)
        turn = one.index(other[0])
        assert turn > 0
        assert other == one[turn:] + one[:turn]
    turns = {after.pair_id_S[before.subject_id_S == s][0].split("@")[1] for s in NAMES}
    assert len(turns) > 1


def test_what_is_found_as_recorded_is_gone_by_lot(generated):
    """As recorded a ridge finds everybody's voice; over thirty lots its hits are what chance gives."""
    segments = generated(subjects=24, segments=6)
    settings = config.from_dict({"model": {"name": "ridge"}, "train": {"passes": 1}})

    def recall(told) -> float:
        row = trial.run(settings, told, FOLD, 2, trial_id="t", variant="ridge")
        figures = pooled.pool([trials.tested(row)], config.Evaluate(bootstraps=10, permutations=99), 0, {})
        return float(np.mean([f.value for f in figures if f.metric == "R@1"]))

    assert recall(segments) > 0.8
    by_lot = [recall(shuffled_pairs(segments, FOLD, seed)) for seed in range(30)]
    assert abs(np.mean(by_lot) - 1 / 8) < 3 * np.std(by_lot) / np.sqrt(30)
