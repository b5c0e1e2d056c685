"""The demo, small, as a user starts it; then what its workspace must hold, and what must not matter."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from mmray import cli
from mmray.storage import Workspace

MMRAY = str(Path(sys.executable).parent / "mmray")
SMALL = {
    "synth.subjects": 10,
    "synth.eeg_seconds": 16,
    "synth.clips": 2,
    "split.validation_fraction": 0.4,
    "train.epochs": 3,
    "train.passes": 2,
    "model.population_neighbours": 2,  # few people train
    "train.num_workers": 0,
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("démo of mmray")
    settings = [argument for key, value in SMALL.items() for argument in ("--set", f"{key}={value}")]
    command = [MMRAY, "demo", "--workspace", str(folder), "--json", *settings]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return folder, json.loads(ended.stdout)


def test_every_retrieval_figure_has_its_chance_gallery_and_ceiling(demo: tuple[Path, dict[str, Any]]) -> None:
    figures = [m for m in demo[1]["metrics"] if m["task"] == "retrieval" and m["level"] == "subject"]
    assert {m["direction"] for m in figures} == {"eeg->audio", "audio->eeg"}
    assert all(m["chance"] is not None and m["gallery"] for m in figures)
    assert all(m["ceiling"] is not None for m in figures if m["metric"] == "R@1")
    assert {m["task"] for m in demo[1]["metrics"]} == {"retrieval", "classification"}


def test_the_report_opens_nothing_from_the_network(demo: tuple[Path, dict[str, Any]]) -> None:
    page = Path(demo[1]["report"]).read_text(encoding="utf-8")
    assert "R@1" in page
    assert not any(mark in page for mark in ("http://", "https://", "<script"))


def test_no_subject_is_in_two_parts_of_a_run(demo: tuple[Path, dict[str, Any]]) -> None:
    rows = Workspace(demo[1]["workspace"]).read_table("runs", demo[1]["run_id"], "embeddings.parquet").to_pylist()
    roles: dict[str, set[str]] = {}
    for row in rows:
        roles.setdefault(row["subject_id"], set()).add(row["role"])
    assert len(roles) == SMALL["synth.subjects"]
    assert all(len(parts) == 1 for parts in roles.values())


def test_a_search_by_file_finds_what_the_search_by_its_id_finds(
    demo: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = demo[1]["workspace"]
    stored = Workspace(workspace).read_table("recordings.parquet").to_pylist()
    clip = next(row for row in stored if row["modality"] == "audio")
    answers = []
    for query in (clip["path"], clip["recording_id"]):
        arguments = ["search", query, "--target", "eeg", "--json", "--workspace", workspace]
        assert cli.main(arguments) == 0
        answers.append(json.loads(capsys.readouterr().out)["matches"])
    by_file, by_id = ([(m["recording_id"], round(m["score"], 5)) for m in answer] for answer in answers)
    assert by_file == by_id


def test_training_never_reads_the_truth(demo: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, summary = demo
    truth, weights = folder / "study" / "truth.parquet", ("runs", summary["run_id"], "model.safetensors")
    before = load_file(Workspace(summary["workspace"]).path(*weights))
    truth.rename(tmp_path / "truth.parquet")
    run = folder / "workspace" / "runs" / summary["run_id"]
    run.rename(tmp_path / "run")
    try:
        assert cli.main(["train", "--config", str(folder / "workspace" / "demo.yaml"), "--json"]) == 0
        after = load_file(Workspace(summary["workspace"]).path(*weights))
    finally:
        (tmp_path / "truth.parquet").rename(truth)
        shutil.rmtree(run)
        (tmp_path / "run").rename(run)
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)


def test_a_second_demo_does_nothing_again(
    demo: tuple[Path, dict[str, Any]], ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, first = demo
    part = next((folder / "workspace" / "features").glob("*/eeg/*.parquet"))
    before = part.stat().st_mtime_ns
    settings = [argument for key, value in SMALL.items() for argument in ("--set", f"{key}={value}")]
    assert cli.main(["demo", "--workspace", str(folder), "--json", *settings]) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert part.stat().st_mtime_ns == before
