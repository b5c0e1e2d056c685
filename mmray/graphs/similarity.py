"""How alike the nodes of a segment are, and each node's nearest neighbours. Batched over S segments; numpy alone.

Every similarity is symmetric and lies in [0, 1]: a negative weight has no square-root degree (eq. 1). The correlation
of two electrodes enters as |r|, since its sign turns with the dipole's orientation; that of two feature vectors enters
as max(r, 0), since opposite features are not alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from mmray.errors import ConfigError
from mmray.graphs import connectivity

Array = NDArray[np.float32]

_SEGMENTS = 4  # worked on at once, where a copy of all would be large


def similarity(
    kind: str,
    features_SND: Array,
    signal_SNT: Array | None = None,
    position_NX: NDArray[np.floating[Any]] | None = None,
    sampling_rate_hz: float | None = None,
    band_hz: tuple[float, float] | None = None,
) -> Array:
    """Similarity of the nodes of each segment, by the name it has in the config.

    Args:
        kind: cosine and euclidean compare node features, each standardised over the segment's nodes so that none rules
            by its unit; pearson and phase_locking compare the nodes' time series where there are any (pearson falls
            back on node features); so do coherence, imaginary_coherence and wpli, in a band of frequencies; distance
            compares positions.
        features_SND: node features.
        signal_SNT: band-passed time series of the nodes.
        position_NX: coordinates of the nodes.
        sampling_rate_hz: of the time series.
        band_hz: [low, high) of what is compared by frequency.

    Raises:
        ConfigError: the kind needs time series or positions that these nodes do not have, or is not known.
    """
    if kind == "cosine":
        return np.maximum(cosine(standardise_nodes(features_SND)), 0)
    if kind == "euclidean":
        return gaussian_kernel(standardise_nodes(features_SND))
    if kind == "pearson" and signal_SNT is not None:
        return np.abs(pearson(signal_SNT))
    if kind == "pearson":
        return np.maximum(pearson(standardise_nodes(features_SND)), 0)
    if kind == "phase_locking" and signal_SNT is not None:
        return phase_locking_value(signal_SNT)
    if signal_SNT is not None and sampling_rate_hz is not None and band_hz is not None:
        if kind == "coherence":
            return connectivity.coherence(signal_SNT, sampling_rate_hz, band_hz)
        if kind == "imaginary_coherence":
            return connectivity.imaginary_coherence(signal_SNT, sampling_rate_hz, band_hz)
        if kind == "wpli":
            return connectivity.wpli(signal_SNT, sampling_rate_hz, band_hz)
    if kind == "distance" and position_NX is not None:
        scaled_NX = position_NX / np.abs(position_NX).max()
        kernel_NN = gaussian_kernel(scaled_NX[None].astype(np.float32))[0]
        return np.broadcast_to(kernel_NN, (len(features_SND), *kernel_NN.shape))
    raise ConfigError(f"similarity: {kind!r} is not known, or these nodes have no time series or positions for it")


def standardise_nodes(x_SND: Array) -> Array:
    """Zero mean and unit SD of each feature over the nodes of its segment; a constant feature becomes 0."""
    centred_SND = x_SND - x_SND.mean(1, keepdims=True)
    sd_S1D = centred_SND.std(1, keepdims=True)
    constant_S1D = sd_S1D <= 1e-6 * np.abs(x_SND).max(1, keepdims=True)
    return np.where(constant_S1D, 0, centred_SND / np.where(constant_S1D, 1, sd_S1D)).astype(np.float32)


def cosine(x_SND: Array) -> Array:
    """Eq. 5 for every pair of nodes, in [-1, 1]; a zero vector is like nothing, and 0 to itself."""
    norm_SN1 = np.linalg.norm(x_SND, axis=-1, keepdims=True)
    unit_SND = (x_SND / np.where(norm_SN1 > 0, norm_SN1, 1)).astype(np.float32)
    cosine_SNN: Array = np.clip(unit_SND @ unit_SND.swapaxes(1, 2), -1, 1)
    return cosine_SNN


def pearson(x_SND: Array) -> Array:
    """Pearson's r of every pair of rows, in [-1, 1]; a constant row correlates 0 with everything."""
    r_SNN = np.empty((*x_SND.shape[:2], x_SND.shape[1]), dtype=np.float32)
    for first in range(0, len(x_SND), _SEGMENTS):  # copies that fit into a core's own memory
        some = slice(first, first + _SEGMENTS)
        centred_SND = x_SND[some] - x_SND[some].mean(-1, keepdims=True)
        flat_SN = np.abs(centred_SND).max(-1) <= 1e-6 * np.abs(x_SND[some]).max(-1)
        centred_SND[flat_SN] = 0
        r_SNN[some] = cosine(centred_SND)
    return r_SNN


