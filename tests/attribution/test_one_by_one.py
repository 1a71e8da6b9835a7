"""Images of a batch are explained as if each were alone, even if the model mixes them; hidden softmax layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import create_analyzer, evaluate
from pellucid.core.errors import ConfigError, ShapeError, UnsupportedOperation

# too few points for the sum of integrated gradients
pytestmark = pytest.mark.filterwarnings("ignore:integrated_gradients.*:pellucid.attribution.CompletenessWarning")
FEW = {
    "gradient": {},
    "integrated_gradients": {"steps": 4},
    "smoothgrad": {"samples": 2},
    "grad_cam": {},
    "guided_backprop": {},
    "lrp.epsilon": {},
    "occlusion": {"window": 4, "stride": 4},
    "rise": {"masks": 5},
}


class Net(nn.Module):
    """A small network with one unusual property."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.first, self.second = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6 * 36, 3)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "standardized over the batch":
            x = (x - x.mean()) / (x.std() + 0.1)
        h = F.max_pool2d(F.relu(self.first(x)) - 0.2, 2)
        if self.how == "masked by a comparison":
            h = h * (h > 0)
        logits = self.head(F.max_pool2d(F.relu(self.second(h)), 2).flatten(1))
        match self.how:
            case "softmax, then a view":
                return logits.softmax(1).view(-1, 3)
            case "softmax, then a clamp":
                return logits.softmax(1).clamp(1e-7, 1)
        return logits


def some(count: int) -> Tensor:
    torch.manual_seed(1)
    images = torch.rand(count, 1, 24, 24, dtype=torch.float64)
    return images * (torch.rand_like(images) > 0.5)


@pytest.mark.parametrize("how", ["standardized over the batch", "masked by a comparison", "plain"])
@pytest.mark.parametrize("name", FEW)
def test_batch_equals_its_images(name: str, how: str) -> None:
    count = 4 if how == "standardized over the batch" else 18  # images that are mixed run one by one
    analyzer, images = create_analyzer(name, Net(how), **FEW[name]), some(count)
    together = analyzer.analyze(images, 1)
    alone = torch.cat([analyzer.analyze(images[n : n + 1], 1) for n in (0, count - 1)])
    torch.testing.assert_close(together[[0, -1]], alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["gradient", "lrp.epsilon", "occlusion"])
def test_score_that_depends_on_the_batch_is_refused_for_mixing_models(name: str) -> None:
    labels = torch.tensor([0, 1, 2, 0])
    analyzer = create_analyzer(name, Net("standardized over the batch"), **FEW[name])
    with pytest.raises(ShapeError, match="depends on the rest of the batch"):
        analyzer.analyze(some(4), lambda logits: logits[torch.arange(len(logits)), labels[: len(logits)]])


@pytest.mark.parametrize("unwrap", [False, True])
@pytest.mark.parametrize("how", ["softmax, then a view", "softmax, then a clamp"])
@pytest.mark.parametrize("name", ["gradient", "lrp.epsilon", "occlusion", "grad_cam"])
def test_softmax_followed_by_other_operations_is_detected(name: str, how: str, unwrap: bool) -> None:
    analyzer = create_analyzer(name, Net(how), unwrap_softmax=unwrap, **FEW[name])
    with pytest.raises(UnsupportedOperation, match="ends in a softmax followed by"):
        analyzer.analyze(some(2))


@pytest.mark.parametrize(
    "name", ["integrated_gradients", "gradient.baseline", "simple_taylor", "occlusion", "deeplift"]
)
def test_each_image_uses_its_own_baseline(name: str) -> None:
    model, images = Net("plain"), some(70)
    baseline = images.flip(0) / 2
    options = FEW.get(name, {})
    together = create_analyzer(name, model, baseline=baseline, **options).analyze(images, 1)
    alone = create_analyzer(name, model, baseline=baseline[66:67], **options).analyze(images[66:67], 1)
    torch.testing.assert_close(together[66:67], alone, rtol=1e-9, atol=1e-12)
    with pytest.raises(ShapeError, match=r"baseline has shape \(64, .*for inputs of shape \(70, "):
        create_analyzer(name, model, baseline=baseline[:64], **options).analyze(images, 1)


def test_metrics_refuse_other_outputs() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Softmax(1))
    images = torch.rand(2, 1, 4, 4)
    analyzer = create_analyzer("gradient", model, unwrap_softmax=True)
    with pytest.raises(ConfigError, match="explains other outputs than the model returns"):
        evaluate(model, images, None, [analyzer], ["sparseness"])
    with pytest.raises(ShapeError, match="the metrics need logits"):
        evaluate(
            nn.Sequential(nn.Flatten(), nn.Linear(16, 1), nn.Flatten(0)), images, None, ["gradient"], ["sparseness"]
        )
