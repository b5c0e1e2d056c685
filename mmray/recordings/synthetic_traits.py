"""The people of a synthetic study: latent traits, how far both modalities share them, and what they do to the body.

With class y in {0, 1}, u the unit vector along (1, ..., 1) and l the label effect:

    e ~ N((y - 1/2) l u, I)          the EEG's traits
    a = c e + sqrt(1 - c^2) i        the voice's traits, i ~ N(0, I) independent of e and of y

The class reaches the voice only through e, so scaled by the coupling c. A class that shifted both modalities by itself
would couple them: at c = 0 the voice then could be matched to an EEG of the same class above chance. So at c = 0 the
EEG carries the class, the voice does not, and retrieval is exactly at chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BEND = 3.5  # SD of the traits that no parameter leaves
Table = dict[str, tuple[float, float, bool]]  # parameter: mean person's value, change per SD, whether of the logarithm


@dataclass(frozen=True)
class Latents:
    """One subject's realised traits, K numbers a modality."""

    eeg_K: NDArray[np.float64]
    audio_K: NDArray[np.float64]


def label_shift(label: int, label_effect: float, traits: int) -> NDArray[np.float64]:
    """Mean of the EEG's traits in a class: two classes lie `label_effect` apart."""
    return np.full(traits, (label - 0.5) * label_effect / np.sqrt(traits))


def draw_latents(label: int, label_effect: float, coupling: float, traits: int, rng: np.random.Generator) -> Latents:
    """One subject of a class; `coupling` is the correlation of the modalities' traits within a class."""
    eeg_K = label_shift(label, label_effect, traits) + rng.standard_normal(traits)
    own_K = rng.standard_normal(traits)
    return Latents(eeg_K, coupling * eeg_K + np.sqrt(1.0 - coupling**2) * own_K)


def realise(table: Table, latent_K: NDArray[np.float64], wobble_P: NDArray[np.float64]) -> dict[str, float]:
    """Physical parameters of a person: parameter p rises with trait p mod K, and with its wobble.

    Both together are bent smoothly to stay within BEND SD, so that no body leaves the human range.

    Args:
        table: P parameters of a modality.
        latent_K: traits.
        wobble_P: nuisance in SD of the traits.
    """
    values = {}
    for position, (name, (centre, change, logarithmic)) in enumerate(table.items()):
        drive = latent_K[position % len(latent_K)] + wobble_P[position]
        drive = BEND * np.tanh(drive / BEND)
        values[name] = float(centre * np.exp(change * drive) if logarithmic else centre + change * drive)
    return values
