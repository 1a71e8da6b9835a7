"""Method names used by other libraries, with the options that reproduce their results."""

from collections.abc import Mapping
from typing import Any

__all__ = ["ALIASES"]

ALIASES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    # captum
    "Saliency": ("gradient", {"absolute": True}),  # captum's default is abs=True
    "InputXGradient": ("input_x_gradient", {}),
    "IntegratedGradients": ("integrated_gradients", {}),
    "GradientShap": ("gradient_shap", {"noise": 0.0}),  # captum's default is stdevs=0
    "Deconvolution": ("deconvnet", {}),
    "GuidedBackprop": ("guided_backprop", {}),
    "DeepLift": ("deeplift", {}),
    "LRP": ("lrp.epsilon", {"epsilon": 1e-9}),  # the default of captum's EpsilonRule
    "LayerGradCam": ("grad_cam", {"relu": False}),  # captum applies no ReLU by default
    "GuidedGradCam": ("guided_grad_cam", {}),
    "Occlusion": ("occlusion", {}),
    "ShapleyValueSampling": ("shapley_sampling", {"patch": 1}),  # no patches, as in captum
    "KernelShap": ("kernel_shap", {}),
    "Lime": ("lime", {"surrogate": "lasso", "kernel_width": 1.0}),  # captum's defaults
    "FeatureAblation": ("feature_ablation", {"patch": 1}),
    "FeaturePermutation": ("feature_permutation", {"patch": 1}),
    # pytorch-grad-cam and torch-cam
    "CAM": ("cam", {}),
    "GradCAM": ("grad_cam", {}),
    "GradCAMPlusPlus": ("grad_cam_pp", {}),
    "GradCAMpp": ("grad_cam_pp", {}),
    "LayerCAM": ("layer_cam", {}),
    "HiResCAM": ("hires_cam", {"relu": True}),  # pytorch-grad-cam applies a ReLU
    "ScoreCAM": ("score_cam", {}),
    "AblationCAM": ("ablation_cam", {}),
    "EigenCAM": ("eigen_cam", {"centred": True, "relu": True}),  # pytorch-grad-cam centers and applies a ReLU
    # xplique and the papers
    "GradCAMPP": ("grad_cam_pp", {}),
    "Grad-CAM": ("grad_cam", {}),
    "Grad-CAM++": ("grad_cam_pp", {}),
    "Score-CAM": ("score_cam", {}),
    "Ablation-CAM": ("ablation_cam", {}),
    "Eigen-CAM": ("eigen_cam", {}),
    "AttentionRollout": ("attention_rollout", {}),
    "Guided Grad-CAM": ("guided_grad_cam", {}),
    "Rise": ("rise", {"centred": False}),
    "RISE": ("rise", {"centred": False}),  # the paper does not subtract the mean
    # iNNvestigate
    "input_t_gradient": ("input_x_gradient", {}),
    "lrp.alpha_1_beta_0_IB": ("lrp.alpha_1_beta_0_ib", {}),
    "lrp.alpha_2_beta_1_IB": ("lrp.alpha_2_beta_1_ib", {}),
    "lrp.z_plus_fast": ("lrp.z_plus", {}),
    "lrp.z+boxed": ("lrp.z_box", {}),
    "deep_lift.wrapper": ("deeplift", {}),
    "deep_lift": ("deeplift", {}),
}
"""Alias to pellucid's method name and the options it implies."""
