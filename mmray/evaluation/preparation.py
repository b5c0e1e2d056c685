"""`mmray quality`: what preparation decided about every recording, and pictures of the worst and of typical ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Group, RenderableType
from rich.text import Text

from mmray import config, progress
from mmray.config import Config
from mmray.errors import RecordingError, WorkspaceError
from mmray.evaluation import preparation_page as page
from mmray.evaluation import preparation_plots as plots
from mmray.features import eeg
from mmray.recordings import catalogue
from mmray.schema import MODALITIES, Recording
from mmray.storage import Workspace

Row = dict[str, Any]

_WORST, _TYPICAL, _REFUSED = 3, 2, 2  # recordings drawn of a modality
_TOLD = 5


@dataclass(frozen=True)
class QualitySummary:
    """What `mmray quality` tells.

    Attributes:
        verdict: a sentence a modality.
        worst: ids, worst first, by modality.
        reasons: how many recordings were quarantined for each reason, with ids and paths taken out of it.
    """

    digest: str
    report: str
    verdict: list[str]
    worst: dict[str, list[str]]
    reasons: dict[str, int]

    def render(self) -> RenderableType:
        """As lines for a terminal."""
        lines = list(self.verdict)
        lines += [f"worst {modality}: {', '.join(ids)}" for modality, ids in self.worst.items() if ids]
        lines += [f"quarantined ({count}): {reason}" for reason, count in self.reasons.items()]
        return Group(*map(Text, lines), Text(f"report  {self.report}"))


def quality(settings: Config) -> QualitySummary:
    """Write features/<digest>/report: report.html, tables and figures, from quality.parquet and a few files read again.

    Raises:
        WorkspaceError: nothing was prepared under these settings.
    """
    workspace = Workspace(settings.workspace)
    digest = config.digest(settings.features)
    folder = ("features", digest)
    if not workspace.exists(*folder, "quality.parquet"):
        raise WorkspaceError(
            f"features/{digest} is not in workspace {workspace.root}; run `mmray prepare` with this config"
        )
    electrodes = len(eeg.node_names(settings.features.eeg))
    rows = [_derived(row, electrodes) for row in workspace.read_table(*folder, "quality.parquet").to_pylist()]
    quarantined: list[Row] = workspace.read_table(*folder, "quarantine.parquet").to_pylist()
    ordered: dict[str, list[Row]] = {m: worst_first([row for row in rows if row["modality"] == m]) for m in MODALITIES}
    pictures = _pictures(settings, workspace, ordered, quarantined)
    place = (*folder, "report")
    told = page.Told(
        digest=digest,
        verdict=[_verdict(m, ordered[m], quarantined) for m in MODALITIES],
        rows=ordered,
        quarantined=quarantined,
        overview={m: plots.overview(ordered[m], m) for m in MODALITIES if ordered[m]},
        pictures=pictures,
        settings=config.to_yaml(settings),
        command=["mmray", "quality", "--config", workspace.path(*place, "config.yaml"), "--workspace", workspace.root],
    )
    _write(workspace, place, told)
    reasons = Counter(_general(row) for row in quarantined)
    return QualitySummary(
        digest,
        workspace.address(*place, "report.html"),
        list(told.verdict),
        {m: [row["recording_id"] for row in ordered[m][:_TOLD]] for m in MODALITIES},
        dict(reasons.most_common()),
    )


def worst_first(rows: Sequence[Row]) -> list[Row]:
    """By the share of the data that is gone; between equals the louder EEG, or the voice nearer to its noise."""

    def key(row: Row) -> tuple[float, float, str]:
        then = row["peak_to_peak_uv"] if row["modality"] == "eeg" else -(row["snr_db"] or 0.0)
        return -row["gone"], -then, row["recording_id"]

    return sorted(rows, key=key)


def gone(row: Row, electrodes: int) -> float:
    """Share of a recording's data that is not used as it was: rejected segments, bad electrodes, clipped samples."""
    spoilt = len(row["bad_channels"]) / electrodes if row["modality"] == "eeg" else row["clipped_fraction"]
    return float(1 - row["kept"] / row["segments"] * (1 - spoilt))


