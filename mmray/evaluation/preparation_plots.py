"""Pictures of a preparation: how its recordings spread, and what one of them looks and sounds like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import signal

from mmray.config import EEG, Config
from mmray.errors import RecordingError
from mmray.evaluation import compare_style, plots
from mmray.evaluation.explain_plots import scalp_places
from mmray.features import audio, eeg, speech, stretches
from mmray.features.extract import CleanEEG, clean_eeg
from mmray.recordings.signals import open_audio, open_eeg
from mmray.schema import Recording

Row = dict[str, Any]

_MEASURES = {
    "eeg": {
        "lost": "share of segments rejected",
        "bad_electrodes": "bad electrodes",
        "peak_to_peak_uv": "peak to peak, uV",
        "mains_db": "mains over neighbourhood, dB",
    },
    "audio": {
        "active_fraction": "share that is speech",
        "snr_db": "speech over noise, dB",
        "clipped_fraction": "share of samples clipped",
        "level_dbfs": "level while speaking, dBFS",
    },
}
_FEWEST_ELECTRODES = 4  # fewer make no map
_LONGEST_S = 120.0  # of a recording that a picture shows
_WINDOW_S = 2.0
_BAD, _BEFORE, _AFTER = plots.SERIES[1], "#8a939c", plots.SERIES[0]


def overview(rows: Sequence[Row], modality: str) -> tuple[str, bytes]:
    """A histogram a measure, over recordings: SVG and PNG."""
    with mpl.rc_context(compare_style.STYLE):
        figure, axes = compare_style.panels(2, 2, 3.6)
        for axis, (name, title) in zip(axes, _MEASURES[modality].items(), strict=True):
            value = np.array([row[name] for row in rows if row[name] is not None], dtype=np.float64)
            colour = plots.SERIES[modality != "eeg"]
            if len(value) and np.ptp(value) > 0:
                axis.hist(value, bins=min(20, max(5, len(set(value.tolist())))), color=colour)
            elif len(value):  # all alike: a bar at that value, which spans nothing
                axis.bar([f"{value[0]:g}"], [len(value)], width=0.2, color=colour)
                axis.margins(x=2)
            axis.set_xlabel(title)
            axis.locator_params(axis="y", integer=True)
        for axis in axes[::2]:
            axis.set_ylabel("recordings")
        return plots.svg_of(figure), compare_style.png(figure)


def often_bad(rows: Sequence[Row], settings: Config) -> bytes | None:
    """Share of recordings in which an electrode was bad, on the scalp; None for too few electrodes to map."""
    names = eeg.node_names(settings.features.eeg)
    if len(names) < _FEWEST_ELECTRODES:
        return None
    count = Counter(item["name"] for row in rows for item in row["bad_channels"])
    share_N = np.array([count[name] / len(rows) for name in names])
    with mpl.rc_context(compare_style.STYLE):
        figure, (axis,) = compare_style.panels(1, 1, 3.4)
        _map(figure, axis, share_N, settings.features.eeg, np.zeros(len(names), dtype=bool), "share of recordings")
        return compare_style.png(figure)


def eeg_of(recording: Recording, settings: Config) -> bytes:
    """Spectra before and after, and the electrodes' amplitude on the scalp with the bad ones marked.

    Of a recording that is prepared in stretches, its beginning.

    Raises:
        RecordingError: the file cannot be read, or lacks electrodes.
    """
    chosen = settings.features.eeg
    with open_eeg(recording, chosen.scale_to_volts) as file:
        raw = file.read(0, min(file.samples, stretches.EEG_SAMPLES // len(file.channels)))
    names = eeg.node_names(chosen)
    picked_NT = eeg.select(raw.data_CT, raw.channels, names)
    data_NT = np.nan_to_num(picked_NT * 1e6, posinf=0, neginf=0).astype(np.float32)
    length = round(min(chosen.segment_s, _WINDOW_S) * raw.sampling_rate_hz)
    start_S = eeg.segment_starts(raw.spans, length)[: int(_LONGEST_S / min(chosen.segment_s, _WINDOW_S))]
    if len(start_S) == 0:
        raise RecordingError(f"{recording.path}: no stretch of {length / raw.sampling_rate_hz:g} s to draw")
    clean: CleanEEG | None
    try:
        clean = clean_eeg(raw, settings.features)
        bad_N = clean.why_N != ""
    except RecordingError:  # quarantined: there is a before and no after
        clean, bad_N = None, np.zeros(len(names), dtype=bool)
    frequency_F, power_NF = _spectrum(eeg.cut(data_NT, start_S, length), raw.sampling_rate_hz)
    mapped = len(names) >= _FEWEST_ELECTRODES
    with mpl.rc_context(compare_style.STYLE):
        figure = Figure(figsize=(7.5 if mapped else 4.5, 3.2), layout="constrained")
        axes = figure.subplots(1, 2 if mapped else 1, squeeze=False, width_ratios=[3, 2] if mapped else [1])[0]
        axis = axes[0]
        for number, row_F in enumerate(power_NF):
            colour = _BAD if bad_N[number] else _BEFORE
            axis.semilogy(frequency_F, row_F, color=colour, lw=0.6 if bad_N[number] else 0.3, zorder=2 + bad_N[number])
        if clean is not None:
            after_F, after_NF = _spectrum(clean.signal_SNT, raw.sampling_rate_hz)
            axis.semilogy(after_F, np.median(after_NF, 0), color=_AFTER, lw=1.6, zorder=4)
        for colour, label in ((_BEFORE, "as recorded"), (_BAD, "of them bad"), (_AFTER, "cleaned, median")):
            axis.plot([], [], color=colour, label=label)
        usual = np.median(power_NF, 0)
        usual = usual[usual > 0] if (usual > 0).any() else np.ones(1)
        axis.set(xlim=(0, min(100.0, raw.sampling_rate_hz / 2)), xlabel="Hz", ylabel="uV\u00b2 / Hz")
        axis.set_ylim(usual.min() / 1e3, usual.max() * 1e2)
        axis.legend(loc="upper right")
        if mapped:
            inside_F = (frequency_F >= chosen.highpass_hz) & (frequency_F <= chosen.lowpass_hz)
            level_N = 10 * np.log10(np.maximum(power_NF[:, inside_F].sum(1) * (frequency_F[1] - frequency_F[0]), 1e-6))
            _map(figure, axes[1], level_N, chosen, bad_N, "dB of 1 uV\u00b2")
        return compare_style.png(figure)


def audio_of(recording: Recording, settings: Config) -> bytes:
    """The spectrogram, with what counts as speech above it.

    Raises:
        RecordingError: the file cannot be read, or is silent.
    """
    with open_audio(recording) as file:
        sound = file.read(0, min(file.samples, round((_LONGEST_S + 1) * file.sampling_rate_hz)))
    rate = settings.features.audio.sampling_rate_hz
    wave_T = audio.resample(audio.mono(sound.data_CT), sound.sampling_rate_hz, rate)[: round(_LONGEST_S * rate)]
    audio.speech_range(wave_T, rate, None)
    spoken = speech.active_speech(wave_T, rate)
    window = round(0.032 * rate)
    hop = max(window // 4, len(wave_T) // 1500)  # no more columns than a picture can show
    frequency_F, time_T, power_FT = signal.spectrogram(wave_T, rate, "hann", window, max(0, window - hop))
    level_FT = 10 * np.log10(np.maximum(power_FT, 1e-9 * power_FT.max()))
    with mpl.rc_context(compare_style.STYLE):
        figure = Figure(figsize=(7.5, 3.0), layout="constrained")
        over, axis = figure.subplots(2, 1, sharex=True, height_ratios=[1, 8])
        axis.pcolormesh(
            time_T, frequency_F / 1000, level_FT, cmap="magma", vmin=level_FT.max() - 80, vmax=level_FT.max()
        )
        axis.set(xlabel="s", ylabel="kHz", xlim=(0, len(wave_T) / rate))
        time_s_F = np.arange(len(spoken.active_F)) * spoken.step_s
        over.fill_between(time_s_F, 0, spoken.active_F, step="post", color=plots.SERIES[1], lw=0)
        over.set(ylim=(0, 1), yticks=[])
        over.set_ylabel("speech", rotation=0, ha="right", va="center")
        over.spines[:].set_visible(False)
        return compare_style.png(figure)


def _spectrum(
    signal_SNT: NDArray[np.floating[Any]], sampling_rate_hz: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean periodogram of each electrode, and its frequencies: no window reaches over a joint."""
    frequency_F, power_SNF = signal.periodogram(signal_SNT, sampling_rate_hz, "hann", detrend="linear")
    return frequency_F, power_SNF.mean(0)


def _map(
    figure: Figure, axis: Axes, value_N: NDArray[np.float64], chosen: EEG, bad_N: NDArray[np.bool_], unit: str
) -> None:
    import mne

    place_N2 = scalp_places(chosen)
    spread = value_N[~bad_N] if (~bad_N).any() else value_N
    limits = (float(spread.min()), float(spread.max()) + 1e-9)
    image, _ = mne.viz.plot_topomap(
        value_N, place_N2, axes=axis, show=False, cmap="viridis", vlim=limits,
        contours=0, sphere=(0.0, 0.0, 0.0, 1.0), extrapolate="local", border="mean",
    )  # fmt: skip
    axis.plot(*place_N2[bad_N].T, "x", color=_BAD, ms=7, mew=2)
    figure.colorbar(image, ax=axis, shrink=0.7, label=unit)
