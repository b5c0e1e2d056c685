"""How far could anyone get on the larger positive control? R@1 by how much of the truth is given instead of learnt.

No recording is made. The oracle of the reports reads the traits behind a person. Nobody can: a body follows its traits
with a wobble of its own, and a voice has moods. Here the parameters of these bodies are read off the truth, exactly or
with an error, and what remains is to know how a body and a voice belong together, or to learn it from people by the
linear control's own solution. 240 people as in jobs/configs/control_large.yaml, 60 of them tested, 144 learnt from.
"""

from __future__ import annotations

import statistics
from collections import defaultdict

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.harness import Figure, Outcome
from mmray import progress
from mmray.config import Synth
from mmray.evaluation.retrieval import unit
from mmray.models.baselines.ridge import STRENGTHS, shared_space
from mmray.recordings import oracle, synthetic, synthetic_eeg, synthetic_voice
from mmray.recordings.synthetic_traits import BEND, Table

AIM = 0.7  # of the oracle's R@1
PEOPLE = Synth(subjects=240, clips=6, coupling=0.8)
TESTED, VALIDATED = 60, 36
ERRORS = (0.25, 0.5, 1.0)  # of a parameter's measurement, in SD of a trait
_LEARNT = "exact parameters, the law learnt from 144"

Array = NDArray[np.float64]


def run(*, quick: bool) -> Outcome:
    """The share of the oracle's R@1 that exact measurement and 144 people allow; every rung in the detail."""
    outcome = Outcome("learnable")
    found: dict[str, list[float]] = defaultdict(list)
    studies = 5 if quick else 100
    with progress.bar("learnable", studies) as advance:
        for seed in range(studies):
            for rung, value in _rungs(seed).items():
                found[rung].append(value)
            advance()
    means = {rung: statistics.mean(values) for rung, values in found.items()}
    first, *_ = means
    share = {rung: value / means[first] for rung, value in means.items()}
    spread = [value / means[first] for value in found[_LEARNT]]
    outcome.figures[f"{_LEARNT}: R@1 of the oracle's"] = Figure(
        round(share[_LEARNT], 3), AIM, (round(min(spread), 3), round(max(spread), 3))
    )
    outcome.detail["studies"] = studies
    outcome.detail["R@1, mean of both directions, gallery 60"] = {k: round(value, 3) for k, value in means.items()}
    outcome.detail["of the oracle's"] = {k: round(value, 2) for k, value in share.items()}
    outcome.detail["standard error"] = {
        k: round(statistics.stdev(values) / len(values) ** 0.5, 4) for k, values in found.items()
    }
    return outcome


def _rungs(seed: int) -> dict[str, float]:
    """R@1 of each rung in one study."""
    rng = np.random.default_rng((seed, 1))
    truth = synthetic.truth(PEOPLE, seed).take(pa.array(rng.permutation(PEOPLE.subjects)))
    drive_SP = drives(truth, "eeg", synthetic_eeg.PARAMETERS)
    voice_SP = drives(truth, "audio", synthetic_voice.PARAMETERS)
    mood = synthetic.CLIP_WOBBLE / PEOPLE.clips**0.5
    heard_SP = voice_SP + mood * rng.standard_normal(voice_SP.shape)
    test = slice(0, TESTED)
    body = 1 + synthetic.SUBJECT_WOBBLE**2
    ceilings = oracle.ceilings(truth[test], truth["subject_id"].to_pylist()[test])
    found = {
        "the traits themselves (the oracle)": statistics.mean(c["R@1"] for c in ceilings.values()),
        "exact parameters, the law known": r1(_law(drive_SP[test], voice_SP[test], body, body)),
        "the same, of a voice in six moods": r1(_law(drive_SP[test], heard_SP[test], body, body + mood**2)),
        _LEARNT: r1(_learnt(drive_SP, heard_SP)),
    }
    for error in ERRORS:
        seen, heard = (x_SP + error * rng.standard_normal(x_SP.shape) for x_SP in (drive_SP, heard_SP))
        found[f"the same, parameters within {error:g} SD"] = r1(_learnt(seen, heard))
    return found


def drives(truth: pa.Table, modality: str, table: Table) -> Array:
    """Parameters in SD of the traits, their bend undone, S x P."""
    columns = []
    for name, (centre, change, logarithmic) in table.items():
        value_S = truth[f"{modality}_{name}"].to_numpy()
        bent_S = (np.log(value_S / centre) if logarithmic else value_S - centre) / change
        columns.append(BEND * np.arctanh(bent_S / BEND))
    return np.stack(columns, 1)


def _law(x_SP: Array, y_SP: Array, variance_x: float, variance_y: float) -> Array:
    """Log p(y | x) / p(y) of Gaussian pairs whose parameters correlate by the coupling of their traits."""
    rho = PEOPLE.coupling / (variance_x * variance_y) ** 0.5
    x_SP, y_SP = x_SP / variance_x**0.5, y_SP / variance_y**0.5
    given_SS = ((y_SP[None] - rho * x_SP[:, None]) ** 2).sum(-1) / (1 - rho**2)
    score_SS: Array = 0.5 * ((y_SP**2).sum(-1)[None] - given_SS)
    return score_SS


def _learnt(x_SP: Array, y_SP: Array) -> Array:
    """Cosines of the tested people in the space that the others span; validation people choose its strength."""
    learn, judge, test = slice(TESTED + VALIDATED, None), slice(TESTED, TESTED + VALIDATED), slice(0, TESTED)
    x_SP, y_SP = ((z_SP - z_SP[learn].mean(0)) / z_SP[learn].std(0) for z_SP in (x_SP, y_SP))

    def cosines(strength: float, whom: slice) -> Array:
        sides = zip((x_SP, y_SP), shared_space(x_SP[learn], y_SP[learn], strength), strict=True)
        x_SK, y_SK = (z_SP[whom] @ weight_PK for z_SP, weight_PK in sides)
        return unit(x_SK) @ unit(y_SK).T

    return cosines(max(STRENGTHS, key=lambda strength: r1(cosines(strength, judge))), test)


def r1(score_SS: Array) -> float:
    """R@1, mean of both directions; ties count against the query."""
    own_S = np.diag(score_SS)
    hits = [((score >= own_S[:, None]).sum(1) == 1).mean() for score in (score_SS, score_SS.T)]
    return float(np.mean(hits))