def _derived(row: Row, electrodes: int) -> Row:
    bad = row["bad_channels"] or []
    said = ", ".join(f"{item['name']} {item['why']}" for item in bad)
    return row | {
        "gone": gone(row, electrodes),
        "lost": 1 - row["kept"] / row["segments"],
        "bad_electrodes": len(bad) if row["modality"] == "eeg" else None,
        "bad": said or None,
        "removed": ", ".join(row["components_removed"] or []) or None,
    }


def _verdict(modality: str, rows: Sequence[Row], quarantined: Sequence[Row]) -> str:
    refused = sum(row["modality"] == modality for row in quarantined)
    name = {"eeg": "EEG", "audio": "voice"}[modality]
    text = f"{len(rows)} {name} recordings prepared, {refused} quarantined"
    if not rows:
        return f"{text}."
    segments, kept = (sum(row[key] for row in rows) for key in ("segments", "kept"))
    text += f"; {kept} of {segments} segments kept"
    if modality == "eeg":
        return f"{text}; {np.mean([row['bad_electrodes'] for row in rows]):.1f} bad electrodes a recording on average."
    ratios = [row["snr_db"] for row in rows if row["snr_db"] is not None]
    spoken = f"{100 * np.mean([row['active_fraction'] for row in rows]):.0f} % of a clip is speech on average"
    return f"{text}; {spoken}" + (f", {np.median(ratios):.0f} dB over the noise (median)." if ratios else ".")


def _general(row: Row) -> str:
    """A reason without what is of one recording alone, so that equal ones count as one."""
    return str(row["reason"]).replace(f"{row['path']}: ", "").replace(row["path"], "the file")


def _pictures(
    settings: Config, workspace: Workspace, ordered: dict[str, list[Row]], quarantined: list[Row]
) -> list[page.Pictured]:
    of_id = {recording.recording_id: recording for recording in catalogue.load(workspace)}
    todo: list[tuple[str, Row]] = []
    for modality in MODALITIES:
        rows = ordered[modality]
        middle = len(rows) // 2
        worst = rows[: min(_WORST, middle or 1)]
        todo += [("worst", row) for row in worst]
        todo += [("typical", row) for row in rows[max(len(worst), middle - _TYPICAL // 2) :][:_TYPICAL]]
        todo += [("quarantined", row) for row in quarantined if row["modality"] == modality][:_REFUSED]
    made = []
    with progress.bar("quality", len(todo)) as advance:
        for kind, row in todo:
            recording = of_id.get(row["recording_id"])
            picture = None if recording is None else _picture(recording, settings)
            made.append(page.Pictured(kind, row, picture))
            advance(note=row["recording_id"])
    if any(row["bad_electrodes"] for row in ordered["eeg"]) and (often := plots.often_bad(ordered["eeg"], settings)):
        made.insert(0, page.Pictured("often", {"recording_id": "electrodes", "modality": "eeg"}, often))
    return made


def _picture(recording: Recording, settings: Config) -> bytes | None:
    """None where the file cannot be read at all, or is gone."""
    try:
        return plots.eeg_of(recording, settings) if recording.modality == "eeg" else plots.audio_of(recording, settings)
    except (RecordingError, OSError):
        return None


def _write(workspace: Workspace, place: tuple[str, ...], told: page.Told) -> None:
    rows = [row for m in MODALITIES for row in told.rows[m]]
    if rows:
        flat = pa.Table.from_pylist(
            [{k: v for k, v in row.items() if k not in ("bad_channels", "components_removed")} for row in rows]
        )
        workspace.write_table(flat, *place, "tables", "recordings.parquet")
        workspace.write_csv(flat, *place, "tables", "recordings.csv")
    for modality, (svg, png) in told.overview.items():
        workspace.write_text(svg, *place, "figures", f"{modality}.svg")
        workspace.write_bytes(png, *place, "figures", f"{modality}.png")
    for one in told.pictures:
        if one.png is not None:
            workspace.write_bytes(one.png, *place, "figures", f"{one.kind}-{one.row['recording_id']}.png")
    workspace.write_text(told.settings, *place, "config.yaml")
    workspace.write_text(page.page(told), *place, "report.html")
