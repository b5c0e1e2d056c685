"""What do the features of a recording tell of its body, and how much of that do pairs alone teach? No network is here.

`learnable` reads the parameters of the bodies off the truth. Here they are read off the features that every system
gets, by a regression that is told them for the training people, which no study could. Beside it stand solutions in
closed form that know pairs alone: the `ridge` control's, canonical correlations of principal components, and of the
directions that tell people apart: Fisher's linear discriminants (1936, doi 10.1111/j.1469-1809.1936.tb02137.x), as
speakers are recognised (Dehak et al. 2011, doi 10.1109/TASL.2010.2064307). All on the study of
jobs/configs/control_large.yaml, in many draws of who is learnt from, validated and tested: bounds of what features
hold, and no system's result.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray

from benchmarks.harness import Figure, Outcome
from benchmarks.learnable import drives, r1
from mmray import config, progress
from mmray.config import Config
from mmray.evaluation.retrieval import unit
from mmray.features import pipeline, table
from mmray.features.table import Segments
from mmray.models.baselines.ridge import STRENGTHS, shared_space
from mmray.models.closed_form import group_means
from mmray.models.layers import moments
from mmray.recordings import catalogue, synthetic, synthetic_eeg, synthetic_voice
from mmray.recordings.synthetic_traits import Table
from mmray.schema import Modality
from mmray.storage import Workspace

AIM = 1.3  # of the ridge control's R@1
TESTED, VALIDATED = 0.25, 0.15  # shares of the people
COMPONENTS, DIRECTIONS, AMONG = 12, 10, 30  # principal; discriminants, and the principal components that they are of
SHRUNK = {"eeg": 0.5, "audio": 0.1}  # of the covariance within a person: of segments of one EEG, of several clips
REGRESSION = 0.1  # of the regression on parameters, in mean squares of a feature
_TABLES: dict[Modality, Table] = {"eeg": synthetic_eeg.PARAMETERS, "audio": synthetic_voice.PARAMETERS}
_RIDGE, _APART, _TOLD = "pairs alone: ridge", "pairs alone: discriminants", "the parameters of the training people"

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """One modality of U people, in SD of the segments of those learnt from.

    Attributes:
        flat_UF: mean of each person's standardised node features, as `ridge` sees them.
        seen_UF: the same as the skip of crossmodal_gcn sees them, in SD over segments.
        apart: of each person, his clips' or, of his one EEG, his segments' features as the skip sees them.
        drive_UP: parameters of the body in SD of a trait.
    """

    flat_UF: Array
    seen_UF: Array
    apart: list[Array]
    drive_UP: Array


def run(*, quick: bool) -> Outcome:
    """R@1 from pairs alone and from told parameters, over ridge's; how well each parameter is read."""
    outcome = Outcome("decodable")
    folder = tempfile.mkdtemp(prefix="mmray-benchmark-")
    try:
        people, studied = _studied(_settings(folder, quick))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found: dict[str, list[float]] = defaultdict(list)
    read: dict[str, list[Array]] = defaultdict(list)
    draws = 5 if quick else 100
    with progress.bar("decodable: draws", draws) as advance:
        for seed in range(draws):
            parts = _parts(len(people), np.random.default_rng(seed))
            sides = {m: _side(*studied[m], people, parts[2]) for m in studied}
            for rung, value in _rungs(sides, *parts, read).items():
                found[rung].append(value)
            advance()
    means = {rung: statistics.mean(values) for rung, values in found.items()}
    for rung in (_APART, _TOLD):
        ratios = [one / max(other, 1e-9) for one, other in zip(found[rung], found[_RIDGE], strict=True)]
        spread = [round(float(np.quantile(ratios, q)), 3) for q in (0.025, 0.975)]
        value = round(means[rung] / max(means[_RIDGE], 1e-9), 3)
        outcome.figures[f"{rung}: R@1 over ridge's"] = Figure(value, AIM, (spread[0], spread[1]))
    outcome.detail["draws"] = draws
    outcome.detail["R@1, mean of both directions"] = {rung: round(value, 3) for rung, value in means.items()}
    outcome.detail["standard deviation over draws"] = {k: round(statistics.stdev(v), 3) for k, v in found.items()}
    outcome.detail["R2 of each parameter, mean over draws"] = {
        m: dict(zip(_TABLES[m], np.mean(read[m], 0).round(2).tolist(), strict=True)) for m in studied
    }
    return outcome


def _settings(folder: str, quick: bool) -> Config:
    large = config.load("jobs/configs/control_large.yaml")
    small = {"synth.subjects": 24, "synth.eeg_seconds": 16, "synth.clips": 2} if quick else {}
    return config.laid_over(large, {"workspace": f"{folder}/ws", "study.root": f"{folder}/study"} | small)


def _studied(settings: Config) -> tuple[list[str], dict[Modality, tuple[Segments, Array]]]:
    """Everybody, and of each modality their segments and the parameters of their bodies."""
    synthetic.generate(settings.study.root, settings.synth, settings.seed, settings.cluster)
    catalogue.catalogue(settings)
    pipeline.prepare(settings)
    truth = synthetic.truth(settings.synth, settings.seed).sort_by("subject_id")
    people = truth["subject_id"].to_pylist()
    workspace, key = Workspace(settings.workspace), config.digest(settings.features)
    return people, {m: (table.load(workspace, key, m, people), drives(truth, m, _TABLES[m])) for m in _TABLES}


