"""Checksums of tensors and models, by which saved data, models and images are recognized."""

from hashlib import sha256

import torch
from torch import Tensor, nn

__all__ = ["checksum", "fingerprint"]


def checksum(*tensors: Tensor, header: str = "{dtype}{shape}", start: str = "") -> str:
    """Return the SHA-256 of the values of tensors, in order, each behind a header with its dtype and shape.

    Checksums are stored in save folders, so the headers that earlier versions wrote must be kept. `start` is hashed
    first, for anything else that the checksum depends on.

    >>> zeros = torch.zeros(2, 3)
    >>> checksum(zeros) == checksum(zeros.clone()), checksum(zeros) == checksum(zeros.T)
    (True, False)
    """
    total = sha256(start.encode())
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        total.update(header.format(dtype=plain.dtype, shape=tuple(plain.shape)).encode())
        total.update(plain.reshape(-1).view(torch.uint8).numpy().data)  # bytes, since NumPy has no bfloat16
    return total.hexdigest()


def fingerprint(model: nn.Module) -> str:
    """Return the checksum of all floating parameters and buffers, in order, in float32.

    Equal on every device, and for the same weights in float32 and float64.

    >>> layer = nn.Linear(2, 2)
    >>> before = fingerprint(layer)
    >>> before == fingerprint(layer.double())
    True
    >>> _ = layer.bias.data.add_(1e-3)
    >>> before == fingerprint(layer)
    False
    """
    values = (value for value in model.state_dict().values() if isinstance(value, Tensor))
    # integer buffers are counters, such as the number of batches that a batch norm has seen
    return checksum(*(value.float() for value in values if value.is_floating_point()), header="{shape}")
