"""A lab's own script of the same preparation: MNE, librosa and SciPy, one recording a call, nothing of mmray's speed.

Which electrodes are bad is decided by mmray's own function on both sides, since no library does it without an extra.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmray.config import EEG, Audio
from mmray.features import cleaning
from mmray.features.eeg_nodes import BANDS_HZ

Array = NDArray[np.floating[Any]]


Graphs = tuple[NDArray[np.int64], Array, NDArray[np.int64], Array]


def eeg_features(path: str, settings: EEG) -> Graphs:
    """Number, node features, neighbours and weights of each segment kept of a MODMA rest file, as `extract` does it."""
    import mne
    import scipy.io

    held = scipy.io.loadmat(path)
    data_CT = next(value for value in held.values() if isinstance(value, np.ndarray) and value.shape[0] == 129)
    rate = float(held["samplingRate"].item())
    names = [f"E{number}" for number in range(1, 129)]
    raw = mne.io.RawArray(data_CT[:128] * settings.scale_to_volts, mne.create_info(names, rate, "eeg"), verbose="error")
    raw.set_montage(settings.montage, verbose="error")
    before_NT = raw.get_data()
    butterworth = {"order": 4, "ftype": "butter", "output": "sos"}
    edges = (settings.highpass_hz, settings.lowpass_hz)
    raw.filter(*edges, method="iir", iir_params=butterworth, verbose="error")
    raw.notch_filter(
        settings.line_hz, notch_widths=2.0, method="iir", iir_params=butterworth | {"order": 1}, verbose="error"
    )
    filtered_NT = (raw.get_data() * 1e6).astype(np.float32)
    why_N = cleaning.bad_channels(before_NT, filtered_NT, rate, [(0, raw.n_times)])
    raw.info["bads"] = [name for name, why in zip(names, why_N, strict=True) if why]
    raw.interpolate_bads(verbose="error")
    raw.set_eeg_reference("average", verbose="error")
    epochs = mne.make_fixed_length_epochs(raw, settings.segment_s, preload=True, verbose="error")
    data_SNT = epochs.get_data() * 1e6
    kept_S = np.median(np.ptp(data_SNT, axis=-1), axis=1) <= settings.reject_uv
    samples = data_SNT.shape[-1]
    spectrum = epochs.compute_psd(
        "welch",
        fmin=settings.highpass_hz,
        fmax=settings.lowpass_hz,
        n_fft=samples,
        n_per_seg=samples,
        n_overlap=0,
        window="hann",
        verbose="error",
    )
    power_SNF, frequency_F = spectrum.get_data(return_freqs=True)
    step = frequency_F[1] - frequency_F[0]
    columns = []
    for low, high in BANDS_HZ.values():
        inside_F = (frequency_F >= low) & (frequency_F < (high or settings.lowpass_hz))
        variance_SN = power_SNF[..., inside_F].sum(-1) * step * 1e12
        columns.append(0.5 * np.log(2 * np.pi * np.e * variance_SN))
    first_SNT = np.diff(data_SNT, axis=-1)
    activity_SN, slope_SN = data_SNT.var(-1), first_SNT.var(-1)
    mobility_SN = np.sqrt(slope_SN / activity_SN)
    complexity_SN = np.sqrt(np.diff(first_SNT, axis=-1).var(-1) / slope_SN) / mobility_SN
    columns += [np.log(activity_SN), mobility_SN * rate / (2 * np.pi), complexity_SN]
    x_SND = np.stack(columns, -1)[kept_S]
    alike_SNN = np.stack([np.abs(np.corrcoef(data_NT)) for data_NT in data_SNT[kept_S]])
    return np.flatnonzero(kept_S), x_SND, *_nearest(alike_SNN, settings.neighbours)


def audio_features(path: str, settings: Audio) -> Graphs:
    """Log-mel, MFCC, log F0 and log energy of a clip's nodes, with neighbours and weights; no harmonicity."""
    import librosa

    wave_T, rate = librosa.load(path, sr=settings.sampling_rate_hz, mono=True)
    wave_T, _ = librosa.effects.trim(wave_T, top_db=settings.trim_db or 60.0, frame_length=320, hop_length=160)
    power_F = librosa.feature.rms(y=wave_T, frame_length=160, hop_length=160, center=False)[0] ** 2
    wave_T = wave_T / np.sqrt(power_F[power_F >= power_F.max() / 1000].mean())
    segments = int((len(wave_T) + 2) // (settings.segment_s * rate))
    each = round(settings.segment_s / settings.nodes / 0.01)
    frames = segments * settings.nodes * each
    centre_F = np.rint((np.arange(frames) + 0.5) * settings.segment_s * rate * segments / frames).astype(int)
    power_BF = np.abs(np.fft.rfft(_frames(wave_T, centre_F, 512) * np.hanning(513)[:-1]).T) ** 2
    log_mel_MF = np.log(
        librosa.feature.melspectrogram(S=power_BF, sr=rate, n_mels=settings.mels) / np.square(np.hanning(513)).sum()
        + 1e-7
    )
    mfcc_CF = librosa.feature.mfcc(S=log_mel_MF, n_mfcc=settings.mfcc, norm="ortho")
    f0_F = librosa.yin(
        _frames(wave_T, centre_F, 1024),
        fmin=settings.f0_min_hz,
        fmax=settings.f0_max_hz,
        sr=rate,
        frame_length=1024,
        hop_length=1024,
        center=False,
    )[:, 0]
    energy_F = np.log(np.square(_frames(wave_T, centre_F, 512)).mean(1) + 1e-7)

    def of_nodes(value_XF: Array) -> Array:
        return value_XF.reshape(-1, segments, settings.nodes, each).transpose(1, 2, 3, 0)

    columns = [of_nodes(log_mel_MF).mean(2), of_nodes(mfcc_CF).mean(2), of_nodes(mfcc_CF).std(2)]
    columns += [np.median(of_nodes(np.log2(f0_F / 150)), 2), of_nodes(energy_F).mean(2)]
    x_SND = np.concatenate(columns, -1)
    return np.arange(segments), x_SND, *_nearest(np.stack([_cosine(x_ND) for x_ND in x_SND]), settings.neighbours)


def _frames(wave_T: Array, centre_F: NDArray[np.int64], length: int) -> Array:
    padded_T = np.pad(wave_T, length)
    frames_FT: Array = np.stack([padded_T[centre + length - length // 2 :][:length] for centre in centre_F])
    return frames_FT


def _cosine(x_ND: Array) -> Array:
    from sklearn.metrics.pairwise import cosine_similarity
    from sklearn.preprocessing import StandardScaler

    alike_NN: Array = np.maximum(cosine_similarity(StandardScaler().fit_transform(x_ND)), 0)
    return alike_NN


def _nearest(alike_SNN: Array, k: int) -> tuple[NDArray[np.int64], Array]:
    nodes = np.arange(alike_SNN.shape[1])
    alike_SNN[:, nodes, nodes] = -1
    neighbour_SNK = np.argsort(-alike_SNN, axis=-1)[..., :k]
    return neighbour_SNK, np.take_along_axis(alike_SNN, neighbour_SNK, -1)
