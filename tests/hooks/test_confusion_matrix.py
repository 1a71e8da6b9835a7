from collections.abc import Callable
from dataclasses import replace

import torch
from torch.nn.functional import one_hot

from pellucid.core.contracts import ImageSet
from pellucid.hooks._hook import Scene
from pellucid.hooks.confusion_matrix import ConfusionMatrix


def test_counts_against_a_table_made_by_hand(make_scene: Callable[..., Scene]) -> None:
    truth = torch.tensor([0, 0, 0, 1, 1, 2])
    prediction = torch.tensor([0, 0, 1, 1, 1, 0])
    scene = replace(
        make_scene(),
        test=ImageSet(torch.zeros(6, 1, 9, 9, dtype=torch.uint8), truth),
        logits=one_hot(prediction, 4).float(),
    )
    (artifact,) = ConfusionMatrix().run(scene)
    assert artifact.numbers["counts"] == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert artifact.numbers["recall"] == [2 / 3, 1.0, 0.0, None]
    assert artifact.numbers["precision"] == [2 / 3, 2 / 3, None, None]
    assert artifact.numbers["accuracy"] == artifact.scalars["accuracy"] == 4 / 6
    assert artifact.numbers["classes"] == list(scene.classes)
    assert artifact.figure is not None
    headline = " ".join(text.get_text() for text in artifact.figure.texts[:3])
    assert "Bars, epoch 2" in headline
    assert "accuracy 66.67%" in headline
