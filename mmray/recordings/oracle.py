"""The ceiling of a synthetic study: what retrieval from the realised latents themselves would reach.

For training's eyes this file does not exist; evaluation states its results as a fraction of it.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import logsumexp

from mmray import config
from mmray.errors import WorkspaceError
from mmray.recordings.synthetic import TRUTH
from mmray.recordings.synthetic_traits import label_shift
from mmray.storage import Workspace

_VARIANCE_FLOOR = 1e-9  # of what the EEG's latent leaves open about the voice's; coupling 1 leaves nothing


def truth_of(study: config.Study) -> pa.Table | None:
    """A synthetic study's truth; None where there is none. Only for after a fit, when nothing can be fitted to it."""
    place = Workspace(study.root)
    return place.read_table(TRUTH) if study.root and place.exists(TRUTH) else None


def oracle_similarity(truth: pa.Table, subjects: list[str]) -> NDArray[np.float64]:
    """The best possible matching score of each EEG with each voice, from the realised latents.

    By Bayes' rule the posterior that voice j is the one of EEG i, among voices of other people, is proportional to
    p(a_j | e_i) / p(a_j), with a | e ~ N(c e, (1 - c^2) I) and p(a) the mixture over the classes. The ratio is
    symmetric in e and a, so it serves both directions.

    Args:
        truth: of a synthetic study's truth.parquet, with its metadata.
        subjects: S ids, in the order of rows and columns.

    Returns:
        S x S log ratios, EEG in rows, voices in columns. All zero at coupling 0, where nothing can be known.

    Raises:
        WorkspaceError: the table is no synthetic study's, or a subject is not in it.
    """
    eeg_SK, audio_SK, label_S = _latents(truth, subjects)
    coupling, label_effect = _setting(truth, "coupling"), _setting(truth, "label_effect")
    if coupling == 0.0:
        return np.zeros((len(subjects), len(subjects)))
    variance = max(1.0 - coupling**2, _VARIANCE_FLOOR)
    given_SS = _log_normal(audio_SK[None] - coupling * eeg_SK[:, None], variance)
    classes = sorted(set(label_S.tolist()))
    shift_CK = np.stack([label_shift(label, label_effect, eeg_SK.shape[1]) for label in classes])
    share_C = np.array([(label_S == label).mean() for label in classes])
    alone_CS = _log_normal(audio_SK[None] - coupling * shift_CK[:, None], 1.0)
    alone_S: NDArray[np.float64] = logsumexp(alone_CS, axis=0, b=share_C[:, None])
    result_SS: NDArray[np.float64] = given_SS - alone_S
    return result_SS


def ceilings(truth: pa.Table, subjects: list[str]) -> dict[str, dict[str, float]]:
    """R@1, R@5, R@10 and MRR of the oracle in a gallery of these subjects, both ways; ties count against the query.

    At coupling 0 the oracle's scores all tie; nothing can be known, and the ceiling is what guessing gets.

    Returns:
        {"eeg->audio": {"R@1": ..., "R@5": ..., "R@10": ..., "MRR": ...}, "audio->eeg": {...}}.
    """
    score_SS = oracle_similarity(truth, subjects)
    count = len(subjects)
    if _setting(truth, "coupling") == 0.0:
        guess = np.arange(1, count + 1)
        return {"eeg->audio": _summary(guess), "audio->eeg": _summary(guess)}
    own_S = np.diag(score_SS)
    return {
        "eeg->audio": _summary((score_SS >= own_S[:, None]).sum(1)),
        "audio->eeg": _summary((score_SS >= own_S[None, :]).sum(0)),
    }


def _summary(rank_Q: NDArray[np.intp]) -> dict[str, float]:
    recall = {f"R@{k}": float((rank_Q <= k).mean()) for k in (1, 5, 10)}
    return recall | {"MRR": float((1.0 / rank_Q).mean())}


def _log_normal(difference_K: NDArray[np.float64], variance: float) -> NDArray[np.float64]:
    """Log density of N(0, variance I) over the last axis."""
    width = difference_K.shape[-1]
    square: NDArray[np.float64] = (difference_K**2).sum(-1)
    result: NDArray[np.float64] = -0.5 * (square / variance + width * np.log(2.0 * np.pi * variance))
    return result


def _setting(truth: pa.Table, name: str) -> float:
    value = (truth.schema.metadata or {}).get(name.encode())
    if value is None:
        raise WorkspaceError(f"truth.parquet: no '{name}' in its metadata; write the study again with `mmray synth`")
    return float(value)


def _latents(truth: pa.Table, subjects: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int8]]:
    row_of = {subject: row for row, subject in enumerate(truth["subject_id"].to_pylist())}
    missing = sorted(set(subjects) - row_of.keys())
    if missing:
        raise WorkspaceError(
            f"truth.parquet: subject {missing[0]} is not in it ({len(missing)} missing); it is another study's"
        )
    rows = [row_of[subject] for subject in subjects]
    traits = int(_setting(truth, "traits"))

    def columns(modality: str) -> NDArray[np.float64]:
        return np.stack([truth[f"{modality}_{k}"].to_numpy()[rows] for k in range(traits)], axis=1)

    return columns("eeg"), columns("audio"), truth["label"].to_numpy()[rows]
