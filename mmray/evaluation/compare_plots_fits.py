"""Pictures of fits and of the classes they give: epochs, F1, calibration, confusion, sensitivity, search."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from mmray.evaluation.compare_style import (
    NAMES,
    Look,
    by,
    column,
    label_rows,
    outer,
    panels,
)
from mmray.evaluation.plots import INK, MARKERS, SERIES
from mmray.evaluation.trials import Row


def epochs(rows: list[Row], looks: dict[str, Look]) -> Figure | None:
    """Validation accuracy per epoch, a panel a system, with the others behind it."""
    by_variant = by(rows, "variant")
    curves = {variant: mine for variant, mine in by_variant.items() if len(mine) > 1}
    if not curves:
        return None
    across = min(2, len(curves))
    down = -(-len(curves) // across)
    figure, axes = panels(down, across, 0.6 + 1.55 * down, sharex=True, sharey=True)
    for axis, (variant, mine) in zip(axes, curves.items(), strict=False):
        for other, theirs in curves.items():
            if other != variant:
                axis.plot(column(theirs, "epoch"), column(theirs, "median"), color=INK, alpha=0.18, lw=0.8)
        for other, theirs in by_variant.items():
            if len(theirs) == 1:
                axis.axhline(theirs[0]["median"], color=INK, alpha=0.3, lw=0.8, ls=looks[other].dash)
        epoch, look = column(mine, "epoch"), looks[variant]
        axis.fill_between(epoch, column(mine, "low"), column(mine, "high"), color=look.colour, alpha=0.25, lw=0)
        axis.plot(epoch, column(mine, "median"), color=look.colour, lw=1.8)
        axis.set_title(variant)
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    outer(axes, down, across, len(curves), "epoch", "validation accuracy")
    return figure


def f1(rows: list[Row], looks: dict[str, Look]) -> Figure | None:
    """F1 of folds and seeds: boxes with their points."""
    by_variant = by([row for row in rows if row["f1"] is not None], "variant")
    if not by_variant:
        return None
    figure, (axis,) = panels(1, 1, 0.7 + 0.36 * len(by_variant))
    thin = {"color": INK, "alpha": 0.6}
    rng = np.random.default_rng(0)  # moves points apart, and means nothing
    for place, (variant, mine) in enumerate(by_variant.items()):
        value, look = column(mine, "f1"), looks[variant]
        axis.boxplot(
            value,
            positions=[place],
            orientation="horizontal",
            widths=0.62,
            showfliers=False,
            boxprops=thin,
            whiskerprops=thin,
            capprops=thin,
            medianprops={"color": INK, "lw": 1.8},
        )
        height = place + rng.uniform(-0.2, 0.2, len(value))
        axis.scatter(value, height, s=13, color=look.colour, marker=look.marker, alpha=0.85, zorder=3, lw=0)
    axis.set(xlabel="test F1 of a fold and seed", xlim=(-0.03, 1.03))
    label_rows(axis, list(by_variant))
    return figure


def reliability(rows: list[Row], looks: dict[str, Look]) -> Figure | None:
    """Claimed against actual share of right answers, a panel a system."""
    by_variant = by(rows, "variant")
    if not by_variant:
        return None
    across = min(3, len(by_variant))
    down = -(-len(by_variant) // across)
    figure, axes = panels(down, across, 0.6 + 1.6 * down, sharex=True, sharey=True)
    lowest = min(row["bin_low"] for row in rows)
    for axis, (variant, mine) in zip(axes, by_variant.items(), strict=False):
        look = looks[variant]
        axis.plot([lowest, 1], [lowest, 1], color=INK, alpha=0.4, lw=0.8, ls="--")
        axis.plot(column(mine, "claimed"), column(mine, "right"), color=look.colour, lw=1.4)
        axis.scatter(
            column(mine, "claimed"),
            column(mine, "right"),
            s=12 + 2 * column(mine, "people"),
            color=look.colour,
            lw=0,
        )
        for row in mine:
            low = row["right"] > 0.5
            axis.annotate(
                f"{round(row['people'], 1):g}",
                (row["claimed"], row["right"]),
                xytext=(0, -9 if low else 9),
                textcoords="offset points",
                ha="center",
                va="top" if low else "bottom",
                fontsize=7.5,
            )
        axis.set(title=variant, ylim=(-0.05, 1.08), xlim=(lowest - 0.05, 1.05))
    outer(axes, down, across, len(by_variant), "claimed", "right")
    return figure


def confusion(rows: list[Row]) -> Figure | None:
    """People of each class by the class they are given, a panel a clip type."""
    by_task = by(rows, "task")
    if not by_task:
        return None
    across = min(3, len(by_task))
    down = -(-len(by_task) // across)
    classes = sorted({row["actual"] for row in rows})
    figure, axes = panels(down, across, 0.35 + 1.75 * down, sharex=True, sharey=True)
    for axis, (task, mine) in zip(axes, by_task.items(), strict=False):
        total = {c: sum(row["people"] for row in mine if row["actual"] == c) for c in classes}
        for row in mine:
            x, y = classes.index(row["given"]), classes.index(row["actual"])
            share = row["people"] / total[row["actual"]] if total[row["actual"]] else 0.0
            axis.add_patch(Rectangle((x - 0.49, y - 0.49), 0.98, 0.98, fc=SERIES[0], alpha=0.06 + 0.5 * share, lw=0))
            axis.text(x, y, f"{row['people']:.1f}", ha="center", va="center", fontsize=9.5 if len(classes) < 4 else 7.5)
        axis.set(xlim=(-0.5, len(classes) - 0.5), ylim=(len(classes) - 0.5, -0.5))
        axis.set_title(task, fontsize=8.5)
        axis.set_xticks(range(len(classes)), [str(c) for c in classes])
        axis.set_yticks(range(len(classes)), [str(c) for c in classes])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set_aspect("equal")
    outer(axes, down, across, len(by_task), "given class", "actual class")
    return figure


def sensitivity(rows: list[Row], looks: dict[str, Look]) -> Figure | None:
    """Each metric against the learning rate; None where there is one rate."""
    if len({row["learning_rate"] for row in rows}) < 2:
        return None
    by_metric = by(rows, "metric")
    variants = list(by(rows, "variant"))
    figure, axes = panels(len(by_metric), 1, 0.45 + 2.1 * len(by_metric) + 0.17 * -(-len(variants) // 3), sharex=True)
    rates = sorted({row["learning_rate"] for row in rows})
    for axis, (metric, mine) in zip(axes, by_metric.items(), strict=True):
        for number, (variant, curve) in enumerate(by(mine, "variant").items()):
            look = looks[variant]
            # side by side on the logarithmic axis, so that intervals do not hide each other
            rate = column(curve, "learning_rate") * 10 ** (0.045 * (number - (len(variants) - 1) / 2))
            value = column(curve, "value")
            spread = np.abs(np.stack([value - column(curve, "ci_low"), column(curve, "ci_high") - value]))
            style: Any = {"color": look.colour, "marker": look.marker, "ls": look.dash, "ms": 4, "lw": 1.2}
            axis.errorbar(rate, value, spread, elinewidth=0.7, label=variant, **style)
        axis.set(xscale="log", title=NAMES[metric])
        axis.xaxis.set_major_locator(FixedLocator(rates))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes[-1].set_xlabel("learning rate")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def search(rows: list[Row], shares: list[Row], looks: dict[str, Look]) -> Figure | None:
    """Validation MRR of the trials of a search, a panel a parameter."""
    parameters = [name for name in (rows[0] if rows else {}) if name.startswith("param.")]
    if not parameters:
        return None
    share_of = {row["parameter"]: row["share"] for row in shares}
    across = min(2, len(parameters))
    down = -(-len(parameters) // across)
    figure, axes = panels(down, across, 0.3 + 1.75 * down, sharey=True)
    for axis, parameter in zip(axes, parameters, strict=False):
        title = parameter.removeprefix("param.")
        share = share_of.get(title, share_of.get(parameter))
        for number, (system, mine) in enumerate(by(rows, "system").items()):
            known = [row for row in mine if row[parameter] is not None and row["value"] is not None]
            look = looks.get(system, Look(SERIES[number % 6], "-", MARKERS[number % 6]))
            at: Any = [row[parameter] for row in known]
            if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in at):
                at = [str(value) for value in at]
            elif at and min(at) > 0 and max(at) / min(at) > 100:
                axis.set_xscale("log")
            axis.scatter(at, column(known, "value"), s=14, color=look.colour, marker=look.marker, alpha=0.8, lw=0)
        axis.set_title(title if share is None else f"{title}, {100 * share:.0f} %", fontsize=8.5)
    outer(axes, down, across, len(parameters), "", "validation MRR", every_x=True)
    return figure
