"""`mmray power` on tiny studies: sizes nest, the tested never teach, no fit is made twice, all is written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mmray import config
from mmray.errors import ConfigError
from mmray.storage import Workspace
from mmray.training import power
from tests.half_written import half_written, leave_half
from tests.training.conftest import write_prepared


def settings_in(root):
    return config.from_dict(
        {
            "workspace": str(root),
            "synth": {"eeg_seconds": 8, "clips": 2, "clip_seconds": 8},
            "model": {"hidden": 8, "embedding": 8},
            "train": {"epochs": 2, "passes": 1},
            "split": {"validation_fraction": 0.4},
            "evaluate": {"bootstraps": 50, "permutations": 99},
            "power": {
                "systems": ["ridge", "majority"],
                "subjects": [10, 12],
                "couplings": [0.0, 0.9],
                "tested": 6,
                "studies": 2,
            },
        }
    )


def plant(own):
    """Features of a study's people; to make and to prepare their recordings takes half a minute."""
    people = {"subjects": own.synth.subjects, "seed": own.seed, "coupled": own.synth.coupling > 0}
    write_prepared(own.workspace, own, segments=2, **people)


def made_by(patch, prepare):
    """Have this alone make the studies."""
    patch.setattr(power.synthetic, "generate", lambda *_: None)
    patch.setattr(power.catalogue, "catalogue", lambda _: None)
    patch.setattr(power.pipeline, "prepare", prepare)


def made_of(own):
    return config.digest(own.synth, own.features, own.seed)


@pytest.fixture(scope="module")
def kept():
    """What the studies that `told` prepared were made of -> a copy of each one's workspace."""
    return {}


@pytest.fixture(scope="module")
def told(tmp_path_factory, ray_session, kept):
    """Studies of coupling 0.9 from their recordings on; those of coupling 0 are planted."""
    folder = tmp_path_factory.mktemp("power")
    settings = settings_in(folder / "ws")
    generate, catalogue, prepare = power.synthetic.generate, power.catalogue.catalogue, power.pipeline.prepare

    def prepared(own):
        if not own.synth.coupling:
            plant(own)
            return
        prepare(own)
        kept[made_of(own)] = shutil.copytree(own.workspace, folder / made_of(own))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(power.synthetic, "generate", lambda root, synth, *_: synth.coupling and generate(root, synth, *_))
        patch.setattr(power.catalogue, "catalogue", lambda own: own.synth.coupling and catalogue(own))
        patch.setattr(power.pipeline, "prepare", prepared)
        return settings, power.power(settings)


def test_every_cell_is_there_with_its_studies(told):
    _, summary = told
    cells = {(c.system, c.coupling, c.subjects): c.studies for c in summary.cells}
    assert cells == {(s, c, n): 2 for s in ("ridge", "majority") for c in (0.0, 0.9) for n in (10, 12)}
    assert summary.failed == {}
    assert {one.system for one in summary.false_alarms} == {"ridge", "majority"}
    majority = [c for c in summary.cells if c.system == "majority"]
    assert all(c.found == 0 for c in majority)  # who has no vectors finds nobody


def test_the_report_its_tables_and_figure_are_written_and_no_study_is_left(told):
    settings, summary = told
    workspace, place = Workspace(settings.workspace), ("power", summary.power_id)
    page = workspace.read_bytes(*place, "report.html").decode()
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page
    for cell in summary.cells:
        assert f"{cell.r1:.3f}" in page
    assert workspace.names(*place, "tables") == [
        f"{name}.{kind}" for name in ("false_alarms", "needed", "power") for kind in ("csv", "parquet")
    ]
    assert workspace.names(*place, "figures") == ["power.png", "power.svg"]
    assert workspace.names(*place, "studies") == []


def test_run_again_it_makes_no_study_and_says_the_same(told, monkeypatch):
    settings, summary = told
    monkeypatch.setattr(power.synthetic, "generate", None)  # would end it
    assert power.power(settings) == summary


