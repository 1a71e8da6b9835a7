"""Two processes on this machine, joined through a file: shared work and communication."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from pellucid.core.contracts import DataSplits, ImageSet
from pellucid.core.errors import DataError, PeerFailed
from pellucid.core.seeding import generator
from pellucid.training import evaluate as evaluation
from pellucid.training.distributed import World, joined_world
from pellucid.training.evaluate import evaluate
from pellucid.training.loop import Recipe, train
from pellucid.training.recording import Recorder

CPU = torch.device("cpu")
STEPS, BATCH = 5, 12


def image_set(count, place):
    labels = torch.arange(count) % 3
    return ImageSet(torch.rand(count, 1, 4, 4, generator=generator(0, place)), labels)


def data():
    parts = {place: image_set(count, place) for place, count in (("train", 60), ("validation", 12), ("test", 31))}
    return DataSplits("x", "x", "X", classes=("a", "b", "c"), sha256="", **parts)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))


def trained(world, is_recorded=True):
    """Return the weights, and losses and recording of each epoch; every process trains on its part of each batch."""
    splits, model = data(), network()

    def order(epoch):
        drawn = torch.randperm(60, generator=generator(0, "order", epoch))
        return torch.stack([drawn[rank :: world.size] for rank in range(world.size)])

    def batches(epoch, first_step):
        own = order(epoch)[world.rank].split(BATCH // world.size)[first_step:]
        return ((splits.train.floats(part), splits.train.labels[part]) for part in own)

    recipe = Recipe(epochs=3, steps_per_epoch=STEPS, learning_rate=0.05)
    recorder = Recorder(splits.train, torch.arange(0, 60, 3), order, STEPS, world) if is_recorded else None
    epochs = list(train(model, splits, batches, recipe, device=CPU, world=world, recorder=recorder))
    losses = [(epoch.train.loss, epoch.train.accuracy, epoch.images) for epoch in epochs[1:]]
    recordings = [epoch.recording.content() for epoch in epochs[1:] if epoch.recording]
    return {"weights": model.state_dict(), "losses": losses, "recordings": recordings}


def unrecorded(world):
    return trained(world, is_recorded=False)


def evaluated(world):
    evaluation.IMAGES_AT_ONCE = 7
    model = network().train()
    model.batches = []
    model.register_forward_pre_hook(lambda module, inputs: module.batches.append(len(inputs[0])))
    test = data().test
    return {"logits": evaluate(model, test, CPU, world), "batches": model.batches, "fewer": few(model, test[:5], world)}


def few(model, images, world):
    """Evaluate fewer batches than there are processes."""
    return evaluate(model, images, CPU, world)


def failing(world):
    """Return the result or error of each process when the given ranks fail."""
    raised = {}
    for ranks in ((), (0,), (1,), (0, 1)):

        def work(ranks=ranks):
            if world.rank in ranks:
                raise DataError(f"of process {world.rank}")
            return world.rank * 10

        try:
            raised[ranks] = world.together(work)
        except (DataError, PeerFailed) as error:
            raised[ranks] = f"{type(error).__name__} {error}, exit code {error.exit_code}"
    return raised


def communicating(world):
    model = nn.BatchNorm1d(2)
    model.running_mean.fill_(world.rank + 3.0)
    world.share_buffers(model)
    return {
        "is_first": world.is_first,
        "first": world.first(lambda: f"done by {world.rank}"),
        "agree": world.agree(f"sent by {world.rank}"),
        "any": [world.any(condition) for condition in (False, world.rank == 1, world.rank == 0, True)],
        "sum": world.sum(torch.tensor([1.0, world.rank])).tolist(),
        "buffers": model.running_mean.tolist(),
    }


WORK = {
    "trained": trained,
    "unrecorded": unrecorded,
    "evaluated": evaluated,
    "failing": failing,
    "communicating": communicating,
}


def main(rank, folder):
    """Run all work in one of two processes, and save the results."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        world = World(rank, 2, rank)
        torch.save({name: work(world) for name, work in WORK.items()}, folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The results of both processes."""
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-W", "error", __file__]
    processes = [subprocess.Popen([*command, str(rank), str(folder)], stderr=subprocess.PIPE) for rank in (0, 1)]
    for process in processes:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr.decode()
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(evaluation, "IMAGES_AT_ONCE", 7)


@pytest.mark.slow
def test_shared_batches_give_the_logits_of_one_process_bit_for_bit(both, small_batches):
    test = data().test
    alone = evaluate(network(), test, CPU)
    for result in both:
        assert torch.equal(result["evaluated"]["logits"], alone)
        assert torch.equal(result["evaluated"]["fewer"], alone[:5])
    assert both[0]["evaluated"]["batches"] == [7, 7, 3, 5]
    assert both[1]["evaluated"]["batches"] == [7, 7, 7, 5]  # the first only to learn the number of classes


@pytest.mark.slow
def test_a_failure_ends_all_processes_with_its_message_and_exit_code(both):
    own, peer = (
        f"{name} of process {{}}, exit code {DataError.exit_code}".format for name in ("DataError", "PeerFailed")
    )
    failures = [result["failing"] for result in both]
    assert failures[0] == {(): 0, (0,): own(0), (1,): peer(1), (0, 1): own(0)}
    assert failures[1] == {(): 10, (0,): peer(0), (1,): peer(1), (0, 1): peer(0)}


@pytest.mark.slow
def test_values_are_shared_between_processes(both):
    first, second = (result["communicating"] for result in both)
    assert (first["is_first"], second["is_first"]) == (True, False)
    assert (first["first"], second["first"]) == ("done by 0", None)
    for result in (first, second):
        assert result["agree"] == "sent by 0"
        assert result["any"] == [False, True, True, True]
        assert result["sum"] == [2.0, 1.0]
        assert result["buffers"] == [3.0, 3.0]


@pytest.mark.slow
def test_two_processes_train_like_one(both):
    alone = trained(World())
    for result in both:
        for name, value in alone["weights"].items():
            torch.testing.assert_close(result["trained"]["weights"][name], value, rtol=1e-4, atol=1e-4)
        for got, expected in zip(result["trained"]["losses"], alone["losses"], strict=True):
            assert got == pytest.approx(expected, rel=1e-4)
    weights = [result["trained"]["weights"] for result in both]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.slow
def test_every_process_records_the_predictions_of_all(both):
    alone = trained(World())
    for first, second, single in zip(*(one["trained"]["recordings"] for one in both), alone["recordings"], strict=True):
        assert set(first) == set(second) == set(single)
        for name in first:
            if name in ("epoch", "steps"):
                assert first[name] == second[name] == single[name]
                continue
            assert torch.equal(first[name], second[name]), name
            torch.testing.assert_close(first[name].float(), single[name].float(), rtol=1e-3, atol=1e-3)
    assert all(
        torch.equal(value, one["unrecorded"]["weights"][name])
        for one in both
        for name, value in one["trained"]["weights"].items()
    )


def test_a_single_process_sends_nothing():
    assert communicating(World()) == {
        "is_first": True,
        "first": "done by 0",
        "agree": "sent by 0",
        "any": [False, False, True, True],
        "sum": [1.0, 0.0],
        "buffers": [3.0, 3.0],
    }
    with pytest.raises(DataError):
        World().together(lambda: (_ for _ in ()).throw(DataError("own")))
    model = network()
    assert World().parallel(model) is model


def test_without_torchrun_the_world_has_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_world() as world:
        assert (world.rank, world.size) == (0, 1)
        assert not dist.is_initialized()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
