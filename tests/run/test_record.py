"""Records of a run."""

from collections import Counter

import pytest
import torch

from pellucid.run.record import most_common_confusion


@pytest.mark.parametrize("count", [2, 5])
def test_most_common_confusion_matches_a_count_by_hand(count):
    generator = torch.Generator().manual_seed(count)
    logits = torch.randn(200, count, generator=generator)
    labels = torch.randint(count, (200,), generator=generator)
    names = [f"class {number}" for number in range(count)]
    pairs = [
        (int(label), max(range(count), key=row.__getitem__)) for label, row in zip(labels, logits.tolist(), strict=True)
    ]
    (label, prediction), images = Counter(pair for pair in pairs if pair[0] != pair[1]).most_common(1)[0]
    expected = {"label": names[label], "prediction": names[prediction], "images": images}
    assert most_common_confusion(logits, labels, names) == expected | {"of": int((labels == label).sum())}


def test_no_confusion_without_errors():
    assert most_common_confusion(torch.eye(3), torch.arange(3), ["a", "b", "c"]) is None


def test_first_of_equally_common_confusions():
    confusion = most_common_confusion(torch.eye(3)[[1, 2, 0]], torch.arange(3), ["a", "b", "c"])
    assert confusion == {"label": "a", "prediction": "b", "images": 1, "of": 1}
