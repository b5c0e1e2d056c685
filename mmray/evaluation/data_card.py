"""A comparison's data card: what there was, what was set aside and why, what was tested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mmray import config
from mmray.config import Config
from mmray.evaluation.fits import Fits
from mmray.evaluation.trials import Row
from mmray.storage import Workspace


def rows_of(workspace: Workspace, settings: Config, fits: Fits) -> list[Row]:
    """The data card: what there was, what was set aside and why, what was tested. What is not on disk is left out."""
    card: list[tuple[str, str]] = [("study", settings.study.kind)]
    if workspace.exists("recordings.parquet"):
        found = workspace.read_table("recordings.parquet").to_pylist()
        # a person's recordings may be labelled in part, and never in contradiction
        label_of = {row["subject_id"]: _label(row) for row in sorted(found, key=lambda row: row["label"] is not None)}
        card.append(("people", str(len(label_of))))
        card.append(("people by label", _counted(label_of.values())))
        card.append(("recordings", _counted(row["modality"] for row in found)))
    features = ("features", config.digest(settings.features))
    if workspace.exists(*features, "parts.parquet"):
        segments: Counter[str] = Counter()
        for part in workspace.read_table(*features, "parts.parquet").to_pylist():
            segments[part["modality"]] += part["segments"]
        card.append(("segments", ", ".join(f"{count} {name}" for name, count in sorted(segments.items()))))
    if workspace.exists(*features, "quarantine.parquet"):
        reasons = workspace.read_table(*features, "quarantine.parquet")["reason"].to_pylist()
        card.append(("recordings set aside", str(len(reasons))))
        card += [("set aside because", f"{reason} ({count})") for reason, count in Counter(reasons).most_common(10)]
    tested = {s for rows in fits.finished.values() for row in rows for s in row["subject_id"]}
    labels = fits.labels()
    card.append(("people tested, with both modalities", f"{len(tested)}, of which {len(labels)} have a label"))
    folds = {one.fold for one in fits.plan.trials}
    seeds = {one.seed for one in fits.plan.trials}
    rates = sorted({one.learning_rate for one in fits.plan.trials}, reverse=True)
    card.append(("outer folds x seeds", f"{len(folds)} x {len(seeds)}"))
    split = ("splits", f"{settings.split.name}.json")
    if workspace.exists(*split):
        card.append(("split", f"splits/{settings.split.name}.json, {settings.split.validation_fraction:.0%} validate"))
    card.append(("learning rates", ", ".join(f"{rate:g}" for rate in rates)))
    card.append(("fits", f"{fits.study.finished} finished of {len(fits.plan.trials)} planned"))
    card.append(("data digest", fits.plan.data_sha256))
    return [{"what": what, "value": value} for what, value in card]


def _label(row: Row) -> str:
    if row["label"] is None:
        return "without label"
    return f"{row['label_name'] or 'class'} ({row['label']})"


def _counted(values: Iterable[str]) -> str:
    return ", ".join(f"{count} {value}" for value, count in sorted(Counter(values).items()))
