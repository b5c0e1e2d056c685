"""EEG from volts to clean segments, one row an electrode. Pure functions of arrays; `extract` strings them together.

Volts come in; from the filter on everything is microvolts in float32.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

from mmray.config import EEG
from mmray.errors import ConfigError, RecordingError

Array = NDArray[np.float32]
Spans = Sequence[tuple[int, int]]

_FILTER_ORDER = 4
_NOTCH_QUALITY = 25.0  # 50 Hz / 25: 2 Hz wide
_LARGEST_V = 1e6
_BLOCK = 1_300_000  # samples filtered at once, whatever the length: 16 electrodes of five minutes, one of an hour


@cache
def positions(montage: str, names: tuple[str, ...]) -> NDArray[np.float64]:
    """Electrode positions, N x 3, metres.

    Raises:
        ConfigError: mne has no such montage, or it has no electrode of one of these names, or one is listed twice.
    """
    place = _montage(montage)
    if len({name.casefold() for name in names}) < len(names):
        raise ConfigError("features.eeg.channels: an electrode is listed twice")
    folded = {name.casefold(): position for name, position in place.items()}
    missing = [name for name in names if name.casefold() not in folded]
    if missing:
        raise ConfigError(
            f"features.eeg.channels: {', '.join(missing)} not in montage {montage}, which has "
            f"{', '.join(list(place)[:6])}, ..."
        )
    return np.array([folded[name.casefold()] for name in names])


@cache
def _montage(name: str) -> dict[str, NDArray[np.float64]]:
    import mne

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # mne is renaming standard_1020; both names serve
        try:
            montage = mne.channels.make_standard_montage(name)
        except ValueError:
            known = mne.channels.get_builtin_montages()
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"mne knows {', '.join(known)}"
            raise ConfigError(f"features.eeg.montage: {name!r} is not a montage that mne knows; {hint}") from None
    return dict(montage.get_positions()["ch_pos"])


def node_names(config: EEG) -> tuple[str, ...]:
    """Electrode of each node, in order: the configured channels, or all of the montage's but the Cz reference."""
    return config.channels or tuple(name for name in _montage(config.montage) if name != "Cz")


def rows_of(channels: tuple[str, ...], names: tuple[str, ...]) -> list[int]:
    """Which channel each of these electrodes is; names match whatever their case.

    Raises:
        RecordingError: an electrode is not in the recording.
    """
    row = {name.casefold(): index for index, name in enumerate(channels)}
    missing = [name for name in names if name.casefold() not in row]
    if missing:
        raise RecordingError(
            f"found {len(names) - len(missing)} of the {len(names)} electrodes of features.eeg.channels among "
            f"{len(channels)} channels ({', '.join(channels[:4])}, ...); missing {', '.join(missing[:4])}"
            f"{', ...' if len(missing) > 4 else ''}; set features.eeg.montage and channels to the study's"
        )
    return [row[name.casefold()] for name in names]


def select(data_CT: NDArray[np.float64], channels: tuple[str, ...], names: tuple[str, ...]) -> NDArray[np.float64]:
    """The rows of these electrodes in node order. Raises RecordingError as `rows_of`."""
    order = rows_of(channels, names)
    return data_CT if order == list(range(len(channels))) else data_CT[order]


def within_reach(data_NT: NDArray[np.float64]) -> NDArray[np.float64]:
    """Volts, with NaN for what no amplifier gives and float32 cannot square: damage writes any number."""
    if data_NT.max() <= _LARGEST_V and data_NT.min() >= -_LARGEST_V:
        return data_NT
    return np.where(np.abs(data_NT) <= _LARGEST_V, data_NT, np.nan)


def require_rate(sampling_rate_hz: float, config: EEG) -> None:
    """Raise RecordingError where a recording is sampled too slowly for the low-pass."""
    if 2.2 * config.lowpass_hz > sampling_rate_hz:
        raise RecordingError(
            f"sampled at {sampling_rate_hz:g} Hz, too slow for features.eeg.lowpass_hz={config.lowpass_hz:g}; "
            f"lower that to {sampling_rate_hz / 2.2:.0f} or less"
        )


def margin(sampling_rate_hz: float, config: EEG) -> int:
    """Samples beside a stretch that the filter wants, so that where it was cut does not show: twice its ringing."""
    return 2 * ringing(sampling_rate_hz, config)


def ringing(sampling_rate_hz: float, config: EEG) -> int:
    """Samples after which the high-pass has forgotten an edge."""
    return round(3 * sampling_rate_hz / config.highpass_hz)


