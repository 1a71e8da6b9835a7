"""The cut at the narrowest layer: used if every path passes through it, and never if a path bypasses it."""

import pytest
import torch
from torch import Tensor, nn

from jacobians.models import reference
from pellucid.jacobians import jacobian_report

pytestmark = pytest.mark.usefixtures("generic")

X = torch.rand(5, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def bottleneck(units: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    parts = [
        nn.Linear(20, 30),
        nn.ReLU(),
        nn.Linear(30, units),
        nn.ReLU(),
        nn.Linear(units, 9),
        nn.Tanh(),
        nn.Linear(9, 8),
    ]
    return nn.Sequential(*parts).double()


def test_only_active_units_cost_a_pass() -> None:
    model = bottleneck()
    active = int((model[:4](X) > 0).sum(1).max())
    report = jacobian_report(model, X)
    assert (report.method, report.backwards) == ("cut", active)
    assert active < 4 < 8
    torch.testing.assert_close(report.jacobian, reference(model, X), rtol=1e-10, atol=1e-14)


def test_a_shortcut_around_the_cut_is_detected() -> None:
    inner, around = bottleneck(), nn.Linear(20, 8).double()
    for name, model in {
        "around": lambda x: inner(x) + around(x),
        "constant": lambda x: inner(x) + around(torch.ones_like(x)),
        "around the narrow part": lambda x: inner[4:](inner[:4](x)) + inner[:2](x)[:, :8],
    }.items():
        report = jacobian_report(model, X)
        assert (report.method == "cut") == (name == "constant"), name
        torch.testing.assert_close(report.jacobian, reference(model, X), rtol=1e-10, atol=1e-14)


def test_a_value_used_twice_is_still_a_cut() -> None:
    inner = bottleneck()

    def model(x: Tensor) -> Tensor:
        narrow = inner[:4](x)
        return inner[4:](narrow) + inner[4:](narrow * narrow)

    report = jacobian_report(model, X)
    assert report.method == "cut"
    torch.testing.assert_close(report.jacobian, reference(model, X), rtol=1e-10, atol=1e-14)


def test_an_axis_as_long_as_the_batch_is_not_mistaken_for_it() -> None:
    """Five steps of five images, with the time axis in front at the narrow layer."""
    torch.manual_seed(0)
    embed, head = nn.Linear(4, 1).double(), nn.Linear(5, 9).double()

    def model(x: Tensor) -> Tensor:
        steps = x.view(len(x), 5, 4).transpose(0, 1)  # (step, image, feature)
        return head(torch.tanh(embed(steps)).squeeze(2).T)

    for size in (1, 2, 5):
        report = jacobian_report(model, X[:size])
        torch.testing.assert_close(report.jacobian, reference(model, X[:size]), rtol=1e-10, atol=1e-14)


def test_half_of_a_split_value_is_not_a_cut() -> None:
    torch.manual_seed(0)
    first, last = nn.Linear(20, 6).double(), nn.Linear(3, 9).double()

    def model(x: Tensor) -> Tensor:
        left, right = first(x).chunk(2, 1)
        return last(torch.tanh(left)) * last(torch.tanh(right))

    torch.testing.assert_close(jacobian_report(model, X).jacobian, reference(model, X), rtol=1e-10, atol=1e-14)


def test_a_changed_model_is_planned_again() -> None:
    model = bottleneck()
    jacobian_report(model, X)
    model[2], model[4] = nn.Linear(30, 12).double(), nn.Linear(12, 9).double()
    report = jacobian_report(model, X)
    torch.testing.assert_close(report.jacobian, reference(model, X), rtol=1e-10, atol=1e-14)
    assert report.backwards == 8


def test_repeated_outputs_of_a_network_whose_cut_is_its_output() -> None:
    """Autograd returns the cotangent itself as the derivative of the outputs by the cut."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x = torch.rand(2, 9, dtype=torch.float64)
    outputs = [0, 0, 1, 0, 2, 2]
    report = jacobian_report(model, x, outputs)
    assert report.method == "cut"
    torch.testing.assert_close(report.jacobian, reference(model, x)[:, outputs], rtol=1e-9, atol=1e-12)
