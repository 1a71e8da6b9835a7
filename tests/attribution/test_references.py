"""Our maps compared with iNNvestigate's; where ours follow the paper instead, the difference is pinned."""

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.engine.weight_rules import AlphaBeta, Flat

WITHIN = 1e-4


@pytest.fixture(scope="module")
def references(shared: Path) -> Mapping[str, np.ndarray]:
    return np.load(shared / "reference" / "innvestigate" / "net_refs_A.npz")


@pytest.fixture(scope="module")
def network(references) -> nn.Module:
    def layer(index: int, made: nn.Module) -> nn.Module:
        with torch.no_grad():
            made.weight.copy_(torch.from_numpy(references[f"{index}.weight"]))
            made.bias.copy_(torch.from_numpy(references[f"{index}.bias"]))
        return made

    assert [entry["type"] for entry in json.loads(str(references["config"]))][:3] == [
        "Conv2D",
        "Conv2D",
        "MaxPooling2D",
    ]
    layers = [layer(0, nn.Conv2d(1, 8, 3)), nn.ReLU(), layer(1, nn.Conv2d(8, 16, 3)), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), layer(4, nn.Linear(2304, 32)), nn.ReLU(), layer(5, nn.Linear(32, 10))]
    return nn.Sequential(*layers).double().eval()


@pytest.fixture(scope="module")
def images(references) -> Tensor:
    return torch.from_numpy(references["input"]).double()


def distance(ours: Tensor, theirs: np.ndarray) -> float:
    reference = torch.from_numpy(theirs)
    return float((ours - reference).abs().max() / reference.abs().max())


BOTH = AlphaBeta(1, 0, "both", 1e-14)
"""iNNvestigate's α1β0: the whole bias in the denominator."""
BOTH_2 = AlphaBeta(2, 1, "both", 1e-14)
"""Its α2β1: the whole bias in both denominators, which cross zero: rounding shows, so it is compared in float32."""

SAME: list[tuple[str, str, dict[str, Any]]] = [
    ("gradient", "gradient", {}),
    ("input_t_gradient", "input_x_gradient", {}),
    ("lrp.z", "lrp.z", {}),
    ("lrp.epsilon", "lrp.epsilon", {}),
    ("lrp.epsilon+0.25", "lrp.epsilon", {"epsilon": 0.25}),
    ("lrp.w_square", "lrp.w_square", {}),
    ("lrp.flat", "lrp.flat", {}),
    ("lrp.alpha_1_beta_0_IB", "lrp.alpha_1_beta_0_ib", {}),
    ("lrp.alpha_2_beta_1_IB", "lrp.alpha_2_beta_1_ib", {}),
    ("lrp.z_plus", "lrp.z_plus", {}),
    ("lrp.z_plus_fast", "lrp.z_plus", {}),
    ("deep_taylor", "deep_taylor", {}),
    ("deep_taylor.bounded", "deep_taylor.bounded", {"low": -1, "high": 1}),
    ("lrp.z+boxed", "lrp.z_box", {"low": -1, "high": 1}),
    ("lrp.z+flat_input", "lrp.z", {"rules": {"first": Flat()}}),
    ("lrp.alpha_1_beta_0", "lrp.z", {"rules": {"convolution": BOTH, "dense": BOTH}}),
    ("lrp.alpha_2_beta_1", "lrp.z", {"rules": {"convolution": BOTH_2, "dense": BOTH_2}}),
    ("lrp.sequential_preset_a", "lrp.sequential_preset_a", {"rules": {"convolution": BOTH}}),
    ("lrp.sequential_preset_b", "lrp.sequential_preset_b", {"rules": {"convolution": BOTH_2}}),
    ("lrp.sequential_preset_a_flat", "lrp.sequential_preset_a_flat", {"rules": {"first": Flat(), "convolution": BOTH}}),
    (
        "lrp.sequential_preset_b_flat",
        "lrp.sequential_preset_b_flat",
        {"rules": {"first": Flat(), "convolution": BOTH_2}},
    ),
]


def is_float32(options: dict[str, Any]) -> bool:
    return BOTH_2 in options.get("rules", {}).values()


@pytest.mark.parametrize(("theirs", "ours", "options"), SAME, ids=[row[0] for row in SAME])
def test_maps_of_a_whole_network_agree(references, network, images, theirs, ours, options) -> None:
    dtype = torch.float32 if is_float32(options) else torch.float64
    analyzer = create_analyzer(ours, deepcopy(network).to(dtype), **options)
    assert distance(analyzer.analyze(images.to(dtype)), references[f"attr:{theirs}"]) < WITHIN
    if f"attr_idx3:{theirs}" in references.files:
        other = references[f"attr_idx3:{theirs}"]
        relevance = analyzer.analyze(images.to(dtype), 3)
        assert distance(relevance, other) < WITHIN if other.any() else not relevance.any()


