"""Electrode names as files spell them, brought to the spelling of montages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from mmray.errors import RecordingError

# "EEG Fp1-REF" (EDF), "FP1-LE", "C3-M2", "Fc5." (PhysioNet); a final "-0" is MNE's mark on a name that stands twice
_EAR = r"(?:A1|A2|A1\+?A2|M1|M2|M1\+?M2)"
_SPELT = re.compile(
    rf"(?:EEG[\s:_-]+)?(?P<name>[A-Z]+[0-9]*H?)\s*\.*(?:[\s:_-]+(?:REF|LE|LER|AR|AVG|AVR|CAR|(?P<ear>{_EAR})))?(?:-[0-9]+)?",
    re.IGNORECASE,
)


def electrode_names(names: Sequence[str]) -> tuple[str, ...]:
    """Channel names without the recorder's prefix, reference, dots and blanks, in the same order.

    A name is changed only where an electrode of the 10-05 system, of an EGI net (E1-E256) or of a BioSemi cap (A1-H32)
    is left; "Fp1-F7", a difference of two electrodes, and "EOG left" stay as they are.

    Raises:
        RecordingError: two channels are the same electrode; which of them counts is not ours to guess.
    """
    clean = tuple(_electrode(name) or name.strip() for name in names)
    first: dict[str, str] = {}
    for name, spelt in zip(clean, names, strict=True):
        other = first.setdefault(name.casefold(), spelt)
        if other != spelt and name.casefold() in _known():
            raise RecordingError(
                f"channels {other!r} and {spelt!r} are both electrode {name}; drop one and export again"
            )
    return clean


def are_electrodes(names: Sequence[str]) -> list[bool]:
    """Which channels are electrodes, by their names.

    Names of an EGI net or a BioSemi cap count where none is of the 10-05 system: a polysomnogram's E1 and E2 are eyes.
    """
    named = [(_electrode(name) or "").casefold() for name in names]
    tens = [name in _ten_five() for name in named]
    return tens if any(tens) else [bool(name) for name in named]


def _electrode(name: str) -> str | None:
    spelt = _SPELT.fullmatch(name.strip())
    if spelt is None or spelt["name"].casefold() not in _known():
        return None
    if spelt["ear"] and re.fullmatch(_EAR, spelt["name"], re.IGNORECASE):
        return None  # "A1-A2" is the difference of the ears
    return spelt["name"]


@cache
def _known() -> frozenset[str]:
    egi = [f"E{number}" for number in range(1, 257)]
    biosemi = [f"{row}{number}" for row in "ABCDEFGH" for number in range(1, 33)]
    return frozenset(name.casefold() for name in (*_ten_five(), *egi, *biosemi))


@cache
def _ten_five() -> frozenset[str]:
    import mne

    return frozenset(name.casefold() for name in mne.channels.make_standard_montage("colin27_1005").ch_names)
