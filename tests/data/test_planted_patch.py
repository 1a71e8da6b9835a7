import pytest
import torch

from pellucid.core.errors import ConfigError
from pellucid.data import Request, load_data
from pellucid.data.planted_patch import PATCH_PIXELS, patterns


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load_data("planted_patch:digits", Request(tmp_path_factory.mktemp("data")))


def test_the_mask_contains_the_pattern_of_the_class(data):
    for part in (data.train, data.validation, data.test):
        assert part.masks.flatten(1).sum(1).unique().tolist() == [PATCH_PIXELS**2]
        inside = part.pixels[:, 0][part.masks].view(len(part), PATCH_PIXELS, PATCH_PIXELS)
        assert torch.equal(inside, patterns()[part.labels])
    assert len(patterns().flatten(1).unique(dim=0)) == 4


def test_the_position_is_independent_of_the_class(data):
    rows = data.train.masks.any(2).float().argmax(1).double()
    means = [float(rows[data.train.labels == label].mean()) for label in range(4)]
    assert rows.unique().tolist() == list(range(21))
    assert max(means) - min(means) < 2


def test_images_depend_on_the_seed_and_limits_apply_to_masks(tmp_path):
    one, two, other = (
        load_data("planted_patch:digits", Request(tmp_path, seed=seed), limit_test=40) for seed in (0, 0, 1)
    )
    assert one.sha256 == two.sha256 != other.sha256
    assert torch.equal(one.test.masks, two.test.masks)
    assert len(one.test.masks) == 40
    with pytest.raises(ConfigError, match="planted_patch:mnist or planted_patch:digits"):
        load_data("planted_patch:cats", Request(tmp_path))
