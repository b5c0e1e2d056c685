"""Embeddings and predictions with a known relation between the modalities, as a run would leave them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from mmray import schema


def embeddings(subjects=12, segments=4, noise=None, seed=0, role="test", label=lambda s: s % 2):
    """`noise` is the spread around a vector the two modalities share; None: they share nothing."""
    rng = np.random.default_rng(seed)
    rows = []
    for subject in range(subjects):
        shared_D = rng.normal(size=16)
        for modality in schema.MODALITIES:
            for segment in range(segments):
                z_D = rng.normal(size=16) if noise is None else shared_D + noise * rng.normal(size=16)
                rows.append(
                    {
                        "segment_id": f"s{subject}-{modality}@{segment:08}",
                        "recording_id": f"s{subject}-{modality}",
                        "subject_id": f"s{subject:03}",
                        "pair_id": f"s{subject:03}",
                        "modality": modality,
                        "label": label(subject),
                        "role": role,
                        "z": (z_D / np.linalg.norm(z_D)).astype(np.float32).tolist(),
                    }
                )
    return pa.Table.from_pylist(rows, schema=schema.EMBEDDINGS)


def predictions(subjects=12, pairings=3, strength=0.0, seed=0, role="test", label=lambda s: s % 2):
    rng = np.random.default_rng(seed)
    rows = []
    for subject in range(subjects):
        for _ in range(pairings):
            towards = strength * (1 if label(subject) else -1)
            p = 1 / (1 + np.exp(-rng.normal(towards)))
            rows.append(
                {"subject_id": f"s{subject:03}", "label": label(subject), "role": role, "probability": [1 - p, p]}
            )
    return pa.Table.from_pylist(rows, schema=schema.PREDICTIONS)