def test_a_lost_fit_is_made_again_alike(told):
    settings, summary = told
    workspace, place = Workspace(settings.workspace), ("power", summary.power_id, "fits")
    name = "c0.9-1-12-ridge.parquet"
    before = workspace.read_table(*place, name).drop_columns(["seconds"]).to_pylist()
    others = {n: os.stat(workspace.path(*place, n)).st_mtime_ns for n in workspace.names(*place) if n != name}
    workspace.delete(*place, name)
    leave_half(Path(workspace.path(*place)))
    power.power(settings)
    assert not half_written(settings.workspace)
    assert workspace.read_table(*place, name).drop_columns(["seconds"]).to_pylist() == before
    assert {n: os.stat(workspace.path(*place, n)).st_mtime_ns for n in others} == others


def with_power(settings, **over):
    return config.from_dict(settings.model_dump(mode="json") | {"power": settings.power.model_dump() | over})


def test_a_study_more_fits_only_what_is_new(told, monkeypatch):
    settings, before = told
    as_it_is, asked = power._fit_all, []
    monkeypatch.setattr(power, "_fit_all", lambda *told: asked.append((told[2].number, told[4])) or as_it_is(*told))
    made_by(monkeypatch, plant)
    after = power.power(with_power(settings, couplings=[0.9], systems=["ridge"], studies=3))
    assert after.power_id == before.power_id
    assert asked == [(2, [(10, "ridge"), (12, "ridge")])]
    assert [cell.studies for cell in after.cells] == [3, 3]


def test_pairs_drawn_by_lot_are_what_is_fitted(told, kept, tmp_path, monkeypatch):
    _, as_recorded = told
    made_by(monkeypatch, lambda own: shutil.copytree(kept[made_of(own)], own.workspace))
    by_lot = config.laid_over(settings_in(tmp_path / "ws"), {"train.shuffled_pairs": 1})
    (one,) = power.power(with_power(by_lot, systems=["ridge"], subjects=[12], couplings=[0.9])).cells
    (same,) = (c for c in as_recorded.cells if (c.system, c.coupling, c.subjects) == ("ridge", 0.9, 12))
    assert one.mrr != same.mrr  # of the same people


def test_sizes_nest_and_the_tested_never_teach(generated):
    segments = generated(subjects=40, segments=1)
    small, large = (power.part(segments, n, 10, 0.2, 3) for n in (10, 25))
    assert small.test == large.test
    assert len(small.test) == 10
    assert {*small.train, *small.validation} < {*large.train, *large.validation}
    for fold in (small, large):
        assert not {*fold.train, *fold.validation} & set(fold.test)
        assert not set(fold.train) & set(fold.validation)
    assert len(large.validation) == 5


def test_too_few_people_of_both_modalities_are_refused_and_never_counted_as_more(generated):
    segments = generated(subjects=20, segments=1)
    power.part(segments, 12, 8, 0.2, 3)
    lost = segments | {"eeg": segments["eeg"].take(segments["eeg"].subject_id_S != segments["eeg"].subject_id_S[0])}
    with pytest.raises(ConfigError, match="19 people of a study were prepared in both modalities, and 8 tested"):
        power.part(lost, 12, 8, 0.2, 3)


def test_a_system_that_the_settings_do_not_allow_is_refused_before_any_study(tmp_path, monkeypatch):
    monkeypatch.setattr(power, "_fit_study", lambda *told: pytest.fail("a study was begun"))
    with pytest.raises(ConfigError, match=r"model\.name = trf"):
        power.power(with_power(settings_in(tmp_path / "ws"), systems=["ridge", "trf"]))


def test_a_workspace_in_an_object_store_is_refused():
    with pytest.raises(ConfigError, match="give --workspace a folder"):
        power.power(settings_in("s3://bucket/ws"))
