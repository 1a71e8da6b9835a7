import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.core.errors import ModelError, ShapeError, UnknownName
from pellucid.engine.tap import find_embedding
from pellucid.models._adapted import adapted

IMAGES = torch.rand(3, 1, 2, 2)
FLAT = IMAGES.flatten(1)


class Awkward(nn.Module):
    """Two linear layers, registered in the reverse order of their use, plus one that never runs."""

    def __init__(self, way: str = "module") -> None:
        super().__init__()
        self.way = way
        self.head = nn.Linear(5, 2)
        self.body = nn.Linear(4, 5)
        self.unused = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.body(x.flatten(1)))
        if self.way == "matmul":
            return hidden @ self.head.weight.T + self.head.bias
        if self.way == "functional":
            return F.linear(hidden, self.head.weight, self.head.bias)
        if self.way == "addmm":
            return torch.addmm(self.head.bias, hidden, self.head.weight.T)
        if self.way == "keyword":
            return self.head(input=hidden)
        logits = self.head(hidden)
        hidden.zero_()  # the recorded input must not change with it
        return logits

    def expected(self) -> Tensor:
        return torch.tanh(self.body(FLAT)).detach()


@pytest.mark.parametrize("way", ["module", "matmul", "functional", "addmm", "keyword"])
def test_the_last_used_layer_is_found_however_it_is_called(way: str) -> None:
    model = Awkward(way)
    tap = find_embedding(model, IMAGES[:1])
    assert tap.layer == "head"
    torch.testing.assert_close(tap.read(IMAGES), model.expected(), rtol=0, atol=0)


@pytest.mark.parametrize("way", ["module", "keyword"])
def test_a_chosen_layer_is_read_at_its_input(way: str) -> None:
    model = Awkward(way)
    assert torch.equal(find_embedding(model, IMAGES[:1], "head").read(IMAGES), model.expected())
    assert torch.equal(find_embedding(model, IMAGES[:1], "body").read(IMAGES), FLAT)


def test_a_wrong_name_lists_the_layers() -> None:
    with pytest.raises(UnknownName, match=r"did you mean 'head'\? .*head, body, unused"):
        find_embedding(Awkward(), IMAGES[:1], "heads")


def test_a_layer_that_does_not_run_is_reported() -> None:
    with pytest.raises(ModelError, match="'unused' is not used"):
        find_embedding(Awkward(), IMAGES[:1], "unused").read(IMAGES)


def test_a_model_without_a_linear_layer_is_reported() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten())
    with pytest.raises(ModelError, match="no linear layer.*--embedding-layer"):
        find_embedding(model, IMAGES)
    assert find_embedding(model, IMAGES, "1").read(IMAGES).shape == (3, 3)


def test_a_layer_without_a_row_per_image_is_reported() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.mix(x.flatten(1).T).T

    with pytest.raises(ShapeError, match=r"shape \(4, 3\) for 3 images"):
        find_embedding(Mixing(), IMAGES, "mix").read(IMAGES)


def test_a_reused_layer_is_read_at_its_last_use() -> None:
    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.again = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.again(torch.relu(self.again(x.flatten(1))))

    model = Reused()
    expected = torch.relu(model.again(FLAT)).detach()
    assert torch.equal(find_embedding(model, IMAGES[:1]).read(IMAGES), expected)
    assert torch.equal(find_embedding(model, IMAGES[:1], "again").read(IMAGES), expected)


def test_a_weight_shared_by_two_layers_is_read_at_its_last_use() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x.flatten(1)) - 1)

    model = Tied()
    assert torch.equal(find_embedding(model, IMAGES[:1]).read(IMAGES), model.first(FLAT).detach() - 1)


def test_a_weight_without_a_layer_is_read_too() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(2, 4))

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ self.weight.T

    tap = find_embedding(Bare(), IMAGES[:1])
    assert tap.layer == "last linear operation"
    assert torch.equal(tap.read(IMAGES), FLAT)


@pytest.mark.parametrize("layer", [None, "1", "2"])
def test_other_dtypes_and_in_place_layers(layer: str | None) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)).double().train()
    images, hooks = IMAGES.clone(), len(model[2]._forward_pre_hooks)
    read = find_embedding(model, images, layer).read(images)
    hidden = model[1](FLAT.double()).detach()
    expected = {None: hidden.relu(), "1": FLAT.double(), "2": hidden}[layer]
    torch.testing.assert_close(read, expected.float(), rtol=0, atol=0)
    assert torch.equal(images, IMAGES)
    assert model.training
    assert len(model[2]._forward_pre_hooks) == hooks


def test_names_within_a_wrapped_model_need_no_prefix():
    inner = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    images = torch.rand(5, 1, 2, 2)
    tap = find_embedding(adapted(inner), images, "1")
    assert tap.layer == "1"
    assert torch.equal(tap.read(images), images.flatten(1))
    assert find_embedding(adapted(inner), images).layer == "3"
