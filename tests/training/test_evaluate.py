"""Evaluation in a single process; `test_distributed.py` covers several."""

import math

import pytest
import torch
from torch import nn

from pellucid.core.contracts import ImageSet
from pellucid.training import evaluate as module
from pellucid.training.evaluate import evaluate, score

CPU = torch.device("cpu")


def numbered(count):
    """Images filled with their index as byte value, labeled index % 3."""
    values = torch.arange(count)
    return ImageSet(values.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous(), values % 3)


class Recording(nn.Module):
    """Computes three logits from an image's mean; records batch sizes, training mode and gradient mode."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append((len(x), self.training, torch.is_grad_enabled()))
        mean = x.flatten(1).mean(1)
        return torch.stack([mean, -mean, mean**2], 1)


@pytest.mark.parametrize(("count", "sizes"), [(3, [3]), (7, [7]), (8, [7, 1]), (16, [7, 7, 2])])
def test_every_image_is_evaluated_once_in_order(count, sizes, monkeypatch):
    monkeypatch.setattr(module, "IMAGES_AT_ONCE", 7)
    model = Recording()
    logits = evaluate(model, numbered(count), CPU)
    assert model.seen == [(size, False, False) for size in sizes]
    mean = torch.arange(count) / 255
    torch.testing.assert_close(logits, torch.stack([mean, -mean, mean**2], 1))
    assert (logits.dtype, logits.requires_grad) == (torch.float32, False)


@pytest.mark.parametrize("fails", [False, True])
def test_the_mode_of_every_module_is_restored(fails):
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4 if not fails else 5, 3))
    model.train()
    model[1].eval()
    if fails:
        with pytest.raises(RuntimeError):
            evaluate(model, numbered(4), CPU)
    else:
        evaluate(model, numbered(4), CPU)
    assert [part.training for part in model.modules()] == [True, True, False, True, True]


def test_tensors_cached_during_evaluation_can_be_trained_with():
    class Caching(Recording):
        def forward(self, x):
            self.cached = super().forward(x)
            return self.cached

    model = Caching()
    evaluate(model, numbered(4), CPU)
    weight = torch.ones(3, requires_grad=True)
    (model.cached * weight).sum().backward()
    assert weight.grad is not None


def test_the_score_is_mean_cross_entropy_and_accuracy():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 3.0]])
    result = score(logits, numbered(3))
    losses = [math.log(math.e**2 + 2) - 2, math.log(math.e + 2), math.log(math.e**3 + 2) - 3]
    assert result.loss == pytest.approx(sum(losses) / 3)
    assert result.accuracy == pytest.approx(2 / 3)
