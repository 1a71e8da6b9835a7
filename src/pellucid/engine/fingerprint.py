"""A model's fingerprint: what tells whether something that was learned of its weights still belongs to them."""

from hashlib import sha256

import torch
from torch import Tensor, nn

__all__ = ["fingerprint"]


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of the shapes and contents of all floating parameters and buffers, in order, as float32 numbers.

    The same on every device, and for the same weights in float32 and float64.

    >>> layer = nn.Linear(2, 2)
    >>> before = fingerprint(layer)
    >>> before == fingerprint(layer.double())
    True
    >>> _ = layer.bias.data.add_(1e-3)
    >>> before == fingerprint(layer)
    False
    """
    total = sha256()
    for value in model.state_dict().values():
        if isinstance(value, Tensor) and value.is_floating_point():
            plain = value.detach().to("cpu", torch.float32).contiguous()
            total.update(str(tuple(plain.shape)).encode())
            total.update(plain.numpy().reshape(-1).view("uint8").data)
    return total.hexdigest()
