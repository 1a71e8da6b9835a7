"""The checksum of tensors, by which saved data, models and images are recognized."""

from hashlib import sha256

import torch
from torch import Tensor

__all__ = ["checksum"]


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
