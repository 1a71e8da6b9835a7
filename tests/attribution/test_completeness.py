"""Completeness: the warning for missed sums, the error of `strict`, and the rounding tolerance."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pellucid import Contrast, create_analyzer
from pellucid.attribution import METHODS, AmplificationWarning, CompletenessWarning, Outcome
from pellucid.attribution._explanation import Completeness, ResidualError, without_warnings

quiet_amplification = pytest.mark.filterwarnings("ignore::pellucid.attribution.AmplificationWarning")


def steep(slope: float = 1000) -> nn.Module:
    """A tanh so steep that a few points on the path miss its step."""
    torch.manual_seed(0)

    class Steep(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(slope * (x - 0.3)).sum(1, keepdim=True) * torch.tensor([1.0, -2.0]).to(x)

    return Steep().eval()


def cancelling(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Logits of about 1 from contributions in the millions: in float32 their sum is mostly rounding error."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(1000, 2), nn.ReLU(), nn.Linear(2, 3))
    with torch.no_grad():
        half = 1e5 * torch.rand(2, 500)
        model[1].weight.copy_(torch.cat([half, -half], 1) + 1e-3 * torch.rand(2, 1000))
        model[3].weight.abs_()
        model[1].bias.fill_(1)
    return model.to(dtype).eval()


def balanced(count: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    half = torch.rand(count, 500, generator=torch.Generator().manual_seed(1))
    return torch.cat([half, half], 1).to(dtype)


def warnings_of(call: Any) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        call()
    return [one for one in heard if one.category is CompletenessWarning]


@pytest.mark.parametrize("verb", ["analyze", "explain"])
@pytest.mark.parametrize("target", [1, Contrast(0, 1), "all"], ids=["class", "contrast", "all"])
def test_missed_sum_warns_with_a_remedy(verb, target) -> None:
    images = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
    analyzer = create_analyzer("integrated_gradients", steep(), steps=7)
    (one,) = warnings_of(lambda: getattr(analyzer, verb)(images, target))
    with without_warnings():
        explanation = analyzer.explain(images, target)
    residual = explanation.residual.flatten(1) if target == "all" else explanation.residual[:, None]
    allowed = explanation.allowed.reshape(residual.shape)
    assert (residual.abs() > allowed).any()
    place = int((residual.abs() * (residual.abs() > allowed)).argmax())
    image, column = divmod(place, residual.shape[1])
    sums = explanation.relevance.flatten(2 if target == "all" else 1).sum(-1).reshape(residual.shape)
    text = str(one.message)
    where = f"image {image}, class {column}, sums to" if target == "all" else f"image {image}, sums to"
    assert f"{where} {float(sums[image, column]):.6g} instead of" in text
    assert f"(tolerance: {float(allowed[image, column]):.2g})" in text
    assert text.startswith("integrated_gradients: the relevance of ")
    assert "steps=" in text
    assert "tolerance=" in text


def test_the_worst_map_is_one_beyond_its_tolerance() -> None:
    """The largest residual is within its own tolerance."""
    sums = Completeness(torch.tensor([9.0, 2, 2]), torch.tensor([5.0, -1, 0.7]), torch.tensor([10.0, 0.5, 0.5]))
    text = sums.missed("a_method", "A remedy.")
    assert text.startswith("a_method: the relevance of 2 of 3 images does not sum")
    assert "image 1, sums to 1 instead of 2 (tolerance: 0.5). A remedy." in text


def test_refined_path_does_not_warn() -> None:
    images = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
    analyzer = create_analyzer("integrated_gradients", steep(100), steps=2000, tolerance=0.05)
    assert not warnings_of(lambda: analyzer.explain(images, 1, strict=True))


def test_strict_raises_instead_of_warning() -> None:
    images = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
    analyzer = create_analyzer("integrated_gradients", steep(), steps=7)
    with pytest.raises(ResidualError, match=r"does not sum .*\(tolerance: .*steps="):
        analyzer.explain(images, 1, strict=True)


@quiet_amplification
@pytest.mark.parametrize("name", ["lrp.epsilon", "lrp.z", "deeplift"])
def test_cancelling_sum_fails_in_float32_and_passes_in_float64(name) -> None:
    analyzer = create_analyzer(name, cancelling())
    (one,) = warnings_of(lambda: analyzer.explain(balanced(), 1))
    assert "float64" in str(one.message)
    with pytest.raises(ResidualError, match="float64"):
        analyzer.explain(balanced(), 1, strict=True)
    exact = create_analyzer(name, cancelling(torch.float64))
    assert not warnings_of(lambda: exact.explain(balanced(dtype=torch.float64), 1, strict=True))


@quiet_amplification
def test_analyze_warns_only_if_the_sum_is_known() -> None:
    assert warnings_of(lambda: create_analyzer("deeplift", cancelling()).analyze(balanced(), 1))
    # analyze does not record the absorbed shares that lrp.epsilon needs for its sum
    assert not warnings_of(lambda: create_analyzer("lrp.epsilon", cancelling()).analyze(balanced(), 1))


@pytest.mark.parametrize("name", ["deeplift", "lrp.gamma", "shapley_sampling", "excitation_backprop"])
@pytest.mark.parametrize(
    ("dtype", "share", "noise", "cap"), [(torch.float32, 1e-4, 1e-5, 1e-2), (torch.float64, 1e-9, 1e-12, 1e-4)]
)
def test_the_tolerance_of_exact_methods_is_bounded_by_the_promised_sum(name, dtype, share, noise, cap) -> None:
    relevance = torch.tensor([[1.0, 1.0], [1e3, -999.0], [1e12, -1e12 + 2], [1e6, 0.0]], dtype=dtype)
    promised, logits = torch.tensor([2, 1, 1, 1e-9], dtype=dtype), torch.tensor([[2.0, -50]] * 4, dtype=dtype)
    allowed = METHODS[name]().allowed_residual(Outcome(relevance, logits, torch.zeros(4).long(), promised))
    expected = [
        share * max(abs(due), 0.5) + min(noise * abs(row[0]) + noise * abs(row[1]), cap * abs(due))
        for row, due in zip(relevance.tolist(), promised.tolist(), strict=True)
    ]
    torch.testing.assert_close(allowed, torch.tensor(expected, dtype=dtype))
    assert bool((allowed[:3] < 0.011 * promised[:3]).all())  # however large Σ|R| is


def test_integrated_gradients_have_their_own_tolerance() -> None:
    relevance = torch.tensor([[3.0, -1.0], [40.0, -38.0]])
    outcome = Outcome(relevance, torch.ones(2, 2), torch.zeros(2).long(), torch.tensor([2.0, 2.0]))
    for options, share in (({}, 0.05), ({"tolerance": 0.01}, 0.01)):
        allowed = METHODS["integrated_gradients"](**options).allowed_residual(outcome)
        torch.testing.assert_close(allowed, share * torch.tensor([2.0, 7.8]))


def test_without_warnings_silences_both_warnings() -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with without_warnings():
            warnings.warn("missed", CompletenessWarning, stacklevel=1)
            warnings.warn("cancels", AmplificationWarning, stacklevel=1)
            warnings.warn("other", UserWarning, stacklevel=1)
    assert [str(one.message) for one in heard] == ["other"]
