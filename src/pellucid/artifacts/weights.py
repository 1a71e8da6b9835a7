"""A model's weights as safetensors: nothing is unpickled, and equal weights give equal bytes."""

from collections.abc import Mapping

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pellucid.core.errors import SaveError

__all__ = ["pack_weights", "unpack_weights"]


def pack_weights(model: nn.Module) -> bytes:
    """All parameters and buffers of `model`; tensors that share memory are written each by itself."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    return safetensors.torch.save(tensors)


def unpack_weights(content: bytes) -> Mapping[str, Tensor]:
    """The inverse of `pack_weights`, for `load_state_dict`; raises `SaveError` for a damaged file."""
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise SaveError(f"the file of weights is damaged ({error}); train again.") from error
