"""Analysis frames of a voice to node features, one node a time frame: the families of `features.audio.families`.

A node is segment_s / nodes long and pools the analysis frames in it. docs/features.md lists every name with its unit,
formula and source.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage, signal

from mmray.config import Audio
from mmray.errors import ConfigError
from mmray.features.audio import Frames

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

EGEMAPS = (
    *("Loudness", "alphaRatio", "hammarbergIndex", "slope0-500", "slope500-1500", "spectralFlux"),
    *("mfcc1", "mfcc2", "mfcc3", "mfcc4"),
    *("F0semitoneFrom27.5Hz", "jitterLocal", "shimmerLocaldB", "HNRdBACF", "logRelF0-H1-H2", "logRelF0-H1-A3"),
    *(f"F{formant}{kind}" for formant in (1, 2, 3) for kind in ("frequency", "bandwidth", "amplitudeLogRelF0")),
)
_VOICED_ONLY = 10  # from here on openSMILE gives 0 where there is no pitch
_EGEMAPS_LEVEL = 0.05  # -26 dB of full scale, as speech is conventionally shown; openSMILE clips peaks beyond it

_PAUSE_DB = 25.0  # below the clip's loudness
_DIP_DB = 2.0
_SMOOTH_S = 0.05
_RATE_WINDOW_S = 1.0
_DB = 10 / np.log(10)  # of a natural log of power


def names(config: Audio) -> tuple[str, ...]:
    """What each feature of a node is, in order."""
    found: list[str] = []
    for family in config.families:
        match family:
            case "log_mel":
                found += [f"log_mel_{number:02d}" for number in range(config.mels)]
            case "mfcc":
                found += [f"mfcc_{number:02d}_{kind}" for kind in ("mean", "sd") for number in range(config.mfcc)]
            case "pitch":
                found += ["log_f0"]
            case "harmonicity":
                found += ["harmonicity"]
            case "energy":
                found += ["log_energy"]
            case "envelope":
                found += ["envelope"]
            case "prosody":
                found += ["syllable_rate", "pause_fraction", "f0_slope", "f0_range", "frame_jitter", "frame_shimmer"]
            case "egemaps":
                found += [f"egemaps_{name}" for name in EGEMAPS]
    return tuple(found)


def width(config: Audio) -> int:
    """Features a node."""
    return len(names(config))


def node_features(frames: Frames, signal_ST: Array, config: Audio) -> Array:
    """Pool analysis frames into nodes, S x N x width in the order of `names`.

    Args:
        frames: of the clip's segments.
        signal_ST: these segments themselves, at unit loudness.
    """
    parts: list[Array] = []
    for family in config.families:
        match family:
            case "log_mel":
                parts.append(frames.log_mel_SNJM.mean(2))
            case "mfcc":
                # Davis & Mermelstein 1980: orthonormal DCT-II of the log-mel spectrum
                mfcc_SNJC = fft.dct(frames.log_mel_SNJM, axis=-1, norm="ortho")[..., : config.mfcc]
                parts += [mfcc_SNJC.mean(2), mfcc_SNJC.std(2)]
            case "pitch":
                parts.append(_median_where(frames.log_f0_SNJ, frames.voiced_SNJ)[..., None])
            case "harmonicity":
                parts.append(frames.harmonicity_SNJ.mean(2)[..., None])
            case "energy":
                parts.append(frames.energy_SNJ.mean(2)[..., None])
            case "envelope":
                parts.append(np.exp(frames.energy_SNJ / 2).mean(2)[..., None])
            case "prosody":
                parts.append(prosody(frames, config))
            case "egemaps":
                parts.append(egemaps(signal_ST, config))
    return np.concatenate(parts, axis=-1).astype(np.float32, copy=False)


def _median_where(value_SNJ: Array, mask_SNJ: Mask) -> Array:
    """Median over the last axis of what the mask keeps (the lower one of two), 0 where it keeps nothing."""
    ordered_SNJ = np.sort(np.where(mask_SNJ, value_SNJ, np.inf), axis=-1)
    kept_SN = mask_SNJ.sum(-1)
    middle_SN1 = np.maximum(kept_SN - 1, 0)[..., None] // 2
    median_SN = np.take_along_axis(ordered_SNJ, middle_SN1, axis=-1)[..., 0]
    return np.where(kept_SN > 0, median_SN, 0).astype(np.float32)


def prosody(frames: Frames, config: Audio) -> Array:
    """Syllables a second, pause fraction, slope and range of F0, jitter and shimmer of each node, S x N x 6.

    Jitter and shimmer compare neighbouring analysis frames, not glottal cycles, and take a glide for some jitter: they
    are proxies; egemaps has the cycles' own. Where too few frames have a pitch (one for the range, two in a row for
    jitter and shimmer, three for the slope), the value is 0.
    """
    step_s = config.segment_s / (config.nodes * frames.energy_SNJ.shape[2])
    voiced_SNJ, log_f0_SNJ = frames.voiced_SNJ, frames.log_f0_SNJ
    pause_SN = (frames.energy_SNJ < -_PAUSE_DB / _DB).mean(2)
    highest_SN = np.where(voiced_SNJ, log_f0_SNJ, -np.inf).max(2)
    lowest_SN = np.where(voiced_SNJ, log_f0_SNJ, np.inf).min(2)
    range_SN = np.where(voiced_SNJ.any(2), highest_SN - lowest_SN, 0)
    pair_SNI = voiced_SNJ[..., 1:] & voiced_SNJ[..., :-1]
    pairs_SN = np.maximum(pair_SNI.sum(2), 1)
    period_SNJ = np.exp2(-log_f0_SNJ)
    moved_SN = (np.abs(np.diff(period_SNJ)) * pair_SNI).sum(2) / pairs_SN
    typical_SN = np.where(voiced_SNJ, period_SNJ, 0).sum(2) / np.maximum(voiced_SNJ.sum(2), 1)
    jitter_SN = moved_SN / np.where(typical_SN > 0, typical_SN, 1)
    shimmer_SN = _DB * (np.abs(np.diff(frames.energy_SNJ)) * pair_SNI).sum(2) / pairs_SN
    rate_SN = syllable_rate(frames, step_s)
    slope_SN = _slope(log_f0_SNJ, voiced_SNJ) / step_s
    told = [rate_SN, pause_SN, slope_SN, range_SN, jitter_SN, shimmer_SN]
    return np.stack(told, axis=-1).astype(np.float32)


def _slope(value_SNJ: Array, mask_SNJ: Mask) -> Array:
    """Least-squares slope a frame over what the mask keeps; 0 where that is fewer than three."""
    kept_SN1 = np.maximum(mask_SNJ.sum(2, keepdims=True), 1)
    time_SNJ = np.broadcast_to(np.arange(value_SNJ.shape[2], dtype=np.float32), value_SNJ.shape)
    time_SNJ = np.where(mask_SNJ, time_SNJ - (time_SNJ * mask_SNJ).sum(2, keepdims=True) / kept_SN1, 0)
    spread_SN = (time_SNJ**2).sum(2)
    slope_SN: Array = (time_SNJ * value_SNJ).sum(2) / np.where(spread_SN > 0, spread_SN, 1)
    return np.where(mask_SNJ.sum(2) >= 3, slope_SN, 0)


def syllable_rate(frames: Frames, step_s: float) -> Array:
    """Syllable nuclei a second in the second around each node, as far as it lies in the segment, S x N.

    A nucleus is a peak of the energy, smoothed over 50 ms, that is voiced, no pause, and 2 dB above the dips beside it
    (after de Jong & Wempe 2009, doi 10.3758/BRM.41.2.385).
    """
    segments, nodes, per_node = frames.energy_SNJ.shape
    level_SF = _DB * frames.energy_SNJ.reshape(segments, -1)
    level_SF = ndimage.uniform_filter1d(level_SF, max(1, round(_SMOOTH_S / step_s)), axis=1, mode="nearest")
    nucleus_SF = np.zeros(level_SF.shape)
    for segment, level_F in enumerate(level_SF):
        nucleus_SF[segment, signal.find_peaks(level_F, height=-_PAUSE_DB, prominence=_DIP_DB)[0]] = 1
    nucleus_SF *= frames.voiced_SNJ.reshape(segments, -1)
    before_SF = np.concatenate([np.zeros((segments, 1)), nucleus_SF.cumsum(1)], axis=1)
    centre_N = (np.arange(nodes) + 0.5) * per_node
    half = 0.5 * _RATE_WINDOW_S / step_s
    first_N = np.maximum(np.rint(centre_N - half), 0).astype(np.int64)
    last_N = np.minimum(np.rint(centre_N + half), nodes * per_node).astype(np.int64)
    rate_SN: Array = (before_SF[:, last_N] - before_SF[:, first_N]) / ((last_N - first_N) * step_s)
    return rate_SN


def egemaps(signal_ST: Array, config: Audio) -> Array:
    """The 25 low-level descriptors of eGeMAPSv02 by openSMILE, pooled by node, S x N x 25.

    Eyben et al. 2016, doi 10.1109/TAFFC.2015.2457417. The mean over a node's frames; of what only a pitch has, over its
    frames with a pitch, 0 without one. A node shorter than openSMILE's step takes the nearest frame. `require_packages`
    says whether openSMILE is there.

    Args:
        signal_ST: segments at unit loudness.
    """
    node_s = config.segment_s / config.nodes
    pooled_SNL = np.empty((len(signal_ST), config.nodes, len(EGEMAPS)), dtype=np.float32)
    for segment, signal_T in enumerate(signal_ST):
        table = _smile().process_signal(_EGEMAPS_LEVEL * signal_T, config.sampling_rate_hz)
        value_FL = table.to_numpy(dtype=np.float32)
        start_F, end_F = (table.index.get_level_values(name).total_seconds().to_numpy() for name in ("start", "end"))
        pooled_SNL[segment] = _by_node(value_FL, (start_F + end_F) / (2 * node_s), config.nodes)
    return pooled_SNL


def _by_node(value_FL: Array, place_F: NDArray[np.float64], nodes: int) -> Array:
    """Frames averaged node by node; place_F says where in units of a node each lies."""
    node_F = np.clip(place_F.astype(np.int64), 0, nodes - 1)
    heard_FL = np.ones(value_FL.shape, dtype=bool)
    heard_FL[:, _VOICED_ONLY:] = value_FL[:, _VOICED_ONLY:] != 0
    total_NL, heard_NL = np.zeros((nodes, value_FL.shape[1])), np.zeros((nodes, value_FL.shape[1]))
    np.add.at(total_NL, node_F, np.where(heard_FL, value_FL, 0))
    np.add.at(heard_NL, node_F, heard_FL)
    pooled_NL = (total_NL / np.maximum(heard_NL, 1)).astype(np.float32)
    empty_E = np.setdiff1d(np.arange(nodes), node_F)
    pooled_NL[empty_E] = value_FL[np.abs(place_F[None] - (empty_E[:, None] + 0.5)).argmin(1)]
    return pooled_NL


def require_packages(config: Audio) -> None:
    """Raise ConfigError where a family needs a package that is not installed; nothing is imported."""
    if not config.encoder and "egemaps" in config.families and importlib.util.find_spec("opensmile") is None:
        raise ConfigError(
            "features.audio.families: egemaps needs the package opensmile, which is not installed here; "
            "pip install 'mmray[opensmile]' on every node, or leave it out"
        )


@cache
def _smile() -> Any:
    import opensmile

    level = opensmile.FeatureLevel.LowLevelDescriptors
    return opensmile.Smile(feature_set=opensmile.FeatureSet.eGeMAPSv02, feature_level=level)
