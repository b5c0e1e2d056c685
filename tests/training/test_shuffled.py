"""The control of pairs drawn by lot: what it moves, what it leaves, and that it takes away what there was to find."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from mmray import config
from mmray.evaluation import pooled, retrieval_figures, trials
from mmray.evaluation.paired import paired_vectors
from mmray.recordings import synthetic
from mmray.recordings.splits import Fold
from mmray.storage import Workspace
from mmray.training import results, trainer, trial
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
        assert other == one[turn:] + one[:turn]
    turns = {after.pair_id_S[before.subject_id_S == s][0].split("@")[1] for s in NAMES}
    assert len(turns) > 1


@pytest.mark.parametrize("trials", [2, 3])
def test_of_few_trials_nothing_can_be_learned_about_which_is_whose(generated, trials):
    """Trials are centred on their person, as baselines are, so that an exchange of two would be a change of sign."""
    raw = generated(subjects=24 * trials, segments=2, noise=0.25)
    person = {f"s{u:03d}": f"p{u // trials:03d}" for u in range(24 * trials)}
    segments = {}
    for modality, part in raw.items():
        subject_S = np.array([person[name] for name in part.subject_id_S.tolist()])
        x_SND = part.x_SND.copy()
        for subject in np.unique(subject_S):
            x_SND[subject_S == subject] -= x_SND[subject_S == subject].mean(0)
        segments[modality] = replace(part, x_SND=x_SND, subject_id_S=subject_S, pair_id_S=part.subject_id_S)
    fold = Fold(*(tuple(f"p{u:03d}" for u in part) for part in (range(14), range(14, 18), range(18, 24))))
    settings = config.from_dict({"model": {"name": "ridge"}, "train": {"passes": 1}})

    def own_found(told) -> float:
        """R@1 of a trial among its person's own, on people never learnt from."""
        model, _ = trial.best_of(settings, told, fold, 2)
        part = results.chosen(told, fold.test)
        encoded = results.encoded_by(model, part)
        table = results.embeddings_table(model, encoded, part, fold)
        figures = retrieval_figures.figures(
            paired_vectors(table), config.Evaluate(bootstraps=10, permutations=99), 0, {}
        )
        return float(np.mean([f.value for f in figures if (f.metric, f.level) == ("R@1", "within")]))

    assert own_found(segments) > 0.9
    by_lot = [own_found(shuffled_pairs(segments, fold, seed)) for seed in range(24)]
    assert abs(np.mean(by_lot) - 1 / trials) < 3 * np.std(by_lot) / np.sqrt(24)


def test_a_pair_that_goes_by_another_name_than_its_person_is_drawn_by_lot_too(generated):
    plain = generated(subjects=24, segments=2)
    named = {m: replace(p, pair_id_S=np.char.add("pair-", p.subject_id_S)) for m, p in plain.items()}
    found, expected = shuffled_pairs(named, FOLD, 1)["audio"], shuffled_pairs(plain, FOLD, 1)["audio"]
    np.testing.assert_array_equal(found.subject_id_S, expected.subject_id_S)
    np.testing.assert_array_equal(found.pair_id_S, np.char.add("pair-", expected.subject_id_S))


def test_what_is_found_as_recorded_is_gone_by_lot(generated):
    """As recorded a ridge finds everybody's voice; over thirty lots its hits are what chance gives."""
    segments = generated(subjects=24, segments=6)
    settings = config.from_dict({"model": {"name": "ridge"}, "train": {"passes": 1}})

    def recall(told) -> float:
        row = trial.run(settings, told, FOLD, 2, trial_id="t", variant="ridge")
        figures = pooled.retrieved([trials.tested(row)], config.Evaluate(bootstraps=10, permutations=99), 0, {})
        return float(np.mean([f.value for f in figures if f.metric == "R@1"]))

    assert recall(segments) > 0.8
    by_lot = [recall(shuffled_pairs(segments, FOLD, seed)) for seed in range(30)]
    assert abs(np.mean(by_lot) - 1 / 8) < 3 * np.std(by_lot) / np.sqrt(30)
