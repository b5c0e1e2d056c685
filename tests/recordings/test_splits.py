from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmray.config import Split, from_dict
from mmray.errors import ConfigError, WorkspaceError
from mmray.recordings import splits
from mmray.schema import Recording, recordings_table
from mmray.storage import Workspace


def recording(subject, modality, label):
    return Recording(f"{subject}-{modality}", subject, subject, modality, "1", "t", label, None, "/p", "mne", 1)


def people(count, *, labels=(0, 1, None), alone=5):
    """`count` subjects; each `alone`-th has EEG only."""
    rows = []
    for number in range(count):
        label = labels[number % len(labels)]
        rows.append(recording(f"s{number:03d}", "eeg", label))
        if number % alone:
            rows.append(recording(f"s{number:03d}", "audio", label))
    return rows


sizes = st.tuples(st.integers(4, 60), st.integers(2, 8), st.floats(0.05, 0.9), st.integers(0, 99)).filter(
    lambda t: t[0] >= t[1] and t[0] - -(-t[0] // t[1]) >= 2
)


@settings(max_examples=60, deadline=None)
@given(sizes)
def test_parts_share_nobody_and_hold_everybody(size):
    count, folds, fraction, seed = size
    everybody = {r.subject_id for r in people(count)}
    for fold in splits.make_folds(people(count), Split(folds=folds, validation_fraction=fraction, seed=seed)):
        parts = [*fold.train, *fold.validation, *fold.test]
        assert len(parts) == len(set(parts))
        assert set(parts) == everybody
        assert fold.train
        assert fold.validation
        assert fold.test


@settings(max_examples=60, deadline=None)
@given(sizes)
def test_every_subject_is_tested_once(size):
    count, folds, fraction, seed = size
    drawn = splits.make_folds(people(count), Split(folds=folds, validation_fraction=fraction, seed=seed))
    assert sorted(s for fold in drawn for s in fold.test) == sorted({r.subject_id for r in people(count)})


def test_whoever_one_fold_tests_may_validate_in_another():
    """So a mean of validation figures over folds has asked people whom some of these folds test."""
    drawn = splits.make_folds(people(53), Split())
    validate = {subject for fold in drawn for subject in fold.validation}
    assert all(validate & set(fold.test) for fold in drawn)


@settings(max_examples=60, deadline=None)
@given(sizes)
def test_strata_differ_by_at_most_one_between_test_parts(size):
    count, folds, _, seed = size
    rows = people(count)
    both = {r.subject_id for r in rows if r.modality == "audio"}
    stratum = {r.subject_id: (r.label, r.subject_id in both) for r in rows}
    drawn = splits.make_folds(rows, Split(folds=folds, seed=seed))
    for name in set(stratum.values()):
        counts = [Counter(stratum[s] for s in fold.test)[name] for fold in drawn]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_validation_is_the_asked_fraction_in_the_classes_proportions(fraction):
    rows = people(200, labels=(0, 1))
    label = {r.subject_id: r.label for r in rows}
    for fold in splits.make_folds(rows, Split(folds=4, validation_fraction=fraction)):
        assert len(fold.validation) == round(150 * fraction)
        assert abs(sum(label[s] for s in fold.validation) - len(fold.validation) / 2) <= 2


def test_the_order_of_the_rows_does_not_matter():
    rows = people(30)
    shuffled = random.Random(1).sample(rows, len(rows))
    assert splits.make_folds(rows, Split()) == splits.make_folds(shuffled, Split())


def test_another_seed_draws_other_folds():
    assert splits.make_folds(people(30), Split(seed=0)) != splits.make_folds(people(30), Split(seed=1))


@pytest.mark.parametrize(("count", "folds"), [(4, 5), (3, 2), (2, 2), (0, 2)])
def test_too_few_subjects_are_refused(count, folds):
    with pytest.raises(ConfigError, match=rf"split.folds = {folds}, and there are {count} subjects"):
        splits.make_folds(people(count), Split(folds=folds))


@pytest.fixture
def workspace(tmp_path):
    place = Workspace(str(tmp_path / "ws"))
    place.write_table(recordings_table(people(20)), "recordings.parquet")
    return place


def config_of(workspace, **split):
    return from_dict({"workspace": workspace.root, "split": split})


def test_a_written_split_is_what_was_drawn(workspace):
    splits.write_split(config_of(workspace))
    assert splits.load_split(workspace, "default") == splits.make_folds(people(20), Split())


def test_a_split_of_the_same_settings_and_subjects_is_kept(workspace):
    first = splits.write_split(config_of(workspace))
    before = workspace.read_bytes("splits", "default.json")
    again = splits.write_split(config_of(workspace))
    assert (first.kept, again.kept) == (False, True)
    assert workspace.read_bytes("splits", "default.json") == before


@pytest.mark.parametrize("change", [{"seed": 1}, {"folds": 4}, {"validation_fraction": 0.3}])
def test_a_split_of_other_settings_is_not_replaced(workspace, change):
    splits.write_split(config_of(workspace))
    before = workspace.read_bytes("splits", "default.json")
    with pytest.raises(WorkspaceError, match=r"other .*choose another split\.name"):
        splits.write_split(config_of(workspace, **change))
    assert workspace.read_bytes("splits", "default.json") == before


def test_a_split_of_other_subjects_is_not_replaced(workspace):
    splits.write_split(config_of(workspace))
    other = [*people(19), recording("new", "eeg", 0)]
    workspace.write_table(recordings_table(other), "recordings.parquet")
    with pytest.raises(WorkspaceError, match="subjects_sha256"):
        splits.write_split(config_of(workspace))


def test_splits_of_two_names_stand_side_by_side(workspace):
    splits.write_split(config_of(workspace))
    splits.write_split(config_of(workspace, name="second", seed=1))
    assert splits.load_split(workspace, "default") != splits.load_split(workspace, "second")


def edit(workspace, change):
    splits.write_split(config_of(workspace))
    content = json.loads(workspace.read_bytes("splits", "default.json"))
    change(content["parts"])
    workspace.write_json(content, "splits", "default.json")
    return content["parts"]


@pytest.mark.parametrize(("source", "target"), [("test", "train"), ("validation", "test"), ("train", "validation")])
def test_a_subject_in_two_parts_of_a_fold_is_named(workspace, source, target):
    parts = edit(workspace, lambda parts: parts[1][target].append(parts[1][source][0]))
    with pytest.raises(WorkspaceError, match=f"in fold 1, subject {parts[1][source][0]} stands twice"):
        splits.load_split(workspace, "default")


def test_a_subject_tested_in_two_folds_is_named(workspace):
    def move(parts):
        subject = parts[0]["test"][0]
        parts[1]["train"] = [s for s in parts[1]["train"] if s != subject]
        parts[1]["validation"] = [s for s in parts[1]["validation"] if s != subject]
        parts[1]["test"].append(subject)

    parts = edit(workspace, move)
    with pytest.raises(WorkspaceError, match=f"among the test parts, subject {parts[0]['test'][0]}"):
        splits.load_split(workspace, "default")


def test_a_missing_split_says_which_command_to_run(workspace):
    with pytest.raises(WorkspaceError, match="run `mmray split`"):
        splits.load_split(workspace, "default")


@pytest.mark.parametrize("content", ["[]", "{}", '{"parts": [{"train": []}]}', "not json"])
def test_a_file_that_is_no_split_is_refused(workspace, content):
    workspace.write_text(content, "splits", "default.json")
    with pytest.raises(WorkspaceError, match=r"splits/default\.json is not"):
        splits.load_split(workspace, "default")
