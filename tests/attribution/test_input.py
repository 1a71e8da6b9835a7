"""The control `input`: the image itself."""

import torch

from pellucid import create_analyzer


def test_is_a_copy_of_the_image(network, images) -> None:
    relevance = create_analyzer("input", network).analyze(images, 3)
    assert torch.equal(relevance, images)
    assert relevance.data_ptr() != images.data_ptr()
