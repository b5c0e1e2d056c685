"""Resting EEG of a person who does not exist: cortical dipoles in a spherical head under a GSN-HydroCel-129 net.

Each dipole carries an aperiodic background and delta, theta, alpha and beta rhythms whose amplitude waxes and wanes;
blinks, 50 Hz, electrode gains, bad electrodes, drift and DC offsets come on top. Axes: x right, y front, z up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from mmray.recordings.synthetic_traits import Table

SAMPLING_RATE_HZ = 250.0
ELECTRODES = 129  # E1-E128 and the reference, Cz, last
SOURCES = 56

# parameter: value of the mean person, its change per SD of the trait, and whether that change is of the logarithm
PARAMETERS: Table = {
    "alpha_power": (1.0, 0.9, True),
    "alpha_hz": (10.0, 1.1, False),
    "theta_power": (1.0, 0.9, True),
    "beta_power": (1.0, 0.7, True),
    "alpha_frontality": (-1.8, 0.7, False),  # log power per head radius towards the front; the mean is occipital
    "laterality": (0.0, 0.6, False),  # log power of alpha and beta per head radius towards the right
    "aperiodic_exponent": (1.3, 0.2, False),
    "delta_power": (1.0, 0.9, True),
}

_BACKGROUND_NAM2_PER_HZ = 4.0  # of one dipole at 10 Hz, the pivot of the slope; scalp amplitudes then look human
_RHYTHMS = {"delta": (2.0, 0.7, 150.0), "theta": (6.0, 0.8, 40.0), "beta": (20.0, 3.0, 24.0)}  # Hz, width Hz, (nA m)^2
_ALPHA_WIDTH_HZ, _ALPHA_NAM2 = 0.9, 130.0


@dataclass(frozen=True)
class LeadField:
    """What a net sees of each source.

    Attributes:
        gain_ES: µV at each electrode per nA m of each cortical dipole, unreferenced.
        gain_eye_E: the same of both eyes moving together, scaled to 1 at its largest electrode.
        position_S3: unit vectors from the sphere's centre to the dipoles.
    """

    gain_ES: NDArray[np.float64]
    gain_eye_E: NDArray[np.float64]
    position_S3: NDArray[np.float64]


@dataclass(frozen=True)
class SyntheticEEG:
    """One recording: µV referenced to Cz (row 129 is zero), N samples at 250 Hz; kOhm; which electrodes are bad."""

    uv_EN: NDArray[np.float64]
    impedance_kohm_E: NDArray[np.float64]
    bad_E: NDArray[np.bool_]


@cache
def lead_field() -> LeadField:
    """Radial dipoles over the cortex and two in the orbits, in MNE's three-layer sphere; computed once a process."""
    import mne

    montage = mne.channels.make_standard_montage("GSN-HydroCel-129")
    info = mne.create_info(montage.ch_names, SAMPLING_RATE_HZ, "eeg", verbose="ERROR").set_montage(montage)
    sphere = mne.make_sphere_model("auto", "auto", info, verbose="ERROR")
    direction_S3 = _cortex_directions()
    eye_23 = np.array([[-0.35, 0.80, -0.30], [0.35, 0.80, -0.30]])
    radius = sphere.radius
    places_S3 = np.concatenate([0.78 * radius * direction_S3, 0.92 * radius * eye_23])
    normals_S3 = np.concatenate([direction_S3, np.tile([0.0, 0.6, 0.8], (2, 1))])
    space = mne.setup_volume_source_space(
        pos={"rr": sphere["r0"] + places_S3, "nn": normals_S3},
        sphere=sphere,
        sphere_units="m",
        exclude=0.0,
        mindist=0.0,
        verbose="ERROR",
    )
    forward = mne.make_forward_solution(info, trans=None, src=space, bem=sphere, meg=False, eeg=True, verbose="ERROR")
    forward = mne.convert_forward_solution(forward, force_fixed=True, verbose="ERROR")
    gain_ES = np.asarray(forward["sol"]["data"], dtype=np.float64) * 1e-3  # V per A m -> µV per nA m
    if gain_ES.shape != (ELECTRODES, len(places_S3)):
        raise RuntimeError(f"forward model dropped sources: {gain_ES.shape}")
    eye_E = gain_ES[:, -2:].sum(1)
    return LeadField(gain_ES[:, :-2], eye_E / np.abs(eye_E).max(), direction_S3)


