"""Recordings while training: predictions computed again from scratch, unchanged weights, and exact resumption."""

import math

import pytest
import torch
from torch import nn

from pellucid.core.contracts import DataSplits, ImageSet
from pellucid.core.errors import DataError
from pellucid.core.seeding import generator
from pellucid.training import recording as recording_module
from pellucid.training.checkpoint import Progress, pack_state, unpack_state
from pellucid.training.loop import Recipe, train
from pellucid.training.recording import Recorder, Recording

CPU = torch.device("cpu")
STEPS, BATCH = 10, 6


def image_set(count, place):
    labels = torch.arange(count) % 3
    images = torch.rand(count, 1, 4, 4, generator=generator(0, place)) * 0.5
    images[torch.arange(count), 0, labels, labels] = 1.0
    return ImageSet(images, labels)


@pytest.fixture(scope="module")
def data():
    # two images more than the batches hold
    parts = {place: image_set(count, place) for place, count in (("train", 62), ("validation", 12), ("test", 30))}
    return DataSplits("x", "x", "X", classes=("a", "b", "c"), sha256="", **parts)


def order(epoch):
    return torch.randperm(62, generator=generator(0, "order", epoch))[None, : STEPS * BATCH]


def batches(data):
    def of_epoch(epoch, first_step):
        parts = order(epoch)[0].split(BATCH)[first_step:]
        return ((data.train.floats(part), data.train.labels[part]) for part in parts)

    return of_epoch


SAMPLE = torch.tensor([2, 3, 5, 8, 13, 21, 34, 55])


def recorder(data, sample=SAMPLE):
    return Recorder(data.train, sample, order, STEPS)


def network(classes=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, classes)
    )


def run(data, model=None, epochs=2, precision="float32", **options):
    model = model or network()
    recipe = Recipe(epochs=epochs, steps_per_epoch=STEPS, learning_rate=0.05, precision=precision)
    return model, train(model, data, batches(data), recipe, device=CPU, **options)


def assert_equal(first, second):
    assert first.content().keys() == second.content().keys()
    for name, value in first.content().items():
        if isinstance(value, torch.Tensor):
            assert value.numpy().tobytes() == second.content()[name].numpy().tobytes(), name
        else:
            assert value == second.content()[name], name


