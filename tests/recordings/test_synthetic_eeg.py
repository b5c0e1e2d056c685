from __future__ import annotations

import mne
import numpy as np
import pytest
from scipy.signal import welch

from mmray.recordings.synthetic_eeg import PARAMETERS, SOURCES, SyntheticEEG, lead_field, synthesise

MEAN = {name: centre for name, (centre, _, _) in PARAMETERS.items()}


def record(seconds: int = 60, nuisance: float = 0.0, seed: int = 0, **changes: float) -> SyntheticEEG:
    return synthesise(MEAN | changes, lead_field(), seconds * 250, nuisance, np.random.default_rng(seed))


def spectrum(recording: SyntheticEEG) -> tuple[np.ndarray, np.ndarray]:
    """Average-referenced power density of E1-E128."""
    good_EN = recording.uv_EN[:128]
    return welch(good_EN - good_EN.mean(0), 250, nperseg=1000)


def band(recording: SyntheticEEG, low: float, high: float) -> np.ndarray:
    frequency_F, psd_EF = spectrum(recording)
    return psd_EF[:, (frequency_F >= low) & (frequency_F < high)].mean(1)


def electrode_directions() -> np.ndarray:
    montage = mne.channels.make_standard_montage("GSN-HydroCel-129")
    info = mne.create_info(montage.ch_names, 250.0, "eeg").set_montage(montage)
    _, centre_3, _ = mne.bem.fit_sphere_to_headshape(info, verbose="ERROR")
    direction_E3 = np.array([channel["loc"][:3] for channel in info["chs"]]) - centre_3
    return direction_E3 / np.linalg.norm(direction_E3, axis=1, keepdims=True)


def test_a_radial_dipole_is_strongest_at_the_electrode_above_it() -> None:
    lead = lead_field()
    closeness_ES = electrode_directions() @ lead.position_S3.T
    strongest_S = np.argmax(np.abs(lead.gain_ES), axis=0)
    assert lead.gain_ES.shape == (129, SOURCES)
    assert (lead.gain_ES[strongest_S, np.arange(SOURCES)] > 0).all()
    # electrodes thin out towards the neck, so "above" is the nearest one give or take
    assert (closeness_ES.max(0) - closeness_ES[strongest_S, np.arange(SOURCES)]).max() < 0.05


def test_mirrored_electrodes_see_both_eyes_alike() -> None:
    eye_E = lead_field().gain_eye_E
    direction_E3 = electrode_directions()
    mirrored_E = np.argmin(
        np.linalg.norm(direction_E3[:, None] * np.array([-1.0, 1.0, 1.0]) - direction_E3[None], axis=2), axis=1
    )
    np.testing.assert_allclose(eye_E, eye_E[mirrored_E], atol=0.02)


def test_blinks_are_largest_at_the_forehead() -> None:
    assert electrode_directions()[np.argmax(np.abs(lead_field().gain_eye_E)), 1] > 0.6


def test_alpha_is_strongest_over_the_occiput() -> None:
    power_E = band(record(), 8, 12)
    y_E = electrode_directions()[:128, 1]
    assert np.median(power_E[y_E < -0.5]) > 4 * np.median(power_E[y_E > 0.5])


def test_electrodes_beside_the_reference_see_little() -> None:
    direction_E3 = electrode_directions()
    beside_E = (direction_E3[:128] @ direction_E3[128]) > 0.93
    frequency_F, psd_EF = welch(record(8).uv_EN[:128], 250, nperseg=500)
    power_E = psd_EF[:, (frequency_F > 2) & (frequency_F < 30)].sum(1)
    assert np.median(power_E[beside_E]) < 0.3 * np.median(power_E)


def test_amplitudes_are_human() -> None:
    recording = record()
    uv_EN = recording.uv_EN[:128] - recording.uv_EN[:128].mean(1, keepdims=True)
    assert 5 < np.sqrt(2 * np.median(band(recording, 8, 13)) * 5) < 30
    assert 20 < np.median(np.ptp(uv_EN[:, 1000:1500], axis=1)) < 200


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("alpha_power", 9, 11), ("theta_power", 5, 7), ("beta_power", 18, 22), ("delta_power", 1, 3)],
)
def test_a_rhythms_power_raises_its_own_band_alone(name: str, low: float, high: float) -> None:
    frequency_F, before_EF = spectrum(record())
    _, after_EF = spectrum(record(**{name: 4.0}))
    gain_F = np.median(after_EF / before_EF, axis=0)
    inside_F = (frequency_F >= low) & (frequency_F <= high)
    assert np.median(gain_F[inside_F]) > 1.6
    assert gain_F[(frequency_F > 33) & (frequency_F < 45)].max() < 1.05


def test_alpha_peaks_at_its_frequency() -> None:
    for hertz in (8.5, 11.5):
        frequency_F, psd_EF = spectrum(record(alpha_hz=hertz, alpha_power=4.0))
        near_F = (frequency_F > 7) & (frequency_F < 14)
        assert frequency_F[near_F][np.argmax(np.median(psd_EF, axis=0)[near_F])] == pytest.approx(hertz, abs=0.76)


def test_laterality_moves_beta_to_the_right() -> None:
    x_E = electrode_directions()[:128, 0]
    left_E, right_E = x_E < -0.5, x_E > 0.5

    def balance(laterality: float) -> float:
        power_E = band(record(laterality=laterality, beta_power=4.0), 17, 23)
        return float(np.log(power_E[right_E].mean() / power_E[left_E].mean()))

    assert balance(1.0) > balance(0.0) + 0.5 > balance(-1.0) + 1.0


def test_background_falls_by_its_exponent() -> None:
    quiet = dict.fromkeys(("alpha_power", "theta_power", "beta_power", "delta_power"), 1e-9)
    for exponent in (0.8, 1.8):
        frequency_F, psd_EF = spectrum(record(**quiet, aperiodic_exponent=exponent))
        fit_F = (frequency_F >= 5) & (frequency_F <= 20)
        slope, _ = np.polyfit(np.log(frequency_F[fit_F]), np.log(np.median(psd_EF, axis=0)[fit_F]), 1)
        assert -slope == pytest.approx(exponent, abs=0.2)


def test_bad_electrodes_come_with_nuisance_and_are_flat_or_loud() -> None:
    recordings = [record(8, nuisance=1.0, seed=seed) for seed in range(6)]
    assert sum(item.bad_E.sum() for item in recordings) > 0
    assert not record(8).bad_E.any()
    for item in recordings:
        spread_E = item.uv_EN.std(1)[:128]
        assert all(value < 1e-6 or value > 50 for value in spread_E[item.bad_E[:128]])
        assert (item.impedance_kohm_E[item.bad_E] > 60).all()
