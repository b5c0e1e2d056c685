"""How the pictures of a comparison look, in one place: sizes, a system's own colour, panels, intervals."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmray.evaluation import plots
from mmray.evaluation.trials import Row

WIDTH_IN = 4.5  # at a phone's width its text is then about as large as the page's small print
STYLE: Any = {**plots.STYLE, "font.size": 10, "axes.titlesize": 10, "legend.fontsize": 9, "axes.titlelocation": "left"}
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
class Look:
    """How a system is drawn."""

    colour: str
    dash: str
    marker: str


def panels(down: int, across: int, height: float, **shared: Any) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels and of the common width; `height` in inches."""
    figure = Figure(figsize=(WIDTH_IN, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(down, across, squeeze=False, **shared).ravel())


def outer(axes: Sequence[Axes], down: int, across: int, used: int, x: str, y: str, every_x: bool = False) -> None:
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


def interval(axis: Axes, row: Row, place: float, look: Look) -> None:
    """A row's value with its interval, on a horizontal line at `place`."""
    if row["ci_low"] is not None:
        axis.plot([row["ci_low"], row["ci_high"]], [place, place], color=look.colour, lw=1.5)
    axis.plot([row["value"]], [place], color=look.colour, marker=look.marker, ms=5.5, ls="none")


def label_rows(axis: Axes, names: Sequence[str]) -> None:
    """Names for horizontal lines, the first on top."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)


def by(rows: Iterable[Row], key: str) -> dict[Any, list[Row]]:
    """Rows by what stands in a column, in the order they came."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(row[key], []).append(row)
    return found


def column(rows: Iterable[Row], key: str) -> Any:
    """A column as floats, null as NaN."""
    return np.array([np.nan if row[key] is None else row[key] for row in rows], dtype=np.float64)


def png(figure: Figure) -> bytes:
    """A figure as PNG, on white; same numbers, same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_PNG_DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
