"""Wrapper for a user's model: displayed images in, a tensor of logits out."""

from typing import Any

from torch import Tensor, nn

from pellucid.core.preprocessing import Preprocessing

__all__ = ["Adapted", "adapted"]


class Adapted(nn.Module):
    """A model that takes displayed images in [0, 1], normalizes them and returns the logits as a tensor.

    The normalization is part of the explained function, so that every derivative is per unit of the displayed pixel,
    the bounds of a pixel are 0 and 1, and the empty image is black. With `reads_logits=False`, outputs that have the
    attribute `logits` are returned as they are.
    """

    wrapped_by_pellucid = "model"
    """Attribute that holds the user's model; it is omitted from layer names."""

    def __init__(self, model: nn.Module, preprocessing: Preprocessing, *, reads_logits: bool = True) -> None:
        super().__init__()
        self.model, self.reads_logits = model, reads_logits
        self.preprocessing = preprocessing
        # not `eval()`: the wrapper must not change the mode of the wrapped model
        self.training = model.training

    def forward(self, images: Tensor) -> Any:
        """Return the logits (image, class)."""
        outputs = self.model(self.preprocessing.normalized(images))
        # outputs of Hugging Face models are dataclasses
        return getattr(outputs, "logits", outputs) if self.reads_logits else outputs


def adapted(model: nn.Module, preprocessing: Preprocessing | None = None) -> nn.Module:
    """Wrap `model` as a module from displayed images to logits; the model is neither copied nor changed.

    >>> import torch
    >>> steps = Preprocessing(mean=(0.5,), std=(0.5,))
    >>> adapted(nn.Flatten(), steps)(torch.ones(1, 1, 1, 2))
    tensor([[1., 1.]])
    """
    return Adapted(model, preprocessing or Preprocessing())
