"""Eq. 6 against a double loop, and one worker against two real ones."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.parallel import DistributedDataParallel

from mmray import config
from mmray.graphs.adjacency import dense_adjacency
from mmray.graphs.population import Reference
from mmray.models.registry import build
from mmray.models.system import Batch
from mmray.training.batches import Graphs, batch
from mmray.training.losses import balanced, classification_loss, gather_rows, retrieval_loss, total_loss
from mmray.training.sampling import Draw

SHAPES = {"eeg": (6, 3), "audio": (5, 4)}


def naive_retrieval_loss(z, present_BM, pair_B, scale):
    names, directions = list(z), []
    for i, query in enumerate(names):
        for j, target in enumerate(names):
            if i == j:
                continue
            rows = []
            for a in range(len(pair_B)):
                gallery = [b for b in range(len(pair_B)) if present_BM[b, j]]
                positives = [b for b in gallery if pair_B[b] == pair_B[a]]
                if not present_BM[a, i] or not positives:
                    continue
                exponent = {b: math.exp(scale * float(np.dot(z[query][a], z[target][b]))) for b in gallery}
                total = sum(exponent.values())
                rows.append(-sum(math.log(exponent[b] / total) for b in positives) / len(positives))
            directions.append(sum(rows) / max(len(rows), 1))
    return sum(directions) / len(directions)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_retrieval_loss_equals_a_double_loop(seed):
    rng = np.random.default_rng(seed)
    rows = 7
    z = {m: rng.normal(size=(rows, 3)) for m in SHAPES}
    z = {m: v / np.linalg.norm(v, axis=1, keepdims=True) for m, v in z.items()}
    present_BM, pair_B = rng.random((rows, 2)) < 0.7, rng.integers(0, 4, rows)  # several positives, gaps
    ours = retrieval_loss(
        {m: torch.from_numpy(v) for m, v in z.items()},
        torch.from_numpy(present_BM),
        torch.from_numpy(pair_B),
        torch.tensor(3.0, dtype=torch.float64),
    )
    assert float(ours) == pytest.approx(naive_retrieval_loss(z, present_BM, pair_B, 3.0), rel=1e-6, abs=1e-9)


def test_an_absent_row_is_no_negative():
    z = {m: torch.nn.functional.normalize(torch.randn(4, 3), dim=1) for m in SHAPES}
    present_BM = torch.tensor([[1, 1], [1, 1], [1, 1], [0, 0]], dtype=torch.bool)
    pair_B = torch.tensor([0, 1, 2, -1])
    without = retrieval_loss({m: v[:3] for m, v in z.items()}, present_BM[:3], pair_B[:3], torch.tensor(5.0))
    torch.testing.assert_close(retrieval_loss(z, present_BM, pair_B, torch.tensor(5.0)), without)


def test_a_batch_of_one_subject_has_a_retrieval_loss_of_zero_and_moves_nothing():
    z = {m: torch.nn.functional.normalize(torch.randn(1, 4), dim=-1).requires_grad_() for m in ("eeg", "audio")}
    scale = torch.tensor(10.0, requires_grad=True)
    loss = retrieval_loss(z, torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, dtype=torch.int64), scale)
    loss.backward()
    assert loss.item() == 0
    assert all((t.grad == 0).all() for t in (*z.values(), scale))


def test_a_missing_label_adds_nothing():
    logit_BC = torch.randn(4, 2)
    expected = torch.nn.functional.cross_entropy(logit_BC[:2], torch.tensor([1, 0]))
    torch.testing.assert_close(classification_loss(logit_BC, torch.tensor([1, 0, -1, -1])), expected)


def test_a_batch_without_labels_has_a_loss_of_zero():
    assert float(classification_loss(torch.randn(4, 2), torch.full((4,), -1))) == 0.0


def labelled_rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Class scores, labels with gaps, and small weights; of two workers the second holds a single labelled row."""
    logit_BC = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    return logit_BC, torch.tensor([0, -1, 2, -1, 2, 1, 2, -1]), torch.tensor([0.4, 0.01, 0.07])


