"""The control that any study allows: pairs drawn by lot before anything is fitted, so that nothing can be found.

What still finds partners then has seen them: a permutation test of the whole path, training included.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np

from mmray.evaluation.paired import order_of
from mmray.features.table import Segments
from mmray.models.closed_form import subject_labels
from mmray.recordings.splits import Fold


def shuffled_pairs(segments: dict[str, Segments], fold: Fold, seed: int) -> dict[str, Segments]:
    """Every modality but the first given to other people, by lot, within a part of the fold.

    Where somebody has several pairs, trials or windows, each person keeps their own, rotated against the first
    modality's by a lot: who it is can still be found, when it was cannot.

    Within a part, so that nobody's voice crosses from training to test; across classes, since a class that both
    modalities show lets one find partners better than chance. A segment has its new owner's class. A lot may leave
    somebody as they are, as a permutation does: of two trials that were always exchanged, which is whose could be
    learned.

    Args:
        segments: modality -> segments of the fold's people.
        fold: who trains, validates and tests.
        seed: of the lot.
    """
    rng = np.random.default_rng(seed)
    pair_of: dict[str, str] = {}
    for part in segments.values():
        for subject, pair in zip(part.subject_id_S.tolist(), part.pair_id_S.tolist(), strict=True):
            if pair_of.setdefault(subject, pair) != pair:
                return _rotated(segments, rng)
    people, label_U = subject_labels(segments)
    label = dict(zip(people.tolist(), label_U.tolist(), strict=True))
    first, *others = segments
    found = {first: segments[first]}
    for modality in others:
        part = segments[modality]
        here = set(part.subject_id_S.tolist())
        given: dict[str, str] = {}
        for subjects in asdict(fold).values():
            mine = sorted(set(subjects) & here)
            given |= zip(mine, rng.permutation(mine).tolist(), strict=True)
        owner_S = np.array([given[subject] for subject in part.subject_id_S.tolist()])
        label_S = np.array([label[subject] for subject in owner_S.tolist()], dtype=np.int8)
        pair_id_S = np.array([pair_of[subject] for subject in owner_S.tolist()])
        found[modality] = replace(part, subject_id_S=owner_S, pair_id_S=pair_id_S, label_S=label_S)
    return found


def _rotated(segments: dict[str, Segments], rng: np.random.Generator) -> dict[str, Segments]:
    """Each later modality's segments under the pair_ids that lie one lot further on among the person's own.

    A rotation keeps what neighbouring windows have in common, as the test of such studies does.
    """
    first, *others = segments
    found = {first: segments[first]}
    for modality in others:
        part = segments[modality]
        pair_id_S = part.pair_id_S.copy()
        for subject in np.unique(part.subject_id_S):
            (own_S,) = np.nonzero(part.subject_id_S == subject)
            own = part.pair_id_S[own_S].tolist()
            pairs = sorted(set(own), key=order_of)
            turn = int(rng.integers(len(pairs)))
            further = dict(zip(pairs, pairs[turn:] + pairs[:turn], strict=True))
            pair_id_S[own_S] = [further[pair] for pair in own]
        found[modality] = replace(part, pair_id_S=pair_id_S)
    return found
