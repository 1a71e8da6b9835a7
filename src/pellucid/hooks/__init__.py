"""Hooks that run after an epoch or at the end of training: one file each, discovered by the registry.

- `_hook`: `Hook`, the base class of hooks, and `Scene`, what a hook is given
- every other file without an underscore: the hook of that name
- `_class_maps`: maps for several classes, of the gallery and of `pellucid explain`
- `_pairs`: the images that the gallery explains for two classes each
- `_budget`: what a hook may compute under a budget
- `_suspects`: training images with suspicious labels, assessed by the hook `label_errors`
- `_priors`: the priors of class prototypes
- `_corrupted`, `_attacked`, `_moved`: the three parts of the hook `robustness`
- `_kernels`, `_heads`: similarity of layers, and relevance of attention heads, for the hook `layers`
- `_strokes`: how the images of a data set are drawn, for the hook `live`
- `_outputs`: logits and embedding of any images; `_readings`: the same with densities
- `_ood_images`: out-of-distribution images
- `_channel_layers`, `_channels`: the layers and channels of the hook `concepts`
- `_methods`, `_predictions`, `_plane`, `_quantised`, `_thumbnails`: parts that several hooks share

>>> "confusion_matrix" in HOOKS
True
"""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports
from pellucid.core.registry import Registry

if TYPE_CHECKING:
    from pellucid.core.contracts import Artifact
    from pellucid.hooks._hook import Hook, Scene

__all__ = ["HOOKS", "Artifact", "Hook", "Scene"]

HOOKS: "Registry[type[Hook]]" = Registry("hook", __name__, "pellucid.hooks", "Hook")
"""All hooks by name."""

__getattr__, __dir__ = lazy_exports(
    __name__, {"Artifact": "pellucid.core.contracts", "Hook": "._hook", "Scene": "._hook"}
)