def weighted_share(rank: int, world: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A worker's loss, and the gradient of its own rows."""
    logit_BC, label_B, weight_C = labelled_rows()
    own_BC = logit_BC[rank::world].clone().requires_grad_()
    loss = classification_loss(gather_rows(own_BC), gather_rows(label_B[rank::world]), weight_C)
    return loss.detach(), torch.autograd.grad(loss, own_BC)[0]


def require_torchs_own(shares: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """The mean over workers, of losses and gradients, is what torch makes of the whole batch."""
    logit_BC, label_B, weight_C = labelled_rows()
    logit_BC.requires_grad_()
    expected = torch.nn.functional.cross_entropy(logit_BC, label_B, weight_C, ignore_index=-1)
    (gradient_BC,) = torch.autograd.grad(expected, logit_BC)
    torch.testing.assert_close(torch.stack([loss for loss, _ in shares]).mean(), expected.detach())
    for rank, (_, own_BC) in enumerate(shares):
        torch.testing.assert_close(own_BC / len(shares), gradient_BC[rank :: len(shares)])


def weighted_on_one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(weighted_share(rank, 2), f"{folder}/share-{rank}.pt")
    dist.destroy_process_group()


def test_the_weighted_cross_entropy_is_torchs_own_on_one_worker():
    require_torchs_own([weighted_share(0, 1)])


def test_the_weighted_cross_entropy_is_torchs_own_on_two_workers(tmp_path: Path):
    mp.spawn(weighted_on_one_of_two, args=(str(tmp_path),), nprocs=2)
    require_torchs_own([torch.load(tmp_path / f"share-{rank}.pt", weights_only=True) for rank in range(2)])


def test_a_weighted_batch_without_labels_has_a_loss_of_zero():
    assert float(classification_loss(torch.randn(4, 2), torch.full((4,), -1), torch.tensor([2.0, 0.5]))) == 0.0


def test_balanced_weights_are_those_of_scikit_learn_and_leave_out_unknown_labels():
    label_U = np.array([0, 2, -1, 2, 1, 2, -1, 0])
    known_U = label_U[label_U >= 0]
    expected_C = compute_class_weight("balanced", classes=np.arange(3), y=known_U)
    np.testing.assert_allclose(balanced(label_U, 3).numpy(), expected_C, rtol=1e-6)


def test_a_class_that_nobody_has_weighs_nothing():
    assert balanced(np.array([0, 0, 2, -1]), 3).tolist() == pytest.approx([0.5, 0.0, 1.0])
    assert balanced(np.array([-1, -1]), 2).tolist() == [0.0, 0.0]


def global_batch(rank: int = 0, world: int = 1) -> Batch:
    """Seven samples, so that two workers need padding; repeated pairs, missing labels and a lone modality."""
    generator = torch.Generator().manual_seed(0)
    graphs = {
        m: Graphs(
            torch.randn(7, nodes, width, generator=generator),
            torch.randint(nodes, (7, nodes, 2), generator=generator),
            torch.rand(7, nodes, 2, generator=generator),
            np.array([f"s{u}" for u in range(7)]),
            np.array([f"r{u}" for u in range(7)]),
        )
        for m, (nodes, width) in SHAPES.items()
    }
    rows = np.repeat(np.arange(7), 2).reshape(7, 2)
    rows[3, 1] = -1
    draw = Draw(rows[..., None], np.array([0, 1, 2, 3, 4, 0, 5]), np.array([0, 1, -1, -1, 1, 0, 0]), np.arange(7))
    return batch(graphs, draw.shard(rank, world))


def gradients(model, inner, rank: int = 0, world: int = 1) -> dict[str, torch.Tensor]:
    part = global_batch(rank, world)
    total_loss(model(part), part, config.Train()).total.backward()
    return {name: parameter.grad for name, parameter in inner.named_parameters()}


def fresh_model():
    torch.manual_seed(0)
    model = build(
        config.Model(hidden=8, embedding=6, dropout=0.0, stochastic_depth=0.0, population_neighbours=3),
        SHAPES,
        classes=2,
    )
    vector_RME, present_RM = torch.randn(7, 2, 6), torch.ones(7, 2, dtype=torch.bool)
    model.attach(Reference(vector_RME, present_RM, torch.arange(7), tuple(f"s{u}" for u in range(7))))
    with torch.no_grad():
        model.population.inter_MM.fill_(0.5)
    return model


def one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    inner = fresh_model()
    torch.save(gradients(DistributedDataParallel(inner), inner, rank, 2), f"{folder}/gradients-{rank}.pt")
    dist.destroy_process_group()


def test_two_workers_make_the_gradient_of_one(tmp_path: Path):
    mp.spawn(one_of_two, args=(str(tmp_path),), nprocs=2)
    model = fresh_model()
    expected = gradients(model, model)
    for rank in range(2):
        found = torch.load(tmp_path / f"gradients-{rank}.pt", weights_only=True)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_a_batch_holds_zeros_where_a_modality_is_absent():
    assert (global_batch().x["audio"][3] == 0).all()
    assert (global_batch().weight["audio"][3] == dense_adjacency(torch.zeros(5, 1).long(), torch.zeros(5, 1))).all()
