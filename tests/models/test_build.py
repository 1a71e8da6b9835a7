"""Models built by name or by a user's function, and the check that they fit the data."""

import pytest
import torch
from torch import nn

from pellucid.core.errors import ModelError, UnknownName
from pellucid.models import MODELS, build_model, check_fit, check_spec, count_parameters


@pytest.mark.parametrize("name", MODELS.names())
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 33, 48), (1, 9, 9), (3, 65, 65)])
def test_every_model_fits_every_size(name, shape):
    model = build_model(name, shape, 7)
    check_fit(model, torch.rand(2, *shape), 7)
    assert model(torch.rand(3, *shape)).shape == (3, 7)


def test_weights_depend_only_on_the_seed():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second, third = (build_model("cnn", (1, 28, 28), 10, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(third.parameters()))


def test_the_default_model_has_about_80k_parameters():
    assert 70_000 < count_parameters(build_model("cnn", (1, 28, 28), 10)) < 90_000


def test_function_names_are_accepted_and_unknown_names_refused():
    assert check_spec("some.module:function") == "some.module:function"
    with pytest.raises(UnknownName, match="did you mean 'mlp'"):
        check_spec("mpl")


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "nets_of_test.py").write_text(
        "from torch import nn\n"
        "def plain(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n"
        "def sized(image_size, *, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(image_size[0] * image_size[1], classes))\n"
        "def anything(classes, **options):\n"
        "    assert options == {}\n"  # torchvision's factories pass such options on to a class that knows none of them
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
        "def leaving(): raise SystemExit(0)\n"
        "class Leaving(nn.Linear):\n"
        "    def forward(self, x): raise SystemExit\n"
        "def leaving_later(): return Leaving(64, 3)\n"
        "def text(): return 'a model'\n"
        "def lazy(): return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))\n"
        "def failing(): raise ValueError('no weights')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", ["plain", "sized", "anything"])
def test_a_users_function_receives_the_parameters_it_declares(name, user_module):
    model = build_model(f"nets_of_test:{name}", (1, 8, 8), 3)
    check_fit(model, torch.rand(2, 1, 8, 8), 3)


def test_lazy_layers_draw_their_weights_from_the_seed(user_module):
    first, second, other = (build_model("nets_of_test:lazy", (1, 8, 8), 3, seed) for seed in (1, 1, 2))
    check_fit(first, torch.rand(2, 1, 8, 8), 3)
    assert first.training
    assert torch.equal(first[1].weight, second[1].weight)
    assert not torch.equal(first[1].weight, other[1].weight)


class Extra(nn.Sequential):
    def get_extra_state(self):
        return {"a": 1}

    def set_extra_state(self, state):
        pass


def test_a_state_that_is_not_a_tensor_is_refused():
    with pytest.raises(ModelError, match="'_extra_state' is a dict, but only tensors can be saved"):
        check_fit(Extra(nn.Flatten(), nn.Linear(64, 3)), torch.rand(2, 1, 8, 8), 3)


def test_a_users_function_that_fails_or_returns_something_else_is_refused(user_module):
    with pytest.raises(ModelError, match="returned str; it must return a torch.nn.Module"):
        build_model("nets_of_test:text", (1, 8, 8), 3)
    with pytest.raises(ModelError, match="failed: ValueError: no weights"):
        build_model("nets_of_test:failing", (1, 8, 8), 3)


class Tuple(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 3)

    def forward(self, x):
        logits = self.linear(x.flatten(1))
        return (logits, logits) if self.training else logits


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(63, 3)), r"shape \(2, 1, 8, 8\).*logits of shape \(2, 3\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), r"returned shape \(2, 4\) for images of shape \(2, 1, 8, 8\)"),
        (nn.Conv2d(1, 3, 3), r"returned shape \(2, 3, 6, 6\)"),
        (Tuple(), "in training mode the model returned a tuple"),
        (nn.Flatten(), "no trainable parameters"),
    ],
)
def test_unsuitable_models_are_refused_with_both_shapes(model, message):
    with pytest.raises(ModelError, match=message):
        check_fit(model, torch.rand(2, 1, 8, 8), 3)


def test_the_check_does_not_modify_the_model():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3))
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    check_fit(model, torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in model] == [True, True, False, True, True]


def test_a_function_that_exits_is_an_error(user_module):
    with pytest.raises(ModelError, match="nets_of_test:leaving failed: SystemExit: 0"):
        build_model("nets_of_test:leaving", (1, 8, 8), 3)
    with pytest.raises(ModelError, match=r"cannot map images .*: SystemExit"):
        check_fit(build_model("nets_of_test:leaving_later", (1, 8, 8), 3), torch.rand(2, 1, 8, 8), 3)
    with pytest.raises(ModelError, match="sys:exit failed"):
        build_model("sys:exit", (1, 8, 8), 3)


def test_torchvisions_factories_are_called_without_our_keywords():
    model = build_model("torchvision.models:resnet18", (3, 32, 32), 10)
    with pytest.raises(ModelError, match=r"returned shape \(2, 1000\)"):
        check_fit(model, torch.rand(2, 3, 32, 32), 10)
