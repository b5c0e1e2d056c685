"""Fits are run until their results are there: again where a process died, not where somebody stopped them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from mmray import cluster, config
from mmray.errors import ResourceError, WorkspaceError
from mmray.training import tuning

NAMES = ["a", "b", "c"]


def runner(kept: set[str], rounds: list[tuple[set[str], list[str], bool]], asked: list[list[int]]):
    """Each round keeps some results and reports some errors."""

    def run_some(left: list[int]):
        asked.append(left)
        done, errors, stopped = rounds[min(len(asked), len(rounds)) - 1]
        kept.update(done)
        return tuning.Found([], errors, stopped)

    return run_some


def run(kept, rounds, asked):
    tuning.run_all(NAMES, lambda: kept, runner(kept, rounds, asked), "sweep", "go on")


def test_a_fit_that_died_is_run_again_and_the_others_are_not():
    asked: list[list[int]] = []
    run(set(), [({"a", "c"}, ["died"], False), ({"b"}, [], False)], asked)
    assert asked == [[0, 1, 2], [1]]


def test_what_dies_every_time_is_said_after_a_few_times():
    asked: list[list[int]] = []
    with pytest.raises(ResourceError, match=r"sweep: 1 of 3 fits ended without a result \(out of memory\).*go on"):
        run(set(), [({"a", "c"}, ["x\nout of memory"], False)], asked)
    assert len(asked) == 1 + tuning.MAX_FAILURES


def test_a_run_that_was_stopped_by_hand_is_not_started_again():
    asked: list[list[int]] = []
    with pytest.raises(ResourceError, match="it was stopped"):
        run({"a"}, [(set(), ["died before"], True)], asked)
    assert asked == [[1, 2]]


@pytest.mark.parametrize(("errors", "stopped", "why"), [([], True, "it was stopped"), (["a\nb"], False, "b")])
def test_results_that_count_only_together_are_refused_where_some_are_missing(errors, stopped, why):
    with pytest.raises(ResourceError, match=rf"sweep\.search: not all of its fits have a result \({why}\)"):
        tuning.require_all(tuning.Found([1], errors, stopped), "sweep.search", "try again")
    tuning.require_all(tuning.Found([1], [], False), "sweep.search", "try again")


def slow(at: dict[str, int]) -> None:
    from ray import tune

    time.sleep(0.5)
    tune.report({"at": at["position"]})


def test_tune_returns_as_if_nothing_were_the_matter_where_it_was_interrupted_and_run_tells(tmp_path: Path) -> None:
    from ray import tune

    settings = config.from_dict({"workspace": str(tmp_path)})
    told: list[Any] = []

    def interrupt(result: dict[str, Any]) -> None:
        told.append(result)
        if len(told) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with cluster.session(settings.cluster), tuning.folder() as folder:
        space = {"position": tune.grid_search(list(range(12)))}
        found = tuning.run(slow, space, settings, folder, interrupt, fits=12)
        assert found.stopped  # were a whole one said to be, test_sweep's search would be refused
        assert len(told) < 12


@tuning.fit
def without_room(at: dict[str, int], tries: str) -> None:
    (Path(tries) / f"{at['position']}-{len(list(Path(tries).iterdir()))}").touch()
    raise WorkspaceError("workspace: no space left; make room")


def test_a_full_disk_ends_the_run_in_its_own_words_and_no_fit_is_tried_twice(tmp_path: Path) -> None:
    from ray import tune

    told: list[Any] = []
    settings = config.from_dict({"workspace": str(tmp_path)})
    tries = tmp_path / "tries"
    tries.mkdir()
    with cluster.session(settings.cluster), tuning.folder() as folder:
        fit = tune.with_parameters(without_room, tries=str(tries))
        with pytest.raises(WorkspaceError, match="no space left; make room"):
            tuning.run(fit, {"position": tune.grid_search(list(range(6)))}, settings, folder, told.append, fits=6)
    tried = [path.name.split("-")[0] for path in tries.iterdir()]
    assert 1 <= len(tried) < 6
    assert len(set(tried)) == len(tried)
    assert told == []
