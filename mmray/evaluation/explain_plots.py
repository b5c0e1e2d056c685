"""One recording's explanation as pictures: scalp maps, a spectrogram with what mattered over it, weights."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from mmray.config import EEG, Config
from mmray.errors import RecordingError
from mmray.evaluation.plots import INK, SERIES
from mmray.features import audio, eeg
from mmray.recordings.signals import AudioSignal, read_audio
from mmray.schema import MODALITIES, Recording

_STYLE: Any = {"font.size": 10, "text.color": INK, "axes.spines.top": False, "axes.spines.right": False}
_SCORES = {"classification": "class score", "retrieval": "match with the own partner"}
_FEWEST_ELECTRODES = 4  # fewer make no map
_COLOURS = (SERIES[2], SERIES[3])  # blue and orange are EEG and voice
_MELS = 64
_NAMED = 5


def draw(
    explanation: dict[str, Any],
    settings: Config,
    recording: Recording,
    start_s_S: NDArray[np.floating[Any]],
    x_SND: NDArray[np.floating[Any]],
) -> dict[str, bytes]:
    """The pictures of an explanation by name, as PNG.

    Args:
        explanation: fields of `training.explain.Explanation`.
        recording: whose file is read for its spectrogram; where that is gone, its node features are drawn instead.
        start_s_S: where its explained segments begin.
        x_SND: their standardised node features.
    """
    with mpl.rc_context(_STYLE):
        pictures = {}
        if explanation["modality"] == "audio":
            try:
                sound = read_audio(recording)
                pictures["spectrogram"] = _spectrogram(explanation, settings, sound, start_s_S)
            except RecordingError:
                pictures["nodes"] = _node_features(explanation, x_SND)
        elif len(explanation["nodes"]) >= _FEWEST_ELECTRODES:
            pictures["scalp"] = _scalp(explanation, settings)
        pictures["features"] = _features(explanation)
        if explanation["attention"] or explanation["gate"]:
            pictures["fusion"] = _fusion(explanation)
        return pictures


def scalp_places(config: EEG) -> NDArray[np.float64]:
    """Electrodes seen from above, N x 2, nose up; distance 1 is the head's equator.

    Azimuthal equidistant about the centre of the sphere that fits the electrodes, so that a net that reaches below the
    ears does not push the head together.
    """
    place_N3 = eeg.positions(config.montage, eeg.node_names(config))
    direction_N3 = place_N3 - eeg.sphere_centre(place_N3)
    angle_N = np.arccos(direction_N3[:, 2] / np.linalg.norm(direction_N3, axis=1))
    flat_N2 = direction_N3[:, :2] / np.maximum(np.linalg.norm(direction_N3[:, :2], axis=1, keepdims=True), 1e-12)
    places_N2: NDArray[np.float64] = flat_N2 * angle_N[:, None] / (np.pi / 2)
    return places_N2


def _scores(explanation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {title: explanation[name] for name, title in _SCORES.items() if explanation[name] is not None}


def _scalp(explanation: dict[str, Any], settings: Config) -> bytes:
    import mne

    place_N2 = scalp_places(settings.features.eeg)
    maps = [(title, score["node_N"], "RdBu_r") for title, score in _scores(explanation).items()]
    for depth, layer in enumerate(explanation["pooling"] or [], start=1):
        maps.append((f"kept by pooling {depth}", layer["kept_N"], "viridis"))
    columns = 2 if len(maps) > 1 else 1
    rows = -(-len(maps) // columns)
    figure, axes = _panels(rows, columns, (4.4 * columns, 3.9 * rows))
    for axis, (title, value_N, colours) in zip(axes, maps, strict=False):
        value = np.array(value_N)
        limit = float(np.abs(value).max()) or 1.0
        image, _ = mne.viz.plot_topomap(
            value,
            place_N2,
            axes=axis,
            show=False,
            cmap=colours,
            vlim=(-limit, limit) if colours == "RdBu_r" else (0.0, 1.0),
            contours=0,
            sphere=(0.0, 0.0, 0.0, 1.0),
            extrapolate="local",
            border="mean",
        )
        if colours == "RdBu_r":
            for n in np.argsort(-np.abs(value), kind="stable")[:_NAMED]:
                axis.annotate(
                    explanation["nodes"][n],
                    place_N2[n],
                    (3, 3),
                    textcoords="offset points",
                    fontsize=8,
                    fontweight="bold",
                    path_effects=[withStroke(linewidth=2, foreground="white")],
                )
        axis.set_title(title)
        figure.colorbar(image, ax=axis, shrink=0.7)
    for axis in axes[len(maps) :]:
        axis.set_axis_off()
    return _png(figure)


def _spectrogram(
    explanation: dict[str, Any], settings: Config, sound: AudioSignal, start_s_S: NDArray[np.floating[Any]]
) -> bytes:
    import librosa

    chosen = settings.features.audio
    rate = chosen.sampling_rate_hz  # what the features saw, and nothing above
    wave_T = audio.resample(audio.mono(sound.data_CT), sound.sampling_rate_hz, rate)
    length_s = len(wave_T) / rate
    hop = max(rate // 100, int(len(wave_T) / 2000))  # no more columns than a picture can show
    mel_MF = librosa.feature.melspectrogram(y=wave_T, sr=rate, n_fft=512, hop_length=hop, n_mels=_MELS)
    level_MF = librosa.power_to_db(mel_MF, ref=np.max)
    figure, (axis,) = _panels(1, 1, (9.5, 4.0))
    axis.imshow(
        level_MF, origin="lower", aspect="auto", extent=(0, length_s, -0.5, _MELS - 0.5), cmap="Greys", vmin=-70, vmax=0
    )
    ticks_hz = [hz for hz in (250, 500, 1000, 2000, 4000, 8000, 16000) if hz < rate / 2]
    centre_M = librosa.mel_frequencies(n_mels=_MELS, fmax=rate / 2)
    axis.set_yticks(np.interp(ticks_hz, centre_M, np.arange(_MELS)), [f"{hz / 1000:g}" for hz in ticks_hz])
    axis.set(xlabel="s", ylabel="kHz", xlim=(0, length_s))
    over = axis.twinx()
    over.spines["right"].set_visible(True)
    edge_N = np.arange(chosen.nodes + 1) * chosen.segment_s / chosen.nodes
    for colour, (title, score) in zip(_COLOURS, _scores(explanation).items(), strict=False):
        for number, (start_s, scaled_N) in enumerate(zip(start_s_S, _scaled(score["node_SN"]), strict=True)):
            over.stairs(scaled_N, start_s + edge_N, baseline=None, color=colour, linewidth=1.6,
                        label=title if number == 0 else None)  # fmt: skip
    _importance_axis(over)
    return _png(figure)


def _node_features(explanation: dict[str, Any], x_SND: NDArray[np.floating[Any]]) -> bytes:
    figure, (axis,) = _panels(1, 1, (9.5, 4.6))
    mean_DN = x_SND.mean(0).T
    limit = float(np.abs(mean_DN).max()) or 1.0
    shown = axis.imshow(mean_DN, aspect="auto", cmap="Greys", vmin=-limit, vmax=limit)
    axis.set(xlabel="frame", ylabel="feature")
    every = max(1, len(mean_DN) // 12)
    axis.set_yticks(range(0, len(mean_DN), every), explanation["features"][::every], fontsize=7)
    step = max(1, mean_DN.shape[1] // 8)
    axis.set_xticks(range(0, mean_DN.shape[1], step), explanation["nodes"][::step])
    figure.colorbar(shown, ax=axis, label="SD of training segments", pad=0.08)
    over = axis.twinx()
    over.spines["right"].set_visible(True)
    for colour, (title, score) in zip(_COLOURS, _scores(explanation).items(), strict=False):
        scaled_N = _scaled([score["node_N"]])[0]
        over.stairs(
            scaled_N, np.arange(len(scaled_N) + 1) - 0.5, baseline=None, color=colour, linewidth=1.6, label=title
        )
    _importance_axis(over)
    return _png(figure)


def _scaled(node_SN: list[list[float]]) -> NDArray[np.float64]:
    value_SN = np.array(node_SN)
    return value_SN / (np.abs(value_SN).max() or 1.0)


def _importance_axis(axis: Axes) -> None:
    axis.axhline(0, color=INK, linewidth=0.5)
    axis.set(ylim=(-1.1, 1.1), ylabel="attribution, share of largest")
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)


def _features(explanation: dict[str, Any]) -> bytes:
    names, scores = explanation["features"], _scores(explanation)
    first = np.array(next(iter(scores.values()))["feature_D"])
    order = np.argsort(-np.abs(first), kind="stable")[:12][::-1]
    figure, axes = _panels(1, len(scores), (4.6 * len(scores), 0.28 * len(order) + 1), sharey=True)
    for axis, colour, (title, score) in zip(axes, _COLOURS, scores.items(), strict=False):
        axis.barh([names[n] for n in order], np.array(score["feature_D"])[order], color=colour)
        axis.axvline(0, color=INK, linewidth=0.5)
        axis.set_title(title)
        axis.locator_params(axis="x", nbins=4)
    return _png(figure)


def _fusion(explanation: dict[str, Any]) -> bytes:
    attention, gate_E = explanation["attention"], explanation["gate_E"]
    figure, axes = _panels(1, bool(attention) + bool(gate_E), (3.6 * (bool(attention) + bool(gate_E)), 2.9))
    if attention:
        names = list(attention)
        axis = axes[0]
        axis.imshow([[attention[i][j]["mean"] for j in names] for i in names], cmap="Blues", vmin=0, vmax=1)
        for row, i in enumerate(names):
            for column, j in enumerate(names):
                share = attention[i][j]
                text = f"{share['mean']:.2f}\n\u00b1 {share['sd']:.2f}"
                colour = "white" if share["mean"] > 0.6 else INK
                axis.text(column, row, text, ha="center", va="center", color=colour)
        axis.set_xticks(range(len(names)), names)
        axis.set_yticks(range(len(names)), names)
        axis.spines[:].set_visible(False)
        axis.set_title("attention of row to column")
    if gate_E:
        edges = np.linspace(0, 1, 21).tolist()
        for modality, share_E in gate_E.items():
            colour = SERIES[MODALITIES.index(modality)]
            axes[-1].hist(share_E, edges, histtype="stepfilled", color=colour, alpha=0.25)
            axes[-1].hist(share_E, edges, histtype="step", color=colour, linewidth=1.6, label=modality)
        axes[-1].set(xlim=(0, 1), xlabel="share in the gate", ylabel="fused features")
        axes[-1].locator_params(axis="y", integer=True)
        axes[-1].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return _png(figure)


def _panels(rows: int, columns: int, size: tuple[float, float], sharey: bool = False) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, sharey=sharey, squeeze=False).flat)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
