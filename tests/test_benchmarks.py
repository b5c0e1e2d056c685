"""What a benchmark says of its figures; nothing here is timed."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import decodable, faults, learnable, search, stages
from benchmarks.__main__ import main
from benchmarks.harness import Figure, Outcome, growth
from mmray.features.table import Segments, from_table
from mmray.recordings import synthetic, synthetic_eeg
from tests.training.conftest import generated_tables

SIZES = (250, 500, 1000, 2000)


@pytest.mark.parametrize("power", [1, 2])
def test_the_exponent_of_a_power_law_is_its_power(power):
    figure = growth(SIZES, [3e-4 * size**power for size in SIZES], bar=1.15, unit="s")
    assert figure.value == pytest.approx(power, abs=1e-3)
    assert figure.spread == pytest.approx((power, power), abs=1e-3)
    assert figure.detail["power_law_r2"] == pytest.approx(1)
    assert figure.met is (power == 1)


def test_the_line_through_linear_costs_is_that_line():
    line = growth(SIZES, [7.0 + 0.25 * size for size in SIZES], bar=1.15, unit="s").detail["line"]
    assert line == pytest.approx({"slope": 0.25, "intercept": 7.0, "r2": 1.0})


def test_a_line_misses_quadratic_costs():
    assert growth(SIZES, [size**2 for size in SIZES], bar=1.15, unit="s").detail["line"]["r2"] < 0.97


def test_a_quadratic_part_under_a_large_constant_shows_in_the_spread():
    figure = growth(SIZES, [1e6 + size**2 for size in SIZES], bar=1.15, unit="s")
    assert figure.met
    assert figure.spread[1] > 1.15


@pytest.fixture
def generated_parts() -> Segments:
    return from_table(generated_tables(subjects=15, segments=3)["audio"])


def made() -> Outcome:
    outcome = Outcome("made")
    outcome.compare("nothing over nothing", lambda: None, lambda: None, rounds=3, bar=0.0)
    outcome.figures["growth"] = growth(SIZES, SIZES, bar=1.15, unit="s")
    outcome.figures["no cores"] = Figure(None, 1.6, None, detail={"not_measured": "fewer than two cores"})
    return outcome


def test_every_figure_of_the_json_has_value_bar_met_and_spread():
    figures = json.loads(json.dumps(made().as_json()))["figures"]
    assert set(figures) == {"nothing over nothing", "growth", "no cores"}
    for figure in figures.values():
        assert {"value", "bar", "met", "spread"} <= set(figure)
    assert figures["no cores"]["met"] is None


def test_a_figure_that_cannot_be_measured_says_why():
    assert made().figures["no cores"].as_text() == "not measured (fewer than two cores), bar at least 1.60"


@pytest.mark.parametrize(("at_most", "met"), [(True, False), (False, True)])
def test_an_upper_bar_is_met_from_below(at_most, met):
    assert Figure(2.0, 1.5, (1.9, 2.1), at_most=at_most).met is met


@pytest.mark.parametrize(("value", "code"), [(0.9, 0), (0.7, 1), (None, 0)])
def test_a_missed_bar_exits_1_and_json_is_one_object(monkeypatch, capsys, value, code):
    figure = Figure(value, 0.8, None, detail={"not_measured": "made up"})
    monkeypatch.setattr(search, "run", lambda quick: Outcome("search", {"made": figure}))
    assert main(["search", "--json"]) == code
    assert json.loads(capsys.readouterr().out)["figures"]["made"]["value"] == value


def test_a_rate_is_the_median_time_of_an_alternative_over_ours():
    outcome = Outcome("made")
    outcome.rate("fits a minute, over", {"ours": [1, 2, 4], "a loop": [2, 6, 8]}, {"a loop": 3.5})
    figure = outcome.figures["fits a minute, over a loop"]
    assert (figure.value, figure.spread, figure.met) == (3.0, (2.0, 3.0), False)


def fault_of(**parts) -> faults.Fault:
    first = faults.Run(code=5, hit="raylet", hit_s=1.0, said="mmray: cluster: Ray was killed")
    whole = faults.Fault(0, "prepare", "raylet", 1.0, [first, faults.Run(code=0)], {}, 0, 0, [], 3.0)
    return replace(whole, **parts)


def ended(**parts) -> list[faults.Run]:
    return [replace(fault_of().runs[0], **parts), faults.Run(code=0)]


@pytest.mark.parametrize(
    ("parts", "missed"),
    [
        ({}, set()),
        ({"differs": {"parts.parquet": 1.0}}, {"same result"}),
        ({"lost": 1}, {"same result", "rows lost or doubled"}),
        ({"doubled": 1}, {"same result", "rows lost or doubled"}),
        ({"runs": [*ended()[:1], faults.Run(code=4, said="mmray: no")]}, {"same result"}),
        ({"runs": ended(code=None)}, {"ended well or with an error in one line"}),
        ({"runs": ended(code=1, said="KeyError: 1")}, {"ended well or with an error in one line"}),
        ({"left": [".partial-1-f"]}, {"nothing left behind"}),
        ({"runs": ended(orphans=["gcs_server"])}, {"nothing left behind"}),
    ],
)
def test_each_consequence_of_a_fault_misses_its_own_bar(parts, missed):
    outcome = Outcome("faults")
    faults._judge(outcome, [fault_of(**parts)])
    assert {label.partition(",")[0] for label, figure in outcome.figures.items() if figure.met is False} == missed


def test_a_draw_that_met_nothing_is_no_fault():
    outcome = Outcome("faults")
    faults._judge(outcome, [fault_of(runs=[faults.Run(code=0)])])
    assert outcome.figures["same result, raylet"].value is None
    assert "rows lost or doubled" not in outcome.figures


def test_fifty_faults_meet_every_stage_with_every_kind_and_are_the_same_each_time():
    chosen = faults.drawn(faults.COUNT, faults.KINDS)
    assert chosen == faults.drawn(faults.COUNT, faults.KINDS)
    assert len(chosen) == 50
    assert {(stage, kind) for _, stage, kind in chosen} == {
        (stage, kind) for stage in stages.STAGES for kind in faults.KINDS
    } - faults._NEVER


@pytest.mark.parametrize(
    ("found", "far"),
    [
        ([{"a": 1.0, "b": "x"}], 0.0),
        ([{"a": 1.5, "b": "x"}], 0.5),
        ([{"a": 1.0, "b": "y"}], math.inf),
        ([{"a": math.nan, "b": "x"}], math.inf),
        ([{"a": 1.0}], math.inf),
        ([], math.inf),
    ],
)
def test_the_distance_of_two_results_is_that_of_their_numbers_and_infinite_else(found, far):
    assert stages.distance([{"a": 1.0, "b": "x"}], found) == far


def test_the_parameters_that_learnable_reads_off_the_truth_are_the_traits_with_the_bodys_wobble() -> None:
    truth = synthetic.truth(learnable.PEOPLE, seed=3)
    drive_SP = learnable.drives(truth, "eeg", synthetic_eeg.PARAMETERS)
    trait_SP = np.stack([truth[f"eeg_{k}"].to_numpy() for k in range(drive_SP.shape[1])], 1)
    wobble_SP = drive_SP - trait_SP
    assert abs(wobble_SP.mean()) < 0.05
    assert abs(wobble_SP.std() - synthetic.SUBJECT_WOBBLE) < 0.03
    assert abs(np.corrcoef(wobble_SP.ravel(), trait_SP.ravel())[0, 1]) < 0.1


def test_each_rung_of_learnable_gives_less_and_nothing_shared_is_chance() -> None:
    rungs = [learnable._rungs(seed) for seed in range(12)]
    means = [float(np.mean([one[rung] for one in rungs])) for rung in rungs[0]]
    assert means == sorted(means, reverse=True)
    rng = np.random.default_rng(0)
    alone = [learnable.r1(learnable._learnt(*rng.standard_normal((2, 240, 8)))) for _ in range(40)]
    assert abs(float(np.mean(alone)) - 1 / learnable.TESTED) < 0.01


def test_a_learnt_persons_parameters_are_read_as_if_from_the_others_alone() -> None:
    rng = np.random.default_rng(0)
    x_UF, drive_UP = rng.standard_normal((30, 50)), rng.standard_normal((30, 2))
    x_UF[:, 0] += 3 * drive_UP[:, 0]
    learn = np.arange(20)
    read_UP = decodable._told(decodable.Side(x_UF, x_UF, [], drive_UP), learn)
    centred_UF = x_UF - x_UF[learn].mean(0)
    kernel_UU = centred_UF @ centred_UF.T / (centred_UF[learn] ** 2).sum(1).mean()
    mean_P = drive_UP[learn].mean(0)
    for person in range(30):
        others = np.setdiff1d(learn, [person])
        inverse_LL = np.linalg.inv(kernel_UU[np.ix_(others, others)] + decodable.REGRESSION * np.eye(len(others)))
        expected_P = mean_P + kernel_UU[person, others] @ inverse_LL @ (drive_UP[others] - mean_P)
        np.testing.assert_allclose(read_UP[person], expected_P, atol=1e-9)


def test_whoever_is_not_learnt_from_moves_no_scale(generated_parts: Segments) -> None:
    people = sorted(set(generated_parts.subject_id_S.tolist()))
    learn = np.arange(10)
    loud = np.where(np.isin(generated_parts.subject_id_S, people[10:]), np.float32(1e3), np.float32(1))
    louder = replace(generated_parts, x_SND=generated_parts.x_SND * loud[:, None, None])
    one, other = (decodable._side(part, np.zeros((15, 1)), people, learn) for part in (generated_parts, louder))
    np.testing.assert_array_equal(one.flat_UF[learn], other.flat_UF[learn])
    np.testing.assert_array_equal(one.seen_UF[learn], other.seen_UF[learn])
    assert not np.allclose(one.seen_UF[10:], other.seen_UF[10:])


def test_discriminants_pass_over_a_microphone_that_differs_more_than_people_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decodable, "DIRECTIONS", 1)
    rng = np.random.default_rng(0)
    who_U1, microphone_UC1 = rng.standard_normal((60, 1)), 4 * rng.standard_normal((60, 3, 1))
    clips = [
        np.hstack([who + 0.1 * rng.standard_normal((3, 1)), mic])
        for who, mic in zip(who_U1, microphone_UC1, strict=True)
    ]
    mean_UF = np.stack([clip.mean(0) for clip in clips])
    side, learn = decodable.Side(mean_UF, mean_UF, clips, who_U1), np.arange(40)
    found_U = decodable._discriminants(side, learn, 0.1)[:, 0]
    blind_U = decodable._principal(side, learn, 1)[0][:, 0]
    assert abs(np.corrcoef(found_U, who_U1[:, 0])[0, 1]) > 0.99
    assert abs(np.corrcoef(blind_U, who_U1[:, 0])[0, 1]) < 0.5
