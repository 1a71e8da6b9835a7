"""Weights and other tensors as safetensors: loading never unpickles, and equal tensors give equal bytes."""

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pellucid.core.errors import SaveError
from pellucid.storage.atomic import write_bytes

__all__ = ["load_tensors", "pack_weights", "save_tensors", "unpack_weights"]


def pack_weights(model: nn.Module) -> bytes:
    """Serialize all parameters and buffers of `model`; tensors that share memory are written separately."""
    # The clones are needed because safetensors refuses tensors that share memory.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    return safetensors.torch.save(tensors)


def unpack_weights(content: bytes) -> Mapping[str, Tensor]:
    """Inverse of `pack_weights`, for `load_state_dict`; raises `SaveError` for a damaged file."""
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise SaveError(f"the weights file is damaged ({error}); train again.") from error


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    """Write named tensors atomically to a file, with metadata (`facts`) in its header.

    Raises `WriteError` on failure.
    """
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    header = {"facts": json.dumps(facts, sort_keys=True)}  # a single entry: safetensors doesn't keep their order
    write_bytes(path, safetensors.torch.save(plain, header))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors of a file, sorted by name, and its metadata; raises `SaveError` if it is missing or damaged."""
    try:
        content = path.read_bytes()
        tensors = safetensors.torch.load(content)
        # A safetensors file starts with the length of its JSON header, 8 bytes little-endian.
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        facts = json.loads(header.get("__metadata__", {}).get("facts", "{}"))
    except OSError as error:
        raise SaveError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (SafetensorError, ValueError) as error:
        raise SaveError(f"{path} is damaged or not a safetensors file ({error}).") from error
    return {key: tensors[key] for key in sorted(tensors)}, facts
