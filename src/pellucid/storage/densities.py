"""Fit a density to a data set once and keep it in a save folder."""

from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from pellucid.core.checksum import checksum
from pellucid.core.contracts import ImageSet
from pellucid.core.errors import ConfigError, SaveError, ShapeError
from pellucid.core.isolation import isolated
from pellucid.core.options import check_argument
from pellucid.core.types import Pixels
from pellucid.densities import DENSITIES, Density
from pellucid.engine.inputs import one_tensor
from pellucid.storage.ownership import mark_as_ours
from pellucid.storage.store import Store
from pellucid.training.checkpoint import pack_state, unpack_state
from pellucid.training.descent import descend

__all__ = ["fit_density", "load_density"]


def fit_density(
    name: str,
    images: ImageSet | Tensor,
    *,
    seed: int = 0,
    save: str | Path | None = None,
    device: torch.device | str = "cpu",
) -> Density:
    """Fit the density `name` to `images`; with a `save` folder, store it there and resume an interrupted fit.

    The density is stored as `models/NAME.safetensors`. While it is being trained, `models/NAME.ckpt` holds the state,
    and the same call resumes from it. A stored density is loaded, not fitted again.

    Args:
        name: `gaussian_mixture` (a few seconds) or `vae` (about 20 seconds for MNIST on one core).
        images: (image, channel, height, width): uint8, or floats in [0, 1].
        seed: random seed.
        save: a save folder, such as that of `python runner.py`.
        device: device to compute on; the density stays there.

    Raises `UnknownName` for an unknown density, `ShapeError` for images of the wrong shape or range, `DataError` for
    too few or too large images, and `SaveError` if the folder holds a density of other images or cannot be written.

    >>> density = fit_density("gaussian_mixture", torch.rand(50, 1, 4, 4))
    >>> density.log_density(torch.rand(3, 1, 4, 4)).shape
    torch.Size([3])
    """
    kind, place = DENSITIES[name], _as_device(device)
    check_argument("fit_density", "seed", seed, int)
    # torch's optimizers create their step counters on the default device
    with isolated(takes_turns=False), torch.device(place):
        pixels = _pixels_of(images)
        if save is None:
            return kind.fit(pixels, seed=seed, minimise=partial(descend, label=f"fitting {name}"), device=place)
        store, mark = Store(Path(save)), f"{checksum(pixels, header='{shape}')} {seed}"
        mark_as_ours(store.folder)
        content = store.read_model(f"{name}.safetensors")
        if content is None:
            density = kind.fit(pixels, seed=seed, minimise=_resumable(store, name), device=place)
            store.write_model(f"{name}.safetensors", safetensors.torch.save(density.state(), {"fitted to": mark}))
        else:
            density = _unpack(content, name, mark).on(place)
        # removed last: an interruption before this line loses nothing
        store.remove_model(f"{name}.ckpt")
        return density


def _as_device(device: torch.device | str) -> torch.device:
    """Return the device. Raises `ConfigError` for one that does not exist here or holds no values."""
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"device is {device!r}, which cannot be used here ({reason}); pass 'cpu'.") from error
    if place.type == "meta":
        raise ConfigError("device is 'meta', on which tensors have no values; pass 'cpu'.")
    return place


def load_density(save: str | Path, name: str = "vae") -> Density:
    """Load the density `name` that a run stored in its save folder, to the CPU.

    Raises `SaveError` if it is missing or damaged.
    """
    content = Store(Path(save)).read_model(f"{DENSITIES.check(name)}.safetensors")
    if content is None:
        raise SaveError(
            f"{save} holds no density {name!r}: models/{name}.safetensors is missing. Create it with the hook "
            "`prototypes` of a run, or with pellucid.fit_density(name, images, save=folder)."
        )
    with isolated(takes_turns=False):  # weights created in inference mode could never be differentiated
        return _unpack(content, name)


def _resumable(store: Store, name: str) -> "partial[None]":
    content = store.read_model(f"{name}.ckpt")
    return partial(
        descend,
        label=f"fitting {name}",
        start=None if content is None else unpack_state(content),
        keep=lambda state: store.write_model(f"{name}.ckpt", pack_state(state)),
    )


def _unpack(content: bytes, name: str, mark: str | None = None) -> Density:
    """Load a density from a file's bytes; raise `SaveError` if they are damaged or do not belong to `mark`."""
    try:
        density = DENSITIES[name].from_state(safetensors.torch.load(content))
    except (SafetensorError, KeyError, TypeError, RuntimeError, ValueError) as error:
        message = f"models/{name}.safetensors is damaged or has another version ({error}); remove it."
        raise SaveError(message) from error
    # A safetensors file starts with the length of its JSON header (8 bytes, little-endian), which holds the metadata.
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    if mark is not None and mark.encode() not in header:
        raise SaveError(
            f"models/{name}.safetensors was fitted to other images or with another seed; remove it, or choose "
            "another folder."
        )
    return density


def _pixels_of(images: ImageSet | Tensor) -> Pixels:
    """Return the pixels as uint8 or float32 on the CPU; raise `ShapeError` for anything else."""
    if isinstance(images, ImageSet):
        return images.pixels
    images = one_tensor(images)
    if images.ndim != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise ShapeError(
            f"got images of shape {tuple(images.shape)} and dtype {images.dtype}; expected "
            "(image, channel, height, width) as uint8 or as floats in [0, 1]."
        )
    if images.is_floating_point() and images.numel():
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 1):  # written this way, the test also rejects NaN
            raise ShapeError(f"got image values from {low:.3g} to {high:.3g}; expected floats in [0, 1].")
    pixels = images.detach().cpu()
    return pixels if pixels.dtype == torch.uint8 else pixels.float()
