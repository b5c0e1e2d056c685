"""The cost model against laws that are known, and its simulation against time kept by hand."""

from __future__ import annotations

import heapq
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import cost_model
from benchmarks.cost_model import Law, Link, Nodes, Study, epoch_s, fit, plan, simulate

DOCS = Path(__file__).parents[1] / "docs"
STEADY = Nodes(cores=4, start_s=60.0)


@given(
    st.floats(0.1, 100),
    st.floats(1e-3, 10),
    st.floats(1e-6, 1e-2),
    st.lists(st.integers(2, 5000), min_size=4, max_size=8, unique=True),
)
@settings(max_examples=50)
def test_a_law_is_found_again_from_its_own_costs(once: float, each: float, pair: float, counts: list[int]) -> None:
    law = Law("s", {"once": once, "subject": each, "pair of subjects": pair})
    sizes = [{"subjects": float(count)} for count in counts]
    found = fit(("once", "subject", "pair of subjects"), sizes, [law(size) for size in sizes], "s")
    for size in sizes:
        assert found(size) == pytest.approx(law(size), rel=1e-3)
    assert min(found.coefficients.values()) >= 0


@given(st.lists(st.floats(0.5, 2.0), min_size=5, max_size=5))
def test_no_coefficient_is_below_zero_and_no_other_law_of_the_terms_is_nearer(noise: list[float]) -> None:
    sizes = [{"tasks": float(count)} for count in (10, 20, 40, 80, 160)]
    costs = [(3 + 0.1 * size["tasks"]) * factor for size, factor in zip(sizes, noise, strict=True)]

    def off(law: Law) -> float:
        return sum((law(size) / cost - 1) ** 2 for size, cost in zip(sizes, costs, strict=True))

    found = fit(("once", "task"), sizes, costs, "s")
    assert all(value >= 0 for value in found.coefficients.values())
    for once in (0.9, 1.0, 1.1):
        for task in (0.9, 1.0, 1.1):
            near = {"once": once * found.coefficients["once"], "task": task * found.coefficients["task"]}
            assert off(found) <= off(Law("s", near)) + 1e-6


def test_too_few_sizes_or_a_cost_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="2 terms"):
        fit(("once", "task"), [{"tasks": 1.0}], [1.0], "s")
    with pytest.raises(ValueError, match="not positive"):
        fit(("once",), [{}], [0.0], "s")


@given(st.integers(1, 300), st.integers(1, 5), st.floats(0.5, 20), st.floats(0, 0.5))
@settings(max_examples=60)
def test_without_losses_it_is_a_queue_kept_by_hand(tasks: int, nodes: int, task_s: float, dispatch_s: float) -> None:
    free = [STEADY.start_s] * (nodes * STEADY.cores)
    heapq.heapify(free)
    driver_s = end_s = 0.0
    for _ in range(tasks):
        driver_s = max(driver_s, heapq.heappop(free)) + dispatch_s
        heapq.heappush(free, driver_s + task_s)
        end_s = max(end_s, driver_s + task_s)
    found = simulate(tasks, task_s, nodes, STEADY, dispatch_s)
    assert found.hours * 3600 == pytest.approx(end_s)
    assert found.node_hours * 3600 == pytest.approx(nodes * end_s)
    assert found.lost == 0


@given(st.integers(0, 20))
@settings(max_examples=15, deadline=None)
def test_losses_cost_time_and_no_task_is_left_out(seed: int) -> None:
    spot = Nodes(cores=4, start_s=60.0, life_h=0.5)
    lossy, steady = (simulate(2000, 30.0, 4, kind, 0.001, seed) for kind in (spot, STEADY))
    assert lossy.lost > 0
    assert lossy.hours > steady.hours
    # all work was done on what was paid for
    assert lossy.efficiency * lossy.node_hours * 4 == pytest.approx(2000 * 30 / 3600)
    assert lossy.efficiency < steady.efficiency <= 1


def test_many_tasks_are_simulated_as_fewer_longer_ones_of_the_same_work() -> None:
    whole, parted = simulate(190_000, 10.0, 8, STEADY, 1e-4), simulate(1_900_000, 1.0, 8, STEADY, 1e-5)
    assert parted.hours == pytest.approx(whole.hours, rel=0.01)


def test_a_driver_that_hands_out_slowly_binds_however_many_nodes_there_are() -> None:
    few, many = (simulate(10_000, 1.0, nodes, STEADY, 0.1) for nodes in (8, 80))
    assert few.hours == pytest.approx(many.hours, rel=0.01)
    assert few.hours * 3600 == pytest.approx(60 + 10_000 * 0.1 + 1, rel=0.01)


