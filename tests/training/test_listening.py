"""A time-locked study from files to figures: windows are matched by their timing, and by lot they are not."""

from __future__ import annotations

import pytest

from mmray import config
from mmray.errors import ConfigError
from mmray.features import pipeline
from mmray.index.build import build_index
from mmray.recordings import catalogue, listening
from mmray.storage import Workspace
from mmray.training import trainer


@pytest.fixture(scope="module")
def settings(tmp_path_factory, ray_session):
    folder = tmp_path_factory.mktemp("listening")
    chosen = config.laid_over(
        config.load("jobs/configs/listening.yaml"),
        {
            "workspace": str(folder / "ws"),
            "study.root": str(folder / "study"),
            "listening.subjects": 10,
            "listening.trials": 1,
            "listening.trial_seconds": 40,
            "listening.response_db": (0.0, 0.0),
            "split.folds": 3,
            "train.epochs": 12,
            "evaluate.bootstraps": 100,
            "evaluate.permutations": 199,
        },
    )
    listening.generate(chosen.study.root, chosen.listening, chosen.seed, chosen.cluster)
    catalogue.catalogue(chosen)
    pipeline.prepare(chosen)
    return chosen


def within(settings, **over):
    """MRR of each direction among a person's own windows."""
    summary = trainer.train(config.laid_over(settings, {k.replace("__", "."): v for k, v in over.items()}))
    return [m for m in summary.metrics if (m.level, m.metric) == ("within", "MRR")]


@pytest.mark.parametrize("name", ["crossmodal_gcn", "trf"])
def test_windows_of_unseen_people_are_found_by_their_timing(settings, name):
    for metric in within(settings, model__name=name):
        assert metric.gallery == 20
        assert metric.value > 3 * metric.chance
        assert metric.p_value == 1 / 200


@pytest.mark.parametrize("name", ["crossmodal_gcn", "trf"])
def test_windows_rotated_by_lot_are_not(settings, name):
    for metric in within(settings, model__name=name, train__shuffled_pairs=1):
        assert metric.value < 1.5 * metric.chance  # as recorded it is more than thrice
        assert metric.p_value > 0.01


def test_folds_cut_no_persons_windows_apart(settings):
    summary = trainer.train(config.laid_over(settings, {"model.name": "trf"}))
    table = Workspace(settings.workspace).read_table("runs", summary.run_id, "embeddings.parquet")
    roles: dict[str, set[str]] = {}
    for row in table.select(["subject_id", "role"]).to_pylist():
        roles.setdefault(row["subject_id"], set()).add(row["role"])
    assert len(roles) >= 6
    assert all(len(held) == 1 for held in roles.values())


def test_an_index_of_recordings_is_refused(settings):
    trainer.train(config.laid_over(settings, {"model.name": "trf"}))
    with pytest.raises(ConfigError, match="matches windows"):
        build_index(settings)
    assert not Workspace(settings.workspace).exists("index")
