"""One grammar selects a tensor among the outputs of a model, for `output=` and `outputs=`."""

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pellucid import create_analyzer, jacobian
from pellucid.core.errors import ConfigError, PellucidError, ShapeError, UnknownName
from pellucid.engine.outputs import check_chooser, choose_output

A, B, C = torch.rand(2, 3), torch.rand(2, 4), torch.rand(2)
Pair = namedtuple("Pair", ["scores", "boxes"])


@dataclass
class Output:
    scores: Tensor
    aux: Any = None


class Plain:
    def __init__(self) -> None:
        self.scores, self._hidden = A, B


NESTED = {"out": A, "aux": ({"scores": B}, C), "layer.1": Pair(C, B), 7: A * 2, "none": None, "loss": 3.0}


@pytest.mark.parametrize(
    ("outputs", "chooser", "expected"),
    [
        (A, None, A),
        ({"logits": A, "loss": None}, None, A),
        ((A,), None, A),
        ((A, B), 1, B),
        ((A, B), -1, B),
        ((A, B), "1", B),
        (Pair(A, B), 1, B),
        (Pair(A, B), "boxes", B),
        (Output(A, B), "aux", B),
        (Output(A), None, A),
        (Output(A, {"x": (B, C)}), "aux.x.1", C),
        (Plain(), "scores", A),
        ((None, A), 1, A),
        (NESTED, "out", A),
        (NESTED, "aux.0.scores", B),
        (NESTED, ("aux", 0, "scores"), B),
        (NESTED, "aux.1", C),
        (NESTED, "layer.1.boxes", B),
        (NESTED, ("layer.1", 0), C),
        (NESTED, 7, NESTED[7]),
        (NESTED, "7", NESTED[7]),
        (NESTED, "aux.0", B),  # its only tensor
        (NESTED, lambda outputs: outputs["out"] + 1, A + 1),
    ],
)
def test_a_selector_finds_its_tensor(outputs, chooser, expected) -> None:
    assert torch.equal(choose_output(outputs, check_chooser(chooser)), expected)


def test_a_name_in_a_list_of_dicts_stacks_the_images() -> None:
    images = [{"scores": row, "more": {"boxes": row * 2}} for row in A]
    assert torch.equal(choose_output(images, "scores"), A)
    assert torch.equal(choose_output(images, "more.boxes"), A * 2)
    assert torch.equal(choose_output(({"loss": C}, images), (1, "more", "boxes")), A * 2)
    assert torch.equal(choose_output([Output(row) for row in A], "scores"), A)
    assert torch.equal(choose_output(images, "1.scores"), A[1])
    with pytest.raises(ConfigError, match=r"has shape \(3,\) for image 0 and \(2,\) for image 1"):
        choose_output([{"scores": A[0]}, {"scores": A[1, :2]}], "scores")
    with pytest.raises(ConfigError, match="not a tensor for every image"):
        choose_output([{"scores": 1, "x": A}, {"scores": 2, "x": B}], "scores")


@pytest.mark.parametrize(
    ("outputs", "chooser", "error", "message"),
    [
        (NESTED, "nothing", UnknownName, "there is no output 'nothing'.*out, aux.0.scores, aux.1, layer.1.scores"),
        (NESTED, "aux.2", UnknownName, "aux.1"),
        (NESTED, 0, UnknownName, "aux.0.scores"),
        ((A, None), 1, UnknownName, "Available: 0"),
        ((A, B), 2, UnknownName, "Available: 0, 1"),
        ([{"scores": C}] * 2, "boxes", UnknownName, "Available: scores"),
        ({"scores": A}, "score", UnknownName, "did you mean 'scores'"),
        (NESTED, None, ConfigError, "returned a dict with 'out', 'aux.0.scores'.*such as output='out'"),
        (NESTED, "aux", ConfigError, "output='aux' selects a tuple with '0.scores', '1'.*output='aux.0.scores'"),
        ([{"scores": C}] * 2, None, ConfigError, "'scores'; name one of them"),
        (A, "scores", ConfigError, "single tensor"),
        (A, 0, ConfigError, "single tensor"),
        (3, None, ConfigError, "returned int; expected a tensor"),
        (None, "x", UnknownName, "none"),
        (NESTED, "loss", ConfigError, "selects float; expected a tensor"),
        (NESTED, lambda outputs: outputs["missing"], ConfigError, "raised KeyError: 'missing'.*a dict with 'out'"),
        (NESTED, lambda outputs: outputs["aux"], ConfigError, "returned a tuple; it must return a tensor"),
    ],
)
def test_errors_list_the_names_that_exist(outputs, chooser, error, message) -> None:
    with pytest.raises(error, match=message) as raised:
        choose_output(outputs, chooser)
    assert isinstance(raised.value, PellucidError)


@pytest.mark.parametrize("chooser", [True, 1.5, (), ("a", None), "", [0], {}, int, object()])
def test_other_selectors_are_refused(chooser) -> None:
    with pytest.raises(ShapeError, match="expected an index, a key or field, a path"):
        check_chooser(chooser)


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(5, 6)

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        return [{"scores": row, "boxes": row[:4] * 2} for row in self.net(x).sigmoid()]


@pytest.mark.parametrize("name", ["gradient", "lrp.epsilon", "integrated_gradients", "occlusion"])
def test_a_detector_is_explained_by_name(name) -> None:
    torch.manual_seed(0)
    model, x = Detector().eval(), torch.rand(3, 5)
    alone = nn.Sequential(model.net, nn.Sigmoid())
    maps = create_analyzer(name, model, output="scores").analyze(x, 2)
    torch.testing.assert_close(maps, create_analyzer(name, alone).analyze(x, 2))


def test_jacobian_uses_the_same_grammar() -> None:
    model, x = Detector().eval(), torch.rand(3, 5)
    boxes = jacobian(lambda v: model.net(v).sigmoid()[:, :4] * 2, x)
    torch.testing.assert_close(jacobian(model, x, "boxes"), boxes)
    torch.testing.assert_close(jacobian(model, x, {"boxes": [3, 0]}), boxes[:, [3, 0]])
    nested = lambda v: {"aux": (v**2, {"cube": v**3})}  # noqa: E731
    torch.testing.assert_close(jacobian(nested, x, "aux.1.cube"), torch.diag_embed(3 * x**2))
    torch.testing.assert_close(jacobian(nested, x, ("aux", 0)), torch.diag_embed(2 * x))
    torch.testing.assert_close(jacobian(nested, x, {("aux", 0): [1]}), torch.diag_embed(2 * x)[:, [1]])
    torch.testing.assert_close(jacobian(nested, x, lambda o: o["aux"][0]), torch.diag_embed(2 * x))
    with pytest.raises(UnknownName, match=r"aux.0, aux.1.cube"):
        jacobian(nested, x, "cube")
    with pytest.raises(ShapeError, match=r"pass a list: outputs=\[0\]"):
        jacobian(torch.sin, x, 0)
    with pytest.raises(ShapeError, match="expected a list of indices"):
        jacobian(torch.sin, x, [True])
