"""Two repairs that libraries do, each behind an extra: eye and muscle components, and segments judged sensor by sensor.

Both see one recording alone, so nothing of one person reaches another.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmray.errors import ConfigError, RecordingError
from mmray.features.eeg import Array, Spans

if TYPE_CHECKING:
    import mne

_COMPONENTS = 30  # at most; more take minutes, and what they hold is small
_SURE = 0.8  # probability from which a component counts as what ICLabel calls it
_BRAIN = {"brain", "other"}
_SEED = 97


def remove_components(
    filtered_NT: Array,
    bad_N: NDArray[np.bool_],
    sampling_rate_hz: float,
    spans: Spans,
    position_N3: NDArray[np.float64],
) -> tuple[Array, tuple[str, ...]]:
    """Subtract the independent components that ICLabel takes for eye, muscle, heart, mains or channel noise.

    Extended infomax (Lee, Girolami & Sejnowski 1999) by Picard (Ablin et al. 2018, doi 10.1109/TSP.2018.2844203) on the
    average of the good electrodes, labelled by ICLabel (Pion-Tonachini et al. 2019,
    doi 10.1016/j.neuroimage.2019.05.026), which was trained on 1 to 100 Hz: a narrower pass-band makes its muscle label
    less sure.

    Args:
        filtered_NT: microvolts; rows of bad electrodes are left as they are.
        position_N3: metres.

    Returns:
        The signal, and the labels of what was taken out, as "eye blink".

    Raises:
        ConfigError: the extra [ica] is not installed.
        RecordingError: there is too little signal to part into components.
    """
    try:
        from mne_icalabel import label_components
    except ImportError as error:
        raise ConfigError("features.eeg.ica needs the extra: pip install 'mmray[ica]'") from error
    import mne

    good = np.flatnonzero(~bad_N)
    samples = np.concatenate([np.arange(*span) for span in spans]) if spans else np.zeros(0, dtype=int)
    components = min(_COMPONENTS, len(good) - 1)
    if components < 2 or len(samples) < 20 * components**2:
        raise RecordingError(
            f"{len(good)} good electrodes and {len(samples) / sampling_rate_hz:.0f} s are too little for "
            "features.eeg.ica"
        )
    raw = mne.io.RawArray(
        filtered_NT[np.ix_(good, samples)].astype(np.float64) * 1e-6,
        _info(len(good), sampling_rate_hz, position_N3[good]),
        verbose="error",
    )
    raw.set_eeg_reference("average", verbose="error")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of the pass-band, which the docstring tells of
        ica = mne.preprocessing.ICA(
            components,
            method="picard",
            fit_params={"ortho": False, "extended": True, "tol": 1e-5},  # extended infomax; Gaussian ones never settle
            random_state=_SEED,
            verbose="error",
        ).fit(raw, verbose="error")
        told = label_components(raw, ica, method="iclabel")
    sure = zip(told["labels"], told["y_pred_proba"], strict=True)
    out = [index for index, (label, share) in enumerate(sure) if label not in _BRAIN and share >= _SURE]
    if out:
        ica.apply(raw, exclude=out, verbose="error")
        filtered_NT[np.ix_(good, samples)] = (raw.get_data() * 1e6).astype(np.float32)
    return filtered_NT, tuple(told["labels"][index] for index in out)


def repair_segments(
    signal_SNT: Array, sampling_rate_hz: float, position_N3: NDArray[np.float64]
) -> tuple[Array, NDArray[np.bool_]]:
    """Autoreject: thresholds a sensor by cross-validation; a segment's few bad sensors are interpolated, else it goes.

    Jas et al. 2017, doi 10.1016/j.neuroimage.2017.06.030.

    Args:
        signal_SNT: microvolts.
        position_N3: metres.

    Returns:
        All S segments, repaired; and which of them to keep.

    Raises:
        ConfigError: the extra [autoreject] is not installed.
        RecordingError: there are too few segments to learn thresholds from.
    """
    try:
        from autoreject import AutoReject
    except ImportError as error:
        raise ConfigError("features.eeg.autoreject needs the extra: pip install 'mmray[autoreject]'") from error
    import mne

    folds = 5
    if len(signal_SNT) < 2 * folds:
        raise RecordingError(
            f"{len(signal_SNT)} segments are too few for features.eeg.autoreject, which learns from {2 * folds} or more"
        )
    nodes = signal_SNT.shape[1]
    epochs = mne.EpochsArray(
        signal_SNT.astype(np.float64) * 1e-6, _info(nodes, sampling_rate_hz, position_N3), verbose="error"
    )
    few = sorted({max(1, nodes // 32), max(1, nodes // 8), max(1, nodes // 4)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        judge = AutoReject(n_interpolate=few, cv=folds, random_state=_SEED, n_jobs=1, verbose=False)
        repaired, log = judge.fit_transform(epochs, return_log=True)
    kept_S = ~log.bad_epochs
    signal_SNT[kept_S] = (repaired.get_data() * 1e6).astype(np.float32)
    return signal_SNT, kept_S


def _info(nodes: int, sampling_rate_hz: float, position_N3: NDArray[np.float64]) -> mne.Info:
    import mne

    names = [f"N{number}" for number in range(nodes)]
    info = mne.create_info(names, sampling_rate_hz, "eeg")
    montage = mne.channels.make_dig_montage(dict(zip(names, position_N3, strict=True)), coord_frame="head")
    info.set_montage(montage, verbose="error")
    return info