def _parts(people: int, rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """Who is tested, who validates, and from whom is learnt."""
    tested, validated = (round(share * people) for share in (TESTED, VALIDATED))
    test, judge, learn = np.split(rng.permutation(people), [tested, tested + validated])
    return test, judge, learn


def _side(part: Segments, drive_UP: Array, people: list[str], learn: Any) -> Side:
    learnt_S = np.isin(part.subject_id_S, np.array(people)[learn])
    x_SND = part.x_SND - part.x_SND[learnt_S].mean(0)
    x_SND /= np.maximum(x_SND[learnt_S].std(0), 1e-6)
    flat_SF = x_SND.reshape(len(part), -1)
    seen_SF = flat_SF if part.modality == "eeg" else moments(torch.from_numpy(x_SND)).flatten(1).numpy()
    seen_SF = seen_SF.astype(np.float64) / np.maximum(seen_SF[learnt_S].std(0), 1e-6)
    keys_U = np.array(people)
    apart = []
    for person in people:
        own_S = part.subject_id_S == person
        clips = np.unique(part.recording_id_S[own_S])
        several = len(clips) > 1
        apart.append(group_means(seen_SF[own_S], part.recording_id_S[own_S], clips)[0] if several else seen_SF[own_S])
    flat_UF, seen_UF = (group_means(x_SF, part.subject_id_S, keys_U)[0] for x_SF in (flat_SF, seen_SF))
    return Side(flat_UF, seen_UF, apart, drive_UP)


def _rungs(
    sides: dict[Modality, Side], test: Any, judge: Any, learn: Any, read: dict[str, list[Array]]
) -> dict[str, float]:
    """R@1 of each rung for one draw of people; appends how well the tested people's parameters are read."""
    eeg, audio = sides["eeg"], sides["audio"]
    exact = [side.drive_UP for side in (eeg, audio)]
    told = [_told(side, learn) for side in (eeg, audio)]
    for modality, side, read_UP in zip(sides, (eeg, audio), told, strict=True):
        error_P = ((read_UP[test] - side.drive_UP[test]) ** 2).mean(0)
        read[modality].append(1 - error_P / side.drive_UP[test].var(0))
    whitened = {
        "pairs alone: principal components": [_principal(side, learn)[0] for side in (eeg, audio)],
        _APART: [_discriminants(side, learn, SHRUNK[m]) for m, side in sides.items()],
    }
    found = {_RIDGE: _linked([eeg.flat_UF, audio.flat_UF], learn, judge, test)}
    found |= {rung: _linked(two, learn, judge, test) for rung, two in whitened.items()}
    found[_TOLD] = _linked(_scaled(told, learn), learn, judge, test)
    found["the same, the voice's exactly"] = _linked(_scaled([told[0], exact[1]], learn), learn, judge, test)
    found["the same, the EEG's exactly"] = _linked(_scaled([exact[0], told[1]], learn), learn, judge, test)
    found["exact parameters, the law learnt"] = _linked(_scaled(exact, learn), learn, judge, test)
    return found


def _linked(two: list[Array], learn: Any, judge: Any, test: Any) -> float:
    """R@1 of the tested in the space that the learnt span, by `ridge`'s own solution; judges choose its strength."""
    x_UF, y_UG = (z_UF - z_UF[learn].mean(0) for z_UF in two)

    def found(strength: float, whom: Any) -> float:
        weight_FK, weight_GK = shared_space(x_UF[learn], y_UG[learn], strength)
        return r1(unit(x_UF[whom] @ weight_FK) @ unit(y_UG[whom] @ weight_GK).T)

    return found(max(STRENGTHS, key=lambda strength: found(strength, judge)), test)


def _scaled(two: list[Array], learn: Any) -> list[Array]:
    return [z_UP / z_UP[learn].std(0) for z_UP in two]


def _told(side: Side, learn: Any) -> Array:
    """Parameters by linear regression on all that is seen; of those learnt from, as if each had been left out."""
    x_UF = side.seen_UF - side.seen_UF[learn].mean(0)
    kernel_UL = x_UF @ x_UF[learn].T / (x_UF[learn] ** 2).sum(1).mean()
    mean_P = side.drive_UP[learn].mean(0)
    y_LP = side.drive_UP[learn] - mean_P
    inverse_LL = np.linalg.inv(kernel_UL[learn] + REGRESSION * np.eye(len(learn)))
    read_UP = kernel_UL @ inverse_LL @ y_LP
    # leave-one-out of a linear smoother: y - (inverse y) / diag(inverse)
    read_UP[learn] = y_LP - (inverse_LL @ y_LP) / np.diag(inverse_LL)[:, None]
    return np.asarray(read_UP + mean_P)


def _principal(side: Side, learn: Any, count: int = COMPONENTS) -> tuple[Array, Array]:
    """Whitened principal components of the learnt people's means, U x K, and their axes F x K."""
    x_UF = side.seen_UF - side.seen_UF[learn].mean(0)
    axes_FK = np.linalg.svd(x_UF[learn], full_matrices=False)[2][: min(count, len(learn) - 1)].T
    score_UK = x_UF @ axes_FK
    return score_UK / score_UK[learn].std(0), axes_FK


def _discriminants(side: Side, learn: Any, shrunk: float) -> Array:
    """Where people differ most for how much each differs from himself, in SD over the learnt people, U x K."""
    _, axes_FR = _principal(side, learn, AMONG)
    own = [side.apart[u] @ axes_FR for u in learn]
    within_RR = np.mean([np.cov(x_TR.T, bias=True) for x_TR in own], axis=0)
    level = np.trace(within_RR) / len(within_RR)
    score_UR = (side.seen_UF - side.seen_UF[learn].mean(0)) @ axes_FR
    between_RR = np.cov(score_UR[learn].T)
    _, solution_RR = scipy.linalg.eigh(between_RR, (1 - shrunk) * within_RR + shrunk * level * np.eye(len(within_RR)))
    found_UK = score_UR @ solution_RR[:, ::-1][:, :DIRECTIONS]
    return np.asarray(found_UK / found_UK[learn].std(0))
