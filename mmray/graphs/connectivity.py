"""How electrodes move together at some frequencies: coherence and phase lag. Batched over S segments; numpy alone.

Every estimate is over seven half-overlapping Hann windows, each a quarter of the segment, and averaged over their
frequencies in a band. A segment at a time, so that memory grows as windows x N x N at most. Each result is symmetric,
in [0, 1], and the same at any gain and sign of an electrode; a silent electrode is connected to nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

from mmray.errors import ConfigError

Array = NDArray[np.float32]
Spectra = NDArray[np.complexfloating[Any, Any]]

_NO_LAG = 1e-4  # of the product of amplitudes: in float32 two copies of one wave lag this much by rounding alone


def coherence(signal_SNT: Array, sampling_rate_hz: float, band_hz: tuple[float, float]) -> Array:
    """Magnitude-squared coherence |S_ij|^2 / (S_ii S_jj) of every pair, S x N x N; Welch 1967.

    A source that both electrodes see at once, as volume conduction has it, counts fully.

    Args:
        signal_SNT: time series of the nodes.
        band_hz: [low, high).

    Raises:
        ConfigError: the windows have no frequency in the band.
    """
    return _of_each(signal_SNT, sampling_rate_hz, band_hz, lambda x_FNK: np.abs(_coherency(x_FNK)) ** 2)


def imaginary_coherence(signal_SNT: Array, sampling_rate_hz: float, band_hz: tuple[float, float]) -> Array:
    """|Im S_ij| / sqrt(S_ii S_jj) of every pair (Nolte et al. 2004, doi 10.1016/j.clinph.2004.04.029).

    What reaches both electrodes at once has no imaginary part, and counts nothing. Arguments and errors as `coherence`.
    """
    return _of_each(signal_SNT, sampling_rate_hz, band_hz, lambda x_FNK: np.abs(_coherency(x_FNK).imag))


def wpli(signal_SNT: Array, sampling_rate_hz: float, band_hz: tuple[float, float]) -> Array:
    """Debiased weighted phase lag index, squared, of every pair (Vinck et al. 2011).

    doi 10.1016/j.neuroimage.2011.01.055. With I_k the imaginary part of window k's cross-spectrum,

        ((sum I)^2 - sum I^2) / ((sum |I|)^2 - sum I^2),

    averaged over the band and cut at 0, below which only chance leads. Of seven windows the plain index would be large
    between strangers; the windows overlap, so a little of that is left. Arguments and errors as `coherence`.
    """
    return _of_each(signal_SNT, sampling_rate_hz, band_hz, _debiased)


def _of_each(
    signal_SNT: Array, sampling_rate_hz: float, band_hz: tuple[float, float], estimate: Callable[[Spectra], Array]
) -> Array:
    """Mean over the band of an estimate F x N x N from each segment's spectra F x N x K."""
    samples = signal_SNT.shape[-1]
    window = samples // 4
    starts = slice(0, 7 * (window // 2), window // 2)  # no further, where a short segment's rounding leaves room
    frequency_F = fft.rfftfreq(max(window, 1), 1 / sampling_rate_hz)
    inside_F = (frequency_F >= band_hz[0]) & (frequency_F < band_hz[1]) & (frequency_F > 0)
    if not inside_F.any():
        raise ConfigError(
            f"features.eeg.connectivity_band: windows of {window / sampling_rate_hz:.3g} s, a quarter of a segment, "
            f"have no frequency from {band_hz[0]:g} to {band_hz[1]:g} Hz; lengthen segment_s or take another band"
        )
    hann_T = signal.windows.hann(window, sym=False).astype(np.float32)
    alike_SNN = np.empty((*signal_SNT.shape[:2], signal_SNT.shape[1]), dtype=np.float32)
    for segment, row_NT in enumerate(signal_SNT):
        # first the whole, then each window: the mean of a constant is not that constant to float32's last bit
        centred_NT = row_NT - row_NT.mean(-1, keepdims=True)
        view_NKT = np.lib.stride_tricks.sliding_window_view(centred_NT, window, axis=-1)[:, starts]
        spectra_NKF = fft.rfft((view_NKT - view_NKT.mean(-1, keepdims=True)) * hann_T)[..., inside_F]
        alike_SNN[segment] = estimate(spectra_NKF.transpose(2, 0, 1)).mean(0)
    return np.clip(alike_SNN, 0, 1)


def _coherency(x_FNK: Spectra) -> Spectra:
    """S_ij / sqrt(S_ii S_jj); 0 where an electrode has no power."""
    power_FN = (x_FNK.real**2 + x_FNK.imag**2).sum(-1)
    unit_FNK = x_FNK / np.sqrt(np.where(power_FN > 0, power_FN, 1))[..., None]
    coherency_FNN: Spectra = unit_FNK @ unit_FNK.conj().swapaxes(1, 2)
    return coherency_FNN


def _debiased(x_FNK: Spectra) -> Array:
    index_FNN = np.empty((*x_FNK.shape[:2], x_FNK.shape[1]), dtype=np.float32)
    size_FNK = np.abs(x_FNK)
    # all electrodes are brought to one size, so that a faint pair's squares do not underflow
    scale_FN1 = np.sqrt(np.maximum((size_FNK**2).mean(-1, keepdims=True), np.finfo(np.float32).tiny))
    for frequency, (x_NK, size_NK) in enumerate(zip(x_FNK / scale_FN1, size_FNK / scale_FN1, strict=True)):
        x_KN, size_KN = x_NK.T, size_NK.T
        lag_KNN = x_KN.imag[:, :, None] * x_KN.real[:, None] - x_KN.real[:, :, None] * x_KN.imag[:, None]
        lag_KNN[np.abs(lag_KNN) <= _NO_LAG * size_KN[:, :, None] * size_KN[:, None]] = 0
        square_NN = (lag_KNN**2).sum(0)
        weight_NN = np.abs(lag_KNN).sum(0) ** 2 - square_NN
        known_NN = weight_NN > 1e-6 * square_NN  # two windows at least
        index_FNN[frequency] = np.where(known_NN, lag_KNN.sum(0) ** 2 - square_NN, 0) / np.where(known_NN, weight_NN, 1)
    return index_FNN
