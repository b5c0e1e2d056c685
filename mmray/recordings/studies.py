"""The studies mmray knows, in one table: `--study`, `--check` and docs/studies.md come from it."""

from __future__ import annotations

from dataclasses import replace

from mmray.config import StudyName
from mmray.recordings import bids, eav, feis, listening, manifest, modma
from mmray.recordings.study import StudyKind

STUDIES: dict[StudyName, StudyKind] = {
    "modma": modma.STUDY,
    "feis": feis.STUDY,
    "eav": eav.STUDY,
    "bids": bids.STUDY,
    "manifest": manifest.STUDY,
    # it lies in MODMA's layout, so MODMA's reader finds it; how much there is of it is for the section synth to say
    "synthetic": replace(
        modma.STUDY,
        title="synthetic",
        citation="made by `mmray synth`",
        doi="",
        licence="none: nobody's data",
        expected=(),
    ),
    "listening": StudyKind(
        find=listening.find,
        title="listening",
        citation="made by `mmray recordings`: EEG and the speech heard with it, time-locked",
        doi="",
        licence="none: nobody's data",
    ),
}


def reference() -> str:
    """The table of docs/studies.md, as Markdown."""
    lines = ["| `--study` | what | licence | expected |", "|---|---|---|---|"]
    for name, kind in STUDIES.items():
        counts = "; ".join(
            f"{part.modality} ({', '.join(part.each)}): {part.recordings:,} recordings of {part.subjects} people"
            for part in kind.expected
        )
        what = f"{kind.citation}, doi {kind.doi}" if kind.doi else kind.citation
        lines.append(f"| `{name}` | {what} | {kind.licence} | {counts or 'nothing published'} |")
    return "\n".join(lines) + "\n"
