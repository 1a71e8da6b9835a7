"""Networks from images to logits: one file each, found by the registry."""

from typing import TYPE_CHECKING

from pellucid.core.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

MODELS: "Registry[Callable[..., nn.Module]]" = Registry("model", __name__)
"""Every model that `--model` knows by name: a function of `channels`, `classes` and `image_size`."""
