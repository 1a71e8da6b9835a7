"""The training loop: correct values, and exact resumption."""

import itertools
import math
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

from pellucid.core.contracts import DataSplits, ImageSet
from pellucid.core.errors import ModelError, TrainingError
from pellucid.core.seeding import generator
from pellucid.training.checkpoint import pack_state, unpack_state
from pellucid.training.evaluate import evaluate, score
from pellucid.training.loop import Recipe, train

CPU = torch.device("cpu")
STEPS = 5


def image_set(count, place):
    labels = torch.arange(count) % 3
    images = torch.rand(count, 1, 4, 4, generator=generator(0, place)) * 0.5
    images[torch.arange(count), 0, labels, labels] = 1.0
    return ImageSet(images, labels)


@pytest.fixture(scope="module")
def data():
    parts = {place: image_set(count, place) for place, count in (("train", 60), ("validation", 12), ("test", 30))}
    return DataSplits("x", "x", "X", classes=("a", "b", "c"), sha256="", **parts)


def batches(data):
    def of_epoch(epoch, first_step):
        order = torch.randperm(60, generator=generator(0, "order", epoch)).split(12)
        return ((data.train.floats(part), data.train.labels[part]) for part in order[first_step:])

    return of_epoch


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 3)
    )


def run(data, model=None, epochs=3, rate=0.05, **options):
    model = model or network()
    recipe = Recipe(epochs=epochs, steps_per_epoch=STEPS, learning_rate=rate)
    return model, train(model, data, batches(data), recipe, device=CPU, **options)


def record(epoch):
    return (epoch.number, epoch.train, epoch.validation, epoch.test, epoch.learning_rate, epoch.is_best, epoch.images)


def test_the_network_learns_and_every_epoch_is_reported(data):
    model, epochs = run(data, epochs=15)
    epochs = list(epochs)
    assert [epoch.number for epoch in epochs] == list(range(16))
    assert epochs[0].train is None
    assert epochs[-1].test.accuracy > 0.9 > 0.7 > epochs[0].test.accuracy
    assert epochs[-1].images == 60
    logits = evaluate(model, data.test, CPU)
    assert torch.equal(logits, epochs[-1].test_logits)


def test_scores_match_their_definition(data):
    _, epochs = run(data)
    first = next(epochs)
    with torch.no_grad():
        probabilities = torch.softmax(network().eval()(data.test.floats()).double(), dim=1)
    expected = [-math.log(probabilities[row, label]) for row, label in enumerate(data.test.labels.tolist())]
    assert first.test.loss == pytest.approx(sum(expected) / 30, rel=1e-6)
    assert first.test.accuracy == (probabilities.argmax(1) == data.test.labels).sum().item() / 30


def test_one_epoch_is_adamw_on_cross_entropy_with_the_one_cycle_schedule(data):
    plain = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    reference = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    reference.load_state_dict(plain.state_dict())
    model, epochs = run(data, model=plain, epochs=1)
    list(epochs)

    optimizer = torch.optim.AdamW(reference.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=STEPS, pct_start=0.3)
    for images, labels in batches(data)(1, 0):
        optimizer.zero_grad()
        log_probabilities = torch.log_softmax(reference(images), dim=1)
        (-log_probabilities[torch.arange(len(labels)), labels].mean()).backward()
        optimizer.step()
        schedule.step()
    for trained, expected in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(trained, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("epochs", "steps"), [*((epochs, 1) for epochs in range(1, 12)), (20, 1), (24, 1), (5, 2), (12, 2), (3, 5), (24, 5)]
)
def test_the_schedule_works_for_any_number_of_steps(data, epochs, steps):
    recipe = Recipe(epochs=epochs, steps_per_epoch=steps, learning_rate=0.05)

    def few(epoch, first_step):
        return itertools.islice(batches(data)(epoch, first_step), steps)

    rates = [epoch.learning_rate for epoch in train(network(), data, few, recipe, device=CPU)]
    assert all(0 < rate <= 0.05 for rate in rates)


def test_the_best_epoch_has_the_best_validation_accuracy_then_loss(data):
    _, epochs = run(data, epochs=8)
    best = (-1.0, -math.inf)
    for epoch in epochs:
        now = (epoch.validation.accuracy, -epoch.validation.loss)
        assert epoch.is_best == (now > best)
        best = max(now, best)


