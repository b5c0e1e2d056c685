"""One fit, on one worker or as one of several. No Ray, no files: state comes in and goes out as a Checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler

from mmray.config import Train
from mmray.errors import ConfigError, WorkspaceError
from mmray.features.table import Segments
from mmray.graphs.population import Reference
from mmray.models.closed_form import ClosedForm, subject_labels
from mmray.models.system import System
from mmray.training import averaging, batches, inference, losses, reference
from mmray.training.batches import Graphs
from mmray.training.calibration import temperature
from mmray.training.checkpoint import Checkpoint, EpochRecord, optimiser_tensors, restore_optimiser
from mmray.training.sampling import Sampler, sampler, spread
from mmray.training.schedule import advance, schedule

_LARGEST = 1e15  # a feature's squares can still be added up in float32
POLL_S = 2.0  # about as often it is asked whether a worker is about to go
_POLLS_A_SAVE = 5  # polls from one save to the next while one is

Forwards = dict[nn.Module, Callable[..., Any]]


@dataclass(frozen=True)
class Place:
    """Which worker this is, and its device. More than one worker needs an initialised process group."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009  a device is immutable


def fit(
    model: System,
    training: dict[str, Segments],
    validation: dict[str, Segments],
    train: Train,
    seed: int,
    *,
    start: Checkpoint | None = None,
    on_epoch: Callable[[Checkpoint], None] = lambda checkpoint: None,
    noticed: Callable[[], bool] = lambda: False,
    on_notice: Callable[[Checkpoint], None] = lambda checkpoint: None,
    place: Place = Place(),
) -> Checkpoint:
    """Fit a model to the training subjects; keep the weights of the epoch with the best validation MRR.

    AdamW (no decay on biases, norms and the temperature) under a schedule, clipped gradients, bfloat16 autocast on a
    GPU. With `ema` the average of the weights is what is validated and returned. On a CPU, going on from a checkpoint,
    also one inside an epoch, gives the same bits, with as many workers and threads, compiled or not as before. A system
    in closed form is solved for instead, on every worker alike, and its one record tells of the solution.

    Args:
        model: freshly built, on any device; its scalers are fitted here, on `training` alone.
        training: modality -> segments of the training subjects, in the model's order.
        validation: modality -> segments of the validation subjects.
        train: budget and weights.
        seed: of batches and dropout.
        start: where an earlier fit of the same settings stopped; None starts anew.
        on_epoch: called on every worker after each epoch.
        noticed: whether a worker is about to be taken away; asked on every worker after the same steps, about every
            POLL_S, and must tell all of them the same.
        on_notice: called on every worker with the state inside an epoch, at the notice and about every ten seconds
            after it.
        place: this worker.

    Returns:
        The last state, with `finished` set; `part("best")` is the fitted model, `part("best_reference")` the reference
        set that it was validated with.

    Raises:
        ConfigError: fewer than two training subjects or validation pair_ids have every modality, or too few are there
            for the population graph; a feature is not finite, or the loss no longer is; or PyTorch finds nothing here
            to compile with.
    """
    draws = require_pairs(training, validation)
    _require_finite(training)
    _require_finite(validation)
    validation = {m: _thinned(part, train.validation_segments) for m, part in validation.items()}
    train_graphs = {m: batches.dense(batches.graphs(part, place.device)) for m, part in training.items()}
    validation_graphs = {m: batches.dense(batches.graphs(part, place.device)) for m, part in validation.items()}
    model.to(place.device)
    model.fit_scalers(
        {m: graphs.x_SND for m, graphs in train_graphs.items()},
        {m: graphs.subject_id_S for m, graphs in train_graphs.items()},
        {m: graphs.recording_id_S for m, graphs in train_graphs.items()},
    )
    if start is None:
        model.begin(training)
    if place.world > 1:
        _made_one(model)
    weight_C = _class_weights(model, training, place) if train.class_weights else None
    if isinstance(model, ClosedForm):
        if start is None:
            model.fit_closed_form(training, lambda: _validated(model, validation_graphs, validation, place).mrr)
            means = _epoch(model, draws, train_graphs, train, seed, 0, None, place, weight_C)
            start = _solved(model, means, _validated(model, validation_graphs, validation, place), place.world)
            on_epoch(start)
        return start
    optimiser = _optimiser(model, train)
    scheduler = schedule(optimiser, train)
    torch.manual_seed(seed * 7919 + place.rank)
    if start is not None:
        _restore(model, optimiser, scheduler, start, place)
    state = start or Checkpoint({}, [], {})
    _require_one_start(len(state.history), state.step, place)
    best = start.part("best") if start is not None else {}
    best_reference = start.part("best_reference") if start is not None else {}

    kept = averaging.averaged(model) if train.ema else model  # what is validated and returned
    if start is not None and train.ema:
        kept.load_state_dict(start.part("average"))

    def attach(new: Reference) -> None:
        model.attach(new)
        kept.attach(new)

    def refreshed() -> Reference:
        each = train.reference_segments
        return reference.make(kept, training, train_graphs, each, place.rank, place.world)

    if model.neighbours:
        before = start.part("reference") if start is not None else {}
        attach(reference.of_tensors(before, training, place.device) if before else refreshed())
    wrapped = model if place.world == 1 else DistributedDataParallel(model, forward_sync_buffers=False)
    compiled: Forwards = _compiled(model) if train.compile else {}
    due = _every(POLL_S, place)
    polls = 0  # since the notice

    def captured(now: Checkpoint) -> Checkpoint:
        return _capture(now, model, kept, best, best_reference, optimiser, scheduler, place)

    def after_step(step: int, total_3: Tensor) -> None:
        nonlocal polls
        if due() and noticed():
            if polls % _POLLS_A_SAVE == 0:
                inside = captured(replace(state, step=step))
                on_notice(_with_progress(inside, total_3))
            polls += 1

    while not state.finished:
        epoch = len(state.history)
        begun = _begun(state, place)
        with _standing_in(compiled):
            means = _epoch(
                wrapped, draws, train_graphs, train, seed, epoch, optimiser, place, weight_C, kept, begun, after_step
            )
        if not math.isfinite(means[0]):
            raise ConfigError(
                f"train: the loss is {means[0]} in epoch {epoch + 1}; lower train.learning_rate, or look for "
                "recordings whose features are far larger than the others'"
            )
        if model.neighbours and (epoch + 1) % train.reference_every == 0:
            attach(refreshed())
        validated = _validated(kept, validation_graphs, validation, place)
        mrr = validated.mrr
        record = _record(model, epoch, means, validated, optimiser.param_groups[0]["lr"], place.world)
        history = [*state.history, record]
        advance(scheduler, mrr)
        # the later of two equal epochs is kept: a small validation set reaches its ceiling long before the loss
        if mrr >= state.best_mrr:
            best = {name: tensor.detach().clone() for name, tensor in kept.state_dict().items()}
            best["temperature"].fill_(temperature(*validated.classes))
            best_reference = model.reference.tensors() if model.reference else {}
            state = replace(state, best_epoch=epoch)
        state = replace(
            state,
            stale=0 if mrr > state.best_mrr else state.stale + 1,
            best_mrr=max(mrr, state.best_mrr),
            history=history,
            step=0,
        )
        over = len(history) >= train.epochs or state.stale >= train.patience
        state = captured(replace(state, finished=over))
        on_epoch(state)
    return state


