import numpy as np
import pytest
import torch

from pellucid.core.errors import ConfigError
from pellucid.evaluation._removal import removed, substitute
from pellucid.evaluation.road import Road


def dense_imputation(image, mask):
    """Set every removed pixel to the weighted mean of its neighbors, with a dense solver."""
    size = image.shape[-1]
    matrix, known = np.eye(size * size), image.flatten() * ~mask.flatten()
    for index in mask.flatten().nonzero()[0]:
        y, x = divmod(index, size)
        around = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
        weighted = [(dy, dx, 1 / 12 if dy and dx else 1 / 6) for dy, dx in around]
        near = [(y + dy, x + dx, w) for dy, dx, w in weighted if 0 <= y + dy < size and 0 <= x + dx < size]
        total = sum(w for _, _, w in near)
        for yy, xx, w in near:
            matrix[index, yy * size + xx] -= w / total
    return np.linalg.solve(matrix, known).reshape(size, size)


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_imputation_solves_the_equations(share):
    draws = torch.Generator().manual_seed(0)
    images = torch.rand(2, 2, 7, 7, generator=draws, dtype=torch.float64)
    masks = torch.rand(2, 7, 7, generator=draws) < share
    result = removed(images, masks, "linear")
    for image, mask, filled in zip(images, masks, result, strict=True):
        for channel in range(2):
            np.testing.assert_allclose(
                filled[channel], dense_imputation(image[channel].numpy(), mask.numpy()), rtol=1e-6
            )


def test_single_precision_is_far_below_the_noise():
    draws = torch.Generator().manual_seed(0)
    images, masks = torch.rand(3, 1, 28, 28, generator=draws), torch.rand(3, 28, 28, generator=draws) < 0.9
    result = removed(images, masks, "linear")
    torch.testing.assert_close(result.double(), removed(images.double(), masks, "linear"), rtol=0, atol=1e-4)


def test_removed_pixels_are_replaced_and_others_unchanged():
    images = torch.rand(2, 3, 12, 10, dtype=torch.float64)
    mask = torch.zeros(2, 12, 10, dtype=torch.bool)
    mask[:, 3:5] = True
    noise = torch.ones(3, 12, 10, dtype=torch.float64)
    plain, noisy = removed(images, mask, "linear"), removed(images, mask, "linear", noise)
    torch.testing.assert_close((noisy - plain)[:, :, 3:5], torch.full((2, 3, 2, 10), 0.01, dtype=torch.float64))
    for removal in ("zero", "mean", "blur", "linear"):
        changed = removed(images, mask, removal)
        assert torch.equal(changed[:, :, :3], images[:, :, :3])
        assert not torch.equal(changed[:, :, 3:5], images[:, :, 3:5])
    assert float(removed(images, torch.ones_like(mask), "linear").abs().max()) == 0
    assert bool((substitute(torch.ones(1, 1, 9, 9), "blur") - 1).abs().max() < 1e-6)


def test_accuracy_is_averaged_over_the_shares(network, by_name):
    method = by_name(network, "input_x_gradient")
    result = Road(shares=(0.25, 0.5), removal="zero").measure(network, method)
    correct = torch.zeros(3, dtype=torch.float64)
    for count in (16, 32):
        remaining = network.images.clone().flatten(1)
        remaining.scatter_(1, method.relevance.flatten(1).argsort(1, descending=True)[:, :count], 0)
        correct += (network.model(remaining.view_as(network.images)).argmax(1) == network.targets) / 2
    torch.testing.assert_close(result.values, correct)
    most = Road().measure(network, method).curves
    assert set(most) == {"share", "most"}
    with pytest.raises(ConfigError, match="from 0 to 1"):
        Road(shares=(1.5,))


def test_the_smallest_share_removes_a_pixel(make_case, by_name):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 2))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].weight[0, 7], model[1].bias[:] = 100, torch.tensor([0.0, 1.0])  # class 0 if pixel 7 is not black
    case = make_case(model)
    assert case.targets.tolist() == [0, 0, 0]
    result = Road(shares=(0.01,), removal="zero").measure(case, by_name(case, "input_x_gradient"))
    assert result.values.tolist() == [0, 0, 0]
