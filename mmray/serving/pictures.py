"""One recording as a small picture: amplitude over the scalp, or a spectrogram."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import signal

from mmray.config import Config
from mmray.errors import RecordingError
from mmray.evaluation.explain_plots import scalp_places
from mmray.evaluation.plots import INK
from mmray.features import audio, eeg, stretches
from mmray.recordings.signals import open_audio, open_eeg
from mmray.schema import Recording

_STYLE: Any = {"font.size": 8, "text.color": INK, "axes.spines.top": False, "axes.spines.right": False}
_SIZE_IN, _DPI = (4.8, 2.4), 100
_LONGEST_S = 60.0  # of a recording that is drawn
_FEWEST_ELECTRODES = 4  # fewer make no map
_BANDS_HZ = {"theta": (4.0, 8.0), "alpha": (8.0, 13.0), "beta": (13.0, 30.0)}


def of(recording: Recording, settings: Config) -> bytes:
    """A PNG of 480 x 240.

    Raises:
        RecordingError: the file cannot be read, lacks electrodes, or is silent.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE_IN, dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        (_scalp if recording.modality == "eeg" else _spectrogram)(figure, recording, settings)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", facecolor="white", metadata={"Software": None})
        return buffer.getvalue()


def _scalp(figure: Figure, recording: Recording, settings: Config) -> None:
    chosen = settings.features.eeg
    names = eeg.node_names(chosen)
    with open_eeg(recording, chosen.scale_to_volts) as file:
        longest = min(file.samples, round(_LONGEST_S * file.sampling_rate_hz))
        raw = file.read(0, min(longest, stretches.EEG_SAMPLES // len(file.channels)))
    data_NT = np.nan_to_num(eeg.select(raw.data_CT, raw.channels, names) * 1e6, posinf=0, neginf=0)
    window = max(8, min(data_NT.shape[1], round(2 * raw.sampling_rate_hz)))
    frequency_F, power_NF = signal.welch(data_NT, raw.sampling_rate_hz, nperseg=window, detrend="linear")
    axes = figure.subplots(1, len(_BANDS_HZ))
    for axis, (band, (low, high)) in zip(axes, _BANDS_HZ.items(), strict=True):
        inside_F = (frequency_F >= low) & (frequency_F < high)
        power_N = power_NF[:, inside_F].mean(1) if inside_F.any() else np.zeros(len(names))
        _map(axis, 10 * np.log10(np.maximum(power_N, 1e-6)), settings)
        axis.set_title(f"{band} {low:g}-{high:g} Hz")


def _map(axis: Axes, level_N: NDArray[np.float64], settings: Config) -> None:
    import mne

    if len(level_N) < _FEWEST_ELECTRODES:
        axis.bar(range(len(level_N)), level_N)
        return
    # of a few electrodes that are off, the colours of the rest must not suffer
    limits = np.quantile(level_N, (0.05, 0.95))
    mne.viz.plot_topomap(
        level_N, scalp_places(settings.features.eeg), axes=axis, show=False, cmap="viridis", contours=0,
        vlim=(limits[0], limits[1] + 1e-9), sphere=(0.0, 0.0, 0.0, 1.0), extrapolate="local", border="mean",
    )  # fmt: skip


def _spectrogram(figure: Figure, recording: Recording, settings: Config) -> None:
    with open_audio(recording) as file:
        longest = min(file.samples, round(_LONGEST_S * file.sampling_rate_hz))
        sound = file.read(0, min(longest, stretches.AUDIO_SAMPLES // file.channels))
    rate = settings.features.audio.sampling_rate_hz
    wave_T = audio.resample(audio.mono(sound.data_CT), sound.sampling_rate_hz, rate)
    window = round(0.032 * rate)
    if len(wave_T) < window or not wave_T.any():
        raise RecordingError(f"{recording.path}: too short or too silent to be drawn")
    hop = max(window // 4, len(wave_T) // 900)  # no more columns than the picture can show
    frequency_F, _, power_FT = signal.spectrogram(wave_T, rate, "hann", window, max(0, window - hop))
    level_FT = 10 * np.log10(np.maximum(power_FT, 1e-9 * power_FT.max()))
    axis = figure.subplots()
    extent = (0.0, len(wave_T) / rate, 0.0, frequency_F[-1] / 1000)
    axis.imshow(
        level_FT,
        origin="lower",
        aspect="auto",
        extent=extent,
        cmap="magma",
        vmin=level_FT.max() - 80,
        vmax=level_FT.max(),
    )
    axis.set(xlabel="s", ylabel="kHz")