def require_pairs(training: dict[str, Segments], validation: dict[str, Segments]) -> Sampler:
    """Index the training segments, having made sure that there is something to contrast and to validate.

    Raises:
        ConfigError: as `fit`.
    """
    if len(inference.paired(validation)) < 2:
        raise ConfigError(
            f"train: fewer than 2 validation subjects have segments of {' and '.join(validation)}; raise "
            "split.validation_fraction under a new split.name, or choose another train.fold"
        )
    return sampler(training)


def _require_finite(segments: dict[str, Segments]) -> None:
    """A system in closed form would end in a library's own words, and a trained one after an epoch."""
    for modality, part in segments.items():
        finite_S = np.array([(np.abs(x_ND) < _LARGEST).all() for x_ND in part.x_SND])  # so NaN is not, either
        if not finite_S.all():
            bad = part.recording_id_S[~finite_S]
            raise ConfigError(
                f"train: {modality} features of recording {bad[0]} are not finite, or beyond {_LARGEST:g}, as in "
                f"{len(bad)} segments of {len(set(bad.tolist()))} recording(s); look at the file, or leave it out of "
                "the study, and prepare again"
            )


def _compiled(model: System) -> Forwards:
    """Each encoder's forward, compiled: most of the arithmetic. A whole system falls into dozens of pieces."""
    # dropout draws as it does uncompiled
    return {e: torch.compile(e.forward, options={"fallback_random": True}) for e in model.encoders.values()}


@contextmanager
def _standing_in(forwards: Forwards) -> Iterator[None]:
    """Modules run these for their own forward while this lasts; compiled modules would go by other names of weights."""
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    except torch._dynamo.exc.BackendCompilerFailed as error:
        raise ConfigError(
            f"train: PyTorch finds nothing here to compile with ({str(error).splitlines()[0]}); set train.compile=false"
        ) from error
    finally:
        for module in forwards:
            del module.forward


