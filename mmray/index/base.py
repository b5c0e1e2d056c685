"""What an index is to its users: rows of unit vectors a modality, searched by inner product."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mmray.errors import WorkspaceError

# index/<version>/metadata.parquet; the rows of one modality, in order, are the vectors of its faiss file
METADATA = pa.schema(
    [
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("subject_id", pa.string(), nullable=False),
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("modality", pa.string(), nullable=False),
        pa.field("session", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("label", pa.int8()),
        pa.field("label_name", pa.string()),
        pa.field("age", pa.float32()),
        pa.field("role", pa.string(), nullable=False),  # train, validation, test; unseen: not in the run's fold
        pa.field("source_sha256", pa.string(), nullable=False),  # tells an uploaded file's subject; never answered
        pa.field("study", pa.string(), nullable=False),  # study.kind of the run
        pa.field("segments", pa.int32(), nullable=False),  # behind the vector
        pa.field("part", pa.string(), nullable=False),  # features/<digest>/<part>: what it was made from
    ]
)


class VectorIndex(Protocol):
    """N vectors of one modality."""

    @property
    def size(self) -> int:
        """N, the number of vectors."""

    @property
    def width(self) -> int:
        """E, their length."""

    def search(
        self, query_QE: NDArray[np.float32], k: int, allowed_N: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k best rows of each query by inner product, best first, equal scores in row order.

        Args:
            query_QE: unit vectors.
            k: at least 1; fewer come back where fewer are allowed.
            allowed_N: rows that may be returned; None allows all. A filtered search is exact in every kind of index.

        Returns:
            Scores and row numbers, both Q x min(k, allowed rows).
        """

    def vector(self, row: int) -> NDArray[np.float32]:
        """One stored vector."""


@dataclass(frozen=True)
class Manifest:
    """index/<version>/manifest.json: what the files beside it are. Written last, so its presence means they are whole.

    Attributes:
        version: digest of everything that decides the content.
        files: sha256 of each file by name.
        counts: vectors by modality.
        width: E, the length of a vector.
        features: digest of the prepared features the vectors came from.
        model: sha256 of the run's weights.
        kind: what was built, never auto.
        settings: config.index as it was asked for.
        breadth: how widely to search, where the settings left that to be measured; laid over them.
        recall: measured recall@10 by modality; 1 where the search is exact.
        created: when, UTC.
    """

    version: str
    run_id: str
    model: str
    features: str
    kind: str
    settings: dict[str, Any]
    width: int
    counts: dict[str, int]
    breadth: dict[str, int]
    recall: dict[str, float]
    files: dict[str, str]
    created: str
    created_by: str

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Any) -> Manifest:
        """Read back. Raises WorkspaceError where fields are missing or unknown."""
        try:
            return cls(**plain)
        except TypeError as error:
            raise WorkspaceError(
                f"index: manifest.json is of another mmray or damaged ({error}); run `mmray index` again"
            ) from error


def no_room(place: Path, size: int, why: object) -> WorkspaceError:
    """What to raise where the temporary folder does not hold a file of an index.

    Args:
        size: bytes that the file takes at least.
        why: the system's word.
    """
    return WorkspaceError(
        f"index: the temporary folder {place.parent} does not hold {place.name}, {size / 2**20:.1f} MiB ({why}); free "
        "space there, or set TMPDIR to a folder that has it"
    )
