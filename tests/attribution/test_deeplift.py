"""DeepLIFT: equal to captum where the rules agree, and complete where captum is not."""

import captum.attr
import pytest
import torch
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.core.errors import ConfigError, ShapeError


def network(activation: type[nn.Module], *between: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    head = [nn.Flatten(), nn.LazyLinear(9), activation(), nn.Linear(9, 5)]
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), activation(), nn.Conv2d(4, 6, 3), *between, activation(), *head
    )
    model.double().eval()(torch.zeros(1, 1, 12, 12).double())
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.filterwarnings("ignore")  # captum warns about its hooks
@pytest.mark.parametrize("baseline", [0.0, 0.4])
def test_agrees_with_captum_on_relu_networks_without_max_pooling(images, baseline) -> None:
    model = network(nn.ReLU, nn.BatchNorm2d(6), nn.AvgPool2d(2))
    targets = torch.tensor([0, 3, 1])
    theirs = captum.attr.DeepLift(model).attribute(images.clone(), baselines=baseline, target=targets).detach()
    ours = create_analyzer("deeplift", model, baseline=baseline).analyze(images, targets)
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-6


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Tanh])
@pytest.mark.parametrize(
    "between", [nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1), nn.AdaptiveMaxPool2d(3), nn.LayerNorm([6, 10, 10])], ids=repr
)
def test_is_complete_with_every_activation_and_pooling(images, activation, between) -> None:
    model = network(activation, between)
    explanation = create_analyzer("deeplift", model, baseline=0.2).explain(images, 1, strict=True)
    expected = (model(images) - model(0 * images + 0.2))[:, 1].detach()
    torch.testing.assert_close(explanation.relevance.flatten(1).sum(1), expected, rtol=1e-9, atol=1e-12)
    single = create_analyzer("deeplift", model.float(), baseline=0.2).explain(images.float(), 1)
    assert (single.residual.abs() <= single.allowed).all()


def test_baseline_is_a_single_image(images) -> None:
    model = network(nn.ReLU)
    one = create_analyzer("deeplift", model, baseline=torch.full((1, 1, 12, 12), 0.3).double()).analyze(images)
    torch.testing.assert_close(one, create_analyzer("deeplift", model, baseline=0.3).analyze(images))


@pytest.mark.parametrize("kind", [nn.ReLU, nn.GELU])
def test_each_image_may_have_its_own_baseline(images, kind) -> None:
    model, baseline = network(kind), images.flip(0) * 0.7 + 0.1
    explanation = create_analyzer("deeplift", model, baseline=baseline).explain(images, 1, strict=True)
    for number, (image, own) in enumerate(zip(images, baseline, strict=True)):
        alone = create_analyzer("deeplift", model, baseline=own).analyze(image[None], 1)
        torch.testing.assert_close(explanation.relevance[number], alone[0], rtol=1e-9, atol=1e-12)
    change = (model(images) - model(baseline))[:, 1].detach()
    torch.testing.assert_close(explanation.relevance.flatten(1).sum(1), change, rtol=1e-9, atol=1e-12)


def test_baselines_of_a_table_are_told_apart_by_their_axes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3)).double().eval()
    table, rows, row = torch.rand(4, 4).double(), torch.rand(4, 4).double(), torch.rand(4).double()
    for baseline in (rows, row, row[None]):
        relevance = create_analyzer("deeplift", model, baseline=baseline).analyze(table, 1)
        change = (model(table) - model(baseline))[:, 1].detach()
        torch.testing.assert_close(relevance.sum(1), change, rtol=1e-9, atol=1e-12)


def test_many_images_keep_their_own_baselines() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)).double().eval()
    signals, baseline = torch.rand(150, 2, 8).double(), torch.rand(150, 2, 8).double()
    relevance = create_analyzer("deeplift", model, baseline=baseline).analyze(signals, 2)
    change = (model(signals) - model(baseline))[:, 2].detach()
    torch.testing.assert_close(relevance.flatten(1).sum(1), change, rtol=1e-9, atol=1e-12)


