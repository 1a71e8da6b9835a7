"""Named tensor types; the tests check every signature that uses them."""

from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

__all__ = ["Embedding", "Images", "Labels", "Logits", "Masks", "Pixels", "Targets", "ValidationLogits"]

Images = Float[Tensor, "batch channel height width"]
"""A batch of images as model input: floats in [0, 1]."""

Pixels = UInt8[Tensor, "image channel height width"] | Float[Tensor, "image channel height width"]
"""Images as a data set stores them: uint8, or floats in [0, 1] if bytes would round the values."""

Labels = Int64[Tensor, " image"]
"""One class index per image of a data set."""

Masks = Bool[Tensor, "image height width"]
"""Ground-truth masks: the pixels that decide the class of each image in a data set."""

Targets = Int64[Tensor, " batch"]
"""One class index per image of a batch."""

Logits = Float[Tensor, "batch class"]
"""Raw classifier outputs."""

ValidationLogits = Float[Tensor, "validation_image class"]
"""Logits of the validation images, whose number differs from that of other images."""

Embedding = Float[Tensor, "batch feature"]
"""The flattened activations of a layer, per image."""
