import pytest
import torch
from torch import nn

import pellucid
from pellucid.core.errors import ConfigError
from pellucid.evaluation import METRICS
from pellucid.evaluation.roar import Roar


def test_the_most_relevant_pixels_are_removed_from_training_and_test_images(network, by_name):
    seen = []
    method = by_name(network, "gradient")
    network.training = network.images * 0.5, torch.tensor([0, 1, 2])

    def retrain(images, labels, tests):
        seen.append((images, labels, tests))
        return nn.functional.one_hot(network.targets, 3).double() * torch.tensor([1.0, -1.0, 1.0])[:, None]

    network.retrain = retrain
    result = Roar(shares=(0.25,)).measure(network, method)
    ((images, labels, tests),) = seen
    assert labels.tolist() == [0, 1, 2]
    assert result.values.tolist() == [1.0, 0.0, 1.0]
    for kept, whole in ((images, network.training[0]), (tests, network.images)):
        relevance = method(whole, network.predict(whole).argmax(1)).flatten(1)
        gone = relevance.argsort(1, descending=True)[:, :16]
        expected = whole.flatten(1).clone().scatter_(1, gone, whole.flatten(1).mean(1, keepdim=True).expand(-1, 16))
        torch.testing.assert_close(kept.flatten(1), expected)


def test_missing_training_images_are_refused_before_any_computation(network):
    with pytest.raises(ConfigError, match="'roar' needs training"):
        pellucid.evaluate(network.model, network.images, None, ["gradient"], ["roar"])


@pytest.mark.slow
def test_nothing_is_learned_without_the_deciding_pixels():
    draws = torch.Generator().manual_seed(0)
    images, labels = torch.rand(600, 1, 8, 8, generator=draws), torch.randint(2, (600,), generator=draws)
    images[:, 0, 2:4, 2:4] = labels.float()[:, None, None]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[:500]), labels[:500]).backward()
        optimizer.step()
    before = [parameter.clone() for parameter in model.parameters()]
    result = pellucid.evaluate(
        model,
        images[500:],
        None,
        ["sensitivity"],
        [METRICS["roar"](shares=(0.2,))],
        training=(images[:500], labels[:500]),
    )
    (label,) = result.metrics
    assert result.value("sensitivity", label) < 0.75 < 0.8 < result.value("random", label)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
