"""Ray Tune as both the grid and the search use it: processes reused, its books thrown away, its voice turned off."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, ParamSpec

from mmray import cluster, keeper, placement
from mmray.config import Config
from mmray.errors import ResourceError, WorkspaceError
from mmray.placement import Want
from mmray.training.trainer import group_want

NEXT_TO_NOTHING = 0.01  # Tune refuses a trial that asks for nothing
MAX_FAILURES = 3  # deaths of a fit's process; one that the settings doom is a row with its reason instead
_P = ParamSpec("_P")
_DOOM = "doom"  # of a result that is no result: why no other fit would leave one either


class Found(NamedTuple):
    """What a run of fits came to.

    Attributes:
        results: Tune's, of the fits that it began.
        errors: of those that ended without a result.
        stopped: whether somebody stopped it before all had ended; Tune itself returns as if nothing were the matter.
    """

    results: list[Any]
    errors: list[Any]
    stopped: bool


def fit(function: Callable[_P, None]) -> Callable[_P, None]:
    """A fit whose workspace fails it, as a full disk does, ends the run in place of being tried again."""

    @functools.wraps(function)
    def told(*args: _P.args, **kwargs: _P.kwargs) -> None:
        from ray import tune

        try:
            function(*args, **kwargs)
        except WorkspaceError as error:
            tune.report({_DOOM: str(error)})

    return told


@contextmanager
def folder() -> Iterator[str]:
    """Where Tune keeps its own books, which nobody reads again: what a sweep goes on from is its rows."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one prints a banner at any verbosity
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # what dooms a run is told without a metric
    logging.getLogger("ray.tune.analysis").setLevel(logging.CRITICAL)  # misses the books that we do without
    with keeper.scratch("mmray-tune-") as made:
        yield made


def run(
    fit: Any,
    space: dict[str, Any],
    settings: Config,
    folder: str,
    ended: Callable[[dict[str, Any]], None],
    *,
    fits: int,
    in_groups: bool = False,
    **how: Any,
) -> Found:
    """Tune a function over a space, as many at once as there are cores for.

    A fit has one CPU; one that stands on workers has none itself, and its workers take theirs.

    Args:
        fit: a function trainable, made by `fit` where it reads or writes the workspace.
        space: Tune's param_space.
        folder: from `folder`.
        ended: called here with what a fit reported last, as each ends.
        fits: how many the space and `how` make.
        in_groups: whether a fit stands on train.num_workers.
        how: further fields of TuneConfig.

    Raises:
        ResourceError: the cluster has no room for one fit.
        WorkspaceError: of the first fit that met one.
    """
    from ray import tune

    doom = ""
    over = 0

    class _Ended(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            nonlocal over
            over += 1
            if not doom:
                ended(trial.last_result or {})

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            nonlocal over
            over += 1

    class _Doomed(tune.Stopper):
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            nonlocal doom
            doom = doom or result.get(_DOOM, "")
            return bool(doom)

        def stop_all(self) -> bool:
            return bool(doom)

    memory = int(settings.cluster.worker_gib * (1 << 30))
    want = group_want(settings) if in_groups else Want(cpus=1, memory_bytes=memory)
    beside = NEXT_TO_NOTHING if in_groups else 0.0
    setting = "train.num_workers or cluster.worker_cpus" if in_groups else "cluster.worker_gib"
    cluster.require_room(settings.cluster, "sweep", want, setting=setting, beside_cpus=beside)
    there = cluster.nodes()
    at_once = 1
    # a group takes its places together, so more fits than fit would only wait for one another
    while placement.room(want, there, (at_once + 1) * beside) >= (at_once + 1) * want.count:
        at_once += 1
    if not in_groups:
        at_once = min(at_once, cluster.cores(settings.cluster))
    own = {"CPU": NEXT_TO_NOTHING} if in_groups else want.resources()
    found: Any = tune.Tuner(
        tune.with_resources(fit, tune.PlacementGroupFactory([own])),
        param_space=space,
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=at_once, **how),
        run_config=tune.RunConfig(
            storage_path=folder,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[_Ended()],
            stop=_Doomed(),
        ),
    ).fit()
    if doom:
        raise WorkspaceError(doom)
    return Found(list(found), found.errors, over < fits)


def run_all(
    names: Sequence[str], kept: Callable[[], set[str]], run_some: Callable[[list[int]], Found], stage: str, how_on: str
) -> None:
    """Run fits until each has left its result, a few times at most.

    Tune tries a fit again whose process dies while it runs, but not one whose process was reused and died before it got
    there. Results on disk say what is left, whatever the reason.

    Args:
        names: of the fits.
        kept: names of the results that are there.
        run_some: runs the fits at these positions, and returns what `run` does.
        stage: who asks.
        how_on: how a user goes on with what is left.

    Raises:
        ResourceError: some fits never left a result, or somebody stopped the run.
        As `run_some`.
    """
    for _ in range(1 + MAX_FAILURES):
        found = run_some([position for position, name in enumerate(names) if name not in kept()])
        lost = len(set(names) - kept())
        if not lost:
            return
        if found.stopped:
            break
    reason = "it was stopped" if found.stopped else _reason(found)
    raise ResourceError(
        f"{stage}: {lost} of {len(names)} fits ended without a result ({reason}); the others are kept, and {how_on}"
    )


def require_all(found: Found, stage: str, how_on: str) -> None:
    """Refuse a run whose results count only together.

    Raises:
        ResourceError: a fit ended without one, or somebody stopped it.
    """
    if found.stopped or found.errors:
        reason = "it was stopped" if found.stopped else _reason(found)
        raise ResourceError(f"{stage}: not all of its fits have a result ({reason}); {how_on}")


def _reason(found: Found) -> str:
    return str(found.errors[0]).strip().splitlines()[-1] if found.errors else "no reason is known"
