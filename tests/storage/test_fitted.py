"""Fitted analyzers survive a round trip through a file, and other files are refused."""

import pytest
import torch
from torch import Tensor, nn

from pellucid import create_analyzer, load_fitted, save_fitted
from pellucid.core.errors import ConfigError, SaveError, WriteError


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)]
    return nn.Sequential(*layers).double().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(40, 1, 10, 10, generator=torch.Generator().manual_seed(0)).double()


def test_fitted_patterns_are_saved_and_other_weights_refused(network, images, tmp_path) -> None:
    fitted = create_analyzer("pattern.attribution", network).fit([images])
    path = save_fitted(fitted, tmp_path / "folder" / "patterns.safetensors")
    loaded = load_fitted(create_analyzer("pattern.attribution", network), path)
    assert torch.equal(loaded.analyze(images), fitted.analyze(images))
    assert list(loaded.method.patterns.tensors) == list(fitted.method.patterns.tensors)
    load_fitted(create_analyzer("pattern.net", network), path).analyze(images)  # uses the same patterns
    first = path.read_bytes()
    assert save_fitted(loaded, path).read_bytes() == first

    torch.manual_seed(1)
    other = nn.Sequential(nn.Conv2d(1, 4, 3), *network[1:])
    with pytest.raises(ConfigError, match=r"belong to other weights .*fingerprints [0-9a-f]{12}… and [0-9a-f]{12}…"):
        load_fitted(create_analyzer("pattern.net", other.double()), path)
    with pytest.raises(ConfigError, match="learned with estimator='two_component'"):
        load_fitted(create_analyzer("pattern.net", network, estimator="linear"), path)
    with pytest.raises(ConfigError, match="'pattern'.*expected 'expected_gradients'"):
        load_fitted(create_analyzer("expected_gradients", network), path)
    with pytest.raises(ConfigError, match="needs no fit"):
        load_fitted(create_analyzer("gradient", network), path)
    with pytest.raises(ConfigError, match="needs no fit"):
        save_fitted(create_analyzer("gradient", network), path)
    with pytest.raises(ConfigError, match=r"call fit\(loader\) first"):
        save_fitted(create_analyzer("pattern.net", network), path)
    assert path.read_bytes() == first
    with pytest.raises(SaveError, match="cannot be read"):
        load_fitted(create_analyzer("pattern.net", network), tmp_path / "absent")
    for damaged in (b"", first[:200], b"\xff" * 300):
        path.write_bytes(damaged)
        with pytest.raises(SaveError, match="is damaged or not a safetensors file"):
            load_fitted(create_analyzer("pattern.net", network), path)


def test_references_of_expected_gradients_are_saved(network, images, tmp_path) -> None:
    fitted = create_analyzer("expected_gradients", network, samples=3).fit([images])
    path = save_fitted(fitted, tmp_path / "references.safetensors")
    loaded = load_fitted(create_analyzer("expected_gradients", network, samples=3), path)
    assert torch.equal(loaded.analyze(images), fitted.analyze(images))


def test_a_file_that_cannot_be_written_is_reported(network, images, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match="cannot be written"):
        save_fitted(create_analyzer("pattern.net", network).fit([images]), tmp_path / "file" / "patterns.safetensors")


def test_a_file_of_other_tensors_is_refused(network, tmp_path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(SaveError, match="holds no fitted analyzer"):
        load_fitted(create_analyzer("pattern.net", network), tmp_path / "plain.safetensors")
