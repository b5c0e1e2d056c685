"""Which segments stand in which batch: a function of the seed, the epoch and the batch number, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmray.errors import ConfigError
from mmray.features.table import Segments


@dataclass(frozen=True)
class Draw:
    """One batch by position.

    Attributes:
        row_BMS: rows in each modality's segments, S a sample; -1 where the sample lacks the modality.
        pair_B: pair code; -1 in a padding row.
        label_B: class; -1 where it is not known.
        subject_B: position of the subject among the sorted training subjects; -1 in a padding row.
    """

    row_BMS: NDArray[np.int64]
    pair_B: NDArray[np.int64]
    label_B: NDArray[np.int64]
    subject_B: NDArray[np.int64]

    def shard(self, rank: int, world: int) -> Draw:
        """Every world-th sample from `rank` on; empty samples fill up, so that all shards have one shape."""
        short = -len(self.row_BMS) % world
        return Draw(
            np.pad(self.row_BMS, ((0, short), (0, 0), (0, 0)), constant_values=-1)[rank::world],
            np.pad(self.pair_B, (0, short), constant_values=-1)[rank::world],
            np.pad(self.label_B, (0, short), constant_values=-1)[rank::world],
            np.pad(self.subject_B, (0, short), constant_values=-1)[rank::world],
        )


class Offer(NamedTuple):
    """One pair_id of one training subject: its code, whose it is, and the rows of each modality."""

    pair: int
    subject: int
    rows: list[NDArray[np.int64]]


@dataclass(frozen=True)
class Sampler:
    """The training pairs: what a sample may be drawn from.

    Attributes:
        offers: by subject, then by pair code.
        label: one entry a subject; -1 where it is not known.
    """

    offers: list[Offer]
    label: list[int]

    def steps(self, batch_size: int, passes: int) -> int:
        """Batches an epoch."""
        return passes * -(-len(self.offers) // batch_size)

    def batches(self, batch_size: int, passes: int, segments: int, seed: int, epoch: int) -> Iterator[Draw]:
        """An epoch: each pass goes once through the pairs in a new order, in batches of near-equal size.

        A batch holds distinct pairs, and so distinct subjects where a subject is one pair. Where trials or windows are
        paired, it holds other pairs of a subject too: negatives that only their timing tells apart. A pair's segments
        are drawn anew in every pass, each modality's apart from the other's; without repetition where there are enough.
        """
        count = self.steps(batch_size, passes=1)
        for turn in range(passes):
            rng = np.random.default_rng([seed, epoch, turn])
            for chosen in np.array_split(rng.permutation(len(self.offers)), count):
                drawn = [self.offers[position] for position in chosen]
                yield Draw(
                    np.array([_rows(offer, segments, rng) for offer in drawn], dtype=np.int64),
                    np.array([offer.pair for offer in drawn], dtype=np.int64),
                    np.array([self.label[offer.subject] for offer in drawn], dtype=np.int64),
                    np.array([offer.subject for offer in drawn], dtype=np.int64),
                )


def _rows(offer: Offer, segments: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    absent_S = np.full(segments, -1)
    return [
        rng.choice(available, segments, replace=len(available) < segments) if len(available) else absent_S
        for available in offer.rows
    ]


def sampler(segments: dict[str, Segments]) -> Sampler:
    """Index the training segments by subject and pair_id.

    A subject with any pair_id in every modality is drawn from those alone; one without still serves as a negative and
    for classification.

    Raises:
        ConfigError: fewer than two subjects have every modality, so there is no negative to contrast with.
    """
    codes = {pair: code for code, pair in enumerate(sorted({p for s in segments.values() for p in s.pair_id_S}))}
    rows: dict[str, dict[int, list[list[int]]]] = {}
    label: dict[str, int] = {}
    for position, part in enumerate(segments.values()):
        for row, (subject, pair, known) in enumerate(zip(part.subject_id_S, part.pair_id_S, part.label_S, strict=True)):
            offer = rows.setdefault(str(subject), {}).setdefault(codes[pair], [[] for _ in segments])
            offer[position].append(row)
            label[str(subject)] = max(int(known), label.get(str(subject), -1))
    offers: list[Offer] = []
    paired = 0
    for number, subject in enumerate(sorted(rows)):
        every = [
            Offer(code, number, [np.array(r, dtype=np.int64) for r in offer])
            for code, offer in sorted(rows[subject].items())
        ]
        complete = [offer for offer in every if all(len(available) for available in offer.rows)]
        paired += bool(complete)
        offers += complete or every
    if paired < 2:
        raise ConfigError(
            f"train: {paired} training subjects have segments of {' and '.join(segments)}; at least 2 are needed. "
            "See quarantine.parquet, or choose another split"
        )
    return Sampler(offers, [label[subject] for subject in sorted(rows)])


def spread(key_S: NDArray[np.str_], each: int) -> dict[str, NDArray[np.int64]]:
    """Key -> at most `each` of its rows, evenly spread over them in their order."""
    order_S = np.argsort(key_S, kind="stable")
    keys, starts = np.unique(key_S[order_S], return_index=True)
    return {
        str(key): rows[np.linspace(0, len(rows) - 1, min(each, len(rows))).round().astype(int)]
        for key, rows in zip(keys, np.split(order_S, starts[1:]), strict=True)
    }
