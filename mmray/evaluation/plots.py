"""Figures as SVG text: same numbers, same bytes; text stays text; colours that colour-blind readers can tell apart.

Blue is EEG and orange is voice throughout (Okabe & Ito 2008).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from mmray.evaluation.paired import Paired
from mmray.schema import MODALITIES

INK = "#1b1f23"
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P")
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mmray",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def curves(history: pa.Table, contains: str, label: str) -> str | None:
    """Every numeric column whose name contains a word, per epoch, as SVG; None where there is no such figure."""
    names = [
        field.name
        for field in history.schema
        if contains in field.name.lower() and (pa.types.is_floating(field.type) or pa.types.is_integer(field.type))
    ]
    if not names or history.num_rows == 0:
        return None
    epoch = history["epoch"].to_numpy() if "epoch" in history.column_names else np.arange(history.num_rows)

    def draw(axes: Axes) -> None:
        for index, name in enumerate(names):
            values = np.array([np.nan if v is None else v for v in history[name].to_pylist()], dtype=np.float64)
            axes.plot(
                epoch,
                values,
                color=SERIES[index % len(SERIES)],
                linestyle=DASHES[index % len(DASHES)],
                marker="o" if history.num_rows < 3 else None,
                label=name.replace("_", " "),
            )
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()

    return _svg(draw, height=3.0)


def embedding(paired: Paired) -> str | None:
    """The paired subjects' vectors of both modalities on their two principal axes; None below two subjects."""
    if len(paired.subject_ids) < 2:
        return None
    stacked = np.concatenate([paired.vector_UD[modality] for modality in MODALITIES])
    position, share = principal_axes(stacked)
    eeg_U2, audio_U2 = np.split(position, len(MODALITIES))

    def draw(axes: Axes) -> None:
        for start, end in zip(eeg_U2, audio_U2, strict=True):
            axes.plot(*np.stack([start, end]).T, color=INK, alpha=0.35, linewidth=0.8, zorder=1)
        for row, (modality, place_U2) in enumerate(zip(MODALITIES, (eeg_U2, audio_U2), strict=True)):
            colour = SERIES[row]
            for label in np.unique(paired.label_U):
                chosen = paired.label_U == label
                axes.scatter(
                    place_U2[chosen, 0],
                    place_U2[chosen, 1],
                    marker="x" if label < 0 else MARKERS[label % len(MARKERS)],
                    # filled and hollow tell the modalities apart without colour
                    facecolors=colour if modality == "eeg" or label < 0 else "none",
                    edgecolors=None if label < 0 else colour,
                    s=42,
                    zorder=2,
                    label=f"{modality}, {'no label' if label < 0 else f'class {label}'}",
                )
        axes.set_xlabel(f"principal axis 1 ({100 * share[0]:.0f} % of variance)")
        axes.set_ylabel(f"principal axis 2 ({100 * share[1]:.0f} %)")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)

    return _svg(draw, height=4.6)


def principal_axes(x_ND: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions on the first two principal axes (N x 2) and their shares of variance.

    Signs are fixed by each axis's largest loading, so a figure does not flip between machines.
    """
    centred_ND = x_ND - x_ND.mean(axis=0)
    _, scale_K, axes_KD = np.linalg.svd(centred_ND, full_matrices=False)
    axes_KD = np.pad(axes_KD, ((0, max(0, 2 - len(axes_KD))), (0, 0)))[:2]
    largest = np.take_along_axis(axes_KD, np.abs(axes_KD).argmax(axis=1)[:, None], axis=1)
    axes_KD = axes_KD * np.where(largest < 0, -1, 1)
    power_K = np.pad(scale_K**2, (0, max(0, 2 - len(scale_K))))
    return centred_ND @ axes_KD.T, power_K[:2] / max(power_K.sum(), np.finfo(np.float64).tiny)


def inline(svg: str, description: str) -> str:
    """An SVG file's text as an element of an HTML page: no namespaces or ids that clash, colours of the page's theme.

    Args:
        svg: what `curves` or `embedding` returned.
        description: alternative text, already escaped.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", body)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r'\s(width|height)="[\d.]+pt"', "", body, count=2)
    body = re.sub(r'\sstyle="background: #fff"|<style.*?</style>', "", body, flags=re.DOTALL)
    body = body.replace(INK, "currentColor")
    for index, colour in enumerate(SERIES):
        body = re.sub(colour, f"var(--series-{index})", body, flags=re.IGNORECASE)
    return body.replace("<svg", f'<svg role="img" aria-label="{description}"', 1)


def svg_of(figure: Figure) -> str:
    """A figure as SVG text; to be called inside `STYLE`.

    The reader's own font, no date, and a white ground for where the file is opened by itself.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "sans-serif", buffer.getvalue())
    return text.replace("<svg ", '<svg style="background: #fff" ', 1)


def _svg(draw: Callable[[Axes], None], height: float) -> str:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        return svg_of(figure)
