"""What is wrong with an EEG recording, and its repair. Pure functions of arrays; microvolts, but where volts are named.

Every decision comes back as what it was: which electrode was set aside and why, which segment was rejected.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from mmray.features.eeg import Array, Spans, cut, segment_starts, sphere_centre

_BAD_Z = 5.0  # robust z of log variance and of high-frequency noise (PREP, doi 10.3389/fninf.2015.00016)
_BAD_CORRELATION = 0.3
_MAINS_ELECTRODES, _MAINS_S = 16, 60.0  # as much as tells how strong the mains are


def bad_channels(
    data_NT: NDArray[np.float64], filtered_NT: Array, sampling_rate_hz: float, spans: Spans
) -> NDArray[np.str_]:
    """Why an electrode carries no brain signal, N words; empty where it does (after PREP, Bigdely-Shamlo et al. 2015).

    "not finite"; "flat"; "amplitude" or "noise": a log variance, or a high-frequency noise, far from the other
    electrodes' (robust z > 5); "alone": in most windows a correlation below 0.3 with every other electrode. The first
    that holds is told.

    Args:
        data_NT: volts, before the filter.
        filtered_NT: the same, filtered, microvolts.
    """
    # a view, not a copy, of a recording without a gap
    used = slice(*spans[0]) if len(spans) == 1 else np.concatenate([np.arange(*span) for span in spans])
    why_N = np.where(np.isfinite(data_NT[:, used]).all(axis=1), "", "not finite").astype("<U10")
    variance_N = filtered_NT[:, used].var(1)
    good_N = why_N == ""
    typical = np.median(variance_N[good_N]) if good_N.any() else 0.0
    why_N[good_N & (variance_N <= max(1e-6 * typical, 1e-12))] = "flat"
    good = np.flatnonzero(why_N == "")
    if len(good) < 4:
        return why_N  # too few to tell an odd one out
    start_S, length = _windows(spans, sampling_rate_hz)
    # second difference: a high-pass that costs nothing
    noise_G = np.array([np.median(np.abs(np.diff(_cut_row(data_NT[n], start_S, length), 2))) for n in good])
    why_N[good[_robust_z(np.log(np.maximum(noise_G, 1e-15))) > _BAD_Z]] = "noise"
    why_N[good[np.abs(_robust_z(np.log(variance_N[good]))) > _BAD_Z]] = "amplitude"
    good = np.flatnonzero(why_N == "")
    if len(good) >= 4:
        why_N[good[_best_correlation(cut(filtered_NT, start_S, length)[:, good]) < _BAD_CORRELATION]] = "alone"
    return why_N


def _robust_z(value_N: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    centred_N = value_N - np.median(value_N)
    # MAD to SD; the floor keeps near-equal electrodes from being called outliers of one another
    z_N: NDArray[np.floating[Any]] = centred_N / max(1.4826 * float(np.median(np.abs(centred_N))), 0.1)
    return z_N


def _windows(spans: Spans, sampling_rate_hz: float) -> tuple[NDArray[np.int64], int]:
    """Starts and length of up to 59 windows of 4 s, or as long as there is, over the whole recording.

    Seconds of signal, else two unrelated electrodes correlate by chance; two minutes of them tell as much as all.
    """
    length = max(2, min(round(4 * sampling_rate_hz), max(stop - start for start, stop in spans)))
    start_S = segment_starts(spans, length)
    return start_S[:: max(1, len(start_S) // 30)], length


def _cut_row(data_T: NDArray[np.float64], start_S: NDArray[np.int64], length: int) -> NDArray[np.float64]:
    return np.stack([data_T[start : start + length] for start in start_S.tolist()])


def _best_correlation(windows_SNT: Array) -> NDArray[np.floating[Any]]:
    """Median over windows of each electrode's largest |r| with another."""
    windows_SNT = windows_SNT - windows_SNT.mean(-1, keepdims=True)
    windows_SNT /= np.maximum(np.linalg.norm(windows_SNT, axis=-1, keepdims=True), 1e-12)
    r_SNN = np.abs(windows_SNT @ windows_SNT.swapaxes(1, 2))
    nodes = np.arange(windows_SNT.shape[1])
    r_SNN[:, nodes, nodes] = 0
    best_N: NDArray[np.floating[Any]] = np.median(r_SNN.max(-1), axis=0)
    return best_N


