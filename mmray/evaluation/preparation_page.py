"""report.html of a preparation; no network, no script."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from string import Template
from typing import Any

from mmray.evaluation import compare_html, plots
from mmray.evaluation.explain_page import template
from mmray.schema import MODALITIES

Row = dict[str, Any]

_TITLES = {"eeg": "EEG", "audio": "Voice"}
_KINDS = {
    "often": "How often each electrode was bad",
    "worst": "Among the worst",
    "typical": "Typical",
    "quarantined": "Quarantined",
}
_CAPTIONS = {
    "eeg": "Of each recording below, left: spectra of all electrodes as recorded, bad ones in orange, and the median "
    "electrode after cleaning. Right: power between the filter's edges as recorded, crosses on the bad electrodes.",
    "audio": "Of each clip below the spectrogram, 80 dB in all; above it what counts as speech (ITU-T P.56).",
}
_OVERVIEW = {
    "eeg": "Each recording counts once. Peak to peak: median over electrodes and segments, before rejection. Mains: "
    "power within 1 Hz of the line over that 2 to 5 Hz away, before the notch.",
    "audio": "Each clip counts once. Clips without a pause of 0.1 s tell no noise.",
}
# column -> heading and digits
_COLUMNS: dict[str, dict[str, tuple[str, int]]] = {
    "eeg": {
        "gone": ("gone", 3),
        "duration_s": ("s", 0),
        "segments": ("segments", 0),
        "kept": ("kept", 0),
        "bad_electrodes": ("bad electrodes", 0),
        "peak_to_peak_uv": ("peak to peak uV", 0),
        "mains_db": ("mains dB", 1),
        "bad": ("which, why", 0),
        "removed": ("components removed", 0),
    },
    "audio": {
        "gone": ("gone", 3),
        "duration_s": ("s", 1),
        "segments": ("segments", 0),
        "kept": ("kept", 0),
        "active_fraction": ("speech", 2),
        "snr_db": ("over noise dB", 0),
        "level_dbfs": ("level dBFS", 0),
        "peak_dbfs": ("peak dBFS", 0),
        "clipped_fraction": ("clipped", 4),
        "trimmed_s": ("trimmed s", 1),
    },
}
_SHOWN = 100


@dataclass(frozen=True)
class Pictured:
    """One recording's picture; None where its file cannot be read any more."""

    kind: str
    row: Row
    png: bytes | None


@dataclass(frozen=True)
class Told:
    """Everything that the page says."""

    digest: str
    verdict: Sequence[str]
    rows: Mapping[str, Sequence[Row]]
    quarantined: Sequence[Row]
    overview: Mapping[str, tuple[str, bytes]]
    pictures: Sequence[Pictured]
    settings: str
    command: Sequence[str]


def page(told: Told) -> str:
    """The whole page."""
    return Template(template("preparation.html")).substitute(
        style=template("style.css"),
        digest=escape(told.digest),
        verdict=" ".join(escape(line) for line in told.verdict),
        sections="\n".join(_section(told, modality) for modality in MODALITIES),
        quarantined=_quarantined(told.quarantined),
        command=escape(shlex.join(told.command)),
        settings=escape(told.settings),
    )


def _section(told: Told, modality: str) -> str:
    rows = told.rows[modality]
    if not rows:
        return f'<section id="{modality}"><h2>{_TITLES[modality]}</h2><p>Nothing was prepared.</p></section>'
    caption = escape(_OVERVIEW[modality])
    chart = plots.inline(told.overview[modality][0], caption)
    parts = [f'<figure id="figure-{modality}">{chart}<figcaption>{caption}</figcaption></figure>']
    shown = [one for one in told.pictures if one.row["modality"] == modality]
    parts += [_pictured(one) for one in shown if one.kind == "often"]
    parts += [compare_html.said(_CAPTIONS[modality])]
    parts += [_pictured(one) for one in shown if one.kind != "often"]
    columns = _COLUMNS[modality]
    head = ["recording, worst first", *(title for title, _ in columns.values())]
    body = [
        [row["recording_id"], *(_cell(row[name], digits) for name, (_, digits) in columns.items())]
        for row in rows[:_SHOWN]
    ]
    note = (
        "Worst first by the share of the data that is gone: rejected segments, and of the rest bad electrodes or "
        "clipped samples."
        f"{f' The first {_SHOWN} of {len(rows)}; all are in tables/recordings.csv.' if len(rows) > _SHOWN else ''}"
    )
    parts += [compare_html.said(note), compare_html.grid(head, body)]
    return f'<section id="{modality}"><h2>{_TITLES[modality]}</h2>{"".join(parts)}</section>'


def _pictured(one: Pictured) -> str:
    title = _KINDS[one.kind] if one.kind == "often" else f"{_KINDS[one.kind]}: {one.row['recording_id']}"
    reason = f"<p>{escape(one.row['reason'])}</p>" if one.kind == "quarantined" else ""
    if one.png is None:
        return (
            f"<h3>{escape(title)}</h3>{reason}{compare_html.said('Its file cannot be read, so there is no picture.')}"
        )
    data, alt = base64.b64encode(one.png).decode(), escape(title)
    size = ' class="small"' if one.kind == "often" else ""
    picture = f'<figure{size}><img alt="{alt}" src="data:image/png;base64,{data}"></figure>'
    return f"<h3>{escape(title)}</h3>{reason}{picture}"


def _quarantined(rows: Sequence[Row]) -> str:
    if not rows:
        return "<p>None.</p>"
    body = [[row["recording_id"], row["subject_id"], row["reason"]] for row in rows[:_SHOWN]]
    more = f"The first {_SHOWN} of {len(rows)}; all are in quarantine.parquet." if len(rows) > _SHOWN else ""
    return compare_html.said(more) + compare_html.grid(["recording", "person", "reason"], body)


def _cell(value: Any, digits: int) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.{digits}f}"