class Mixing(nn.Module):
    """Keeps the batch on the second axis, merged with nothing, and in attention windows merged with the windows."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mlp, self.head = nn.Linear(2, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        tokens = self.embed(x).transpose(0, 1)
        tokens = tokens + self.mlp(tokens.relu()).relu()
        windows = tokens.transpose(0, 1).reshape(-1, 2, 5)
        return self.head(windows.softmax(2).mean(1).reshape(len(x), -1, 5).mean(1))


def test_own_baselines_of_models_that_move_the_batch() -> None:
    torch.manual_seed(0)
    model = Mixing().double().eval()
    x, baseline = torch.rand(3, 4, 2).double(), torch.rand(3, 4, 2).double()
    relevance = create_analyzer("deeplift", model, baseline=baseline).analyze(x, 1)
    change = (model(x) - model(baseline))[:, 1].detach()
    torch.testing.assert_close(relevance.flatten(1).sum(1), change, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("name", ["deeplift", "integrated_gradients", "gradient.baseline", "occlusion", "rise"])
def test_baselines_that_fit_no_input_are_refused(images, name) -> None:
    model = network(nn.ReLU)
    for shape in ((7, 1, 12, 12), (2, 12, 12), (1, 1, 1, 12, 12), (12, 11)):
        with pytest.raises(ShapeError, match=r"the baseline has shape"):
            create_analyzer(name, model, baseline=torch.zeros(shape).double()).analyze(images)


@pytest.mark.parametrize(
    ("values", "baseline", "expected"),
    [([5.0, 1.0], [2.0, 3.0], [2.0, 0.0]), ([1.0, 0.0], [0.0, 3.0], [0.0, -2.0])],
    ids=["of the image", "of the baseline"],
)
def test_max_pooling_routes_everything_to_the_larger_maximum(values, baseline, expected) -> None:
    model = nn.Sequential(nn.MaxPool1d(2), nn.Flatten()).double()
    images, base = torch.tensor([[values]]).double(), torch.tensor([baseline]).double()
    relevance = create_analyzer("deeplift", model, baseline=base).analyze(images, 0)
    torch.testing.assert_close(relevance, torch.tensor([[expected]]).double())


@pytest.mark.filterwarnings("ignore")  # captum warns about its hooks
def test_references_agree_with_captums_deeplift_shap(images) -> None:
    model, targets = network(nn.ReLU, nn.AvgPool2d(2)), torch.tensor([0, 4, 2])
    references = torch.rand(6, 1, 12, 12, generator=torch.Generator().manual_seed(3)).double()
    theirs = captum.attr.DeepLiftShap(model).attribute(images, references, target=targets)
    explanation = create_analyzer("deeplift", model, references=references).explain(images, targets, strict=True)
    torch.testing.assert_close(explanation.relevance, theirs.detach(), rtol=1e-5, atol=1e-8)
    change = model(images).gather(1, targets[:, None])[:, 0] - model(references).mean(0)[targets]
    torch.testing.assert_close(explanation.expected, change.detach())
    assert explanation.evaluations.tolist() == [6] * 3


def test_the_mean_over_references_is_that_of_the_single_baselines(images) -> None:
    model, references = network(nn.GELU, nn.MaxPool2d(2)), images.flip(0) / 3
    together = create_analyzer("deeplift", model, references=references).explain(images, "all")
    alone = [create_analyzer("deeplift", model, baseline=one).explain(images, "all") for one in references]
    torch.testing.assert_close(together.relevance, torch.stack([one.relevance for one in alone]).mean(0))
    torch.testing.assert_close(together.expected, torch.stack([one.expected for one in alone]).mean(0))


def test_a_baseline_and_references_are_refused_together(images) -> None:
    model = network(nn.ReLU)
    with pytest.raises(ConfigError, match="deeplift got a baseline and references; pass one"):
        create_analyzer("deeplift", model, baseline=0.5, references=images)
    with pytest.raises(ShapeError, match=r"deeplift has 2 references of \(1, 5, 5\)"):
        create_analyzer("deeplift", model, references=torch.rand(2, 1, 5, 5)).analyze(images)
