import torch

from pellucid.data._load import load_data
from pellucid.data._source import Request


def places(part) -> torch.Tensor:
    return part.masks.flatten(1).double().argmax(1)


def test_the_tag_tells_the_class_in_training_and_is_absent_in_the_test(tmp_path):
    data = load_data("confound:digits", Request(tmp_path))
    for part in (data.train, data.validation):
        assert part.masks.flatten(1).sum(1).unique().tolist() == [9]
        assert bool((part.pixels[:, 0][part.masks] == 255).all())
        by_class = [places(part)[part.labels == label].unique() for label in range(10)]
        assert all(len(found) == 1 for found in by_class)
        assert len(torch.cat(by_class).unique()) == 10
    plain = load_data("digits", Request(tmp_path))
    assert data.test.masks is None
    assert torch.equal(data.test.pixels, plain.test.pixels)


def test_in_the_control_the_tag_is_there_and_tells_nothing(tmp_path):
    data = load_data("confound.control:digits", Request(tmp_path))
    for label in range(10):
        assert len(places(data.train)[data.train.labels == label].unique()) == 10
    told = load_data("confound:digits", Request(tmp_path))
    assert torch.equal(told.validation.labels, data.validation.labels)
