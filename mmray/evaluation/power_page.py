"""report.html of `mmray power`, its tables and its figure: how much is found among how many people."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any

import matplotlib as mpl
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from mmray import config
from mmray.config import Config
from mmray.evaluation import compare_html, compare_style, plots
from mmray.evaluation.explain_page import template
from mmray.evaluation.power import LEVEL, WANTED, Cell, FalseAlarms, Needed, as_rows
from mmray.storage import Workspace

_PERCENT = f"{100 * WANTED:.0f} %"
_PANELS = {
    "r1": "R@1, mean of\nboth directions",
    "found": "studies with\nretrieval found",
    "told": "studies with\nclasses found",
}


def write(
    workspace: Workspace,
    place: tuple[str, ...],
    settings: Config,
    cells: list[Cell],
    needed: list[Needed],
    alarms: list[FalseAlarms],
    failed: Mapping[str, str],
) -> None:
    """Leave report.html, tables/*.parquet and *.csv and figures/power.svg and .png in a folder of the workspace."""
    for name, rows in (("power", as_rows(cells)), ("needed", as_rows(needed)), ("false_alarms", as_rows(alarms))):
        if rows:
            table = pa.Table.from_pylist(rows)
            workspace.write_table(table, *place, "tables", f"{name}.parquet")
            workspace.write_csv(table, *place, "tables", f"{name}.csv")
    svg, png = figure(cells, settings.power.tested)
    workspace.write_text(svg, *place, "figures", "power.svg")
    workspace.write_bytes(png, *place, "figures", "power.png")
    workspace.write_text(page(workspace, place, settings, cells, needed, alarms, failed, svg), *place, "report.html")


def figure(cells: Sequence[Cell], tested: int) -> tuple[str, bytes]:
    """R@1 and both shares against the people learnt from, a column a system, a line a coupling: SVG and PNG."""
    systems = list(dict.fromkeys(cell.system for cell in cells))
    couplings = list(dict.fromkeys(cell.coupling for cell in cells))
    with mpl.rc_context(compare_style.STYLE):
        drawn = Figure(figsize=(max(4.5, 3 * len(systems)), 2.1 * len(_PANELS) + 0.5), layout="constrained")
        axes = drawn.subplots(len(_PANELS), len(systems), squeeze=False, sharex=True, sharey="row")
        for column, system in enumerate(systems):
            for row, (name, title) in enumerate(_PANELS.items()):
                for number, coupling in enumerate(couplings):
                    mine = [c for c in cells if (c.system, c.coupling) == (system, coupling)]
                    _line(axes[row][column], name, mine, number)
                if column == 0:
                    axes[row][column].set_ylabel(title)
            axes[0][column].set_title(system)
            axes[0][column].axhline(1 / tested, color=plots.INK, lw=0.8, ls=":")
            axes[1][column].axhline(WANTED, color=plots.INK, lw=0.8, ls=":")
            axes[-1][column].set_xlabel("people learnt from")
        handles, labels = axes[0][0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=3)
        return plots.svg_of(drawn), compare_style.png(drawn)


def page(
    workspace: Workspace,
    place: tuple[str, ...],
    settings: Config,
    cells: Sequence[Cell],
    needed: Sequence[Needed],
    alarms: Sequence[FalseAlarms],
    failed: Mapping[str, str],
    svg: str,
) -> str:
    """The page; no network, no script."""
    caption = (
        f"R@1 in a gallery of {settings.power.tested} people never learnt from (dotted: chance), mean over studies "
        f"with 95 % of it under resampled studies; and the share of studies in which a permutation test at "
        f"p < {LEVEL:g} finds retrieval (dotted: {_PERCENT}), with its exact 95 % interval, and classes."
    )
    head = ["people learnt from", "R@1", "95 %", "MRR", "found", "95 %", "classes told", "balanced accuracy", "studies"]
    body = [
        (
            f"{cell.system}, coupling {cell.coupling:g}",
            [
                str(cell.subjects),
                f"{cell.r1:.3f}",
                "-" if cell.r1_low is None else f"{cell.r1_low:.3f} to {cell.r1_high:.3f}",
                f"{cell.mrr:.3f}",
                f"{cell.found:.2f}",
                f"{cell.found_low:.2f} to {cell.found_high:.2f}",
                "-" if cell.told is None else f"{cell.told:.2f}",
                "-" if cell.balanced_accuracy is None else f"{cell.balanced_accuracy:.3f}",
                str(cell.studies) + (f", {cell.failed} failed" if cell.failed else ""),
            ],
        )
        for cell in cells
    ]
    said = [sentence(one, cells) for one in needed] + alarm_sentences(alarms)
    said += [f"Failed: {name}: {reason}" for name, reason in failed.items()]
    command = ["mmray", "power", "--config", workspace.path(*place, "config.yaml"), "--workspace", workspace.root]
    return Template(template("power.html")).substitute(
        style=template("style.css"),
        verdict=escape(said[0] if said else "Nothing was fitted."),
        said="".join(f"<li>{escape(line)}</li>" for line in said[1:]),
        figure=f"<figure>{plots.inline(svg, escape(caption))}<figcaption>{escape(caption)}</figcaption></figure>",
        table=compare_html.grouped(head, body),
        command=escape(shlex.join(command)),
        settings=escape(config.to_yaml(settings)),
    )


def sentence(one: Needed, cells: Sequence[Cell]) -> str:
    """How many people a system needs at a coupling, in words."""
    sizes = sorted({cell.subjects for cell in cells})
    about = f"At coupling {one.coupling:g}, {one.system}"
    if one.subjects is None:
        return f"{about} does not find retrieval in {_PERCENT} of studies with up to {sizes[-1]} people."
    if one.at_once:
        least = next(c for c in cells if (c.system, c.coupling, c.subjects) == (one.system, one.coupling, sizes[0]))
        return (
            f"{about} finds retrieval at p < {LEVEL:g} in {round(least.found * least.studies)} of {least.studies} "
            f"studies with {sizes[0]} people learnt from already: a power of {100 * least.found_low:.0f} to "
            f"{100 * least.found_high:.0f} % there (exact 95 %)."
        )
    low = f"more than {sizes[-1]}" if one.low is None else f"{one.low:.0f}"
    high = f"more than {sizes[-1]}" if one.high is None else f"{one.high:.0f}"
    return (
        f"{about} finds retrieval at p < {LEVEL:g} in {_PERCENT} of studies from about {one.subjects:.0f} people "
        f"learnt from (95 % {low} to {high})."
    )


def alarm_sentences(alarms: Sequence[FalseAlarms]) -> list[str]:
    """What each system finds where nothing is, in words."""
    said = []
    for system in dict.fromkeys(one.system for one in alarms):
        mine = [one for one in alarms if one.system == system]
        counts = ", ".join(
            f"{one.found} of {one.studies} with {one.subjects} people ({one.least} to {one.most})" for one in mine
        )
        band = f"the binomial interval of {100 * LEVEL:g} % (95 %, in brackets)"
        beyond = " and ".join(str(one.subjects) for one in mine if not one.as_chance)
        verdict = f"within {band} at every size."
        if beyond:
            verdict = (
                f"outside {band} with {beyond} people. Sizes share people: more studies, not more sizes, tell luck "
                "from a leak."
            )
        said.append(
            f"At coupling 0, the share of studies in which {system} finds retrieval at p < {LEVEL:g} is "
            f"{counts}: {verdict}"
        )
    return said


def _line(axes: Axes, name: str, cells: Sequence[Cell], number: int) -> None:
    rows: list[dict[str, Any]] = [row for row in as_rows(cells) if row[name] is not None]
    if not rows:
        return
    shift = 1 + 0.06 * (number - 1)  # side by side, so that intervals do not hide each other
    x = [row["subjects"] * shift for row in rows]
    y = [row[name] for row in rows]
    look: Any = {"color": plots.SERIES[number % 6], "ls": plots.DASHES[number % 4], "marker": plots.MARKERS[number % 6]}
    label = f"coupling {rows[0]['coupling']:g}"
    if f"{name}_low" in rows[0]:
        ends = [(r[f"{name}_low"], r[f"{name}_high"]) for r in rows]
        spread = [[0.0 if low is None else v - low for v, (low, _) in zip(y, ends, strict=True)]]
        spread += [[0.0 if high is None else high - v for v, (_, high) in zip(y, ends, strict=True)]]
        axes.errorbar(x, y, spread, elinewidth=0.8, ms=4, lw=1.2, label=label, **look)
    else:
        axes.plot(x, y, ms=4, lw=1.2, label=label, **look)
    axes.set_xscale("log")
    sizes = sorted({row["subjects"] for row in rows})
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(sizes, [str(size) for size in sizes])
    if name != "r1":
        axes.set_ylim(-0.05, 1.05)
