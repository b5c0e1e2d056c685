"""Pictures of what systems find of people: retrieval, pairs, critical differences, ablations."""

from __future__ import annotations

import re

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mmray.evaluation import exhibit_pairs
from mmray.evaluation.classification import LOWER_IS_BETTER
from mmray.evaluation.compare_style import (
    DIRECTIONS,
    NAMES,
    Look,
    by,
    interval,
    label_rows,
    panels,
)
from mmray.evaluation.plots import INK, SERIES
from mmray.evaluation.trials import Row


def retrieval(rows: list[Row], looks: dict[str, Look]) -> Figure | None:
    """R@1 with its interval, before the band of chance and the ceiling."""
    rows = [row for row in rows if row["metric"] == "R@1"]
    if not rows:
        return None
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    figure, axes = panels(1, 2, 0.75 + 0.26 * len(variants), sharey=True)
    for axis, (direction, title) in zip(axes, DIRECTIONS.items(), strict=True):
        for place, variant in enumerate(variants):
            for row in (r for r in rows if (r["variant"], r["direction"]) == (variant, direction)):
                axis.add_patch(
                    Rectangle(
                        (row["band_low"], place - 0.38), row["band_high"] - row["band_low"], 0.76, fc=INK, alpha=0.13
                    )
                )
                interval(axis, row, place, looks[variant])
                if row["ceiling"] is not None:
                    axis.plot([row["ceiling"]] * 2, [place - 0.38, place + 0.38], color=INK, lw=1.4)
        axis.set(title=title, xlabel="R@1", xlim=(-0.02, None))
        label_rows(axis, variants)
    return figure


def pairs(rows: list[Row]) -> Figure | None:
    """Every two systems of one metric: the row's value less the column's."""
    if not rows:
        return None
    variants = list(dict.fromkeys(name for row in rows for name in (row["first"], row["second"])))
    cell = {(row["second"], row["first"]): row for row in rows}
    figure, (axis,) = panels(1, 1, 1.1 + 0.31 * len(variants))
    for y, below in enumerate(variants):
        for x, above in enumerate(variants):
            row = cell.get((below, above))
            if row is None:
                continue
            differ = row["p_holm"] < exhibit_pairs.LEVEL
            better = (row["difference"] < 0) != (row["metric"] in LOWER_IS_BETTER)
            colour = SERIES[0] if better else SERIES[1]
            axis.add_patch(Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, fc=colour, alpha=0.45 if differ else 0.1, lw=0))
            axis.text(
                x,
                y,
                re.sub(r"^([+-])0\.", r"\1.", f"{0.0 - round(row['difference'], 2):+.2f}") + "*" * differ,
                ha="center",
                va="center",
                fontsize=min(9.0, 72 / len(variants)),
                fontweight="bold" if differ else "normal",
            )
    axis.set(xlim=(-0.5, len(variants) - 1.5), ylim=(len(variants) - 0.5, 0.5))
    axis.set_yticks(range(1, len(variants)), variants[1:])
    axis.set_xticks(range(len(variants) - 1), variants[:-1], rotation=40, ha="right", rotation_mode="anchor")
    axis.set_title(f"{NAMES[rows[0]['metric']]}: row less column")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


def critical_difference(ranked: list[Row], pairs: list[Row]) -> Figure | None:
    """Systems on the line of their average ranks; bars join those that do not differ (Demsar 2006)."""
    if not ranked:
        return None
    ranked = sorted(ranked, key=lambda row: row["average_rank"])
    count = len(ranked)
    runs = exhibit_pairs.not_different(ranked, pairs)
    left = -(-count // 2)  # the better half is named on the left
    lowest = 0.9 + 0.24 * len(runs)
    figure, (axis,) = panels(1, 1, 0.55 + 0.27 * (lowest + left))
    span = count - 1
    axis.plot([1, count], [0, 0], color=INK, lw=1)
    for rank in range(1, count + 1):
        axis.plot([rank, rank], [0, 0.22], color=INK, lw=1)
        axis.text(rank, 0.34, str(rank), ha="center", va="bottom")
    for place, row in enumerate(ranked):
        on_left = place < left
        y = -lowest - (place if on_left else count - 1 - place)
        edge = 1 - 0.06 * span if on_left else count + 0.06 * span
        axis.plot([row["average_rank"], row["average_rank"], edge], [0, y, y], color=INK, lw=0.9)
        label = (
            f"{row['variant']}  {row['average_rank']:.2f}"
            if on_left
            else f"{row['average_rank']:.2f}  {row['variant']}"
        )
        axis.text(
            edge + (-0.015 if on_left else 0.015) * span, y, label, ha="right" if on_left else "left", va="center"
        )
    for number, (start, end) in enumerate(runs):
        y = -0.35 - 0.3 * number
        first, last = ranked[start]["average_rank"], ranked[end]["average_rank"]
        axis.plot([first - 0.01 * span, last + 0.01 * span], [y, y], color=SERIES[0], lw=3.2, solid_capstyle="butt")
    axis.set(xlim=(1 - 0.75 * span, count + 0.75 * span), ylim=(-lowest - left + 0.4, 1.3))
    axis.axis("off")
    axis.set_title(f"average rank over people, {NAMES[ranked[0]['metric']]}", loc="center")
    return figure


def ablation(rows: list[Row]) -> Figure | None:
    """Each variant less its system, a panel a metric."""
    by_metric = by(rows, "metric")
    if not by_metric:
        return None
    names = list(dict.fromkeys(row["first"] for row in rows))
    down = len(by_metric)
    figure, axes = panels(down, 1, 0.3 + down * (0.72 + 0.25 * len(names)))
    for axis, (metric, mine) in zip(axes, by_metric.items(), strict=True):
        axis.axvline(0, color=INK, alpha=0.5, lw=0.8)
        for row in mine:
            differ = row["p_holm"] < exhibit_pairs.LEVEL
            look = Look(SERIES[1] if differ else SERIES[0], "-", "s" if differ else "o")
            interval(axis, {**row, "value": row["difference"]}, names.index(row["first"]), look)
        axis.set_title(f"{NAMES[metric]}: variant less system")
        label_rows(axis, names)
    return figure
