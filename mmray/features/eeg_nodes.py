"""Clean EEG segments to node features, one node an electrode: the families of `features.eeg.families`, side by side.

docs/features.md lists every name with its unit, formula and source.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

from mmray.config import EEG, Band
from mmray.errors import ConfigError, RecordingError
from mmray.features import eeg

Array = NDArray[np.float32]

# Hz; the last band ends at the low-pass
BANDS_HZ: dict[Band, tuple[float, float | None]] = {
    "delta": (0.5, 4.0),
    "theta": (4.0, 8.0),
    "alpha": (8.0, 13.0),
    "beta": (13.0, 30.0),
    "gamma": (30.0, None),
}

_SEGMENTS = 4
_FROM_BANDS = {"differential_entropy", "absolute_power", "relative_power", "asymmetry"}
_VARIANCE_FLOOR_UV2 = 1e-4
_MIRRORED = 0.1  # of the head's radius: nearer than this to a mirror image is a pair; montages of real heads need 0.025
_APERIODIC_WINDOW_S = 2.0
_ALPHA_PEAK_HZ = (7.0, 14.0)  # left out of the line; individual alpha lies inside
_FEWEST_BINS = 8
_TUKEY = 4.685  # 95 % as efficient as least squares on normal residuals
_FIT_ROUNDS = 10


def names(config: EEG) -> tuple[str, ...]:
    """What each feature of a node is, in order."""
    found: list[str] = []
    for family in config.families:
        match family:
            case "differential_entropy":
                found += [f"de_{band}" for band in BANDS_HZ]
            case "hjorth":
                found += ["log_activity", "mobility_hz", "complexity"]
            case "absolute_power":
                found += [f"power_{band}" for band in BANDS_HZ]
            case "relative_power":
                found += [f"relative_{band}" for band in BANDS_HZ]
            case "aperiodic":
                found += ["aperiodic_offset", "aperiodic_exponent"]
            case "asymmetry":
                found += ["alpha_asymmetry"]
            case "waveform":
                found += [
                    f"sample_{number:03d}" for number in range(max(1, round(config.segment_s * config.waveform_hz)))
                ]
    return tuple(found)


def width(config: EEG) -> int:
    """Features a node."""
    return len(names(config))


def node_features(signal_SNT: Array, sampling_rate_hz: float, config: EEG) -> Array:
    """Features of each electrode in each segment, S x N x width, in the order of `names`.

    Args:
        signal_SNT: microvolts, band-passed and re-referenced; all of a recording, since waveforms share one scale.

    Raises:
        ConfigError: a family cannot be had of segments this long, of this pass-band or of this montage.
        RecordingError: the recording is slower than its waveforms should be.
    """
    if config.families == ("waveform",):
        return waveform(signal_SNT, sampling_rate_hz, config)
    # a few segments at a time stay in a core's own memory, which halves what they cost
    some = range(0, len(signal_SNT), _SEGMENTS)
    return np.concatenate([_features(signal_SNT[n : n + _SEGMENTS], sampling_rate_hz, config) for n in some])


def _features(signal_SNT: Array, sampling_rate_hz: float, config: EEG) -> Array:
    bands_SNB = band_power(signal_SNT, sampling_rate_hz, config) if _FROM_BANDS & set(config.families) else None
    parts: list[Array] = []
    for family in config.families:
        if family == "hjorth":
            parts.append(hjorth(signal_SNT, sampling_rate_hz))
        elif family == "aperiodic":
            parts.append(aperiodic(signal_SNT, sampling_rate_hz, config))
        elif bands_SNB is not None:
            parts.append(_of_bands(family, bands_SNB, config))
    return np.concatenate(parts, axis=-1).astype(np.float32, copy=False)


def _of_bands(family: str, bands_SNB: Array, config: EEG) -> Array:
    floored_SNB = np.maximum(bands_SNB, _VARIANCE_FLOOR_UV2)
    match family:
        case "differential_entropy":
            # of a normal variable with this variance (Duan, Zhu & Lu 2013, doi 10.1109/NER.2013.6695876)
            return (0.5 * np.log(2 * np.pi * np.e * floored_SNB)).astype(np.float32, copy=False)
        case "absolute_power":
            return bands_SNB
        case "relative_power":
            share_SNB: Array = floored_SNB / floored_SNB.sum(-1, keepdims=True)
            return share_SNB
        case _:
            position_N3 = eeg.positions(config.montage, eeg.node_names(config))
            return asymmetry(floored_SNB[..., list(BANDS_HZ).index("alpha")], position_N3)[..., None]


def band_hz(band: Band | None, config: EEG) -> tuple[float, float]:
    """[low, high) of a band inside the pass-band, Hz; of the whole pass-band for None."""
    low, high = BANDS_HZ[band] if band else (0, None)
    return max(low, config.highpass_hz), min(high or config.lowpass_hz, config.lowpass_hz)


def band_power(signal_SNT: Array, sampling_rate_hz: float, config: EEG) -> Array:
    """Variance of each band of BANDS_HZ from a Hann-windowed periodogram, S x N x 5, uV^2.

    Raises:
        ConfigError: a band has no frequency bin at this segment length.
    """
    samples = signal_SNT.shape[-1]
    frequency_F = fft.rfftfreq(samples, 1 / sampling_rate_hz)
    window_T = signal.windows.hann(samples, sym=False).astype(np.float32)
    spectrum_SNF = fft.rfft((signal_SNT - signal_SNT.mean(-1, keepdims=True)) * window_T)
    # one-sided density times bin width: bins sum to the variance
    power_SNF = (spectrum_SNF.real**2 + spectrum_SNF.imag**2) * (2 / (samples * float((window_T**2).sum())))
    powers = []
    for band in BANDS_HZ:
        low, high = band_hz(band, config)
        inside_F = (frequency_F >= low) & (frequency_F < high)
        if not inside_F.any():
            raise ConfigError(
                f"features.eeg: the {band} band holds no frequency of a {config.segment_s:g} s segment between "
                f"{config.highpass_hz:g} and {config.lowpass_hz:g} Hz; lengthen segment_s or widen the pass-band"
            )
        powers.append(power_SNF[..., inside_F].sum(-1))
    return np.stack(powers, axis=-1)


def hjorth(signal_SNT: Array, sampling_rate_hz: float) -> Array:
    """Log activity (uV^2), mobility (Hz) and complexity of each electrode, S x N x 3 (Hjorth 1970).

    doi 10.1016/0013-4694(70)90143-4. Derivatives are first differences. Mobility is stated in Hz: a sine's is its
    frequency.
    """
    first_SNT = np.diff(signal_SNT, axis=-1)
    activity_SN = np.maximum(signal_SNT.var(-1), _VARIANCE_FLOOR_UV2)
    slope_SN = np.maximum(first_SNT.var(-1), 1e-9)
    bend_SN = np.diff(first_SNT, axis=-1).var(-1)
    mobility_SN = np.sqrt(slope_SN / activity_SN)
    complexity_SN = np.sqrt(bend_SN / slope_SN) / mobility_SN
    mobility_hz_SN = mobility_SN * sampling_rate_hz / (2 * np.pi)
    return np.stack([np.log(activity_SN), mobility_hz_SN, complexity_SN], axis=-1)


def aperiodic(signal_SNT: Array, sampling_rate_hz: float, config: EEG) -> Array:
    """Offset and exponent of the 1/f background of each electrode, S x N x 2.

    log10 P(f) = offset - exponent log10 f, by `robust_line` over a Welch spectrum (Hann windows of 2 s or the segment,
    half overlapping) from 2 Hz, or twice the high-pass, to three quarters of the low-pass, where the filter takes less
    than a fifth; 7 to 14 Hz, where the alpha peak is, are left out. The idea is that of Donoghue et al. 2020 (doi
    10.1038/s41593-020-00744-x), the fit plainer: other peaks are outliers of the line, and are not modelled.

    Raises:
        ConfigError: fewer than eight frequencies are left.
    """
    window = min(signal_SNT.shape[-1], round(_APERIODIC_WINDOW_S * sampling_rate_hz))
    frequency_F = fft.rfftfreq(window, 1 / sampling_rate_hz)
    inside_F = (frequency_F >= max(2.0, 2 * config.highpass_hz)) & (frequency_F <= 0.75 * config.lowpass_hz)
    inside_F &= (frequency_F < _ALPHA_PEAK_HZ[0]) | (frequency_F > _ALPHA_PEAK_HZ[1])
    if inside_F.sum() < _FEWEST_BINS:
        raise ConfigError(
            f"features.eeg.families: aperiodic has {inside_F.sum()} frequencies of a {config.segment_s:g} s segment to "
            f"fit a line to, and needs {_FEWEST_BINS}; lengthen segment_s or widen the pass-band"
        )
    hann_T = signal.windows.hann(window, sym=False).astype(np.float32)
    power_SNF = np.zeros((*signal_SNT.shape[:2], int(inside_F.sum())), dtype=np.float32)
    starts = range(0, signal_SNT.shape[-1] - window + 1, max(1, window // 2))
    for start in starts:
        part_SNT = signal_SNT[..., start : start + window]
        spectrum_SNF = fft.rfft((part_SNT - part_SNT.mean(-1, keepdims=True)) * hann_T)[..., inside_F]
        power_SNF += spectrum_SNF.real**2 + spectrum_SNF.imag**2
    power_SNF *= 2 / (len(starts) * sampling_rate_hz * float((hann_T**2).sum()))
    log_f_F = np.log10(frequency_F[inside_F]).astype(np.float32)
    offset_SN, slope_SN = robust_line(log_f_F, np.log10(np.maximum(power_SNF, 1e-8)))
    return np.stack([offset_SN, -slope_SN], axis=-1)


def robust_line(x_F: Array, y_SNF: Array) -> tuple[Array, Array]:
    """Intercept and slope of a line through each row, by Tukey's bisquare in ten reweighted rounds.

    From least squares on; a residual weighs (1 - (r / 4.685 s)^2)^2, and nothing beyond, s being 1.4826 median |r|.
    """
    weight_SNF = np.ones_like(y_SNF)
    for _ in range(_FIT_ROUNDS):
        total_SN = weight_SNF.sum(-1)
        x_mean_SN = (weight_SNF * x_F).sum(-1) / total_SN
        y_mean_SN = (weight_SNF * y_SNF).sum(-1) / total_SN
        x_SNF = x_F - x_mean_SN[..., None]
        slope_SN = (weight_SNF * x_SNF * y_SNF).sum(-1) / (weight_SNF * x_SNF**2).sum(-1)
        residual_SNF = y_SNF - y_mean_SN[..., None] - slope_SN[..., None] * x_SNF
        scale_SN = np.maximum(1.4826 * np.median(np.abs(residual_SNF), axis=-1), 1e-4)
        weight_SNF = np.maximum(1 - (residual_SNF / (_TUKEY * scale_SN[..., None])) ** 2, 0) ** 2
    return y_mean_SN - slope_SN * x_mean_SN, slope_SN


def asymmetry(alpha_SN: Array, position_N3: NDArray[np.float64]) -> Array:
    """Log alpha power of the right electrode of each pair less the left's, at both of them; 0 without a pair, S x N.

    Frontal pairs' are the field's index of approach and withdrawal (Coan & Allen 2004, doi
    10.1016/j.biopsycho.2004.03.002); here every pair of the montage has its own.

    Args:
        alpha_SN: alpha variance, uV^2, above 0.

    Raises:
        ConfigError: no two electrodes are mirror images.
    """
    partner_N = homologues(position_N3)
    if (partner_N == np.arange(len(partner_N))).all():
        raise ConfigError(
            "features.eeg.families: asymmetry needs two electrodes that mirror each other, left and right"
        )
    log_SN = np.log(alpha_SN)
    side_N = np.sign(position_N3[:, 0] - position_N3[partner_N, 0]).astype(np.float32)
    difference_SN: Array = side_N * (log_SN - log_SN[:, partner_N])
    return difference_SN


def homologues(position_N3: NDArray[np.float64]) -> NDArray[np.int64]:
    """Each electrode's partner across the midline, N; itself where it has none, as on the midline.

    Two are a pair if each is the other's nearest after mirroring left and right, seen from the head's centre, to within
    a tenth of the radius.

    Args:
        position_N3: x to the right ear, as mne's montages.
    """
    own_N = np.arange(len(position_N3))
    # through three there is no one sphere; montages are centred near enough
    direction_N3 = position_N3 - (eeg.sphere_centre(position_N3) if len(position_N3) > 3 else 0)
    direction_N3 = direction_N3 / np.linalg.norm(direction_N3, axis=1, keepdims=True)
    distance_NN = np.linalg.norm(direction_N3[:, None] * [-1, 1, 1] - direction_N3[None], axis=-1)
    nearest_N = distance_NN.argmin(1)
    paired_N = (nearest_N[nearest_N] == own_N) & (distance_NN[own_N, nearest_N] < _MIRRORED)
    return np.where(paired_N, nearest_N, own_N)


def waveform(signal_SNT: Array, sampling_rate_hz: float, config: EEG) -> Array:
    """Each electrode's own samples at features.eeg.waveform_hz, S x N x width, in SD of the recording.

    Resampled by a polyphase filter that cuts off above half of waveform_hz. One scale a recording, 1.4826 median |x|
    over all its segments and electrodes, so that what is louder where and when stays.

    Raises:
        RecordingError: the recording has fewer samples a second.
    """
    if sampling_rate_hz < config.waveform_hz:
        raise RecordingError(
            f"sampled at {sampling_rate_hz:g} Hz, below features.eeg.waveform_hz={config.waveform_hz:g}; lower that"
        )
    ratio = Fraction(config.waveform_hz / sampling_rate_hz).limit_denominator(1000)
    samples_SNT = signal_SNT
    if ratio != 1:
        samples_SNT = signal.resample_poly(signal_SNT, ratio.numerator, ratio.denominator, axis=-1, padtype="line")
    samples_SNT = samples_SNT[..., : width(config)]
    scale = 1.4826 * float(np.median(np.abs(samples_SNT)))
    scaled_SNT: Array = (samples_SNT / max(scale, 1e-3)).astype(np.float32, copy=False)
    return scaled_SNT
