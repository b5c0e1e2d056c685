"""What `mmray compare` found, as the tables that docs/results.md is made of: `python docs/tables.py SWEEP_FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

WAYS = {"eeg->audio": "EEG to voice", "audio->eeg": "voice to EEG"}
Rows = list[dict[str, Any]]


def read(folder: Path, name: str) -> Rows:
    """The rows of one table of the report; none where the sweep has no such exhibit."""
    path = folder / "report" / "tables" / f"{name}.parquet"
    rows: Rows = pq.read_table(path).to_pylist() if path.exists() else []
    return rows


def figure(row: dict[str, Any] | None, *, sign: str = "", digits: int = 3) -> str:
    """A value with its 95 % interval."""
    if row is None or row.get("value", row.get("difference")) is None:
        return "-"
    value, low, high = row.get("value", row.get("difference")), row["ci_low"], row["ci_high"]
    if low is None:
        return f"{value:{sign}.{digits}f}"
    inside = f"{low:+.3f} to {high:+.3f}" if sign else f"{low:.2f}-{high:.2f}"
    return f"{value:{sign}.{digits}f} ({inside})"


def chance(p: float | None) -> str:
    """A p-value in a table cell."""
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.01 else f"{p:.2f}"


def one(rows: Rows, **where: Any) -> dict[str, Any] | None:
    """The row that has these values."""
    return next((row for row in rows if all(row[key] == value for key, value in where.items())), None)


def table(head: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table."""
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def main(folder: Path) -> None:
    """Print every table."""
    retrieval, classes, pairs = (read(folder, name) for name in ("retrieval", "classification", "pairs"))
    systems = list(dict.fromkeys(row["variant"] for row in [*retrieval, *classes]))
    found, band = [], []
    for system in systems:
        ways = [{m: one(retrieval, variant=system, direction=w, metric=m) for m in ("R@1", "MRR", "mAP")} for w in WAYS]
        entropy, balanced = (one(classes, variant=system, metric=m) for m in ("cross_entropy", "balanced_accuracy"))
        cells, bands = [f"`{system}`"], [f"`{system}`"]
        for way in ways:
            r1 = way["R@1"]
            cells += [figure(r1), chance(r1["p"]) if r1 else "-"]
            for metric in ("R@1", "mAP"):
                row = way[metric]
                if row is None or row["band_low"] is None:
                    bands += ["-", "-"]
                    continue
                outside = "" if row["band_low"] - 1e-9 <= row["value"] <= row["band_high"] + 1e-9 else " **outside**"
                bands += [
                    f"{row['value']:.3f} ({row['band_low']:.3f}-{row['band_high']:.3f}){outside}",
                    chance(row["p"]),
                ]
        reciprocal = [way["MRR"]["value"] for way in ways if way["MRR"]]
        cells.append(f"{sum(reciprocal) / len(reciprocal):.3f}" if reciprocal else "-")
        cells += [figure(entropy), figure(balanced), chance(balanced["p"]) if balanced else "-"]
        found.append(cells)
        band.append(bands)
    head = [
        "system",
        "R@1 EEG to voice",
        "p",
        "R@1 voice to EEG",
        "p",
        "MRR",
        "cross-entropy",
        "balanced accuracy",
        "p",
    ]
    table(head, found)
    table(
        ["system", *(f"{m} {w}" if i == 0 else "p" for w in WAYS.values() for m in ("R@1", "mAP") for i in (0, 1))],
        band,
    )
    for rows, label in ((pairs, "pair"), (read(folder, "ablation"), "ablation")):
        metrics = ("R@1", "MRR", "cross_entropy", "balanced_accuracy")
        both = list(dict.fromkeys((row["first"], row["second"]) for row in rows))
        cells_of = [
            [f"`{first}` less `{second}`"]
            + [
                f"{figure(row, sign='+')}, p {chance(row['p'])}, Holm {row['p_holm']:.2f}" if row else "-"
                for row in (one(rows, first=first, second=second, metric=metric) for metric in metrics)
            ]
            for first, second in both
        ]
        if cells_of:
            table([label, *metrics], cells_of)
    by_rate = read(folder, "cross_entropy_by_rate")
    rates = list(dict.fromkeys(row["learning_rate"] for row in by_rate))
    at_rates = [
        [f"`{system}`", *(figure(one(by_rate, variant=system, learning_rate=rate)) for rate in rates)]
        for system in systems
    ]
    table(["system", *("picked" if rate is None else f"{rate:g}" for rate in rates)], at_rates)
    for row in retrieval[:12]:
        print(row)
    for row in read(folder, "runtime"):
        print(row)


if __name__ == "__main__":
    main(Path(sys.argv[1]).expanduser())
