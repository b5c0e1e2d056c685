"""What a batch holds, and that nothing but seed, epoch and position decides it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmray.errors import ConfigError
from mmray.training.sampling import sampler, spread


@pytest.fixture
def segments(generated):
    return generated(subjects=13, segments=4, lone=3)


def subjects_of(draw, segments):
    return [str(segments["eeg"].subject_id_S[row]) for row in draw.row_BMS[:, 0, 0]]


def test_a_batch_holds_distinct_subjects(segments):
    for draw in sampler(segments).batches(5, 3, 1, seed=0, epoch=0):
        assert len(set(subjects_of(draw, segments))) == len(draw.row_BMS)


def test_every_pass_goes_once_through_all_subjects(segments):
    draws = list(sampler(segments).batches(5, 2, 1, seed=0, epoch=0))
    first = [subject for draw in draws[: len(draws) // 2] for subject in subjects_of(draw, segments)]
    assert sorted(first) == [f"s{u:03d}" for u in range(13)]


def test_both_modalities_of_a_sample_are_of_one_pair(segments):
    for draw in sampler(segments).batches(5, 3, 1, seed=0, epoch=0):
        for eeg, audio in draw.row_BMS[..., 0]:
            assert audio == -1 or segments["eeg"].pair_id_S[eeg] == segments["audio"].pair_id_S[audio]


def test_a_subject_without_voice_is_drawn_without_voice(segments):
    for draw in sampler(segments).batches(5, 1, 1, seed=0, epoch=0):
        lone = [subject >= "s010" for subject in subjects_of(draw, segments)]
        assert (draw.row_BMS[:, 1, 0] == -1).tolist() == lone


@pytest.fixture
def windows(segments):
    """The same segments, each modality's k-th of a person a pair."""
    return {
        m: replace(part, pair_id_S=np.array([i.replace(f"_{m}", "") for i in part.segment_id_S]))
        for m, part in segments.items()
    }


def test_a_batch_of_windows_holds_other_windows_of_a_person(windows):
    draws = list(sampler(windows).batches(20, 1, 1, seed=0, epoch=0))
    assert all(len(set(draw.pair_B.tolist())) == len(draw.pair_B) for draw in draws)
    assert any(len(set(draw.subject_B.tolist())) < len(draw.subject_B) for draw in draws)


def test_a_pass_goes_once_through_all_windows(windows):
    draws = list(sampler(windows).batches(20, 2, 1, seed=0, epoch=0))
    assert len(draws) == sampler(windows).steps(20, 2) == 6
    for half in (draws[:3], draws[3:]):
        assert sorted(np.concatenate([draw.row_BMS[:, 0, 0] for draw in half]).tolist()) == list(range(13 * 4))


def test_a_window_without_its_voice_is_not_drawn_of_a_person_who_has_others(windows):
    lost = windows | {"audio": windows["audio"].take(np.char.find(windows["audio"].pair_id_S, "00000000") < 0)}
    drawn = np.concatenate([draw.row_BMS[..., 0] for draw in sampler(lost).batches(20, 1, 1, seed=0, epoch=0)])
    alone = windows["eeg"].pair_id_S[drawn[drawn[:, 1] < 0, 0]]
    assert {pair.split("@")[0] for pair in alone} == {"s010", "s011", "s012"}  # who have no voice at all


def test_time_locked_pairs_are_never_mixed(segments, windows):
    for draw in sampler(windows).batches(5, 3, 1, seed=0, epoch=0):
        for eeg, audio in draw.row_BMS[..., 0]:
            assert audio == -1 or segments["eeg"].start_s_S[eeg] == segments["audio"].start_s_S[audio]


def test_segments_are_paired_anew_in_every_epoch(segments):
    first, second = (
        np.concatenate([d.row_BMS[..., 0] for d in sampler(segments).batches(13, 1, 1, 0, e)]) for e in (0, 1)
    )
    assert {tuple(row) for row in first} != {tuple(row) for row in second}


def test_an_epoch_is_a_function_of_seed_and_epoch(segments):
    one, other = (list(sampler(segments).batches(5, 2, 1, seed=3, epoch=4)) for _ in range(2))
    assert all(np.array_equal(a.row_BMS, b.row_BMS) for a, b in zip(one, other, strict=True))


@given(world=st.integers(1, 6), batch_size=st.integers(2, 14))
@settings(max_examples=20, deadline=None)
def test_shards_are_equal_in_shape_and_make_up_the_batch(generated, world, batch_size):
    for draw in sampler(generated(subjects=13, segments=2)).batches(batch_size, 1, 1, seed=0, epoch=0):
        shards = [draw.shard(rank, world) for rank in range(world)]
        assert len({shard.row_BMS.shape for shard in shards}) == 1
        rows = np.concatenate([shard.row_BMS[..., 0] for shard in shards])
        kept = rows[rows[:, 0] >= 0]
        assert sorted(map(tuple, kept)) == sorted(map(tuple, draw.row_BMS[..., 0]))


def test_a_label_known_in_one_modality_labels_the_subject(segments):
    unlabelled = segments | {"eeg": replace(segments["eeg"], label_S=np.full(len(segments["eeg"]), -1, np.int8))}
    assert sampler(unlabelled).label[0] == segments["audio"].label_S[0]


def test_fewer_than_two_paired_subjects_are_refused(generated):
    with pytest.raises(ConfigError, match="1 training subjects have segments of eeg and audio"):
        sampler(generated(subjects=4, lone=3))


def test_a_sample_repeats_no_segment_where_there_are_enough(generated):
    made = generated(subjects=6, segments=5, lone=2)
    for wanted, distinct in ((3, 3), (5, 5), (7, 5)):
        for draw in sampler(made).batches(6, 2, wanted, seed=0, epoch=0):
            for rows_MS in draw.row_BMS:
                for rows_S in rows_MS:
                    assert len(rows_S) == wanted
                    assert (rows_S == -1).all() or len(set(rows_S.tolist())) in (
                        {distinct} if wanted <= 5 else range(2, 6)
                    )


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40), st.integers(1, 12))
def test_spread_takes_rows_of_every_key_from_first_to_last(keys, each):
    key_S = np.array(keys)
    for key, rows in spread(key_S, each).items():
        own = np.flatnonzero(key_S == key)
        assert set(rows) <= set(own)
        assert len(set(rows)) == len(rows) == min(each, len(own))
        assert rows[0] == own[0]
        assert each == 1 or rows[-1] == own[-1]
    assert set(spread(key_S, each)) == set(keys)
