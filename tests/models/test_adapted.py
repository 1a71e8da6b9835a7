"""Adapted models work with the whole library: derivatives and relevance are per displayed pixel."""

import pytest
import torch
import torchvision
from torch import nn
from torch.autograd import grad

from pellucid import create_analyzer, jacobian
from pellucid.core.errors import UnknownName, UnsupportedOperation
from pellucid.core.preprocessing import Preprocessing
from pellucid.engine.tap import find_embedding
from pellucid.models._adapted import adapted
from unsupported import unsupported_function

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TARGET = 3


def resnet():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=6).eval().double()


@pytest.mark.parametrize("method", ["lrp.flat", "lrp.z_box", "lrp.w_square", "lrp.epsilon_plus_flat", "deep_taylor"])
def test_relevance_has_the_shape_of_a_gray_image_that_the_model_repeats(method):
    class Repeating(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))

        def forward(self, x):
            return self.layers(normalized(x).float())

    model, images = Repeating().eval(), torch.rand(2, 1, 8, 8)
    explanation = create_analyzer(method, model).explain(images, 1)
    of_color = create_analyzer(method, model).explain(images.expand(2, 3, 8, 8), 1)
    assert explanation.relevance.shape == images.shape
    torch.testing.assert_close(explanation.relevance, of_color.relevance.sum(1, keepdim=True), atol=1e-6, rtol=1e-4)


def vit():
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=6
    )
    nn.init.normal_(model.heads.head.weight)  # zeros in a fresh network
    return model.eval().double()


@pytest.fixture(params=["resnet", "vit"])
def network(request):
    return {"resnet": resnet, "vit": vit}[request.param]()


@pytest.fixture(params=[3, 1], ids=["color", "gray"])
def images(request):
    return torch.rand(2, request.param, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def normalized(images):
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD))
    return (images - mean) / std


def test_the_normalization_is_part_of_the_explained_function(network, images):
    model = adapted(network, Preprocessing(MEAN, STD))
    logits = network(normalized(images))
    torch.testing.assert_close(model(images), logits)
    leaf = images.clone().requires_grad_()
    expected = grad(network(normalized(leaf))[:, TARGET].sum(), leaf)[0]
    gradient = create_analyzer("gradient", model).analyze(images, TARGET)
    torch.testing.assert_close(gradient, expected, atol=1e-9, rtol=1e-6)
    rows = jacobian(model, images[:1], outputs=[TARGET])
    torch.testing.assert_close(rows[0, 0], expected[0], atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("method", ["lrp.epsilon_plus_flat", "lrp.z_box"])
def test_relevance_sums_to_what_is_promised(method, network, images):
    model = adapted(network, Preprocessing(MEAN, STD))
    explanation = create_analyzer(method, model).explain(images, TARGET, strict=True)
    assert explanation.relevance.shape == images.shape
    sums = explanation.relevance.flatten(1).sum(1)
    torch.testing.assert_close(sums, explanation.expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(explanation.logits, network(normalized(images)))


def test_the_empty_image_is_black():
    network, images = (
        nn.Sequential(nn.Flatten(), nn.Linear(48, 4)).double(),
        torch.rand(2, 3, 4, 4, dtype=torch.float64),
    )
    explanation = create_analyzer("integrated_gradients", adapted(network, Preprocessing(MEAN, STD))).explain(images, 1)
    expected = network(normalized(images)) - network(normalized(torch.zeros_like(images)))
    torch.testing.assert_close(explanation.relevance.flatten(1).sum(1), expected[:, 1])


def test_layers_have_the_names_of_the_users_model():
    network = resnet()
    model = adapted(network, Preprocessing(MEAN, STD))
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    expected = create_analyzer("grad_cam", network, layer="layer3").analyze(normalized(images), TARGET)
    for layer in ("layer3", "model.layer3"):
        map_ = create_analyzer("grad_cam", model, layer=layer).analyze(images, TARGET)
        torch.testing.assert_close(map_, expected)
    embedding = find_embedding(model, images)
    assert embedding.layer == "fc"
    torch.testing.assert_close(embedding.read(images), find_embedding(network, images).read(normalized(images)))
    torch.testing.assert_close(find_embedding(model, images, "fc").read(images), embedding.read(images))
    with pytest.raises(UnknownName, match="there is no layer 'layer9'; did you mean 'layer4' .*Available: conv1, bn1"):
        find_embedding(model, images, "layer9")


def test_errors_name_the_users_layers():
    class Odd(nn.Module):
        def forward(self, x):
            return no_rule(x)

    no_rule = unsupported_function("no_rule", torch.square)
    network = nn.Sequential(nn.Flatten(), nn.Sequential(Odd(), nn.Linear(12, 3)))
    model = adapted(network.eval(), Preprocessing((0.5,), (0.5,)))
    with pytest.raises(UnsupportedOperation, match=r"'no_rule' in module '1\.0' has no rule"):
        create_analyzer("lrp.epsilon", model).analyze(torch.rand(1, 3, 2, 2), 1)


def test_nothing_of_the_model_changes():
    network = resnet().train()
    network.layer1.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    model = adapted(network, Preprocessing(MEAN, STD))
    create_analyzer("lrp.epsilon_plus_flat", model).analyze(torch.rand(1, 3, 64, 64, dtype=torch.float64))
    assert network.training
    assert not network.layer1.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


class Output:
    def __init__(self, logits):
        self.logits = logits


class Wrapping(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 3)

    def forward(self, x):
        return Output(self.linear(x.flatten(1)))


def test_outputs_with_logits_become_tensors():
    model, images = Wrapping(), torch.rand(2, 3, 2, 2)
    assert torch.equal(adapted(model)(images), model.linear(images.flatten(1)))