def gaussian_kernel(x_SND: Array) -> Array:
    """exp(-d^2 / (2 h^2)) of Euclidean distances d; h is each segment's median distance between distinct nodes."""
    nodes = x_SND.shape[1]
    x_SND = x_SND - x_SND.mean(1, keepdims=True)
    square_SN = np.einsum("snd,snd->sn", x_SND, x_SND)
    gram_SNN = x_SND @ x_SND.swapaxes(1, 2)
    distance2_SNN = np.maximum(square_SN[:, :, None] + square_SN[:, None, :] - 2 * gram_SNN, 0)
    distance2_SNN[:, np.arange(nodes), np.arange(nodes)] = 0
    upper = np.triu_indices(nodes, 1)
    median_S = np.median(np.sqrt(distance2_SNN[:, *upper]), axis=1)
    bandwidth2_S = np.where(median_S > 0, median_S, 1) ** 2
    kernel_SNN: Array = np.exp(-distance2_SNN / (2 * bandwidth2_S[:, None, None])).astype(np.float32)
    return kernel_SNN


def phase_locking_value(signal_SNT: Array) -> Array:
    """|mean over time of exp(i (phi_a - phi_b))|, the phases from the analytic signal.

    Lachaux et al. 1999, doi 10.1002/(SICI)1097-0193(1999)8:4<194::AID-HBM4>3.0.CO;2-C. A silent row locks to nothing.
    Over all that the rows hold, which for electrodes is the whole pass-band, whatever `connectivity_band` says.
    """
    samples = signal_SNT.shape[-1]
    gain_T = np.zeros(samples, dtype=np.float32)
    gain_T[0] = 1
    gain_T[1 : (samples + 1) // 2] = 2
    if samples % 2 == 0:
        gain_T[samples // 2] = 1
    locking_SNN = np.empty((*signal_SNT.shape[:2], signal_SNT.shape[1]), dtype=np.float32)
    for segment, signal_NT in enumerate(signal_SNT):  # one at a time: the complex copy of a recording is large
        analytic_NT = fft.ifft(fft.fft(signal_NT) * gain_T)
        size_NT = np.abs(analytic_NT)
        unit_NT = analytic_NT / np.where(size_NT > 0, size_NT, 1)
        locking_SNN[segment] = np.abs(unit_NT @ unit_NT.conj().T) / samples
    return np.clip(locking_SNN, 0, 1)


def top_k(similarity_SNN: Array, k: int) -> tuple[NDArray[np.int16], Array]:
    """The k most similar other nodes of each node, most similar first; a tie goes to the lower index.

    Returns:
        neighbour_SNK int16 and weight_SNK float32 in [0, 1].

    Raises:
        ConfigError: there are not k other nodes.
    """
    nodes = similarity_SNN.shape[-1]
    if k >= nodes:
        raise ConfigError(
            f"features: neighbours={k} needs more than {k} nodes; there are {nodes}, so take at most {nodes - 1}"
        )
    descending_SNN = -np.nan_to_num(similarity_SNN, nan=0.0)
    descending_SNN[:, np.arange(nodes), np.arange(nodes)] = np.inf
    neighbour_SNK = np.argsort(descending_SNN, axis=-1, kind="stable")[..., :k]
    weight_SNK = -np.take_along_axis(descending_SNN, neighbour_SNK, axis=-1)
    return neighbour_SNK.astype(np.int16), np.clip(weight_SNK, 0, 1).astype(np.float32)
