"""What was decided about a recording: the quality_* columns, one value a segment, and its row of DECISIONS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmray.features.speech import Speech

Array = NDArray[np.float32]
Decisions = dict[str, Any]  # the columns of schema.DECISIONS that a signal tells

_FULL_SCALE = 0.999


def eeg(bad_N: NDArray[np.bool_], peak_to_peak_S: Array, kept_S: NDArray[np.bool_]) -> dict[str, Array]:
    """Bad electrodes and kept fraction of the recording, peak-to-peak range (uV) of each kept segment."""
    kept = int(kept_S.sum())
    return {
        "quality_bad_channels": np.full(kept, bad_N.sum(), dtype=np.float32),
        "quality_peak_to_peak_uv": peak_to_peak_S[kept_S].astype(np.float32),
        "quality_kept_fraction": np.full(kept, kept_S.mean(), dtype=np.float32),
    }


def audio(
    voiced_SNJ: NDArray[np.bool_],
    active_S: Array,
    snr_db: float | None,
    start_s_S: NDArray[np.floating[Any]],
    segment_s: float,
    data_CT: Array,
    sampling_rate_hz: float,
) -> dict[str, Array]:
    """Voiced, spoken and clipped fraction, level (dB of full scale) and signal-to-noise ratio (dB) of each segment.

    The ratio is not a number where the clip has no pause to tell the noise from.

    Args:
        voiced_SNJ: the segments' analysis frames with a pitch.
        active_S: see `active`; `snr_db` is the clip's.
        start_s_S: where the segments begin.
        data_CT: the clip as recorded, since resampling hides clipping.
        sampling_rate_hz: as recorded.
    """
    length = round(segment_s * sampling_rate_hz)
    begins = np.rint(start_s_S * sampling_rate_hz).astype(np.int64)
    power = [np.square(data_CT[:, start : start + length], dtype=np.float64).mean() for start in begins]
    return {
        "quality_voiced_fraction": voiced_SNJ.mean((1, 2)).astype(np.float32),
        "quality_active_fraction": active_S,
        "quality_clipped_fraction": np.array(
            [clipped(data_CT[:, start : start + length]) for start in begins], np.float32
        ),
        "quality_level_dbfs": (10 * np.log10(np.maximum(power, 1e-12))).astype(np.float32),
        "quality_snr_db": np.full(len(begins), np.nan if snr_db is None else snr_db, dtype=np.float32),
    }


def active(speech: Speech, start_s_S: NDArray[np.floating[Any]], segment_s: float) -> Array:
    """Share of each segment that is speech."""
    shares = [speech.active_fraction(start_s, start_s + segment_s) for start_s in start_s_S.tolist()]
    return np.array(shares, dtype=np.float32)


def clipped(data_CT: Array) -> float:
    """Share of samples at full scale in any channel; a float beyond it was not clipped there."""
    size_CT = np.abs(data_CT)
    return float(((size_CT >= _FULL_SCALE) & (size_CT <= 1)).any(0).mean())


def lost(start_s: float, stop_s: float, segments: int, why: str) -> Decisions:
    """What is told of a stretch that has no usable segment."""
    return {"segments": segments, "lost": f"{_clock(start_s)} to {_clock(stop_s)}: {why}"}


def merged(stretches: Sequence[Decisions]) -> Decisions:
    """One row of DECISIONS from those of a recording's stretches; of one, its own.

    Segments add up, lost stretches' included; everything else is of the usable stretches. An electrode is bad that was
    so in one of them, those that were so most often first, with how often and why; removed components are listed one
    after the other. Peak to peak, mains and signal-to-noise ratio are medians, and the fractions means, over stretches,
    each counted by its segments. The level is mean power while somebody speaks, the peak the largest.
    """
    if len(stretches) == 1:
        return stretches[0]
    used = [decided for decided in stretches if "lost" not in decided]
    weight_U = [decided["segments"] for decided in used]
    whole: Decisions = {
        name: used[0][name] for name in ("duration_s", "sampling_rate_hz", "trimmed_s") if name in used[0]
    }
    whole |= {
        "segments": sum(decided["segments"] for decided in stretches),
        "kept": sum(decided["kept"] for decided in used),
        "lost": "; ".join(decided["lost"] for decided in stretches if "lost" in decided) or None,
    }
    for name in ("peak_to_peak_uv", "mains_db", "snr_db"):
        if name in used[0]:
            known = [(decided[name], weight) for decided, weight in zip(used, weight_U, strict=True)]
            values = [value for value, weight in known if value is not None for _ in range(weight)]
            whole[name] = float(np.median(values)) if values else None
    if "bad_channels" in used[0]:
        whole["bad_channels"] = _bad_channels(used)
        whole["components_removed"] = [label for decided in used for label in decided["components_removed"]]
        return whole
    active_U = np.array([decided["active_fraction"] for decided in used])
    level_U = np.array([decided["level_dbfs"] for decided in used])
    spoken_U = active_U * weight_U
    return whole | {
        "active_fraction": float(np.average(active_U, weights=weight_U)),
        "clipped_fraction": float(np.average([decided["clipped_fraction"] for decided in used], weights=weight_U)),
        "level_dbfs": 10 * float(np.log10(np.average(10 ** (level_U / 10), weights=spoken_U))),
        "peak_dbfs": max(decided["peak_dbfs"] for decided in used),
    }


def _bad_channels(stretches: Sequence[Decisions]) -> list[dict[str, str]]:
    whys: dict[str, Counter[str]] = {}
    for decided in stretches:
        for item in decided["bad_channels"]:
            whys.setdefault(item["name"], Counter())[item["why"]] += 1
    told = sorted(whys.items(), key=lambda item: -item[1].total())
    return [
        {"name": name, "why": f"{', '.join(f'{why} in {n}' for why, n in why.most_common())} of {len(stretches)}"}
        for name, why in told
    ]


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
