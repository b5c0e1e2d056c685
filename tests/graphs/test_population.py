"""Who a lone query asks, and what it hears: against a loop over the definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmray.graphs.population import STRANGER, Reference, nearest, partner_message

E = 4


def made(rows: int = 12, subjects: int = 8, seed: int = 0) -> Reference:
    """Some subjects own several rows; rows 3 and 7 lack the second modality, row 5 the first."""
    generator = torch.Generator().manual_seed(seed)
    present_RM = torch.ones(rows, 2, dtype=torch.bool)
    present_RM[[3, 7], 1] = False
    present_RM[5, 0] = False
    vector_RME = torch.randint(-2, 3, (rows, 2, E), generator=generator).float()  # many ties
    names = tuple(f"s{number}" for number in range(subjects))
    return Reference(vector_RME * present_RM[..., None], present_RM, torch.arange(rows) % subjects, names)


def cosine(a, b) -> float:
    length = max(float(a.norm()), 1e-12) * max(float(b.norm()), 1e-12)
    return float(a @ b) / length


def naive_nearest(query_E, reference_RE, subject, subject_R, k):
    found = [
        (-round(cosine(query_E, row_E), 5), r)
        for r, row_E in enumerate(reference_RE)
        if subject == STRANGER or int(subject_R[r]) != subject
    ]
    return [r for _, r in sorted(found)[:k]]


@given(seed=st.integers(0, 10_000), k=st.integers(1, 6), block=st.integers(1, 40))
def test_blocks_of_any_size_find_the_neighbours_of_a_full_sort(seed, k, block):
    generator = torch.Generator().manual_seed(seed)
    query_QE, reference_RE = torch.randn(5, E, generator=generator), torch.randn(30, E, generator=generator)
    subject_R = torch.randint(0, 9, (30,), generator=generator)
    subject_Q = torch.tensor([STRANGER, 0, 1, 2, 99])
    found_QK = nearest(query_QE, reference_RE, subject_Q, subject_R, k, block)
    for query_E, subject, found_K in zip(query_QE, subject_Q.tolist(), found_QK.tolist(), strict=True):
        assert found_K == naive_nearest(query_E, reference_RE, subject, subject_R, k)


@pytest.mark.parametrize("block", [1, 5, 100])
def test_equal_neighbours_are_taken_in_order_whatever_the_block(block):
    reference_RE = torch.ones(9, E)
    found_QK = nearest(torch.ones(1, E), reference_RE, torch.tensor([2]), torch.arange(9), 4, block)
    assert found_QK.tolist() == [[0, 1, 3, 4]]


@pytest.mark.parametrize(("own", "other"), [(0, 1), (1, 0)])
@pytest.mark.parametrize("subject", [STRANGER, 0, 4])
def test_the_message_equals_a_loop_over_the_definition(own, other, subject):
    reference, query_E = made(), torch.tensor([0.3, -1.0, 0.7, 0.2])
    complete = [r for r in range(12) if reference.present_RM[r].all()]
    rows = naive_nearest(query_E, reference.vector_RME[complete, own], subject, reference.subject_R[complete], 3)
    share = [math.exp(2.5 * cosine(query_E, reference.vector_RME[complete[r], own])) for r in rows]
    expected_E = sum(
        s / sum(share) * reference.vector_RME[complete[r], other] for s, r in zip(share, rows, strict=True)
    )
    found_QE = partner_message(query_E[None], torch.tensor([subject]), reference, own, other, 3, torch.tensor(2.5))
    torch.testing.assert_close(found_QE[0], expected_E)


@given(seed=st.integers(0, 10_000))
def test_message_edges_never_lead_to_the_subjects_that_supervision_pairs(seed):
    """The own subject is never a neighbour, though its own row is by far the most similar."""
    reference = made(seed=seed)
    complete_R = reference.present_RM.all(1)
    vector_RE, subject_R = reference.vector_RME[complete_R, 0], reference.subject_R[complete_R]
    row_QK = nearest(vector_RE, vector_RE, subject_R, subject_R, 4)
    assert not (subject_R[row_QK] == subject_R[:, None]).any()
    assert (nearest(vector_RE, vector_RE, torch.full_like(subject_R, STRANGER), subject_R, 1)[:, 0] >= 0).all()


def test_a_row_without_a_partner_is_never_asked():
    reference = made()
    loud_RME = reference.vector_RME.clone()
    loud_RME[[3, 7], 0] = 1e3 * torch.ones(E)  # the most similar by far, but alone
    louder = Reference(loud_RME, reference.present_RM, reference.subject_R, reference.subjects)
    query_QE, nobody_Q = torch.ones(1, E), torch.tensor([STRANGER])
    one, other = (partner_message(query_QE, nobody_Q, held, 0, 1, 3, torch.tensor(1.0)) for held in (reference, louder))
    assert torch.equal(one, other)


def test_room_leaves_out_the_subject_with_most_rows():
    reference = made(rows=12, subjects=8)  # complete rows: 9, of which subjects 0, 1 and 2 own two each
    assert reference.room() == 7


def test_codes_name_strangers():
    assert made().codes(["s2", "nobody", "s0"]).tolist() == [2, STRANGER, 0]
