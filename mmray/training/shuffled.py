"""The control that any study allows: pairs drawn by lot before anything is fitted, so that nothing can be found.

What still finds partners then has seen them: a permutation test of the whole path, training included.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np

from mmray.errors import ConfigError
from mmray.features.table import Segments
from mmray.models.closed_form import subject_labels
from mmray.recordings.splits import Fold


def shuffled_pairs(segments: dict[str, Segments], fold: Fold, seed: int) -> dict[str, Segments]:
    """Every modality but the first given to other people, by lot, within a part of the fold.

    Within a part, so that nobody's voice crosses from training to test; across classes, since a class that both
    modalities show lets one find partners better than chance. A segment has its new owner's class. A lot may leave
    somebody as they are, as a permutation does.

    Args:
        segments: modality -> segments of the fold's people.
        fold: who trains, validates and tests.
        seed: of the lot.

    Raises:
        ConfigError: the study pairs by something else than the person.
    """
    rng = np.random.default_rng(seed)
    people, label_U = subject_labels(segments)
    label = dict(zip(people.tolist(), label_U.tolist(), strict=True))
    first, *others = segments
    found = {first: segments[first]}
    for modality in others:
        part = segments[modality]
        if (part.pair_id_S != part.subject_id_S).any():
            raise ConfigError("train.shuffled_pairs: this study pairs by trial; it can be shuffled by people alone")
        here = set(part.subject_id_S.tolist())
        given: dict[str, str] = {}
        for subjects in asdict(fold).values():
            mine = sorted(set(subjects) & here)
            given |= zip(mine, rng.permutation(mine).tolist(), strict=True)
        owner_S = np.array([given[subject] for subject in part.subject_id_S.tolist()])
        label_S = np.array([label[subject] for subject in owner_S.tolist()], dtype=np.int8)
        found[modality] = replace(part, subject_id_S=owner_S, pair_id_S=owner_S, label_S=label_S)
    return found
