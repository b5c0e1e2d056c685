"""mmray's own fit in other processes, held after every epoch until told to go on, so that it is timed from here."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
import torch.distributed as dist

from mmray import config
from mmray.features.table import Segments
from mmray.models import registry
from mmray.training import loop
from mmray.training.checkpoint import Checkpoint

SHAPES = {"eeg": (128, 8), "audio": (32, 69)}  # nodes and features of the default settings
NEIGHBOURS, SEGMENTS_EACH = 8, 4
VALIDATION_SHARE = 0.25  # of the training subjects: split.validation_fraction = 0.2 of those not tested


class Fit:
    """A fit of the default model to made-up subjects, on one worker or on several joined by gloo; one thread each.

    Entering it starts the processes and ends with their first epoch, which warms up; each call is one more epoch, as
    the product does it: reference, steps, validation and the state that a checkpoint would hold.
    """

    def __init__(self, subjects: int, *, world: int = 1, passes: int = config.Train().passes) -> None:
        self.subjects, self.world, self.passes = subjects, world, passes
        self.peak_bytes = 0

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(self.world):
            here, there = context.Pipe()
            arguments = (rank, self.world, self._folder.name, self.subjects, self.passes, there)
            process = context.Process(target=_member, args=arguments, daemon=True)
            process.start()
            there.close()  # so that a member's death ends the wait for it
            self._pipes.append(here)
            self._processes.append(process)
        self._wait()
        return self

    def __call__(self) -> None:
        """One epoch on every member."""
        for pipe in self._pipes:
            pipe.send(True)
        self._wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=10)
            process.kill()
        self._folder.cleanup()

    def _wait(self) -> None:
        try:
            self.peak_bytes = max(pipe.recv() for pipe in self._pipes)
        except EOFError as error:
            raise RuntimeError("a process of the fit died; its own message stands above") from error


def segments_of(subjects: int, neighbours: int = NEIGHBOURS, prefix: str = "s") -> dict[str, Segments]:
    """Random features of the default shapes, every subject with both modalities; the same each time."""
    return {m: _segments(m, subjects, min(neighbours, SHAPES[m][0] - 1), prefix) for m in SHAPES}


def _segments(modality: str, subjects: int, neighbours: int, prefix: str) -> Segments:
    rng = np.random.default_rng(0)
    nodes, width = SHAPES[modality]
    count = subjects * SEGMENTS_EACH
    subject = np.repeat([f"{prefix}{u:05d}" for u in range(subjects)], SEGMENTS_EACH)
    text = np.array([f"{modality}{row}" for row in range(count)])
    # a random ring: distinct neighbours, without N x N scores that would be the peak of memory
    offset_SK = 1 + rng.permuted(np.tile(np.arange(nodes - 1, dtype=np.int16), (count, 1)), axis=1)[:, :neighbours]
    neighbour_SNK = (np.arange(nodes, dtype=np.int16)[:, None] + offset_SK[:, None, :]) % nodes
    return Segments(
        modality=modality,
        segment_id_S=text,
        recording_id_S=text,
        subject_id_S=subject,
        pair_id_S=subject,
        task_S=np.full(count, "rest"),
        label_S=np.repeat(np.arange(subjects) % 2, SEGMENTS_EACH).astype(np.int8),
        start_s_S=np.zeros(count, np.float32),
        x_SND=rng.standard_normal((count, nodes, width), dtype=np.float32),
        neighbour_SNK=neighbour_SNK.astype(np.int16, copy=False),
        weight_SNK=rng.random((count, nodes, neighbours), dtype=np.float32),
    )


def _member(rank: int, world: int, folder: str, subjects: int, passes: int, pipe: Connection) -> None:
    """One worker of a fit; the other end of the pipe closes when no more epochs are wanted."""
    torch.set_num_threads(1)
    imported = peak_bytes()
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    training = segments_of(subjects)
    validation = segments_of(max(2, round(VALIDATION_SHARE * subjects)), prefix="v")
    torch.manual_seed(0)
    model = registry.build(config.Model(), SHAPES, classes=2)

    def held(state: Checkpoint) -> None:
        pipe.send(peak_bytes() - imported)
        try:
            pipe.recv()
        except EOFError:
            os._exit(0)  # no more epochs are wanted, and torch's threads need no farewell

    train = config.Train(epochs=10_000, patience=10_000, passes=passes)
    loop.fit(model, training, validation, train, 0, on_epoch=held, place=loop.Place(rank, world))


def peak_bytes() -> int:
    """This process's largest resident memory so far.

    Linux's ru_maxrss starts at what the parent held when it started us; VmHWM does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
