"""`mmray train`: one fold fitted, here or on Ray Train's workers, then evaluated on subjects it never saw.

State lives in one file, runs/<id>/checkpoint.safetensors, replaced atomically after every epoch, whatever the number of
workers, and inside an epoch where a worker's node is about to go. A fit whose worker or driver dies goes on from it,
also with another number of workers. Ray Train starts the workers, joins them and starts them again; it stores nothing
that anyone reads back.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc
import torch
from rich.console import Group, RenderableType
from rich.text import Text

from mmray import __version__, cluster, config, placement, progress
from mmray.config import Config
from mmray.errors import ConfigError, MmrayError, ResourceError, WorkspaceError
from mmray.evaluation import table
from mmray.features.table import Segments
from mmray.features.table import load as load_segments
from mmray.placement import Want
from mmray.recordings import catalogue, splits
from mmray.recordings.splits import Fold
from mmray.schema import MODALITIES, Metric, metrics_of
from mmray.storage import Workspace
from mmray.training import loop, reference, results, structure, tracking
from mmray.training.checkpoint import (
    MODEL,
    Checkpoint,
    EpochRecord,
    load_weights,
    read_checkpoint,
    read_settings,
    write_checkpoint,
)
from mmray.training.shuffled import shuffled_pairs

CHECKPOINT = "checkpoint.safetensors"
_START_S = 60.0  # a group may take to find its places, and a lost node to be replaced
_RESTART_S = 15.0  # the same, of a range that can be smaller
_LOOK_S = 2.0


@dataclass(frozen=True)
class RunSummary:
    """What `mmray train` tells.

    Attributes:
        folder: where the run's files lie, as a path of the workspace's filesystem.
        best_epoch: whose weights were kept.
        trained: False where the run was there already.
        fitted_on: workers and kind of device of the fit; several numbers of workers where they changed.
    """

    run_id: str
    folder: str
    metrics: list[Metric]
    history: list[EpochRecord]
    best_epoch: int
    trained: bool
    fitted_on: dict[str, Any]

    def headline(self) -> str:
        """How the fit went, and where everything lies."""
        best = self.history[self.best_epoch]
        counts = self.fitted_on["workers"]
        on = f"on {', then '.join(map(str, counts))} worker(s), {self.fitted_on['device']}"
        fitted = f"fitted {on}" if self.trained else f"was fitted before, {on}; nothing to do"
        changed = "The number of workers changed, and dropout follows it: another run may end a little apart.\n"
        return (
            f"Run {self.run_id} {fitted}: {len(self.history)} epochs, the best was epoch {best.epoch + 1}.\n"
            f"{changed if len(counts) > 1 else ''}"
            f"Validation MRR {best.validation_mrr:.3f}. All files: {self.folder}\n"
        )

    def render(self) -> RenderableType:
        """The headline and the figures as tables."""
        return Group(Text(self.headline()), table.render(self.metrics))


def train(settings: Config) -> RunSummary:
    """Fit one fold, evaluate it on the fold's test subjects and write runs/<id>/.

    A finished run is not fitted again; an interrupted one goes on after its last epoch.

    Raises:
        WorkspaceError: features, recordings or split are missing or damaged; or the finished run's config.yaml was
            changed.
        ConfigError: there is no such fold, it holds too few subjects, or the recordings cannot be split as asked.
        ResourceError: the cluster has no room for the workers, or they failed too often.
    """
    workspace = Workspace(settings.workspace)
    splits.write_split(settings)
    fold = _fold(workspace, settings)
    run_id = run_name(workspace, settings)
    trained = not workspace.exists("runs", run_id, MODEL)
    with workspace.tidied("runs", run_id):
        if trained:
            _fit_and_keep(workspace, settings, run_id, fold)
        else:
            read_settings(workspace, run_id)
        if not results.is_evaluated(workspace, settings, run_id):
            results.write_evaluation(workspace, settings, run_id)
    summary = workspace.read_json("runs", run_id, "run.json")
    history = [EpochRecord(**row) for row in workspace.read_table("runs", run_id, "history.parquet").to_pylist()]
    metrics = metrics_of(workspace.read_table("runs", run_id, "metrics.parquet"))
    return RunSummary(
        run_id,
        workspace.address("runs", run_id),
        metrics,
        history,
        summary["best_epoch"],
        trained,
        summary["fitted_on"],
    )


def _fit_and_keep(workspace: Workspace, settings: Config, run_id: str, fold: Fold) -> None:
    with _threads(settings):
        segments = segments_of(workspace, settings, fold)
        structure.prepare(settings, segments)
        state = fit_run(workspace, settings, run_id, segments, fold)
        model = structure.untrained(settings, segments, classes_of(workspace))
        load_weights(model, state.part("best"), f"workspace {workspace.root}: runs/{run_id}/{CHECKPOINT}")
        if model.neighbours:
            training = results.chosen(segments, fold.train)
            model.attach(reference.of_tensors(state.part("best_reference"), training, torch.device("cpu")))
        results.write_fitted(workspace, settings, run_id, model.eval(), segments, fold, state)


def run_name(workspace: Workspace, settings: Config) -> str:
    """The model's name and a digest of the data, settings and version that it is fitted with.

    Hardware and the number of workers, which move the weights by rounding and dropout, are left out.

    Raises:
        WorkspaceError: nothing was prepared with these features' settings, or from these recordings.
    """
    return named(settings, data_digest(workspace, settings))


def named(settings: Config, data: str) -> str:
    """As `run_name`, where the data's digest is known."""
    name = config.digest(settings.features, data, settings.train, settings.model, settings.seed, __version__)
    return f"{settings.model.name}-{name}"


