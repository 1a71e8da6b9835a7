"""torchvision's networks for classification, segmentation, detection and video."""

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

Entry = tuple[Callable[[], nn.Module], tuple[int, ...], Callable[[Any], Tensor] | None]
"""How to build the network, the shape of its input, and how to read its logits."""

IMAGES = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "mnasnet0_5"),
    *("mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnext50_32x4d"),
    *("shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn"),
)
VIDEOS = {"mc3_18": 32, "r2plus1d_18": 32, "r3d_18": 32, "swin3d_t": 32}
SEGMENTATION = ("deeplabv3_mobilenet_v3_large", "fcn_resnet50", "lraspp_mobilenet_v3_large")
DETECTORS = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": 96,
    "fcos_resnet50_fpn": 96,
    "retinanet_resnet50_fpn": 96,
    "ssdlite320_mobilenet_v3_large": 96,
}


def _build(place: str, name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        module = torchvision.models
        for part in place.split("."):
            module = getattr(module, part) if part else module
        return getattr(module, name)(**{"weights": None, "num_classes": 10, **options})

    return build


def class_means(outputs: dict[str, Tensor]) -> Tensor:
    """Mean logit of each class over a segmentation map."""
    return outputs["out"].mean((2, 3))


class Heads(nn.Module):
    """A detector up to the class scores of its anchors, before boxes are selected; averaged over anchors."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Tensor:
        features = self.detector.backbone(images)
        maps = list(features.values()) if isinstance(features, dict) else [features]
        if hasattr(self.detector, "rpn"):
            # the proposals have no classes: one score for each shape of anchor, on each scale
            return torch.cat([score.mean((2, 3)) for score in self.detector.rpn.head(maps)[0]], 1)
        return self.detector.head(maps)["cls_logits"].mean(1)


def _detector(name: str) -> Callable[[], nn.Module]:
    build = _build("detection", name, weights_backbone=None)
    return lambda: Heads(build())


TORCHVISION: dict[str, Entry] = {
    **{name: (_build("", name), (3, 64, 64), None) for name in IMAGES},
    "googlenet": (_build("", "googlenet", init_weights=False, aux_logits=False), (3, 64, 64), None),
    "inception_v3": (_build("", "inception_v3", init_weights=False, aux_logits=False), (3, 96, 96), None),
    "vit_b_32": (_build("", "vit_b_32", image_size=64), (3, 64, 64), None),
    **{name: (_build("segmentation", name, weights_backbone=None), (3, 64, 64), class_means) for name in SEGMENTATION},
    **{name: (_detector(name), (3, side, side), None) for name, side in DETECTORS.items()},
    **{name: (_build("video", name), (3, 4, side, side), None) for name, side in VIDEOS.items()},
}
