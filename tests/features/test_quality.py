"""How what was decided about stretches becomes one row of DECISIONS."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest

from mmray.features import quality
from mmray.schema import DECISIONS

EEG = {"duration_s": 90.0, "sampling_rate_hz": 250.0}
VOICE = {"duration_s": 90.0, "sampling_rate_hz": 16000.0, "trimmed_s": 3.0}


def scalp(segments, kept, bad=(), removed=(), uv=50.0, mains=None):
    bad_channels = [{"name": name, "why": why} for name, why in bad]
    return EEG | {
        "segments": segments,
        "kept": kept,
        "bad_channels": bad_channels,
        "components_removed": list(removed),
        "peak_to_peak_uv": uv,
        "mains_db": mains,
    }


def voice(segments, active, level, snr, clipped=0.0, peak=-3.0):
    return VOICE | {
        "segments": segments,
        "kept": segments,
        "active_fraction": active,
        "clipped_fraction": clipped,
        "level_dbfs": level,
        "peak_dbfs": peak,
        "snr_db": snr,
    }


def test_one_stretch_is_told_as_it_is():
    assert quality.merged([scalp(10, 9)]) == scalp(10, 9)


def test_counts_of_an_eeg_add_up_and_bad_electrodes_are_joined():
    told = quality.merged(
        [
            scalp(10, 9, [("E4", "noise")], ["eye blink"], 40.0, 3.0),
            quality.lost(40, 3700, 5, "61 of 128 electrodes are bad"),
            scalp(10, 10, [("E9", "flat"), ("E4", "flat")], [], 60.0, None),
            scalp(25, 1, [("E9", "flat")], ["eye blink", "muscle artifact"], 90.0, 5.0),
            scalp(10, 10, [("E9", "flat")]),
        ]
    )
    assert (told["segments"], told["kept"]) == (60, 30)
    assert told["bad_channels"] == [
        {"name": "E9", "why": "flat in 3 of 4"},
        {"name": "E4", "why": "noise in 1, flat in 1 of 4"},
    ]
    assert told["components_removed"] == ["eye blink", "eye blink", "muscle artifact"]
    assert told["peak_to_peak_uv"] == 60.0  # of 30 segments up to 60 uV and 25 above
    assert told["mains_db"] == 5.0
    assert told["lost"] == "0:00:40 to 1:01:40: 61 of 128 electrodes are bad"
    assert (told["duration_s"], told["sampling_rate_hz"]) == (90.0, 250.0)


def test_levels_of_a_voice_are_power_while_speaking_and_fractions_are_means():
    told = quality.merged([voice(10, 0.8, -20.0, None, 0.1), voice(30, 0.4, -26.0, 20.0, peak=-1.0)])
    spoken_s = (8.0, 12.0)
    power = (spoken_s[0] * 10**-2 + spoken_s[1] * 10**-2.6) / sum(spoken_s)
    assert told["level_dbfs"] == pytest.approx(10 * math.log10(power))
    assert told["active_fraction"] == pytest.approx(0.5)
    assert told["clipped_fraction"] == pytest.approx(0.025)
    assert (told["peak_dbfs"], told["snr_db"], told["trimmed_s"]) == (-1.0, 20.0, 3.0)
    assert (told["segments"], told["kept"], told["lost"]) == (40, 40, None)


@pytest.mark.parametrize("two", [[scalp(4, 4), scalp(4, 4)], [voice(4, 0.5, -20.0, None), voice(4, 0.5, -20.0, None)]])
def test_what_is_told_fits_the_schema(two):
    ids = {"recording_id": "r", "subject_id": "s", "modality": "eeg"}
    names = set(quality.merged(two)) | set(ids)
    assert names <= set(DECISIONS.names)
    pa.Table.from_pylist([ids | quality.merged(two)], schema=DECISIONS)
