from dataclasses import replace

import numpy as np
import pytest
import torch

from pellucid.evaluation._curves import curve, places
from pellucid.evaluation._removal import Remover
from pellucid.evaluation.deletion import Deletion
from pellucid.evaluation.insertion import Insertion


def test_the_curve_agrees_with_pixel_flipping_in_quantus(quantus):
    case, kept = quantus
    ranks = places(torch.from_numpy(kept["relevance"]).sum(1), case.generator("ties"))
    result = curve(case, ranks, list(range(4, 65, 4)), Remover(case.images, "zero"), "probability")
    np.testing.assert_allclose(result.numpy(), kept["pixel_flipping"], atol=1e-5)


def test_the_area_agrees_with_a_slow_loop(network, by_name):
    method = by_name(network, "input_x_gradient")
    result = Deletion(steps=8).measure(network, method)
    for image in range(3):
        remaining = network.images[image : image + 1].clone()
        order = method.relevance[image].flatten().argsort(descending=True)
        scores = []
        for gone in range(0, 65, 8):
            remaining.view(-1)[order[:gone]] = 0
            scores.append(float(network.model(remaining).softmax(1)[0, network.targets[image]]))
        np.testing.assert_allclose(float(result.values[image]), np.trapezoid(scores, dx=1 / 8))


@pytest.mark.parametrize("metric", [Deletion(steps=8), Insertion(steps=8, removal="zero")])
def test_no_modified_image_is_evaluated_twice(network, by_name, metric, monkeypatch):
    network.images[:, :, :3] = 0  # pixels whose removal changes nothing
    names, run = ("gradient", "input_x_gradient", "constant"), []
    alone = [metric.measure(replace(network, _shared={}), by_name(network, name)).values for name in names]
    predict = network.predict
    monkeypatch.setattr(network, "predict", lambda images: run.extend(images) or predict(images))
    again = [metric.measure(network, by_name(network, name)).values for name in (*names, names[0])]
    for result, expected in zip(again, [*alone, alone[0]], strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-14)
    distinct = len({image.numpy().tobytes() for image in run})
    assert distinct > 30
    assert len(run) == distinct + 2  # the empty image, once for each of the three


def test_a_model_is_never_called_with_an_empty_batch(make_case, by_name):
    class NeedsImages(torch.nn.Module):
        def forward(self, x):
            return x.view(len(x), -1, 12).mean(1)  # the size of -1 is ambiguous without images

    case = make_case(NeedsImages())
    first, again = (Deletion(steps=4).measure(case, by_name(case, "gradient")).values for _ in range(2))
    torch.testing.assert_close(first, again)  # every image of the second measurement is known
