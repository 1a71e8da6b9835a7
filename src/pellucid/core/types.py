"""The shapes of tensors, named once; the tests check every signature that uses them."""

from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

__all__ = ["Embedding", "Images", "Labels", "Logits", "Masks", "Pixels", "Targets"]

Images = Float[Tensor, "batch channel height width"]
"""A batch of images as a model gets them: floats in [0, 1]."""

Pixels = UInt8[Tensor, "image channel height width"] | Float[Tensor, "image channel height width"]
"""Images as a data set keeps them: bytes, or floats in [0, 1] where bytes would round them."""

Labels = Int64[Tensor, " image"]
"""One class index per image of a data set."""

Masks = Bool[Tensor, "image height width"]
"""Where, in each image of a data set, what decides its class is."""

Targets = Int64[Tensor, " batch"]
"""One class index per image of a batch."""

Logits = Float[Tensor, "batch class"]
"""A classifier's raw outputs."""

Embedding = Float[Tensor, "batch feature"]
"""What a layer makes of each image, flattened."""