@pytest.mark.parametrize("stop_at", [(1, 2), (2, 5), (3, 1), (3, 5)])
def test_resuming_from_a_saved_state_gives_the_same_bits(data, stop_at, monkeypatch):
    reference_model, epochs = run(data)
    reference = [record(epoch) for epoch in epochs]

    monkeypatch.setattr("pellucid.training.loop.SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    kept = []
    _, epochs = run(data, keep=lambda state: kept.append(pack_state(state)))
    list(epochs)
    states = [unpack_state(content) for content in kept]
    at = {(state.progress.epoch, state.progress.step): state for state in states}
    assert set(at) == {(epoch, step) for epoch in (1, 2, 3) for step in range(1, STEPS + 1)}
    torch.manual_seed(999)
    model, epochs = run(data, model=network(), start=at[stop_at])
    resumed = [record(epoch) for epoch in epochs]
    assert resumed == reference[stop_at[0] :]
    for name, value in reference_model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def extended(data, start, **options):
    """Train to epoch 5 from a state saved by a run of fewer epochs."""
    return run(data, model=network(), epochs=5, start=unpack_state(start), **options)


def saved_states(run_, monkeypatch):
    """Return the packed states of all steps; training works in place on the tensors of an unpacked one."""
    monkeypatch.setattr("pellucid.training.loop.SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    kept = []
    list(run_(keep=lambda state: kept.append(pack_state(state)))[1])
    states = {content: unpack_state(content).progress for content in kept}
    return {(progress.epoch, progress.step): content for content, progress in states.items()}


def rates(steps):
    """Learning rates of a one-cycle schedule before its first step and after each of its steps."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps, pct_start=max(0.1, 1.5 / steps))
    found = [schedule.get_last_lr()[0]]
    for _ in range(steps):
        optimizer.step()
        schedule.step()
        found.append(schedule.get_last_lr()[0])
    return found


@pytest.mark.parametrize("stop_at", [(3, STEPS), (2, 2)])
def test_more_epochs_get_a_new_schedule_over_the_remaining_steps(data, stop_at, monkeypatch):
    start = saved_states(lambda **options: run(data, **options), monkeypatch)[stop_at]
    states = saved_states(lambda **options: extended(data, start, **options), monkeypatch)
    done = (stop_at[0] - 1) * STEPS + stop_at[1]
    expected = rates(5 * STEPS - done)
    for (epoch, step), content in states.items():
        state, position = unpack_state(content), (epoch - 1) * STEPS + step
        if position > done:
            assert state.progress.schedule_start == done
            assert state.optimizer["param_groups"][0]["lr"] == pytest.approx(expected[position - done], rel=1e-12)
    assert max(states) == (5, STEPS)


def test_a_finished_epoch_keeps_its_record_when_the_run_is_extended(data, monkeypatch):
    records = [record(epoch) for epoch in run(data)[1]]
    start = saved_states(lambda **options: run(data, **options), monkeypatch)[3, STEPS]
    found = [record(epoch) for epoch in extended(data, start)[1]]
    assert [one[0] for one in found] == [3, 4, 5]
    assert found[0] == records[3]


@pytest.mark.parametrize("stop_at", [(3, 2), (4, STEPS), (5, 1)])
def test_an_extended_run_resumes_to_the_same_bits(data, stop_at, monkeypatch):
    start = saved_states(lambda **options: run(data, **options), monkeypatch)[2, 4]
    states = saved_states(lambda **options: extended(data, start, **options), monkeypatch)
    reference_model, epochs = extended(data, start)
    reference = {epoch.number: record(epoch) for epoch in epochs}
    model, epochs = extended(data, states[stop_at])
    assert all(record(epoch) == reference[epoch.number] for epoch in epochs)
    for name, value in reference_model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_drawing_random_numbers_between_epochs_changes_nothing(data):
    _, epochs = run(data)
    reference = [record(epoch) for epoch in epochs]
    _, epochs = run(data)
    disturbed = []
    for number, epoch in enumerate(epochs):
        disturbed.append(record(epoch))
        torch.manual_seed(number)
        torch.rand(7)
    assert disturbed == reference


class Exploding(nn.Module):
    """Computes finite losses for some steps, then NaN."""

    def __init__(self, after):
        super().__init__()
        self.linear = nn.Linear(16, 3)
        self.remaining = after

    def forward(self, x):
        if self.training:
            self.remaining -= 1
        return self.linear(x.flatten(1)) * (math.nan if self.remaining < 0 else 1.0)


def test_a_loss_that_is_not_finite_stops_training_with_step_and_learning_rate(data):
    kept = []
    _, epochs = run(data, model=Exploding(after=STEPS + 2), keep=kept.append)
    with pytest.raises(
        TrainingError, match=r"loss is nan in epoch 2, step 3 of 5, at learning rate 0\.\d+\. Lower --learn"
    ):
        list(epochs)
    assert [state.progress.epoch for state in kept] == [1]
    assert all(torch.isfinite(value).all() for value in kept[-1].model.values())


class InfiniteInEvaluation(nn.Module):
    """Finite while training, but not in evaluation after training has started."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 3)
        self.steps = 0

    def forward(self, x):
        self.steps += self.training
        return self.linear(x.flatten(1)) / (1.0 if self.training or not self.steps else 0.0)


def test_an_evaluation_that_is_not_finite_stops_training(data):
    _, epochs = run(data, model=InfiniteInEvaluation())
    next(epochs)
    with pytest.raises(TrainingError, match="logits for the validation images are not finite in epoch 1"):
        next(epochs)


def test_a_checkpoint_of_another_model_is_refused(data):
    kept = []
    _, epochs = run(data, epochs=1, keep=kept.append)
    list(epochs)
    with pytest.raises(ModelError, match="checkpoint does not fit the model, whose code may have changed"):
        next(run(data, model=nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), start=kept[0])[1])


def test_an_interrupt_after_the_last_step_is_handled(data):
    kept = []
    recipe = Recipe(epochs=3, steps_per_epoch=STEPS, learning_rate=0.05)

    def interrupted_batches(epoch, first_step):
        yield from batches(data)(epoch, first_step)
        signal.raise_signal(signal.SIGINT)

    epochs = train(network(), data, interrupted_batches, recipe, device=CPU, keep=kept.append)
    next(epochs)
    with pytest.raises(KeyboardInterrupt):
        next(epochs)
    assert [(state.progress.epoch, state.progress.step) for state in kept] == [(1, STEPS)]


class Caching(nn.Module):
    """Reuses a tensor from its last forward pass in the next one."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 3)
        self.scale = None

    def forward(self, x):
        logits = self.linear(x.flatten(1))
        if self.scale is None or self.scale.shape != logits.shape:
            self.scale = torch.ones_like(logits)
        return logits * self.scale


def test_a_model_that_caches_tensors_can_be_trained_after_an_evaluation(data):
    model = Caching()
    evaluate(model, data.validation, CPU)
    model(data.train.floats(slice(12))).sum().backward()


def test_weights_that_are_not_finite_are_never_saved(data):
    model = network()
    _, epochs = run(data, model=model, keep=lambda state: pytest.fail("kept"))
    next(epochs)

    def spoil(module, inputs):
        if module.training:
            module.running_mean.fill_(math.inf)

    model[2].register_forward_pre_hook(spoil)
    with pytest.raises(TrainingError, match=r"2\.running_mean is no longer finite in epoch 1, step 5 of 5"):
        next(epochs)


def test_evaluation_restores_the_mode_and_keeps_the_order(data):
    model = network()
    model[2].eval()
    logits = evaluate(model, data.test, CPU)
    assert [module.training for module in model] == [True, True, False, True, True, True]
    with torch.no_grad():
        assert torch.allclose(logits, network().eval()(data.test.floats()))
    assert score(logits, data.test).accuracy == (logits.argmax(1) == data.test.labels).sum().item() / 30


@pytest.mark.parametrize(("accuracy", "is_best"), [(2.0, False), (-1.0, True)])
def test_a_resumed_run_knows_the_best_earlier_epoch(data, accuracy, is_best):
    states = []
    list(run(data, epochs=2, keep=states.append)[1])
    start = replace(states[0], progress=replace(states[0].progress, best_accuracy=accuracy))
    resumed = next(run(data, epochs=2, start=start)[1])
    assert (resumed.number, resumed.is_best) == (1, is_best)
