"""The names that captum and iNNvestigate have for our methods, with the options that make them the same."""

from collections.abc import Mapping
from typing import Any

__all__ = ["ALIASES"]

ALIASES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    # captum
    "Saliency": ("gradient", {"absolute": True}),
    "InputXGradient": ("input_x_gradient", {}),
    "IntegratedGradients": ("integrated_gradients", {}),
    "GradientShap": ("expected_gradients", {}),
    "Deconvolution": ("deconvnet", {}),
    "GuidedBackprop": ("guided_backprop", {}),
    "DeepLift": ("deeplift", {}),
    "LRP": ("lrp.epsilon", {"epsilon": 1e-9}),
    # iNNvestigate
    "input_t_gradient": ("input_x_gradient", {}),
    "lrp.alpha_1_beta_0_IB": ("lrp.alpha_1_beta_0_ib", {}),
    "lrp.alpha_2_beta_1_IB": ("lrp.alpha_2_beta_1_ib", {}),
    "lrp.z_plus_fast": ("lrp.z_plus", {}),
    "lrp.z+boxed": ("lrp.z_box", {}),
    "deep_lift.wrapper": ("deeplift", {}),
    "deep_lift": ("deeplift", {}),
}
"""Alias to our name and the options it implies."""
