"""A fit learns what is there, nothing where nothing is, and goes on as if it had never stopped."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from mmray import config
from mmray.errors import ConfigError, WorkspaceError
from mmray.graphs.population import Reference
from mmray.models.registry import build
from mmray.storage import Workspace
from mmray.training import inference, loop, losses
from mmray.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from mmray.training.loop import fit
from tests.embedding import embedded

SETTINGS = config.Model(hidden=16, embedding=16)
TRAIN = config.Train(epochs=5, batch_size=16, passes=3, learning_rate=3e-3)


def model_for(segments):
    torch.manual_seed(0)
    return build(SETTINGS, {m: part.shape for m, part in segments.items()}, classes=2)


def fitted_reference(state):
    """The reference as the fit kept it; whose it is does not matter to subjects who are not in it."""
    tensors = state.part("best_reference")
    return Reference(**tensors, subjects=tuple(f"r{u}" for u in range(int(tensors["subject_R"].max()) + 1)))


def unseen_mrr(segments, state):
    model = model_for(segments)
    model.load_state_dict(state.part("best"))
    model.attach(fitted_reference(state))
    model.eval()
    z = {m: embedded(model, s) for m, s in segments.items()}
    return inference.paired_mrr(z, segments)


@pytest.fixture(scope="module")
def easy(generated):
    return generated(subjects=60, segments=3)


@pytest.fixture(scope="module")
def fitted(easy, by_subject):
    return fit(model_for(easy), by_subject(easy, range(30)), by_subject(easy, range(30, 40)), TRAIN, seed=0)


def test_the_loss_falls(fitted):
    assert fitted.history[-1].loss < 0.6 * fitted.history[0].loss


def test_unseen_subjects_are_retrieved_where_the_modalities_share_traits(easy, by_subject, fitted):
    assert unseen_mrr(by_subject(easy, range(40, 60)), fitted) > 0.5  # chance 0.18


def test_unseen_subjects_are_at_chance_where_the_modalities_share_nothing(generated, by_subject):
    noise = generated(subjects=60, segments=3, coupled=False)
    state = fit(model_for(noise), by_subject(noise, range(20)), by_subject(noise, range(20, 30)), TRAIN, seed=0)
    assert unseen_mrr(by_subject(noise, range(30, 60)), state) < 0.3  # chance 0.13


def test_the_best_weights_are_those_of_the_best_epoch(easy, by_subject, fitted):
    best = max(record.validation_mrr for record in fitted.history)
    assert unseen_mrr(by_subject(easy, range(30, 40)), fitted) == pytest.approx(best)


def test_the_learning_rate_follows_a_cosine_to_the_budget(fitted):
    expected = [TRAIN.learning_rate * (1 + np.cos(np.pi * epoch / TRAIN.epochs)) / 2 for epoch in range(TRAIN.epochs)]
    assert [record.learning_rate for record in fitted.history] == pytest.approx(expected)


def test_a_plateau_halves_the_rate_where_validation_stood_still(easy, by_subject):
    """Against the rule in words, on the MRRs that the fit itself tells; with patience 5 one bad epoch is borne."""
    settings = TRAIN.model_copy(update={"epochs": 14, "passes": 1, "patience": 5, "schedule": "plateau"})
    state = fit(model_for(easy), by_subject(easy, range(30)), by_subject(easy, range(30, 40)), settings, seed=0)
    rate, best, bad, expected = settings.learning_rate, -1.0, 0, []
    for record in state.history:
        expected.append(rate)
        bad = 0 if record.validation_mrr > best else bad + 1
        best = max(best, record.validation_mrr)
        if bad > 1:
            rate, bad = rate / 2, 0
    assert expected[-1] < settings.learning_rate, "validation never stood still, and the test asks nothing"
    assert [record.learning_rate for record in state.history] == expected


def test_a_cut_gradient_is_no_longer_than_it_may_be(easy, by_subject, monkeypatch):
    """What reaches the optimiser; without a limit some of it is longer."""
    lengths = {}
    step = torch.optim.AdamW.step

    def measured(optimiser, *given):
        gradients = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
        lengths[limit].append(float(torch.nn.utils.get_total_norm(gradients)))
        return step(optimiser, *given)

    monkeypatch.setattr(torch.optim.AdamW, "step", measured)
    for limit in (0.1, None):
        lengths[limit] = []
        settings = TRAIN.model_copy(update={"epochs": 1, "clip_norm": limit})
        fit(model_for(easy), by_subject(easy, range(30)), by_subject(easy, range(30, 40)), settings, seed=0)
    assert max(lengths[0.1]) <= 0.1 * (1 + 1e-5)
    assert max(lengths[None]) > 0.1


def test_class_weights_come_from_the_training_subjects_alone(easy, by_subject, monkeypatch):
    """Labels of two classes, three to one, in training; all of the other class in validation."""
    given = []
    whole = losses.total_loss
    monkeypatch.setattr(losses, "total_loss", lambda *a: given.append(a[3]) or whole(*a))
    training, validation = by_subject(easy, range(4)), by_subject(easy, range(30, 40))
    label = {"s000": 1, "s001": 0, "s002": 0, "s003": 0}
    training = {
        m: replace(part, label_S=np.array([label[s] for s in part.subject_id_S], dtype=np.int8))
        for m, part in training.items()
    }
    validation = {m: replace(part, label_S=np.ones_like(part.label_S)) for m, part in validation.items()}
    settings = TRAIN.model_copy(update={"epochs": 1, "class_weights": True})
    small = build(SETTINGS.model_copy(update={"population": False}), {m: p.shape for m, p in easy.items()}, classes=2)
    fit(small, training, validation, settings, seed=0)
    assert given
    assert all(weight_C.tolist() == pytest.approx([4 / (2 * 3), 4 / (2 * 1)]) for weight_C in given)


def test_the_kept_weights_are_the_moving_average_of_every_step(easy, by_subject):
    """Against a loop over the definition, on the weights that an identical fit without averaging passes through."""
    one_step = TRAIN.model_copy(update={"epochs": 4, "passes": 1, "batch_size": 30, "segments": 2})
    seen = []
    data = by_subject(easy, range(30)), by_subject(easy, range(30, 40))
    raw = one_step.model_copy(update={"ema": 0.0, "reference_every": 9})
    averaged = one_step.model_copy(update={"ema": 0.5, "reference_every": 9})
    fit(model_for(easy), *data, raw, seed=0, on_epoch=lambda s: seen.append(s.part("model")["classifier.weight"]))
    state = fit(model_for(easy), *data, averaged, seed=0)
    expected = model_for(easy).classifier.weight.detach()
    for step, weight in enumerate(seen):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    assert torch.equal(state.part("model")["classifier.weight"], seen[-1])
    torch.testing.assert_close(state.part("average")["classifier.weight"], expected)


def test_scalers_are_fitted_on_training_subjects_alone(easy, by_subject, fitted):
    expected = by_subject(easy, range(30))["eeg"].x_SND.mean(0)
    np.testing.assert_allclose(fitted.tensors["best.encoders.eeg.mean_ND"].numpy(), expected, atol=1e-5)


def test_validation_values_reach_no_weight(easy, by_subject):
    validation = by_subject(easy, range(30, 40))
    wild = {m: replace(part, x_SND=part.x_SND * 1e6) for m, part in validation.items()}
    short = TRAIN.model_copy(update={"epochs": 1})
    one, other = (fit(model_for(easy), by_subject(easy, range(30)), v, short, seed=0) for v in (validation, wild))
    assert all(
        torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items() if name.startswith("model.")
    )


def test_a_fit_stops_when_validation_no_longer_rises(easy, by_subject):
    patient = TRAIN.model_copy(update={"epochs": 30, "patience": 2, "passes": 1})
    state = fit(model_for(easy), by_subject(easy, range(30)), by_subject(easy, range(30, 40)), patient, seed=0)
    last_rise = max(
        epoch
        for epoch, record in enumerate(state.history)
        if record.validation_mrr > max((r.validation_mrr for r in state.history[:epoch]), default=-1)
    )
    assert len(state.history) == last_rise + 1 + patient.patience


def killed(data, settings, workspace, stops):
    """A fit that dies after the first epoch that `stops`, and what then goes on from its checkpoint."""

    class KilledError(Exception):
        pass

    def on_epoch(state):
        write_checkpoint(workspace, state, "checkpoint")
        if stops(state):
            raise KilledError

    with pytest.raises(KilledError):
        fit(model_for(data[0]), *data, settings, seed=0, on_epoch=on_epoch)
    torch.manual_seed(99)
    told = []
    start = read_checkpoint(workspace, "checkpoint")
    resumed = fit(
        model_for(data[0]),
        *data,
        settings,
        seed=0,
        start=start,
        on_epoch=lambda state: told.append(len(state.history)),
    )
    assert told == list(range(len(start.history) + 1, len(resumed.history) + 1)), "it began again from the start"
    return start, resumed


def require_same_bits(resumed, unbroken):
    assert resumed.tensors.keys() == unbroken.tensors.keys()
    assert [name for name, tensor in unbroken.tensors.items() if not torch.equal(tensor, resumed.tensors[name])] == []
    assert resumed.history == unbroken.history


@pytest.mark.parametrize("stop_after", [1, 3])
@pytest.mark.parametrize(
    "other", [{"reference_every": 1}, {"reference_every": 2}, {"ema": 0.0}, {"schedule": "one_cycle"}]
)
def test_a_resumed_fit_ends_bit_identical(easy, by_subject, tmp_path, stop_after, other):
    settings = TRAIN.model_copy(update=other)
    data = by_subject(easy, range(30)), by_subject(easy, range(30, 40))
    _, resumed = killed(data, settings, Workspace(str(tmp_path)), lambda state: len(state.history) == stop_after)
    require_same_bits(resumed, fit(model_for(easy), *data, settings, seed=0))


@pytest.fixture
def every_step(monkeypatch):
    """Notices are asked for after every step, and every one is followed by a save."""
    monkeypatch.setattr(loop, "POLL_S", 0.0)
    monkeypatch.setattr(loop, "_POLLS_A_SAVE", 1)


@pytest.mark.parametrize("at", [0, 4, 17])
@pytest.mark.parametrize("other", [{}, {"ema": 0.0}, {"schedule": "one_cycle", "reference_every": 2}])
def test_a_fit_resumed_inside_an_epoch_ends_bit_identical(easy, by_subject, tmp_path, every_step, at, other):
    settings = TRAIN.model_copy(update=other)
    data = by_subject(easy, range(30)), by_subject(easy, range(30, 40))
    saved: list[Checkpoint] = []
    unbroken = fit(model_for(easy), *data, settings, seed=0, noticed=lambda: True, on_notice=saved.append)
    assert [state.step for state in saved] == list(range(1, 7)) * 5  # 30 people, 16 a batch, 3 passes
    workspace = Workspace(str(tmp_path))
    write_checkpoint(workspace, saved[at], "checkpoint")
    start = read_checkpoint(workspace, "checkpoint")
    assert (len(start.history), start.step) == (at // 6, at % 6 + 1)
    torch.manual_seed(99)
    steps: list[int] = []
    resumed = fit(
        model_for(easy),
        *data,
        settings,
        seed=0,
        start=start,
        noticed=lambda: True,
        on_notice=lambda state: steps.append(state.step),
    )
    assert len(steps) == 29 - at, "it took steps again"
    require_same_bits(resumed, unbroken)
    require_same_bits(resumed, fit(model_for(easy), *data, settings, seed=0))  # saving moves nothing


def test_the_state_is_saved_at_the_notice_and_then_now_and_again(easy, by_subject, monkeypatch):
    monkeypatch.setattr(loop, "POLL_S", 0.0)
    data = by_subject(easy, range(30)), by_subject(easy, range(30, 40))
    asked: list[bool] = []

    def noticed() -> bool:
        asked.append(len(asked) >= 7)
        return asked[-1]

    saved: list[Checkpoint] = []
    fit(model_for(easy), *data, TRAIN, seed=0, noticed=noticed, on_notice=saved.append)
    assert len(asked) == 30
    assert [6 * len(state.history) + state.step for state in saved] == [8, 13, 18, 23, 28]


def test_a_fit_resumed_on_a_plateau_halves_its_rate_when_an_unbroken_one_does(generated, by_subject, tmp_path):
    noise = generated(subjects=24, segments=2, coupled=False, seed=1)
    data = by_subject(noise, range(16)), by_subject(noise, range(16, 24))
    still = {"epochs": 9, "passes": 1, "patience": 5, "schedule": "plateau", "learning_rate": 1e-7}  # MRR never moves
    settings = TRAIN.model_copy(update=still)
    start, resumed = killed(data, settings, Workspace(str(tmp_path)), lambda state: state.stale == 1)
    assert resumed.history[len(start.history) + 1].learning_rate < start.history[-1].learning_rate
    require_same_bits(resumed, fit(model_for(noise), *data, settings, seed=0))


@pytest.fixture
def two_epochs(easy, by_subject):
    """A fit of encoders that have little to compile, with dropout; and the model it was of."""
    # of one shape: most of what is compiled for one encoder is the other's, too
    alike = easy | {"eeg": replace(easy["audio"], modality="eeg")}

    def run(compile):
        torch.manual_seed(0)
        small = SETTINGS.model_copy(update={"layers": 1, "pooling": False})
        model = build(small, {m: part.shape for m, part in alike.items()}, classes=2)
        settings = TRAIN.model_copy(update={"epochs": 2, "passes": 2, "compile": compile})
        return fit(model, by_subject(alike, range(30)), by_subject(alike, range(30, 40)), settings, seed=0), model

    return run


@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler")
def test_a_compiled_fit_has_the_names_and_the_numbers_of_another(two_epochs):
    from torch._dynamo.utils import counters

    counters.clear()
    eager, _ = two_epochs(compile=False)
    assert not counters["stats"]
    compiled, model = two_epochs(compile=True)
    assert counters["stats"]["unique_graphs"]
    assert compiled.tensors.keys() == eager.tensors.keys()
    for name, tensor in eager.tensors.items():
        if not name.startswith("rng."):
            torch.testing.assert_close(compiled.tensors[name], tensor, atol=1e-4, rtol=1e-4, msg=name)
    assert [record.loss for record in compiled.history] == pytest.approx([r.loss for r in eager.history], abs=1e-4)
    assert not [encoder for encoder in model.encoders.values() if "forward" in vars(encoder)], "it stays compiled"


def test_a_machine_without_a_compiler_is_told_so(two_epochs):
    import torch._inductor.config as inductor

    torch._dynamo.reset()
    nothing = {"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True}
    with inductor.patch(nothing), pytest.raises(ConfigError, match=r"train\.compile"):
        two_epochs(compile=True)


def test_a_checkpoint_of_another_architecture_is_refused(easy, by_subject, fitted):
    wider = build(config.Model(hidden=8, embedding=8), {m: p.shape for m, p in easy.items()}, classes=2)
    unfinished = replace(fitted, finished=False)
    with pytest.raises(WorkspaceError, match="another architecture"):
        fit(wider, by_subject(easy, range(30)), by_subject(easy, range(30, 40)), TRAIN, seed=0, start=unfinished)


def test_a_validation_set_without_two_pairs_is_refused(generated, by_subject):
    segments = generated(subjects=8, lone=3)
    with pytest.raises(ConfigError, match="fewer than 2 validation subjects"):
        fit(model_for(segments), by_subject(segments, range(4)), by_subject(segments, range(4, 8)), TRAIN, seed=0)


def test_a_loss_that_is_not_finite_ends_the_fit(easy, by_subject):
    train = TRAIN.model_copy(update={"learning_rate": 1e30, "clip_norm": None})
    with pytest.raises(ConfigError, match=r"the loss is (nan|inf) in epoch \d; lower train.learning_rate"):
        fit(model_for(easy), by_subject(easy, range(30)), by_subject(easy, range(30, 40)), train, seed=0)


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e20])
@pytest.mark.parametrize("name", ["crossmodal_gcn", "ridge", "logreg"])
def test_a_feature_that_is_no_number_is_refused_by_the_name_of_its_recording(easy, by_subject, name, value):
    training = by_subject(easy, range(30))
    x_SND = training["eeg"].x_SND.copy()
    x_SND[7, 3, 0] = value
    broken = training | {"eeg": replace(training["eeg"], x_SND=x_SND)}
    recording = training["eeg"].recording_id_S[7]
    model = build(SETTINGS.model_copy(update={"name": name}), {m: part.shape for m, part in easy.items()}, classes=2)
    with pytest.raises(
        ConfigError, match=f"eeg features of recording {recording} are not finite, .* in 1 segments of 1"
    ):
        fit(model, broken, by_subject(easy, range(30, 40)), TRAIN, seed=0)
