"""`mmray demo`: the whole path on a synthetic study whose truth is known, in minutes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rich.console import Console, Group, RenderableType
from rich.text import Text

from mmray import cluster, config
from mmray.evaluation import table
from mmray.features import pipeline
from mmray.index import build
from mmray.recordings import catalogue, splits, synthetic
from mmray.schema import Metric
from mmray.serving import retriever
from mmray.storage import Workspace
from mmray.training import trainer

# small enough for two cores, large enough that the figures mean something
_SETTINGS = ("synth.subjects=60", "synth.eeg_seconds=32", "synth.clips=4", "split.folds=3", "train.num_workers=2")


class _Told(Protocol):
    def render(self) -> RenderableType: ...


Summary = TypeVar("Summary", bound=_Told)


@dataclass(frozen=True)
class DemoSummary:
    """What the demo found, and where it lies."""

    workspace: str
    study: str
    run_id: str
    index_version: str
    metrics: list[Metric]
    report: str
    unseen: str

    def render(self) -> RenderableType:
        """Figures with chance and ceiling beside them, and what to run next."""
        settings = f"--config {shlex.quote(f'{self.workspace}/demo.yaml')}"
        clip = shlex.quote(f"{self.study}/audio_lanzhou_2015/{self.unseen}/01.wav")
        return Group(
            "",
            table.render(self.metrics),
            "",
            f"report  {self.report}",
            f"serve   mmray serve {settings}",
            f"search  mmray search {clip} --target eeg {settings}",
            "yours   mmray recordings --study manifest --root your.csv, then prepare, train, index and serve",
        )


def run(folder: str, config_file: Path | None, overrides: list[str]) -> DemoSummary:
    """Synthetic study, prepare, split, train, evaluate, index, one search, report.

    A demo stopped anywhere and started again goes on where it was.

    Args:
        folder: gets the study, the workspace and demo.yaml, the resolved settings.
        config_file: laid under the demo's settings.
        overrides: laid over them.
    """
    study, workspace = f"{folder}/study", f"{folder}/workspace"
    places = [
        "study.kind=synthetic",
        config.override("study.root", study),
        config.override("workspace", workspace),
    ]
    settings = config.load(config_file, [*places, *_SETTINGS, *overrides])
    Workspace(workspace).write_text(config.to_yaml(settings), "demo.yaml")
    workers = " to ".join(map(str, dict.fromkeys(settings.train.group)))
    with cluster.session(settings.cluster):
        _stage("1/7 synthetic study", synthetic.generate, study, settings.synth, settings.seed, settings.cluster)
        _stage("2/7 recordings", catalogue.catalogue, settings)
        _stage("3/7 prepare: segment graphs on Ray Data", pipeline.prepare, settings)
        _stage("4/7 split by subject", splits.write_split, settings)
        _tell(Text(f"\n5/7 train with Ray Train, {workers} workers; evaluate on unseen people", style="bold"))
        fitted = trainer.train(settings)
        _tell(fitted.headline())  # its figures close the demo
        index = _stage("6/7 index", build.build_index, settings, fitted.run_id)
        query, subject = _unseen_recording(Workspace(workspace), fitted.run_id)
        _stage("7/7 search: whose voice is most like this EEG?", retriever.search, settings, query, "audio", 5)
    report = f"{workspace}/runs/{fitted.run_id}/report.html"
    return DemoSummary(workspace, study, fitted.run_id, index.version, fitted.metrics, report, subject)


def _unseen_recording(workspace: Workspace, run_id: str) -> tuple[str, str]:
    """The first EEG of a test subject, and the subject."""
    rows = workspace.read_table("runs", run_id, "embeddings.parquet").drop_columns("z").to_pylist()
    row = next(row for row in rows if (row["modality"], row["role"]) == ("eeg", "test"))
    return row["recording_id"], row["subject_id"]


def _stage(title: str, function: Callable[..., Summary], *arguments: Any) -> Summary:
    _tell(Text(f"\n{title}", style="bold"))
    summary = function(*arguments)
    _tell(summary.render())
    return summary


def _tell(text: RenderableType) -> None:
    # stages are told on stderr and the result alone on stdout, so that --json stays one object
    Console(file=sys.stderr, markup=False, highlight=False).print(text, soft_wrap=True)