def data_digest(workspace: Workspace, settings: Config) -> str:
    """What a fit reads: every prepared recording, its labels, the software that made it, and the split.

    Raises:
        WorkspaceError: as `run_name`.
    """
    digest = config.digest(settings.features)
    if not workspace.exists("features", digest, "parts.parquet"):
        raise WorkspaceError(
            f"features/{digest} is not in workspace {workspace.root}; run `mmray prepare` with this config"
        )
    provenance = ("features", digest, "provenance.json")  # written last, so not there after a kill just before
    prepared_from = workspace.read_json(*provenance)["recordings_sha256"] if workspace.exists(*provenance) else None
    if prepared_from != catalogue.fingerprint(catalogue.load(workspace)):
        raise WorkspaceError(
            f"features/{digest} was prepared from another recordings.parquet than workspace {workspace.root} holds "
            "now; run `mmray prepare` again, which computes only what changed"
        )
    # a part's path carries a digest of its bytes, its labels and the software that made it
    parts = workspace.read_table("features", digest, "parts.parquet").sort_by("recording_id").to_pylist()
    split = workspace.read_bytes("splits", f"{settings.split.name}.json")
    return hashlib.sha256(repr(parts).encode() + split).hexdigest()


def _fold(workspace: Workspace, settings: Config) -> Fold:
    folds = splits.load_split(workspace, settings.split.name)
    if settings.train.fold >= len(folds):
        raise ConfigError(
            f"config: train.fold = {settings.train.fold}, and split '{settings.split.name}' has {len(folds)} folds; "
            f"choose 0 to {len(folds) - 1}"
        )
    return folds[settings.train.fold]


def segments_of(workspace: Workspace, settings: Config, fold: Fold) -> dict[str, Segments]:
    """What a fit takes of everybody in a fold."""
    return paired(recorded(workspace, settings, fold), settings, fold)


def paired(segments: dict[str, Segments], settings: Config, fold: Fold) -> dict[str, Segments]:
    """The segments under their own people, or under those that the control's lot gives them to."""
    seed = settings.train.shuffled_pairs
    return segments if seed is None else shuffled_pairs(segments, fold, seed)


def recorded(workspace: Workspace, settings: Config, fold: Fold) -> dict[str, Segments]:
    """Prepared segments of everybody in a fold."""
    digest, subjects = config.digest(settings.features), {*fold.train, *fold.validation, *fold.test}
    return {modality: load_segments(workspace, digest, modality, subjects) for modality in MODALITIES}


def classes_of(workspace: Workspace) -> int:
    """How many classes the study's labels have, at least two."""
    label = pc.max(workspace.read_table("recordings.parquet", columns=["label"])["label"]).as_py()
    return max(1, label or 0) + 1


