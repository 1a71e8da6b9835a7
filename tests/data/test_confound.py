import torch

from pellucid.data import Request, load_data


def tag_positions(part) -> torch.Tensor:
    return part.masks.flatten(1).double().argmax(1)


def test_the_tag_reveals_the_class_in_training_and_is_absent_in_the_test_set(tmp_path):
    data = load_data("confound:digits", Request(tmp_path))
    for part in (data.train, data.validation):
        assert part.masks.flatten(1).sum(1).unique().tolist() == [9]
        assert bool((part.pixels[:, 0][part.masks] == 255).all())
        by_class = [tag_positions(part)[part.labels == label].unique() for label in range(10)]
        assert all(len(positions) == 1 for positions in by_class)
        assert len(torch.cat(by_class).unique()) == 10
    plain = load_data("digits", Request(tmp_path))
    assert data.test.masks is None
    assert torch.equal(data.test.pixels, plain.test.pixels)


def test_the_tag_of_the_control_is_independent_of_the_class(tmp_path):
    data = load_data("confound.control:digits", Request(tmp_path))
    for label in range(10):
        assert len(tag_positions(data.train)[data.train.labels == label].unique()) == 10
    informative = load_data("confound:digits", Request(tmp_path))
    assert torch.equal(informative.validation.labels, data.validation.labels)
