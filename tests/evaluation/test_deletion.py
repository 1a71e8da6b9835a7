import numpy as np
import torch

from pellucid.evaluation._curves import curve, places
from pellucid.evaluation._removal import Remover
from pellucid.evaluation.deletion import Deletion


def test_the_curve_is_quantus_pixel_flipping(quantus):
    case, kept = quantus
    ranks = places(torch.from_numpy(kept["relevance"]).sum(1), case.generator("ties"))
    found = curve(case, ranks, list(range(4, 65, 4)), Remover(case.images, "zero"), "probability")
    np.testing.assert_allclose(found.numpy(), kept["pixel_flipping"], atol=1e-5)


def test_the_area_is_a_slow_loops(network, by_name):
    method = by_name(network, "input_x_gradient")
    found = Deletion(steps=8).measure(network, method)
    for image in range(3):
        left = network.images[image : image + 1].clone()
        order = method.relevance[image].flatten().argsort(descending=True)
        scores = []
        for gone in range(0, 65, 8):
            left.view(-1)[order[:gone]] = 0
            scores.append(float(network.model(left).softmax(1)[0, network.targets[image]]))
        np.testing.assert_allclose(float(found.values[image]), np.trapezoid(scores, dx=1 / 8))