def _made_one(model: System) -> None:
    """The first worker's state on all: machines may round apart, and near-equal axes turn with the rounding."""
    for tensor in (*model.buffers(), *model.parameters()):
        dist.broadcast(tensor.data, 0)


def _class_weights(model: System, training: dict[str, Segments], place: Place) -> Tensor:
    _, label_U = subject_labels(training)
    return losses.balanced(label_U, model.classifier.out_features).to(place.device)


def _thinned(part: Segments, each: int) -> Segments:
    """At most `each` segments of every pair_id."""
    return part.take(np.sort(np.concatenate(list(spread(part.pair_id_S, each).values()))))


def _every(seconds: float, place: Place) -> Callable[[], bool]:
    """Whether about so much time has passed; asked after every step, it tells every worker the same.

    It counts steps, whose number the first worker's clock sets each time: agreeing on the time itself would cost a
    message a step.
    """
    left, steps, since = 1, 0, time.monotonic()

    def due() -> bool:
        nonlocal left, steps, since
        left, steps = left - 1, steps + 1
        if left:
            return False
        now = time.monotonic()
        next_1 = torch.tensor([max(1, int(seconds * steps / max(now - since, 1e-6)))], device=place.device)
        if place.world > 1:
            dist.broadcast(next_1, 0)
        left, steps, since = int(next_1), 0, now
        return True

    return due


def _with_progress(inside: Checkpoint, total_3: Tensor) -> Checkpoint:
    """A state inside an epoch, with every worker's sums of losses so far."""
    return replace(
        inside, tensors=inside.tensors | {"progress.losses": losses.gather_rows(total_3.clone()[None]).cpu()}
    )


def _begun(state: Checkpoint, place: Place) -> tuple[int, Tensor]:
    """Batches done of the epoch under way, and this worker's sums of their losses."""
    if not state.step:
        return 0, torch.zeros(3, device=place.device)
    sums_W3 = state.part("progress")["losses"].to(place.device)
    # of another number of workers: their mean, so that the epoch's mean comes out as it would have
    return state.step, sums_W3[place.rank].clone() if len(sums_W3) == place.world else sums_W3.mean(0)


def _require_one_start(epochs: int, step: int, place: Place) -> None:
    """Workers that read different checkpoints would wait for one another for ever."""
    if place.world > 1:
        start_W2 = losses.gather_rows(torch.tensor([[epochs, step]], device=place.device))
        if (start_W2 != start_W2[0]).any():
            found = sorted({f"{epochs} epochs and {step} batches" for epochs, step in start_W2.tolist()})
            raise WorkspaceError(
                f"train: the workers found checkpoints of {', '.join(found)}; do all machines see the same workspace?"
            )


def _epoch(
    model: torch.nn.Module,
    draws: Sampler,
    graphs: dict[str, Graphs],
    train: Train,
    seed: int,
    epoch: int,
    optimiser: torch.optim.Optimizer | None,
    place: Place,
    class_weight_C: Tensor | None,
    kept: System | None = None,
    begun: tuple[int, Tensor] | None = None,
    after_step: Callable[[int, Tensor], None] = lambda step, total_3: None,
) -> list[float]:
    """Mean losses of an epoch: total, retrieval, classification. Without an optimiser nothing moves.

    `kept`, where it is not the model itself, follows it as an average. `begun` are batches done before, and their sums.
    """
    model.train()
    half = place.device.type == "cuda"
    done, total_3 = begun or (0, torch.zeros(3, device=place.device))
    first = epoch * draws.steps(train.batch_size, train.passes)
    count = 0
    for draw in draws.batches(train.batch_size, train.passes, train.segments, seed, epoch):
        if count < done:
            count += 1
            continue
        batch = batches.batch(graphs, draw.shard(place.rank, place.world))
        with torch.autocast(place.device.type, torch.bfloat16, enabled=half):
            output = model(batch)
        loss = losses.total_loss(output, batch, train, class_weight_C)
        if optimiser is not None:
            optimiser.zero_grad(set_to_none=True)
            loss.total.backward()  # type: ignore[no-untyped-call]
            if train.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), train.clip_norm)
            optimiser.step()
            if kept is not None and train.ema:
                averaging.follow(kept, model, train.ema, first + count)
        total_3 += torch.stack([loss.total, loss.retrieval, loss.classification]).detach()
        count += 1
        after_step(count, total_3)
    if place.world > 1:
        dist.all_reduce(total_3)  # the same but for rounding, and all must stop alike where one is not finite
    means: list[float] = (total_3 / (count * place.world)).tolist()
    return means


