"""Batch statistics of images raise an error in every method and Jacobian function; those of a weight do not."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pellucid
from pellucid import create_analyzer
from pellucid.attribution import METHODS
from pellucid.core.errors import UnsupportedOperation
from pellucid.jacobians import check_jacobian, jacobian_class_means, jacobian_product, transposed_product
from pellucid.synthesis import synthesise
from pellucid.synthesis.l2 import L2

FEW = {"samples": 2, "steps": 64, "places": 2, "halvings": 2, "masks": 4, "permutations": 1, "window": 3, "stride": 3}


class Functional(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, training=True)


def network(kind: str) -> nn.Sequential:
    torch.manual_seed(0)
    norm = Functional() if kind == "function" else nn.BatchNorm2d(3, track_running_stats=False)
    layers = [nn.Conv2d(1, 3, 3), norm, nn.ReLU(), nn.Conv2d(3, 3, 1), nn.ReLU()]
    if kind == "row":
        layers = [nn.Flatten(), nn.Linear(36, 3), nn.BatchNorm1d(3, track_running_stats=False), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(3, 3)).eval()
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)).eval()


WHERE = {"module": r"1 \(BatchNorm2d\)", "row": r"2 \(BatchNorm1d\)", "function": r"called as a function in 1 \(Funct"}


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_refuses_batch_statistics(name: str) -> None:
    refuse_batch_statistics(name, "module", 1)


@pytest.mark.parametrize("name", ["gradient", "lrp.epsilon", "occlusion", "pattern.net"])
@pytest.mark.parametrize("kind", WHERE)
def test_batch_statistics_are_refused_in_any_layer(name: str, kind: str) -> None:
    refuse_batch_statistics(name, kind, 3)


def refuse_batch_statistics(name: str, kind: str, count: int) -> None:
    x = torch.rand(3, 1, 6, 6)
    known = METHODS[name].__dataclass_fields__
    options = {option: value for option, value in FEW.items() if option in known}
    with pytest.raises(UnsupportedOperation, match=f"batch statistics.*{WHERE[kind]}.*track_running_stats=True"):
        analyzer = create_analyzer(name, network(kind), **options)
        analyzer = analyzer if analyzer.method.is_ready else analyzer.fit([x])
        analyzer.analyze(x[:count], 1)


@pytest.mark.parametrize("kind", WHERE)
@pytest.mark.parametrize("count", [1, 3])
def test_every_jacobian_function_refuses_batch_statistics(count: int, kind: str) -> None:
    model, x = network(kind), torch.rand(count, 1, 6, 6)
    for call in (
        lambda: pellucid.jacobian(model, x),
        lambda: pellucid.jacobian(model, x, method="finite_difference"),
        lambda: pellucid.jacobian(model, x, method="forward"),
        lambda: jacobian_product(model, x, x),
        lambda: transposed_product(model, x, torch.ones(count, 3)),
        lambda: check_jacobian(model, x),
        lambda: jacobian_class_means(model, [(x, torch.zeros(count, dtype=torch.int64))], 3),
        lambda: pellucid.jacobian_spectrum(model, x),
    ):
        with pytest.raises(UnsupportedOperation, match="batch statistics"):
            call()


def test_prototypes_refuse_batch_statistics() -> None:
    with pytest.raises(UnsupportedOperation, match=r"batch statistics.*1 \(BatchNorm2d\)"):
        synthesise(network("module"), [0], L2(image_shape=(1, 6, 6), steps=2))


UNSUITED = ("attention_rollout", "cam", "random")
"""Methods that these networks don't suit, or that ignore the network."""


class Standardized(nn.Conv2d):
    """A convolution whose weight has mean 0 and variance 1, as in NFNets."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, len(self.weight), -1)
        return F.conv2d(x, F.batch_norm(rows, None, None, training=True).reshape_as(self.weight), self.bias)


def standardized() -> tuple[nn.Sequential, nn.Sequential]:
    """Return a network with standardized convolutions, and a plain one with the resulting weights."""
    torch.manual_seed(0)
    own = nn.Sequential(Standardized(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)).eval()
    plain = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)).eval()
    plain.load_state_dict(own.state_dict())
    weight = own[0].weight.detach().flatten(1)
    deviation = (weight.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    plain[0].weight.data = ((weight - weight.mean(1, keepdim=True)) / deviation).view_as(own[0].weight)
    return own, plain


@pytest.mark.parametrize(
    ("name", "count"),
    [("gradient", 1), ("lrp.epsilon", 1), *((name, 3) for name in METHODS.names() if name not in UNSUITED)],
)
def test_standardized_weights_are_explained_like_plain_weights(name: str, count: int) -> None:
    torch.manual_seed(1)
    x, known = torch.rand(count, 1, 6, 6), METHODS[name].__dataclass_fields__
    options = {option: value for option, value in FEW.items() if option in known}
    maps = []
    for model in standardized():
        analyzer = create_analyzer(name, model, **options)
        maps.append((analyzer if analyzer.method.is_ready else analyzer.fit([x])).analyze(x, 1))
    torch.testing.assert_close(*maps, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["occlusion", "rise", "gradient", "lrp.epsilon"])
def test_batch_statistics_of_many_rows_are_refused(name: str) -> None:
    """With this many rows, memory is measured on the first row alone, for which torch raises its own error."""
    with pytest.raises(UnsupportedOperation, match=r"2 \(BatchNorm1d\)"):
        create_analyzer(name, network("row")).analyze(torch.rand(100, 1, 6, 6), "all")


@pytest.mark.parametrize("method", ["auto", "loop", "finite_difference"])
def test_jacobian_with_standardized_weights(method: str) -> None:
    x, (own, plain) = torch.rand(2, 1, 6, 6), standardized()
    torch.testing.assert_close(
        pellucid.jacobian(own, x, method=method), pellucid.jacobian(plain, x), rtol=1e-3, atol=1e-5
    )


def test_instance_norm_is_accepted() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.InstanceNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3)).eval()
    x = torch.rand(2, 1, 6, 6)
    for name in ("gradient", "occlusion", "lrp.epsilon", "grad_cam"):
        assert create_analyzer(name, model).analyze(x, 1).shape == x.shape
    assert pellucid.jacobian(model, x).shape == (2, 3, 1, 6, 6)