def test_recordings_are_the_predictions_computed_from_scratch(data, monkeypatch):
    """The weights before and after each step, and its random numbers, give its predictions and those of the sample."""
    monkeypatch.setattr("pellucid.training.loop.SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    states = {(0, STEPS): network().state_dict()}
    seeds = {}

    def keep(state):
        states[state.progress.epoch, state.progress.step] = {name: one.clone() for name, one in state.model.items()}

    def remember(seed):
        seeds[len(seeds)] = seed
        torch.manual_seed(seed)

    monkeypatch.setattr("pellucid.training.loop.seed_everything", remember)
    recorded = [epoch.recording for epoch in run(data, recorder=recorder(data), keep=keep)[1]]
    assert recorded[0] is None
    for number, one in enumerate(recorded[1:], start=1):
        expected = torch.full((62,), torch.nan)
        predictions = torch.full((62,), -1)
        for step, part in enumerate(order(number)[0].split(BATCH)):
            model = network().train()
            model.load_state_dict(states[(number, step) if step else (number - 1, STEPS)])
            torch.manual_seed(seeds[(number - 1) * STEPS + step])
            logits = model(data.train.floats(part)).double()
            expected[part] = logits.softmax(1)[torch.arange(BATCH), data.train.labels[part]].float()
            predictions[part] = logits.argmax(1)
        assert one.predictions.tolist() == predictions.tolist()
        torch.testing.assert_close(one.probabilities.float(), expected, rtol=6e-4, atol=1e-6, equal_nan=True)
        assert one.probabilities.isnan().sum() == 2
        assert one.moments.tolist() == [2, 3, 4, 5, 7, 8, 9, 10]  # an eighth of ten steps, rounded up, and so on
        for row, step in enumerate(one.moments.tolist()):
            model = network().eval()
            model.load_state_dict(states[number, step])
            shares = model(data.train.floats(SAMPLE)).double().softmax(1)
            torch.testing.assert_close(one.sample_distributions[row].double(), shares, rtol=6e-4, atol=1e-6)
            assert one.sample_predictions[row].tolist() == shares.argmax(1).tolist()
            own = shares[torch.arange(8), data.train.labels[SAMPLE]]
            torch.testing.assert_close(one.sample_probabilities[row].double(), own, rtol=6e-4, atol=1e-6)


def test_recording_does_not_change_the_training(data):
    plain, epochs = run(data)
    expected = [(epoch.train, epoch.validation, epoch.test) for epoch in epochs]
    model, epochs = run(data, recorder=recorder(data))
    assert [(epoch.train, epoch.validation, epoch.test) for epoch in epochs] == expected
    assert all(torch.equal(model.state_dict()[name], value) for name, value in plain.state_dict().items())
    assert model.training == plain.training


def test_looking_leaves_the_random_state_alone(data):
    class Noisy(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :3] + torch.rand(3)

    one = recorder(data)
    model = Noisy().train()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one.current = Recording.empty(1, STEPS, 62, SAMPLE.int())
    one.look(at_step(2), model, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert one.current.moments.tolist() == [2]


def at_step(step):
    return Progress(1, step)


@pytest.mark.parametrize("stop_at", [(1, 1), (1, 4), (2, 9), (2, STEPS)])
def test_a_resumed_epoch_has_the_same_recording(data, stop_at, monkeypatch):
    monkeypatch.setattr("pellucid.training.loop.SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    kept = []
    reference = {
        epoch.number: epoch.recording
        for epoch in run(data, recorder=recorder(data), keep=lambda state: kept.append(pack_state(state)))[1]
    }
    states = [unpack_state(content) for content in kept]
    start = next(state for state in states if (state.progress.epoch, state.progress.step) == stop_at)
    resumed = list(run(data, recorder=recorder(data), start=start)[1])
    assert [epoch.number for epoch in resumed] == list(range(stop_at[0], 3))
    for epoch in resumed:
        assert_equal(epoch.recording, reference[epoch.number])


def test_an_epoch_resumed_without_its_beginning_has_no_recording(data, monkeypatch):
    """As in a run of an earlier version, or with another sample; the next epoch is recorded."""
    monkeypatch.setattr("pellucid.training.loop.SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    for given in ({}, {"recorder": recorder(data, SAMPLE + 1)}):
        kept = []
        list(run(data, keep=lambda state, kept=kept: kept.append(pack_state(state)), **given)[1])
        start = next(state for state in map(unpack_state, kept) if state.progress.step == 3)
        recordings = [epoch.recording for epoch in run(data, recorder=recorder(data), start=start)[1]]
        assert [one is None for one in recordings] == [True, False]


def test_probabilities_of_many_classes_are_left_out(data, monkeypatch):
    monkeypatch.setattr(recording_module, "MOST_BYTES", 8 * 8 * 3 * 2)
    assert all(
        epoch.recording.sample_distributions is not None for epoch in [*run(data, recorder=recorder(data))[1]][1:]
    )
    monkeypatch.setattr(recording_module, "MOST_BYTES", 8 * 8 * 3 * 2 - 1)
    one = [*run(data, recorder=recorder(data))[1]][1].recording
    assert one.sample_distributions is None
    assert one.sample_probabilities.shape == (8, 8)


def test_fewer_steps_than_moments(data):
    assert Recorder(data.train, SAMPLE, order, 3).due == [1, 2, 3]
    assert Recorder(data.train, SAMPLE, order, 1).due == [1]
    assert Recorder(data.train, SAMPLE, order, 214).due == [27, 54, 81, 107, 134, 161, 188, 214]


def test_the_wrong_order_is_an_error(data):
    wrong = Recorder(data.train, SAMPLE, lambda epoch: order(epoch + 1), STEPS)
    with pytest.raises(DataError, match="labels of step 0 of epoch 1 are not those"):
        list(run(data, recorder=wrong)[1])


def test_predictions_that_are_not_finite_count_as_absent(data):
    one = recorder(data)
    one.begin(at_step(0))
    part = order(1)[0, :BATCH]
    logits = torch.zeros(BATCH, 3)
    logits[2, 0] = math.nan
    one.add(0, logits, data.train.labels[part])
    assert one.current.predictions[part].tolist() == [0, 0, -1, 0, 0, 0]
    assert one.current.probabilities[part].isnan().tolist() == [False, False, True, False, False, False]


def test_low_precision_is_recorded(data):
    one = [*run(data, recorder=recorder(data), precision="bf16")[1]][1].recording
    seen = one.predictions >= 0
    assert seen.sum() == 60
    assert ((one.probabilities[seen] >= 0) & (one.probabilities[seen] <= 1)).all()