@pytest.mark.parametrize("method", ["deconvnet", "guided_backprop"])
def test_theirs_start_at_the_logit_and_ours_at_one(references, network, images, method) -> None:
    logit = network(images).amax(1).detach()[:, None, None, None]
    relevance = create_analyzer(method, network).analyze(images)
    assert distance(relevance * logit, references[f"attr:{method}"]) < WITHIN
    assert distance(relevance, references[f"attr:{method}"]) > 0.1


BY_PAPER = {
    "lrp.alpha_1_beta_0": 0.0953,
    "lrp.alpha_2_beta_1": 1.0017,
    "lrp.sequential_preset_a": 0.0594,
    "lrp.sequential_preset_b": 1.0089,
    "lrp.sequential_preset_a_flat": 0.0159,
    "lrp.sequential_preset_b_flat": 1.0006,
}
"""How far maps with b⁺ in one denominator and b⁻ in the other (Bach et al., 2015) are from those with b in both."""


@pytest.mark.parametrize("method", BY_PAPER)
def test_the_bias_is_split_by_sign_as_in_the_paper(references, network, images, method) -> None:
    relevance = create_analyzer(method, network).analyze(images)
    assert distance(relevance, references[f"attr:{method}"]) == pytest.approx(BY_PAPER[method], rel=0.02)


def test_integrated_gradients_agree_with_their_left_sum_of_64_points(references, network, images) -> None:
    """Theirs takes the points 0, 1/64, … 63/64; the mean of it and of its mirror is the trapezoid rule of 65 points."""
    ours = create_analyzer("integrated_gradients", network, steps=65, quadrature="trapezoid").analyze(images)
    at_image = create_analyzer("gradient", network).analyze(images) * images
    at_zero = create_analyzer("gradient", network).analyze(0 * images, network(images).argmax(1)) * images
    left_sum = ours + (at_zero - at_image) / 128
    assert distance(left_sum, references["attr:integrated_gradients"]) < WITHIN
    assert distance(ours, references["attr:integrated_gradients"]) > WITHIN


LAYERS = {
    "Deconvnet": "deconvnet",
    "DeepTaylor": "deep_taylor",
    "Gradient": "gradient",
    "GuidedBackprop": "guided_backprop",
    "InputTimesGradient": "input_x_gradient",
    "IntegratedGradients": "integrated_gradients",
    "LRPAlpha1Beta0": "lrp.alpha_1_beta_0",
    "LRPAlpha2Beta1": "lrp.alpha_2_beta_1",
    "LRPEpsilon": "lrp.epsilon",
    "LRPFlat": "lrp.flat",
    "LRPWSquare": "lrp.w_square",
    "LRPZ": "lrp.z",
    "LRPZPlus": "lrp.z_plus",
}
KINDS = ["AveragePooling2D", "Conv2D", "Conv2D_relu", "Dense", "Dense_relu", "MaxPooling2D"]


def one_layer(kind: str, weight: np.ndarray | None) -> nn.Module:
    if weight is None:
        return nn.AvgPool2d(2) if kind == "AveragePooling2D" else nn.MaxPool2d(2)
    kernel = torch.from_numpy(weight).double()
    kernel = kernel if kernel.ndim == 4 else kernel[:, :, None, None]
    layer = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[2:], bias=False)
    layer.weight.data = kernel
    return nn.Sequential(layer, nn.ReLU()) if kind.endswith("_relu") else layer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("theirs", LAYERS)
def test_maps_of_one_layer_agree(shared, theirs, kind) -> None:
    reference = np.load(shared / "reference" / "innvestigate" / f"layer_refs_{theirs}.npz")
    weight = reference[f"{kind}/weight"] if f"{kind}/weight" in reference.files else None
    model = nn.Sequential(one_layer(kind, weight), nn.Flatten()).eval()
    images = torch.from_numpy(reference["input"]).double()
    targets = torch.from_numpy(reference[f"{kind}/neuron_flat_nchw"])
    relevance = create_analyzer(LAYERS[theirs], model).analyze(images, targets)
    if theirs in ("Deconvnet", "GuidedBackprop"):
        relevance = relevance * model(images).gather(1, targets[:, None]).detach()[:, :, None, None]
    expected = reference[f"{kind}/attribution"]
    if (theirs, kind) == ("DeepTaylor", "AveragePooling2D"):  # theirs uses the gradient here, ours the z rule as in LRP
        assert distance(relevance, expected) == pytest.approx(0.55, rel=0.02)
    elif theirs == "IntegratedGradients" and kind in ("Conv2D_relu", "Dense_relu", "MaxPooling2D"):
        # the gradient is constant along the path except at 0, which theirs counts as one of 64 points
        at_zero = create_analyzer("gradient", model).analyze(0 * images, targets) * images
        assert distance((relevance * 63 + at_zero) / 64, expected) < WITHIN
    else:
        assert distance(relevance, expected) < WITHIN