def _cortex_directions() -> NDArray[np.float64]:
    """SOURCES unit vectors, evenly over the sphere above z = -0.35 (Fibonacci lattice)."""
    step = np.arange(SOURCES) + 0.5
    z_S = 1.0 - step / SOURCES * 1.35
    angle_S = np.pi * (1.0 + 5.0**0.5) * step
    flat_S = np.sqrt(1.0 - z_S**2)
    return np.stack([flat_S * np.cos(angle_S), flat_S * np.sin(angle_S), z_S], axis=1)


def synthesise(
    parameters: dict[str, float], lead: LeadField, samples: int, nuisance: float, rng: np.random.Generator
) -> SyntheticEEG:
    """A recording of `samples` samples of a person with these PARAMETERS.

    Args:
        parameters: a value for each name in PARAMETERS.
        lead: of `lead_field`.
        samples: N.
        nuisance: scale of everything that differs between people and moments without meaning anything.
        rng: the only source of chance.
    """
    source_SN = _background(parameters, samples, nuisance, rng)
    x_S, y_S = lead.position_S3[:, 0], lead.position_S3[:, 1]
    side_S = np.exp(0.5 * parameters["laterality"] * x_S)
    front_S = np.exp(0.5 * parameters["alpha_frontality"] * y_S)
    for name, (centre, width, power) in _RHYTHMS.items():
        amplitude_S = np.sqrt(power * parameters[f"{name}_power"]) * (side_S if name == "beta" else np.ones(SOURCES))
        source_SN += _rhythm(centre, width, amplitude_S, samples, nuisance, rng)
    alpha_S = np.sqrt(_ALPHA_NAM2 * parameters["alpha_power"]) * front_S * side_S
    source_SN += _rhythm(parameters["alpha_hz"], _ALPHA_WIDTH_HZ, alpha_S, samples, nuisance, rng)

    # one skull's conductivity, folding of the cortex under each source, contact of each electrode
    skull = np.exp(0.2 * nuisance * rng.standard_normal())
    fold_S = np.exp(0.15 * nuisance * rng.standard_normal(SOURCES))
    contact_E = np.exp(0.08 * nuisance * rng.standard_normal(ELECTRODES))
    gain_ES = lead.gain_ES - lead.gain_ES[-1]
    uv_EN = (contact_E[:, None] * gain_ES * fold_S * skull).astype(np.float32) @ source_SN
    eye_E = contact_E * (lead.gain_eye_E - lead.gain_eye_E[-1])
    uv_EN += np.outer(eye_E, _blinks(samples, rng)).astype(np.float32)
    return _net(uv_EN, nuisance, rng)