def interpolate(data_NT: Array, bad_N: NDArray[np.bool_], position_N3: NDArray[np.float64]) -> Array:
    """Replace bad electrodes by a spherical spline through the good ones, in place (Perrin et al. 1989).

    doi 10.1016/0013-4694(89)90180-6, with stiffness 4, 50 Legendre terms and regularisation 1e-5 as in mne.
    """
    if not bad_N.any():
        return data_NT
    direction_N3 = position_N3 - sphere_centre(position_N3)
    direction_N3 = direction_N3 / np.linalg.norm(direction_N3, axis=1, keepdims=True)
    good_G3, bad_B3 = direction_N3[~bad_N], direction_N3[bad_N]
    goods = len(good_G3)
    system = np.ones((goods + 1, goods + 1))
    system[:goods, :goods] = _spline(good_G3 @ good_G3.T) + 1e-5 * np.eye(goods)
    system[goods, goods] = 0
    target = np.hstack([_spline(bad_B3 @ good_G3.T), np.ones((len(bad_B3), 1))])
    weight_BG = (target @ np.linalg.pinv(system))[:, :goods]
    data_NT[bad_N] = weight_BG.astype(np.float32) @ data_NT[~bad_N]
    return data_NT


def _spline(cosine: NDArray[np.float64]) -> NDArray[np.float64]:
    """g(x) of Perrin's equation 3."""
    n = np.arange(1, 51)
    coefficients = np.concatenate([[0.0], (2 * n + 1) / (n**4.0 * (n + 1) ** 4.0) / (4 * np.pi)])
    value: NDArray[np.float64] = np.polynomial.legendre.legval(np.clip(cosine, -1, 1), coefficients)
    return value


def average_reference(data_NT: Array) -> Array:
    """Subtract the mean over electrodes, in place."""
    data_NT -= data_NT.mean(0)
    return data_NT


def peak_to_peak(signal_SNT: Array) -> Array:
    """Median over electrodes of each segment's peak-to-peak range, S values, microvolts."""
    range_S: Array = np.median(np.ptp(signal_SNT, axis=-1), axis=1)
    return range_S


def mains_db(data_NT: NDArray[np.float64], sampling_rate_hz: float, spans: Spans, line_hz: float) -> float | None:
    """How far the mains stand above their neighbourhood before the notch: power at line_hz +- 1 Hz over 2 to 5 Hz away.

    Median over up to 16 electrodes of the longest span's first minute, dB; None where the recording ends below that
    frequency or is shorter than a second.

    Args:
        data_NT: volts, before the filter.
    """
    if line_hz + 5 > sampling_rate_hz / 2 or not spans:
        return None
    start, stop = max(spans, key=lambda span: span[1] - span[0])
    stop = min(stop, start + round(_MAINS_S * sampling_rate_hz))
    if stop - start < sampling_rate_hz:
        return None
    rows = np.unique(np.linspace(0, len(data_NT) - 1, _MAINS_ELECTRODES).astype(int))
    seen_RT = np.nan_to_num(data_NT[rows, start:stop], posinf=0, neginf=0)
    window = min(stop - start, round(2 * sampling_rate_hz))
    frequency_F, power_RF = signal.welch(seen_RT, sampling_rate_hz, nperseg=window, detrend="linear")
    away_F = np.abs(frequency_F - line_hz)
    at_R = power_RF[:, away_F <= 1].mean(1)
    around_R = power_RF[:, (away_F >= 2) & (away_F <= 5)].mean(1)
    seen_R = (around_R > 0) & (at_R > 0)
    return float(np.median(10 * np.log10(at_R[seen_R] / around_R[seen_R]))) if seen_R.any() else None
