"""One recording's explanation as pictures: scalp maps, a spectrogram with what mattered over it, weights."""

from __future__ import annotations

import io
import warnings
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mmray.config import Config
from mmray.errors import RecordingError
from mmray.evaluation.plots import INK, SERIES
from mmray.recordings.signals import read_audio
from mmray.schema import Recording

_STYLE: Any = {"font.size": 10, "text.color": INK, "axes.spines.top": False, "axes.spines.right": False}


def draw(
    explanation: dict[str, Any], settings: Config, recording: Recording, start_s_S: NDArray[np.floating[Any]]
) -> dict[str, bytes]:
    """The pictures of an explanation by name, as PNG.

    Args:
        explanation: fields of `training.explain.Explanation`.
        recording: whose file is read for its spectrogram; left out where it is gone.
        start_s_S: where its explained segments begin.
    """
    with mpl.rc_context(_STYLE):
        pictures = {"features": _features(explanation)}
        if explanation["attention"] or explanation["gate"]:
            pictures["fusion"] = _fusion(explanation)
        if explanation["modality"] == "eeg":
            pictures["scalp"] = _scalp(explanation, settings)
        else:
            pictures["spectrogram"] = _spectrogram(explanation, settings, recording, start_s_S)
        return pictures


def _scores(explanation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    titles = {"classification": "class score", "retrieval": "match with the own partner"}
    return {title: explanation[name] for name, title in titles.items() if explanation[name] is not None}


def _scalp(explanation: dict[str, Any], settings: Config) -> bytes:
    import mne

    names = tuple(explanation["nodes"])
    info = mne.create_info(list(names), 250.0, "eeg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # mne is renaming standard_1020; both names serve
        info.set_montage(settings.features.eeg.montage, match_case=False)
    maps: dict[str, tuple[list[float], str]] = {
        title: (score["node_N"], "RdBu_r") for title, score in _scores(explanation).items()
    }
    for depth, share in enumerate(explanation["kept"] or [], start=1):
        maps[f"kept by pooling {depth}"] = (share, "viridis")
    figure = Figure(figsize=(3.1 * len(maps), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, (value_N, colours)) in zip(
        np.atleast_1d(figure.subplots(1, len(maps))), maps.items(), strict=True
    ):
        value = np.array(value_N)
        limit = float(np.abs(value).max()) or 1.0
        limits = (-limit, limit) if colours == "RdBu_r" else (0.0, 1.0)
        image, _ = mne.viz.plot_topomap(
            value, info, axes=axes, show=False, cmap=colours, vlim=limits, contours=0, sphere="auto"
        )
        axes.set_title(title)
        figure.colorbar(image, ax=axes, shrink=0.6)
    return _png(figure)


def _spectrogram(
    explanation: dict[str, Any], settings: Config, recording: Recording, start_s_S: NDArray[np.floating[Any]]
) -> bytes:
    import librosa

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    chosen = settings.features.audio
    try:
        sound = read_audio(recording)
        wave_T = np.nan_to_num(sound.data_CT.mean(0)).astype(np.float32)
        mel_MF = librosa.feature.melspectrogram(y=wave_T, sr=sound.sampling_rate_hz, n_mels=64)
        level_MF = librosa.power_to_db(mel_MF, ref=np.max)
        length_s = len(wave_T) / sound.sampling_rate_hz
        top.imshow(level_MF, origin="lower", aspect="auto", extent=(0, length_s, 0, 64), cmap="magma", vmin=-70)
        top.set_ylabel("mel band")
    except RecordingError as error:
        top.text(0.5, 0.5, f"no sound: {error}"[:90], ha="center", transform=top.transAxes)
        length_s = float(start_s_S.max()) + chosen.segment_s
    for start_s in start_s_S:
        top.axvspan(start_s, start_s + chosen.segment_s, ymin=0.97, color="white")
    step_s = chosen.segment_s / chosen.nodes
    within_N = (np.arange(chosen.nodes) + 0.5) * step_s
    for colour, (title, score) in zip(SERIES, _scores(explanation).items(), strict=False):
        scaled_SN = np.array(score["node_SN"]) / (np.abs(score["node_SN"]).max() or 1.0)
        for number, (start_s, scaled_N) in enumerate(zip(start_s_S, scaled_SN, strict=True)):
            bottom.plot(start_s + within_N, scaled_N, color=colour, label=title if number == 0 else None)
    bottom.axhline(0, color=INK, linewidth=0.5)
    bottom.set(xlabel="s", ylabel="share of largest", xlim=(0, length_s))
    bottom.legend(loc="upper right", fontsize=8)
    top.set_title("Spectrogram, and how far each frame of the explained segments (white) pushed a score")
    return _png(figure)


def _features(explanation: dict[str, Any]) -> bytes:
    names, scores = explanation["features"], _scores(explanation)
    first = np.array(next(iter(scores.values()))["feature_D"])
    order = np.argsort(-np.abs(first), kind="stable")[:12][::-1]
    figure = Figure(figsize=(4.2 * len(scores), 0.28 * len(order) + 1), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, colour, (title, score) in zip(
        np.atleast_1d(figure.subplots(1, len(scores), sharey=True)), SERIES, scores.items(), strict=False
    ):
        axes.barh([names[n] for n in order], np.array(score["feature_D"])[order], color=colour)
        axes.axvline(0, color=INK, linewidth=0.5)
        axes.set_title(title)
        axes.locator_params(axis="x", nbins=4)
    return _png(figure)


def _fusion(explanation: dict[str, Any]) -> bytes:
    attention, gate = explanation["attention"], explanation["gate"]
    figure = Figure(figsize=(6, 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    if attention:
        names = list(attention)
        weight_MM = np.array([[attention[i][j] for j in names] for i in names])
        left.imshow(weight_MM, cmap="Blues", vmin=0, vmax=1)
        for i, row in enumerate(weight_MM):
            for j, value in enumerate(row):
                left.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.6 else INK)
        left.set_xticks(range(len(names)), names)
        left.set_yticks(range(len(names)), names)
        left.set_title("attention of row to column")
    else:
        left.set_axis_off()
    if gate:
        right.bar(list(gate), list(gate.values()), color=SERIES[: len(gate)])
        right.set(ylim=(0, 1), title="mean share in the gate")
    else:
        right.set_axis_off()
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