@dataclass(frozen=True)
class _Validated:
    """What validation subjects say of the weights: MRR, and class scores U x C with the classes of these people."""

    mrr: float
    classes: tuple[Tensor, NDArray[np.int64]]


def _validated(model: System, graphs: dict[str, Graphs], segments: dict[str, Segments], place: Place) -> _Validated:
    model.eval()
    if place.world > 1 and isinstance(model, ClosedForm):
        _made_one(model)  # each worker solved for itself
    encoded = {m: inference.encode(model, m, graphs[m], place.rank, place.world) for m in graphs}
    z = {m: inference.embed(model, m, graphs[m].subject_id_S, encoded[m]) for m in graphs}
    mrr = torch.tensor(inference.paired_mrr(z, segments), dtype=torch.float64, device=place.device)
    if place.world > 1:
        dist.broadcast(mrr, 0)  # it decides when all stop, and machines may round apart
    subjects, label_U = subject_labels(segments)
    return _Validated(float(mrr), (inference.subject_logits(model, encoded, segments, subjects), label_U))


def _record(
    model: System, epoch: int, means: list[float], validated: _Validated, rate: float, workers: int
) -> EpochRecord:
    logit_UC, label_U = validated.classes
    known_U = label_U >= 0
    logit_KC, label_K = logit_UC[torch.as_tensor(known_U)].float().cpu(), torch.as_tensor(label_U[known_U])
    return EpochRecord(
        epoch=epoch,
        loss=means[0],
        retrieval_loss=means[1],
        classification_loss=means[2],
        validation_mrr=validated.mrr,
        validation_accuracy=(logit_KC.argmax(1) == label_K).float().mean().item() if len(label_K) else None,
        validation_cross_entropy=F.cross_entropy(logit_KC, label_K).item() if len(label_K) else None,
        logit_scale=model.logit_scale().item(),
        learning_rate=rate,
        workers=workers,
        device=model.log_scale.device.type,
    )


def _solved(model: System, means: list[float], validated: _Validated, workers: int) -> Checkpoint:
    record = _record(model, 0, means, validated, 0.0, workers)
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    tensors = {f"{part}.{name}": tensor.clone() for part in ("model", "best") for name, tensor in weights.items()}
    return Checkpoint(tensors, [], {}, [record], best_epoch=0, best_mrr=validated.mrr, finished=True)


def _optimiser(model: System, train: Train) -> torch.optim.AdamW:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    free = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": train.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=train.learning_rate)


def _capture(
    state: Checkpoint,
    model: System,
    kept: System,
    best: dict[str, Tensor],
    best_reference: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    scheduler: LRScheduler,
    place: Place,
) -> Checkpoint:
    tensors = {f"model.{name}": tensor.detach().clone() for name, tensor in model.state_dict().items()}
    if kept is not model:
        tensors |= {f"average.{name}": tensor.clone() for name, tensor in kept.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    # a copy: safetensors refuses two names of one tensor
    tensors |= {f"best_reference.{name}": tensor.clone() for name, tensor in best_reference.items()}
    if model.reference is not None:
        tensors |= {f"reference.{name}": tensor for name, tensor in model.reference.tensors().items()}
    tensors |= {name: tensor.clone() for name, tensor in optimiser_tensors(optimiser).items()}
    tensors["rng.cpu"] = losses.gather_rows(torch.get_rng_state()[None].to(place.device)).cpu()
    if place.device.type == "cuda":
        tensors["rng.cuda"] = losses.gather_rows(torch.cuda.get_rng_state(place.device)[None].to(place.device)).cpu()
    return replace(
        state, tensors=tensors, optimiser=optimiser.state_dict()["param_groups"], scheduler=scheduler.state_dict()
    )


def _restore(
    model: System,
    optimiser: torch.optim.Optimizer,
    scheduler: LRScheduler,
    start: Checkpoint,
    place: Place,
) -> None:
    try:
        model.load_state_dict(start.part("model"))
        restore_optimiser(optimiser, start)
        scheduler.load_state_dict(start.scheduler)
    except (RuntimeError, ValueError, KeyError) as error:
        raise WorkspaceError(
            f"train: the checkpoint is of another architecture ({str(error).splitlines()[0]}); delete it"
        ) from error
    rng = start.part("rng")
    # another number of workers, or another kind of device: dropout goes on from the seed, all else from the checkpoint
    if len(rng["cpu"]) == place.world:
        torch.set_rng_state(rng["cpu"][place.rank].clone())  # torch misreads a row that does not start its storage
    if place.device.type == "cuda" and len(rng.get("cuda", ())) == place.world:
        torch.cuda.set_rng_state(rng["cuda"][place.rank].clone(), place.device)
