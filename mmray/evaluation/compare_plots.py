"""The pictures of a comparison, each from one or two of its tables: `exhibits.tables` in, SVG and PNG out.

A system keeps its colour, its dashes and its marker in every picture; no meaning rests on colour alone.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from mmray.evaluation import exhibit_pairs
from mmray.evaluation.classification import LOWER_IS_BETTER
from mmray.evaluation.exhibits import Tables
from mmray.evaluation.plots import DASHES, INK, MARKERS, SERIES, STYLE, svg_of
from mmray.evaluation.trials import Row

WIDTH_IN = 4.5  # at a phone's width its text is then about as large as the page's small print
_STYLE: Any = {**STYLE, "font.size": 10, "axes.titlesize": 10, "legend.fontsize": 9, "axes.titlelocation": "left"}
_PNG_DPI = 200
NAMES = {
    "R@1": "R@1, mean of both directions",
    "MRR": "MRR, mean of both directions",
    "cross_entropy": "cross-entropy",
    "balanced_accuracy": "balanced accuracy",
}
DIRECTIONS = {"eeg->audio": "EEG to voice", "audio->eeg": "voice to EEG"}


@dataclass(frozen=True)
class Picture:
    """One figure in both forms."""

    svg: str
    png: bytes


@dataclass(frozen=True)
class _Look:
    """How a system is drawn."""

    colour: str
    dash: str
    marker: str


def draw(tables: Tables) -> dict[str, Picture]:
    """Every picture that the tables allow, by name, in the page's order."""
    order = list(dict.fromkeys(row["variant"] for name in ("retrieval", "runtime") for row in tables.get(name, ())))
    looks = {
        variant: _Look(SERIES[i % 6], DASHES[i // 6 % len(DASHES)], MARKERS[(i + i // 6) % len(MARKERS)])
        for i, variant in enumerate(order)
    }
    with mpl.rc_context(_STYLE):
        found: dict[str, Figure | None] = {"retrieval": _retrieval(tables.get("retrieval", []), looks)}
        found["accuracy_per_epoch"] = _epochs(tables.get("accuracy_per_epoch", []), looks)
        found["f1"] = _f1(tables.get("f1", []), looks)
        for metric in exhibit_pairs.COMPARED:
            mine = [row for row in tables.get("pairs", ()) if row["metric"] == metric]
            found[f"pairs_{plain(metric)}"] = _pairs(mine)
            ranked = [row for row in tables.get("ranks", ()) if row["metric"] == metric]
            found[f"critical_difference_{plain(metric)}"] = _critical_difference(ranked, mine)
        found["reliability"] = _reliability(tables.get("reliability", []), looks)
        found["ablation"] = _ablation(tables.get("ablation", []))
        found["sensitivity"] = _sensitivity(tables.get("sensitivity", []), looks)
        found["search"] = _search(tables.get("search", []), tables.get("search_importance", []), looks)
        found["confusion"] = _confusion(tables.get("confusion", []))
        return {name: Picture(svg_of(figure), _png(figure)) for name, figure in found.items() if figure is not None}


def plain(metric: str) -> str:
    """A metric's name as part of a file's."""
    return metric.lower().replace("@", "")


def _retrieval(rows: list[Row], looks: dict[str, _Look]) -> Figure | None:
    rows = [row for row in rows if row["metric"] == "R@1"]
    if not rows:
        return None
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    figure, axes = _panels(1, 2, 0.75 + 0.26 * len(variants), sharey=True)
    for axis, (direction, title) in zip(axes, DIRECTIONS.items(), strict=True):
        for place, variant in enumerate(variants):
            for row in (r for r in rows if (r["variant"], r["direction"]) == (variant, direction)):
                axis.add_patch(
                    Rectangle(
                        (row["band_low"], place - 0.38), row["band_high"] - row["band_low"], 0.76, fc=INK, alpha=0.13
                    )
                )
                _interval(axis, row, place, looks[variant])
                if row["ceiling"] is not None:
                    axis.plot([row["ceiling"]] * 2, [place - 0.38, place + 0.38], color=INK, lw=1.4)
        axis.set(title=title, xlabel="R@1", xlim=(-0.02, None))
        _names(axis, variants)
    return figure


def _epochs(rows: list[Row], looks: dict[str, _Look]) -> Figure | None:
    by_variant = _by(rows, "variant")
    curves = {variant: mine for variant, mine in by_variant.items() if len(mine) > 1}
    if not curves:
        return None
    across = min(2, len(curves))
    down = -(-len(curves) // across)
    figure, axes = _panels(down, across, 0.6 + 1.55 * down, sharex=True, sharey=True)
    for axis, (variant, mine) in zip(axes, curves.items(), strict=False):
        for other, theirs in curves.items():
            if other != variant:
                axis.plot(_column(theirs, "epoch"), _column(theirs, "median"), color=INK, alpha=0.18, lw=0.8)
        for other, theirs in by_variant.items():
            if len(theirs) == 1:
                axis.axhline(theirs[0]["median"], color=INK, alpha=0.3, lw=0.8, ls=looks[other].dash)
        epoch, look = _column(mine, "epoch"), looks[variant]
        axis.fill_between(epoch, _column(mine, "low"), _column(mine, "high"), color=look.colour, alpha=0.25, lw=0)
        axis.plot(epoch, _column(mine, "median"), color=look.colour, lw=1.8)
        axis.set_title(variant)
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    _outer(axes, down, across, len(curves), "epoch", "validation accuracy")
    return figure


def _f1(rows: list[Row], looks: dict[str, _Look]) -> Figure | None:
    by_variant = _by([row for row in rows if row["f1"] is not None], "variant")
    if not by_variant:
        return None
    figure, (axis,) = _panels(1, 1, 0.7 + 0.36 * len(by_variant))
    thin = {"color": INK, "alpha": 0.6}
    rng = np.random.default_rng(0)  # moves points apart, and means nothing
    for place, (variant, mine) in enumerate(by_variant.items()):
        value, look = _column(mine, "f1"), looks[variant]
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
    _names(axis, list(by_variant))
    return figure


def _pairs(rows: list[Row]) -> Figure | None:
    if not rows:
        return None
    variants = list(dict.fromkeys(name for row in rows for name in (row["first"], row["second"])))
    cell = {(row["second"], row["first"]): row for row in rows}
    figure, (axis,) = _panels(1, 1, 1.1 + 0.31 * len(variants))
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
                f"{0.0 - round(row['difference'], 2):+.2f}{'*' if differ else ''}".replace("0.", ".", 1),
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


def _critical_difference(ranked: list[Row], pairs: list[Row]) -> Figure | None:
    if not ranked:
        return None
    ranked = sorted(ranked, key=lambda row: row["average_rank"])
    count = len(ranked)
    runs = exhibit_pairs.not_different(ranked, pairs)
    left = -(-count // 2)  # the better half is named on the left
    lowest = 0.9 + 0.24 * len(runs)
    figure, (axis,) = _panels(1, 1, 0.55 + 0.27 * (lowest + left))
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


def _reliability(rows: list[Row], looks: dict[str, _Look]) -> Figure | None:
    by_variant = _by(rows, "variant")
    if not by_variant:
        return None
    across = min(3, len(by_variant))
    down = -(-len(by_variant) // across)
    figure, axes = _panels(down, across, 0.6 + 1.6 * down, sharex=True, sharey=True)
    lowest = min(row["bin_low"] for row in rows)
    for axis, (variant, mine) in zip(axes, by_variant.items(), strict=False):
        look = looks[variant]
        axis.plot([lowest, 1], [lowest, 1], color=INK, alpha=0.4, lw=0.8, ls="--")
        axis.plot(_column(mine, "claimed"), _column(mine, "right"), color=look.colour, lw=1.4)
        axis.scatter(
            _column(mine, "claimed"),
            _column(mine, "right"),
            s=12 + 2 * _column(mine, "people"),
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
    _outer(axes, down, across, len(by_variant), "claimed", "right")
    return figure


def _ablation(rows: list[Row]) -> Figure | None:
    by_metric = _by(rows, "metric")
    if not by_metric:
        return None
    names = list(dict.fromkeys(row["first"] for row in rows))
    down = len(by_metric)
    figure, axes = _panels(down, 1, 0.3 + down * (0.72 + 0.25 * len(names)))
    for axis, (metric, mine) in zip(axes, by_metric.items(), strict=True):
        axis.axvline(0, color=INK, alpha=0.5, lw=0.8)
        for row in mine:
            differ = row["p_holm"] < exhibit_pairs.LEVEL
            look = _Look(SERIES[1] if differ else SERIES[0], "-", "s" if differ else "o")
            _interval(axis, {**row, "value": row["difference"]}, names.index(row["first"]), look)
        axis.set_title(f"{NAMES[metric]}: variant less system")
        _names(axis, names)
    return figure


def _sensitivity(rows: list[Row], looks: dict[str, _Look]) -> Figure | None:
    if len({row["learning_rate"] for row in rows}) < 2:
        return None
    by_metric = _by(rows, "metric")
    variants = list(_by(rows, "variant"))
    figure, axes = _panels(len(by_metric), 1, 0.45 + 2.1 * len(by_metric) + 0.17 * -(-len(variants) // 3), sharex=True)
    rates = sorted({row["learning_rate"] for row in rows})
    for axis, (metric, mine) in zip(axes, by_metric.items(), strict=True):
        for number, (variant, curve) in enumerate(_by(mine, "variant").items()):
            look = looks[variant]
            # side by side on the logarithmic axis, so that intervals do not hide each other
            rate = _column(curve, "learning_rate") * 10 ** (0.045 * (number - (len(variants) - 1) / 2))
            value = _column(curve, "value")
            spread = np.abs(np.stack([value - _column(curve, "ci_low"), _column(curve, "ci_high") - value]))
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


def _search(rows: list[Row], shares: list[Row], looks: dict[str, _Look]) -> Figure | None:
    parameters = [name for name in (rows[0] if rows else {}) if name.startswith("param.")]
    if not parameters:
        return None
    share_of = {row["parameter"]: row["share"] for row in shares}
    across = min(2, len(parameters))
    down = -(-len(parameters) // across)
    figure, axes = _panels(down, across, 0.3 + 1.75 * down, sharey=True)
    for axis, parameter in zip(axes, parameters, strict=False):
        title = parameter.removeprefix("param.")
        share = share_of.get(title, share_of.get(parameter))
        for number, (system, mine) in enumerate(_by(rows, "system").items()):
            known = [row for row in mine if row[parameter] is not None and row["value"] is not None]
            look = looks.get(system, _Look(SERIES[number % 6], "-", MARKERS[number % 6]))
            at: Any = [row[parameter] for row in known]
            if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in at):
                at = [str(value) for value in at]
            elif at and min(at) > 0 and max(at) / min(at) > 100:
                axis.set_xscale("log")
            axis.scatter(at, _column(known, "value"), s=14, color=look.colour, marker=look.marker, alpha=0.8, lw=0)
        axis.set_title(title if share is None else f"{title}, {100 * share:.0f} %", fontsize=8.5)
    _outer(axes, down, across, len(parameters), "", "validation MRR", every_x=True)
    return figure


def _confusion(rows: list[Row]) -> Figure | None:
    by_task = _by(rows, "task")
    if not by_task:
        return None
    across = min(3, len(by_task))
    down = -(-len(by_task) // across)
    classes = sorted({row["actual"] for row in rows})
    figure, axes = _panels(down, across, 0.35 + 1.75 * down, sharex=True, sharey=True)
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
    _outer(axes, down, across, len(by_task), "given class", "actual class")
    return figure


def _panels(down: int, across: int, height: float, **shared: Any) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH_IN, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(down, across, squeeze=False, **shared).ravel())


def _outer(axes: Sequence[Axes], down: int, across: int, used: int, x: str, y: str, every_x: bool = False) -> None:
    """Label the outer panels, and take away those that hold nothing."""
    for number, axis in enumerate(axes):
        if number >= used:
            axis.axis("off")
            continue
        if number + across >= used:
            axis.set_xlabel(x)
            axis.tick_params(labelbottom=True)
        if number % across == 0:
            axis.set_ylabel(y)
        if every_x:
            axis.tick_params(labelbottom=True)


def _interval(axis: Axes, row: Row, place: float, look: _Look) -> None:
    if row["ci_low"] is not None:
        axis.plot([row["ci_low"], row["ci_high"]], [place, place], color=look.colour, lw=1.5)
    axis.plot([row["value"]], [place], color=look.colour, marker=look.marker, ms=5.5, ls="none")


def _names(axis: Axes, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)


def _by(rows: Iterable[Row], key: str) -> dict[Any, list[Row]]:
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(row[key], []).append(row)
    return found


def _column(rows: Iterable[Row], key: str) -> Any:
    return np.array([np.nan if row[key] is None else row[key] for row in rows], dtype=np.float64)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_PNG_DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