def test_an_epoch_on_many_workers_is_never_below_what_each_does_whole() -> None:
    one = epoch_s(100.0, 1, 0.2, 1e6, 50, Link())
    two = epoch_s(100.0, 2, 0.2, 1e6, 50, Link())
    many = epoch_s(100.0, 1000, 0.2, 1e6, 50, Link())
    assert one == 100.0
    assert two == pytest.approx(100 * (0.2 + 0.4) + 50 * 2 * (1e6 / 2 / 1.25e9 + 50e-6))
    assert many > 20
    assert epoch_s(100.0, 4, 0.0, 0.0, 0, Link()) == 25


LAWS = {
    "dispatch: seconds": Law("s", {"once": 0.1, "task": 0.002}),
    "prepare: core-seconds": Law(
        "s", {"once": 5, "EEG recording": 0.2, "voice recording": 0.05, "EEG hour": 60, "voice hour": 200}
    ),
    "prepare: bytes written": Law("bytes", {"EEG recording": 1e4, "EEG hour": 1e7, "voice hour": 1e6}),
    "train: seconds an epoch": Law("s", {"once": 0.1, "subject": 0.01, "pair of subjects": 1e-7}),
    "train: bytes of a worker": Law("bytes", {"once": 1e6, "subject": 1e5}),
    "index: seconds of embedding": Law("s", {"segment": 0.002}),
    "index: seconds of an HNSW's build": Law("s", {"vector to the 5/4": 1e-5}),
    "index: bytes": Law("bytes", {"vector": 528}),
}
FACTS = {"epochs": 60, "subjects_a_step": 8, "serial_share": 0.1, "gradient_bytes": 4e5}


@pytest.mark.parametrize("subjects", [1e3, 1e5])
def test_a_plan_ends_in_time_or_says_what_binds(subjects: float) -> None:
    for need in plan(LAWS, FACTS, subjects, 1.0, Nodes(price=0.5)):
        assert (need.hours <= 24) == (need.nodes is not None)
        assert need.price == pytest.approx(0.5 * need.node_hours)
        assert need.node_hours * 16 >= need.core_hours * 0.99
        assert need.bound


def test_a_thousand_people_need_one_node_and_ten_millions_more_than_one_driver() -> None:
    small = {need.stage: need for need in plan(LAWS, FACTS, 1e3, 1.0, Nodes())}
    large = {need.stage: need for need in plan(LAWS, FACTS, 1e7, 1.0, Nodes())}
    assert small["prepare"].nodes == 1
    assert "one driver's hand" in large["prepare"].bound
    assert large["train"].nodes is None  # the pairs of subjects


def test_a_study_like_modma_has_its_hours() -> None:
    size = Study().size(53)
    assert size["eeg_recordings"] + size["voice_recordings"] == size["vectors"] == 53 * 30
    assert size["eeg_h"] == pytest.approx(53 * 316 / 3600)
    assert size["tasks"] == 53 * (1 + math.ceil(29 / 8))


def fitted() -> dict[str, Any]:
    """As `python -m benchmarks scaling --json` prints it."""
    figure = {"value": 0.1, "met": True, "detail": {"predicted": 1.1, "measured": 1.0, "held_out": {"subjects": 5.0}}}
    figures = {f"{name}, error at the held-out size": figure for name in LAWS}
    return {"figures": figures, "detail": {"laws": cost_model.as_json(LAWS), "facts": FACTS}}


def test_the_command_prints_a_row_a_law_and_a_row_a_stage_and_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scaling.json"
    path.write_text(json.dumps(fitted()))
    assert cost_model.main([str(path), "--subjects", "1000", "2000", "--price", "2"]) == 0
    laws, plans = capsys.readouterr().out.split("\n\n")
    assert [line.split(" | ")[0].removeprefix("| ") for line in laws.splitlines()[2:]] == list(LAWS)
    assert [line.split(" | ")[1] for line in plans.splitlines()[2:]] == 2 * ["prepare", "train", "index"]
    assert cost_model.main([str(path), "--subjects", "1000", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"1000"}


def test_the_tables_of_the_page_are_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert cost_model.main([str(DOCS / "scaling.json")]) == 0
    page = (DOCS / "scaling.md").read_text()
    for table in capsys.readouterr().out.strip().split("\n\n"):
        assert table in page