def _noise(
    psd_F: NDArray[np.float64], length: int, samples: int, sources: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Gaussian noise of a one-sided power density: (sources, samples), its variance the density's integral."""
    used_F = np.flatnonzero(psd_F)
    low, high = used_F[0], used_F[-1] + 1
    scale_F = np.sqrt(psd_F[low:high] * SAMPLING_RATE_HZ * length / 4.0).astype(np.float32)
    parts_SF2 = rng.standard_normal((sources, high - low, 2), dtype=np.float32) * scale_F[:, None]
    spectrum_SF = np.zeros((sources, len(psd_F)), dtype=np.complex64)
    spectrum_SF[:, low:high] = parts_SF2.view(np.complex64)[..., 0]
    noise_SN: NDArray[np.float32] = fft.irfft(spectrum_SF, length, axis=1)[:, :samples]
    return noise_SN


def _background(
    parameters: dict[str, float], samples: int, nuisance: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    length = fft.next_fast_len(samples, real=True)
    frequency_F = fft.rfftfreq(length, 1.0 / SAMPLING_RATE_HZ)
    exponent = parameters["aperiodic_exponent"]
    psd_F = _BACKGROUND_NAM2_PER_HZ * (np.maximum(frequency_F, 0.3) / 10.0) ** -exponent
    psd_F[0] = 0.0
    level_S = np.exp(0.1 * nuisance * rng.standard_normal(SOURCES)).astype(np.float32)
    return _noise(psd_F, length, samples, SOURCES, rng) * level_S[:, None]


def _rhythm(
    centre_hz: float,
    width_hz: float,
    amplitude_S: NDArray[np.float64],
    samples: int,
    nuisance: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Narrow-band noise (Gaussian spectral peak) that waxes and wanes together over the head."""
    length = fft.next_fast_len(samples, real=True)
    frequency_F = fft.rfftfreq(length, 1.0 / SAMPLING_RATE_HZ)
    distance_F = (frequency_F - centre_hz) / width_hz
    psd_F = np.where(np.abs(distance_F) < 4, np.exp(-0.5 * distance_F**2), 0.0)
    psd_F /= psd_F.sum() * frequency_F[1]
    psd_F[0] = 0.0
    envelope_N = np.exp(0.35 * nuisance * _slow(samples, 3.0, rng))
    rhythm_SN = _noise(psd_F, length, samples, len(amplitude_S), rng)
    rhythm_SN *= amplitude_S.astype(np.float32)[:, None]
    rhythm_SN *= envelope_N.astype(np.float32)
    return rhythm_SN


def _slow(samples: int, knot_s: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A smooth course of unit variance at its knots, one every `knot_s` seconds."""
    knot = knot_s * SAMPLING_RATE_HZ
    knots = int(samples / knot) + 2
    course_N: NDArray[np.float64] = np.interp(np.arange(samples) / knot, np.arange(knots), rng.standard_normal(knots))
    return course_N


def _blinks(samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Eye potential, µV at the electrode that sees it best: about six blinks a minute, eyes closed."""
    eye_N = np.zeros(samples)
    seconds = samples / SAMPLING_RATE_HZ
    for peak_s in rng.uniform(0.0, seconds, rng.poisson(seconds / 10.0)):
        height, width = rng.uniform(60.0, 140.0), SAMPLING_RATE_HZ * rng.uniform(0.06, 0.10)
        centre = peak_s * SAMPLING_RATE_HZ
        first, last = max(0, int(centre - 4 * width)), min(samples, int(centre + 4 * width))
        eye_N[first:last] += height * np.exp(-0.5 * ((np.arange(first, last) - centre) / width) ** 2)
    return eye_N


def _net(uv_EN: NDArray[np.float32], nuisance: float, rng: np.random.Generator) -> SyntheticEEG:
    """Lay on what amplifier and electrodes add: sensor noise, 50 Hz, bad electrodes, drift, DC; zero the reference."""
    samples = uv_EN.shape[1]
    time_N = np.arange(samples) / SAMPLING_RATE_HZ
    bad_E = np.zeros(ELECTRODES, dtype=np.bool_)
    count = min(int(rng.poisson(3.0 * nuisance)), 10)
    bad_E[rng.choice(ELECTRODES - 1, count, replace=False)] = True
    flat_E = bad_E & (rng.random(ELECTRODES) < 0.3)
    impedance_kohm_E = np.where(bad_E, rng.uniform(90, 400, ELECTRODES), rng.uniform(8, 55, ELECTRODES)).round(1)

    noise_uv_E = np.where(bad_E, rng.uniform(60, 150, ELECTRODES), 0.6)
    noisy_EN = rng.standard_normal((ELECTRODES, samples), dtype=np.float32)
    noisy_EN *= noise_uv_E[:, None].astype(np.float32)
    noisy_EN += uv_EN
    # a sine of own amplitude and phase for each electrode is a mix of one sine and one cosine
    line_uv_E, phase_E = rng.uniform(1.0, 5.0, ELECTRODES), rng.uniform(-0.6, 0.6, ELECTRODES)
    wave_2N = np.stack(
        [np.sin(2 * np.pi * 50.0 * time_N), np.cos(2 * np.pi * 50.0 * time_N), time_N / time_N[-1] - 0.5]
    )
    drift_uv_E = rng.normal(0.0, 150.0, ELECTRODES)
    mix_E3 = np.stack([line_uv_E * np.cos(phase_E), line_uv_E * np.sin(phase_E), drift_uv_E], axis=1)
    noisy_EN += (mix_E3 @ wave_2N).astype(np.float32)
    noisy_EN[flat_E] = 0.0
    offset_uv_E = rng.uniform(-1, 1, ELECTRODES) * 2e4 + rng.choice([-1.0, 1.0]) * 3e4
    result_EN = noisy_EN.astype(np.float64)
    result_EN += offset_uv_E[:, None]
    result_EN[-1] = 0.0
    return SyntheticEEG(result_EN, impedance_kohm_E, bad_E)
