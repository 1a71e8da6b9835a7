import torch

from pellucid.evaluation._removal import substitute
from pellucid.evaluation.deletion import Deletion
from pellucid.evaluation.insertion import Insertion


def test_insertion_on_an_empty_image_is_the_reversed_deletion_of_the_least_relevant(network, given):
    maps = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    inserted = Insertion(removal="zero").measure(network, given(network, lambda *_: maps))
    deleted = Deletion().measure(network, given(network, lambda *_: -maps))
    torch.testing.assert_close(inserted.curves["most"], deleted.curves["most"].flip(0))
    torch.testing.assert_close(inserted.values, deleted.values)


def test_the_curve_starts_with_the_blurred_image_and_ends_with_the_image(network, by_name):
    result = Insertion().measure(network, by_name(network, "gradient"))
    blurred = substitute(network.images, "blur")
    assert float((blurred - network.images).abs().max()) > 0.05
    torch.testing.assert_close(result.curves["most"][0], network.score(blurred, "probability").mean())
    torch.testing.assert_close(result.curves["most"][-1], network.score(network.images, "probability").mean())