@contextmanager
def _threads(settings: Config) -> Iterator[None]:
    """A worker's share of threads, here too: rounding follows their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, int(settings.cluster.worker_cpus)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fit_run(
    workspace: Workspace, settings: Config, run_id: str, segments: dict[str, Segments], fold: Fold
) -> Checkpoint:
    """Fit, or go on with what runs/<id>/checkpoint.safetensors holds, here or on as many workers as are asked for.

    Raises:
        As `train`.
    """
    state = read_checkpoint(workspace, "runs", run_id, CHECKPOINT)
    if state is not None and state.finished:
        return state
    loop.require_pairs(results.chosen(segments, fold.train), results.chosen(segments, fold.validation))
    told = len(state.history) if state else 0
    with (
        progress.bar("train", settings.train.epochs) as advance,
        tracking.tracked(workspace, settings, "runs", run_id) as track,
    ):

        def tell(record: EpochRecord) -> None:
            nonlocal told
            if record.epoch < told:
                return  # done again after a worker's death
            told = record.epoch + 1
            track(record)
            advance(1, _note(record))

        advance(told)
        if settings.train.group[1]:
            _fit_on_workers(settings, run_id, tell)
        else:
            place = loop.Place(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
            _fit_here(settings, run_id, segments, place, tell)
        state = read_checkpoint(workspace, "runs", run_id, CHECKPOINT)
        if state is None or not state.finished:
            raise WorkspaceError(
                f"workspace {workspace.root}: the workers ended without a finished runs/{run_id}/{CHECKPOINT}; "
                "do all machines see the same workspace?"
            )
        for record in state.history[told:]:  # the workers were ahead of what takes their word
            tell(record)
    return state


def _fit_here(
    settings: Config,
    run_id: str,
    segments: dict[str, Segments],
    place: loop.Place,
    tell: Callable[[EpochRecord], None],
    noticed: Callable[[], bool] = lambda: False,
) -> None:
    """Fit on this worker. Rank 0 writes the checkpoint, and only then does any worker tell of the epoch."""
    workspace = Workspace(settings.workspace)
    fold = _fold(workspace, settings)

    def keep(state: Checkpoint) -> None:
        if place.rank == 0:
            write_checkpoint(workspace, state, "runs", run_id, CHECKPOINT)

    def on_epoch(state: Checkpoint) -> None:
        keep(state)
        tell(state.history[-1])

    loop.fit(
        structure.untrained(settings, segments, classes_of(workspace)),
        results.chosen(segments, fold.train),
        results.chosen(segments, fold.validation),
        settings.train,
        settings.seed,
        start=read_checkpoint(workspace, "runs", run_id, CHECKPOINT),
        on_epoch=on_epoch,
        noticed=noticed,
        on_notice=keep,
        place=place,
    )


def _fit_on_workers(settings: Config, run_id: str, tell: Callable[[EpochRecord], None]) -> None:
    # the controller looks after its workers this often; a report waits for it
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    least, most = settings.train.group
    patience = max(_START_S, settings.cluster.wait_s)
    # a range is tried at the old size first, for Ray takes up to 20 s to see that a node went: do not wait long for it
    waited = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(patience if least == most else _RESTART_S)}
    with cluster.session(settings.cluster), cluster.environment(waited):
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        workspace = Workspace(settings.workspace)
        want = group_want(settings)
        cluster.require_room(settings.cluster, "train", want, setting="train.num_workers or cluster.worker_cpus")
        with _epochs_told(tell) as queue:
            trainer = TorchTrainer(
                _worker,
                train_loop_config={"config": settings.model_dump(mode="json"), "run_id": run_id, "queue": queue},
                torch_config=TorchConfig(backend="nccl" if want.gpus else "gloo"),
                scaling_config=ScalingConfig(
                    num_workers=least if least == most else (least, most),  # type: ignore[arg-type]  # as version 1
                    use_gpu=want.gpus > 0,
                    resources_per_worker=want.resources(),
                    placement_strategy="PACK",  # gradients travel every step
                ),
                run_config=RunConfig(
                    name="ray",
                    storage_path=workspace.path("runs", run_id),
                    storage_filesystem=workspace.filesystem,
                    failure_config=FailureConfig(
                        max_failures=settings.train.max_failures,
                        # groups that did not start; a range may try the old size twice after each loss
                        controller_failure_limit=3 if least == most else 30,  # type: ignore[call-arg]
                    ),
                ),
            )
            _watched(trainer.fit, settings, want, patience)


def group_want(settings: Config) -> Want:
    """The least workers that a group may have. Any node will do: they save when they are told that theirs will go."""
    hardware = settings.cluster
    memory = int(hardware.worker_gib * (1 << 30))
    return Want(settings.train.group[0], hardware.worker_cpus, hardware.gpus_per_worker, memory)


def _watched(fit: Callable[[], Any], settings: Config, want: Want, patience: float) -> None:
    """Run Ray Train, which waits for ever for nodes that never come, as long as there is room for its workers.

    Raises:
        ResourceError: there was none for so many seconds, or the workers failed too often.
        As the workers.
    """
    from ray.train import TrainingFailedError

    ended: Future[Any] = Future()

    def run() -> None:
        try:
            ended.set_result(fit())
        except BaseException as error:
            ended.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    lacking_since: float | None = None
    while not ended.done():
        with suppress(TimeoutError):
            ended.exception(timeout=_LOOK_S)
            break
        try:
            lacks = placement.missing([want], cluster.nodes()) is not None
        except Exception:  # Ray itself is going, and the fit will say so
            lacks = False
        lacking_since = (lacking_since or time.monotonic()) if lacks else None
        if lacking_since is not None and time.monotonic() - lacking_since > patience:
            cluster.require_room(
                settings.cluster.model_copy(update={"wait_s": 0.0}),
                "train: nodes were lost; what is finished is kept, and the same command goes on with it",
                want,
                setting="train.num_workers",
            )
    try:
        ended.result()
    except TrainingFailedError as error:
        raise _cause(error, settings) from error


def _worker(task: dict[str, Any]) -> None:
    """One of Ray Train's workers; the process group stands already."""
    import ray.train
    from ray.train.torch import get_device

    logging.getLogger("ray.train").setLevel(logging.WARNING)  # the driver tells of each epoch, once
    settings = config.from_dict(task["config"])
    cluster.limit_threads(settings.cluster.worker_cpus)
    torch.set_num_threads(max(1, int(settings.cluster.worker_cpus)))
    context = ray.train.get_context()
    place = loop.Place(context.get_world_rank(), context.get_world_size(), get_device())

    def tell(record: EpochRecord) -> None:
        if place.rank == 0:
            task["queue"].put(record)
        ray.train.report(asdict(record))

    workspace = Workspace(settings.workspace)
    segments = segments_of(workspace, settings, _fold(workspace, settings))

    def noticed() -> bool:
        return ray.train.get_preemption_info() is not None  # the first worker's word, the same on all

    _fit_here(settings, task["run_id"], segments, place, tell, noticed)