def band_pass(data_NT: NDArray[np.float64], sampling_rate_hz: float, spans: Spans, config: EEG) -> Array:
    """Detrend, band-pass and notch each span by itself with the squared gain of both filters, at zero phase.

    What `scipy.signal.sosfiltfilt` does forwards and backwards is done here in one product of float32 spectra, several
    times faster. A span is continued oddly and then by its last value for as long as the high-pass rings.

    Args:
        data_NT: volts; not-a-number counts as 0.
        spans: [start, stop) sample ranges without a discontinuity.

    Returns:
        Microvolts, float32; 0 outside the spans.

    Raises:
        RecordingError: as `require_rate`.
    """
    require_rate(sampling_rate_hz, config)
    edges = (config.highpass_hz, config.lowpass_hz, config.line_hz)
    ring = ringing(sampling_rate_hz, config)
    filtered_NT = np.zeros(data_NT.shape, dtype=np.float32)
    for start, stop in spans:
        length = stop - start
        if length < 2:
            continue
        size = fft.next_fast_len(length + 2 * ring, real=True)
        gain_F = _squared_gain(size, sampling_rate_hz, *edges)
        mirrored = min(ring, length - 1)
        step = max(1, _BLOCK // size)
        for first in range(0, len(data_NT), step):
            rows = slice(first, first + step)
            span_NT = _detrended(data_NT[rows, start:stop])
            wide_NT = np.empty((len(span_NT), size), dtype=np.float32)
            wide_NT[:, ring : ring + length] = span_NT
            before, after = 2 * span_NT[:, :1], 2 * span_NT[:, -1:]
            wide_NT[:, ring - mirrored : ring] = before - span_NT[:, mirrored:0:-1]
            wide_NT[:, ring + length : ring + length + mirrored] = after - span_NT[:, -2 : -2 - mirrored : -1]
            wide_NT[:, : ring - mirrored] = wide_NT[:, ring - mirrored, None]
            wide_NT[:, ring + length + mirrored :] = wide_NT[:, ring + length + mirrored - 1, None]
            spectrum_NF = fft.rfft(wide_NT, overwrite_x=True)
            spectrum_NF *= gain_F
            filtered_NT[rows, start:stop] = fft.irfft(spectrum_NF, size, overwrite_x=True)[:, ring : ring + length]
    return filtered_NT


@lru_cache(maxsize=8)
def _squared_gain(size: int, rate: float, highpass_hz: float, lowpass_hz: float, line_hz: float) -> Array:
    """|H|^2 of the band-pass and the notch at the frequencies of a spectrum."""
    sections = signal.butter(_FILTER_ORDER, (highpass_hz, lowpass_hz), "bandpass", fs=rate, output="sos")
    if line_hz < rate / 2:
        sections = np.vstack([sections, signal.tf2sos(*signal.iirnotch(line_hz, _NOTCH_QUALITY, fs=rate))])
    _, response_F = signal.sosfreqz(sections, fft.rfftfreq(size, 1 / rate), fs=rate)
    squared_F: Array = np.square(np.abs(response_F)).astype(np.float32)
    return squared_F


def _detrended(data_NT: NDArray[np.float64]) -> NDArray[np.float64]:
    """Microvolts without each row's least-squares line; a copy. In float64: an offset is large beside the signal."""
    data_NT = data_NT * 1e6
    if not np.isfinite(data_NT).all():
        np.nan_to_num(data_NT, copy=False, posinf=0, neginf=0)
    time_T = np.arange(data_NT.shape[1]) - (data_NT.shape[1] - 1) / 2
    data_NT -= data_NT.mean(1, keepdims=True)
    data_NT -= (data_NT @ time_T / (time_T @ time_T))[:, None] * time_T
    return data_NT


def sphere_centre(position_N3: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre, 3, of the least-squares sphere through N points: |p|^2 = 2 c.p + (r^2 - |c|^2)."""
    design = np.hstack([2 * position_N3, np.ones((len(position_N3), 1))])
    solution: NDArray[np.float64] = np.linalg.lstsq(design, (position_N3**2).sum(1), rcond=None)[0]
    return solution[:3]


def segment_starts(spans: Spans, length: int) -> NDArray[np.int64]:
    """First samples of back-to-back segments that lie inside one span each."""
    starts = [np.arange(start, stop - length + 1, length) for start, stop in spans]
    return np.concatenate([np.zeros(0, dtype=np.int64), *starts]).astype(np.int64)


def window_starts(spans: Spans, segment_s: float, sampling_rate_hz: float) -> NDArray[np.int64]:
    """First samples of the windows k * segment_s, counted from the recording's first sample, inside one span each.

    Of a rate that no whole number of samples fits, every window begins at its nearest sample: none drifts.
    """
    length = round(segment_s * sampling_rate_hz)
    last = max((stop for _, stop in spans), default=0)
    begins = np.rint(np.arange(last / sampling_rate_hz // segment_s + 1) * segment_s * sampling_rate_hz).astype(
        np.int64
    )
    inside_S = np.zeros(len(begins), dtype=bool)
    for start, stop in spans:
        inside_S |= (begins >= start) & (begins + length <= stop)
    return begins[inside_S]


def cut(data_NT: Array, start_S: NDArray[np.int64], length: int) -> Array:
    """Segments S x N x length."""
    view = np.lib.stride_tricks.sliding_window_view(data_NT, length, axis=1)
    return np.ascontiguousarray(view[:, start_S].swapaxes(0, 1))
