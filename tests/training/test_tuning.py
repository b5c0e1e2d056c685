"""Fits are run until their results are there: again where a process died, not where somebody stopped them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mmray.errors import ResourceError
from mmray.training import tuning

NAMES = ["a", "b", "c"]


def runner(kept: set[str], rounds: list[tuple[set[str], list[str]]], asked: list[list[int]]):
    """Each round keeps some results and reports some errors."""

    def run_some(left: list[int]):
        asked.append(left)
        done, errors = rounds[min(len(asked), len(rounds)) - 1]
        kept.update(done)
        return SimpleNamespace(errors=errors)

    return run_some


def run(kept, rounds, asked):
    tuning.run_all(NAMES, lambda: kept, runner(kept, rounds, asked), "sweep", "go on")


def test_a_fit_that_died_is_run_again_and_the_others_are_not():
    asked: list[list[int]] = []
    run(set(), [({"a", "c"}, ["died"]), ({"b"}, [])], asked)
    assert asked == [[0, 1, 2], [1]]


def test_what_dies_every_time_is_said_after_a_few_times():
    asked: list[list[int]] = []
    with pytest.raises(ResourceError, match=r"sweep: 1 of 3 fits ended without a result \(out of memory\).*go on"):
        run(set(), [({"a", "c"}, ["x\nout of memory"])], asked)
    assert len(asked) == 1 + tuning.MAX_FAILURES


def test_a_run_that_was_stopped_by_hand_is_not_started_again():
    asked: list[list[int]] = []
    with pytest.raises(ResourceError, match="it was stopped"):
        run({"a"}, [(set(), [])], asked)
    assert asked == [[1, 2]]