@contextmanager
def _epochs_told(tell: Callable[[EpochRecord], None]) -> Iterator[Any]:
    """A queue for the workers' epochs, told here as they come. What it still holds at the end is for the caller.

    Raises:
        As `tell`, when the block has ended well.
    """
    import ray
    from ray.exceptions import RayActorError
    from ray.util.queue import Empty, Queue

    # beside this process: on a node that is taken away it would take the fit with it
    here = {placement.NODE_ID: ray.get_runtime_context().get_node_id()}
    queue = Queue(actor_options={"num_cpus": 0, "label_selector": here})
    over = threading.Event()
    failed: list[Exception] = []

    def show() -> None:
        while not over.is_set() and not failed:
            try:
                record = queue.get(timeout=0.5)
            except Empty:
                continue
            except RayActorError:
                return  # the queue was killed, and nothing is lost by it
            try:
                tell(record)
            except Exception as error:  # a tracker's; it would end this thread alone
                failed.append(error)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        over.set()
        thread.join()
        queue.shutdown()
    if failed:
        raise failed[0]


def _note(record: EpochRecord) -> str:
    return f"loss {record.loss:.3f}, validation MRR {record.validation_mrr:.3f}"


def _cause(error: Exception, settings: Config) -> MmrayError:
    for failure in getattr(error, "worker_failures", {}).values():
        root = getattr(failure, "_base_exc", failure)
        if isinstance(root, MmrayError):
            return root
    return ResourceError(
        f"train: the workers failed more often than train.max_failures = {settings.train.max_failures} allows: "
        f"{str(error).strip().splitlines()[-1]}; the same command goes on after the last finished epoch"
    )
