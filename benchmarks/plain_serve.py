"""What `serve` is compared with: uvicorn, FastAPI and a faiss file, in one process and with nothing else.

python -m benchmarks.plain_serve FILE EF PORT
"""

from __future__ import annotations

import sys
from typing import Any

import faiss as _faiss
import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

faiss: Any = _faiss


class Ask(BaseModel):
    vector: list[float]
    target: str
    top_k: int = 10


def main(path: str, ef: int, port: int) -> None:
    """Serve the file's index on loopback until killed."""
    faiss.omp_set_num_threads(1)
    index = faiss.read_index(path, faiss.IO_FLAG_MMAP_IFC)
    index.hnsw.efSearch = ef
    app = FastAPI()

    @app.post("/v1/search/vector")
    async def search(ask: Ask) -> dict[str, Any]:
        score_1K, row_1K = index.search(np.asarray([ask.vector], np.float32), ask.top_k)
        return {"scores": score_1K[0].tolist(), "rows": row_1K[0].tolist()}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="critical", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
