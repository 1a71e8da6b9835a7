"""Guided Grad-CAM: compared with captum, and equal to the product of its two parts."""

import captum.attr
import pytest
import torch

from pellucid import create_analyzer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layer", ["1", "4"])
def test_agrees_with_captum(network, images, targets, layer) -> None:
    theirs = captum.attr.GuidedGradCam(network, network[int(layer)]).attribute(
        images.clone().requires_grad_(), target=targets, interpolate_mode="bilinear"
    )
    ours = create_analyzer("guided_grad_cam", network, layer=layer).analyze(images, targets)
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-9, atol=1e-15)
    assert float(ours.abs().max()) > 0


def test_is_the_product_of_its_parts(network, images) -> None:
    explanation = create_analyzer("guided_grad_cam", network, relu=False).explain(images, 2)
    fine = create_analyzer("guided_backprop", network).analyze(images, 2)
    coarse = create_analyzer("grad_cam", network, relu=False).explain(images, 2)
    torch.testing.assert_close(explanation.relevance, fine * coarse.relevance, rtol=1e-12, atol=0)
    assert torch.equal(explanation.details["map"], coarse.details["map"])
    assert explanation.evaluations.tolist() == [2] * len(images)
