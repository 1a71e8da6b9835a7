"""RISE: expectation of the masks, the formula mask by mask, and bounded memory."""

import pytest
import torch

from pellucid import create_analyzer
from pellucid.attribution.rise import Rise
from pellucid.core.errors import ConfigError, ShapeError
from pellucid.core.seeding import generator


@pytest.mark.parametrize(("places", "cells"), [((28, 28), 7), ((30, 17), 4), ((9,), 2), ((5, 6, 7), 3)])
def test_every_pixel_is_equally_visible(places, cells) -> None:
    source = generator(0, "test")
    masks = torch.stack([Rise(cells=cells, keep_share=0.3).mask(places, source) for _ in range(1500)])
    assert masks.shape == (1500, *places)
    assert float(masks.min()) >= 0
    assert float(masks.max()) <= 1 + 1e-12
    error = (masks.mean(0) - 0.3).abs() / (masks.std(0) / 1500**0.5)
    assert float(error.max()) < 5
    assert float((masks[:, :-1] - masks[:, 1:]).abs().max()) < 1  # smooth: a cell is wider than a pixel


def test_equals_the_formula_mask_by_mask(network, images, targets) -> None:
    source, method = generator(3, "rise"), Rise(masks=40, cells=3, keep_share=0.4)
    masks = [method.mask((10, 10), source) for _ in range(40)]
    scores = [network(0.1 + (images - 0.1) * mask).gather(1, targets[:, None])[:, 0].detach() for mask in masks]
    mean = sum(scores) / 40
    for is_centred in (False, True):
        expected = sum(
            (score - mean * is_centred)[:, None, None, None] * mask for score, mask in zip(scores, masks, strict=True)
        ) / (40 * 0.4)
        options = {"masks": 40, "cells": 3, "keep_share": 0.4, "centred": is_centred, "seed": 3, "baseline": 0.1}
        result = create_analyzer("rise", network, **options).analyze(images, targets)
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-12)


def test_single_pixel_model_highlights_that_pixel() -> None:
    """If f(x) is one pixel, R is E[M²] / E[M] at that pixel and about E[M] far away."""
    images = torch.ones(1, 1, 28, 28)
    result = create_analyzer("rise", one_pixel(), masks=3000, cells=7, centred=False).analyze(images, 0)[0, 0]
    assert int(result.argmax()) in {14 * 28 + 14 + shift for shift in (-29, -28, -27, -1, 0, 1, 27, 28, 29)}
    assert abs(float(result[:5].mean()) - 0.5) < 0.03
    assert float(result.max()) > 0.65


def one_pixel() -> torch.nn.Module:
    class Pixel(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, 0, 14, 14:16]

    return Pixel()


def test_probability_weights_as_in_the_paper(network, images) -> None:
    result = create_analyzer("rise", network, masks=5, centred=False).analyze(
        images, lambda logits: logits.softmax(1)[:, 2]
    )
    assert float(result.min()) >= 0
    assert float(result.max()) < 5 / 2.5


def test_invalid_options_and_images_are_refused(network) -> None:
    for options in ({"masks": 0}, {"cells": 0}, {"keep_share": 1.0}, {"keep_share": 0.0}):
        with pytest.raises(ConfigError, match=f"the option {next(iter(options))} of Rise is .*; expected a "):
            create_analyzer("rise", network, **options)
    with pytest.raises(ShapeError, match="spatial axes"):
        create_analyzer("rise", torch.nn.Linear(4, 3)).analyze(torch.rand(2, 4))


def test_memory_is_independent_of_the_number_of_masks(counting) -> None:
    images = torch.rand(20, 1, 4, 4).double()
    create_analyzer("rise", counting, masks=20).analyze(images)
    create_analyzer("rise", counting, masks=300).analyze(images)
    assert len(counting.sizes) == 6 + 20 + 300  # four of them compare an image in the batch with itself alone
    assert max(counting.sizes) <= 32
    assert counting.bytes[1] <= counting.bytes[0] + 1000
