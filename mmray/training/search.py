"""Which settings matter: Optuna draws them on Ray Tune, and validation subjects alone judge.

The preprint leaves the sensitivity to its settings for later work. A sample is fitted on one fold after another, and
its value is the mean validation MRR so far; ASHA (Li et al. 2020, doi 10.48550/arXiv.1810.05934) stops those that lag
behind after few folds. Nothing here picks what a report's tables show. A fold's own test people take no part in its
value, but they may validate in other folds: settings taken from a search over several folds were chosen on people that
these folds test, so report them on another split or on other people.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mmray import cluster, config, progress
from mmray.config import Config, Range
from mmray.errors import ConfigError
from mmray.evaluation import trials
from mmray.features.table import Segments
from mmray.recordings import splits
from mmray.storage import Workspace
from mmray.training import results, structure, trainer, trial, tuning

_FAILED = 0.0  # the value of a sample that cannot be fitted; every other's is above it


def search(workspace: Workspace, settings: Config, sweep_id: str) -> None:
    """Leave search.parquet, a row a sample, and importance.json, each setting's share; nothing where they are there.

    An importance is the share of the values' variance that a setting explains by itself and with others (fANOVA,
    Hutter et al. 2014), among samples that could be fitted.

    Raises:
        ConfigError: Optuna is not installed, a setting or a value of the space does not exist or is not a fit's own, or
            no sample could be fitted.
    """
    place, asked = ("sweeps", sweep_id), settings.sweep.search
    # a sample stands on the settings that the space does not draw
    digest = config.digest(asked, settings.train, settings.model, settings.seed)
    if workspace.exists(*place, "search.json") and workspace.read_json(*place, "search.json")["digest"] == digest:
        return
    require_optuna()
    for name in asked.space:
        trial.require_of_a_fit(name, "sweep.search.space")
    for name, domain in asked.space.items():
        for value in _looked_at(domain):
            config.laid_over(settings, {"model.name": asked.system, name: value})
    folds = splits.load_split(workspace, settings.split.name)
    chosen = range(len(folds)) if settings.sweep.folds is None else settings.sweep.folds
    segments = trainer.recorded(workspace, settings, folds[0])
    structure.prepare(config.laid_over(settings, {"model.name": asked.system}), segments)
    with cluster.session(settings.cluster), tuning.folder() as folder:
        import optuna
        from ray import tune
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        drawn = OptunaSearch(metric="value", mode="max", seed=settings.seed)
        halving = ASHAScheduler(time_attr="folds", max_t=len(chosen), grace_period=1, reduction_factor=2)
        fit = tune.with_parameters(
            _sample, tree=settings.model_dump(mode="json"), folds=tuple(chosen), segments=segments
        )
        with progress.bar("search", asked.samples) as advance:
            best = -1.0

            def ended(told: dict[str, Any]) -> None:
                nonlocal best
                best = max(best, told.get("value", -1.0))
                advance(1, f"best validation MRR {best:.3f}")

            found = tuning.run(
                fit,
                {name: _domain(domain) for name, domain in asked.space.items()},
                settings,
                folder,
                ended,
                fits=asked.samples,
                num_samples=asked.samples,
                search_alg=drawn,
                scheduler=halving if asked.asha else None,
                metric="value",
                mode="max",
            )
        tuning.require_all(found, "sweep.search", f"`{trials.resume_command(workspace)}` searches anew")
        rows = [
            {"system": asked.system, "value": one.metrics["value"], "folds": one.metrics["folds"]}
            | {f"param.{name}": one.config[name] for name in asked.space}
            | {"error": one.metrics.get("error")}
            for one in found.results
            if one.metrics and "value" in one.metrics
        ]
        shares = _importances(drawn, asked.space.keys())
    if all(row["error"] for row in rows):
        reason = f" ({rows[0]['error']})" if rows else ""
        raise ConfigError(
            f"sweep.search: none of {asked.samples} samples could be fitted{reason}; narrow sweep.search.space"
        )
    workspace.write_table(pa.Table.from_pylist(rows), *place, "search.parquet")
    workspace.write_json(shares, *place, "importance.json")
    workspace.write_json({"digest": digest}, *place, "search.json")


def require_optuna() -> None:
    """Say so where the extra is missing.

    Raises:
        ConfigError: it is.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("sweep.search needs Optuna: pip install -c constraints.txt '.[search]', or set samples to 0")


@tuning.fit
def _sample(
    values: dict[str, Any], tree: dict[str, Any], folds: tuple[int, ...], segments: dict[str, Segments]
) -> None:
    """One draw on a Tune worker, told of after every fold. What cannot be fitted in one is worth nothing, and why."""
    from ray import tune

    cluster.limit_threads(1)
    torch.set_num_threads(1)
    base = config.from_dict(tree)
    workspace = Workspace(base.workspace)
    known = splits.load_split(workspace, base.split.name)
    classes = trainer.classes_of(workspace)
    scores: list[float] = []
    for fold in folds:
        try:
            settings = config.laid_over(base, {"model.name": base.sweep.search.system, **values, "train.fold": fold})
            inner = results.chosen(segments, (*known[fold].train, *known[fold].validation))
            inner = trainer.paired(inner, settings, known[fold])
            scores.append(trial.best_of(settings, inner, known[fold], classes)[1].best_mrr)
        except ConfigError as error:
            tune.report({"value": _FAILED, "folds": len(scores) + 1, "error": str(error)})
            return
        tune.report({"value": float(np.mean(scores)), "folds": len(scores)})


def _importances(drawn: Any, names: Any) -> dict[str, float]:
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    study = optuna.create_study(direction="maximize")
    # Ray offers no other way to them
    study.add_trials([one for one in drawn._ot_study.trials if one.value is not None and one.value != _FAILED])
    if len({round(one.value or _FAILED, 12) for one in study.trials}) < 2:
        return dict.fromkeys(names, 0.0)  # nothing moved
    shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {name: float(share) for name, share in shares.items()}


def _domain(domain: Range | tuple[Any, ...]) -> Any:
    from ray import tune

    if not isinstance(domain, Range):
        return tune.choice(list(domain))
    return tune.loguniform(domain.low, domain.high) if domain.log else tune.uniform(domain.low, domain.high)


def _looked_at(domain: Range | tuple[Any, ...]) -> tuple[Any, ...]:
    """What may be drawn: every choice, or a range's ends and, since a draw is no whole number, one between them."""
    if not isinstance(domain, Range):
        return domain
    return domain.low, domain.low + (domain.high - domain.low) / 2**0.5, domain.high
