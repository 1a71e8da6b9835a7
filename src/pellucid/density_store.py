"""Densities of a data set, fitted once and kept in a save folder: mathematics, training and files joined."""

from functools import partial
from hashlib import sha256
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from pellucid.artifacts.store import Store
from pellucid.core.contracts import ImageSet
from pellucid.core.errors import SaveError, ShapeError
from pellucid.core.isolation import isolated
from pellucid.core.types import Pixels
from pellucid.densities import DENSITIES, Density
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
    """The density `name` of `images`; with a `save` folder it is kept there, and training it can be interrupted.

    In the save folder it is `models/NAME.safetensors`; while it is trained, `models/NAME.ckpt` holds where it stands,
    and the same call goes on from there. A density that is there already is read, not fitted again.

    Args:
        name: `gaussian_mixture` (some seconds) or `vae` (about 20 seconds for MNIST on one core).
        images: (image, channel, height, width): bytes, or floats in [0, 1].
        seed: of everything drawn at random.
        save: a save folder, such as that of `python runner.py`.
        device: where to compute; the density stays there.

    Raises `UnknownName` for a density there is not, `ShapeError` for images of another form, `DataError` for too few or
    too large ones, and `SaveError` where the folder holds the density of other images, or cannot be written.

    >>> density = fit_density("gaussian_mixture", torch.rand(50, 1, 4, 4))
    >>> density.log_density(torch.rand(3, 1, 4, 4)).shape
    torch.Size([3])
    """
    kind, place = DENSITIES[name], torch.device(device)
    # torch's optimizers count their steps in tensors on the default device
    with isolated(takes_turns=False), torch.device(place):
        pixels = _pixels_of(images)
        if save is None:
            return kind.fit(pixels, seed=seed, minimise=partial(descend, label=f"fitting {name}"), device=place)
        store, mark = Store(Path(save)), f"{_checksum(pixels)} {seed}"
        content = store.read_model(f"{name}.safetensors")
        if content is None:
            density = kind.fit(pixels, seed=seed, minimise=_resumable(store, name), device=place)
            store.write_model(f"{name}.safetensors", safetensors.torch.save(density.state(), {"fitted to": mark}))
        else:
            density = _unpack(content, name, mark).on(place)
        store.remove_model(f"{name}.ckpt")
        return density


def load_density(save: str | Path, name: str = "vae") -> Density:
    """The density `name` that a run left in its save folder, on the CPU.

    Raises `SaveError` where the folder has none, or a damaged one.
    """
    content = Store(Path(save)).read_model(f"{DENSITIES.check(name)}.safetensors")
    if content is None:
        raise SaveError(
            f"{save} holds no density {name!r}: there is no models/{name}.safetensors; the hook `prototypes` of a run "
            "makes one, and so does pellucid.fit_density(name, images, save=folder)."
        )
    with isolated(takes_turns=False):  # weights made in inference mode could never be differentiated
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
    """The density in a file; `SaveError` where it is damaged, or was fitted to something else than `mark` tells."""
    try:
        density = DENSITIES[name].from_state(safetensors.torch.load(content))
    except (SafetensorError, KeyError, TypeError, RuntimeError, ValueError) as error:
        message = f"models/{name}.safetensors is damaged or of another version ({error}); move it away."
        raise SaveError(message) from error
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]  # JSON, the metadata in it
    if mark is not None and mark.encode() not in header:
        raise SaveError(
            f"models/{name}.safetensors was fitted to other images or with another seed; move it away, or choose "
            "another folder."
        )
    return density


def _pixels_of(images: ImageSet | Tensor) -> Pixels:
    """Bytes or float32 on the CPU; `ShapeError` for anything else."""
    if isinstance(images, ImageSet):
        return images.pixels
    if images.ndim != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise ShapeError(
            f"the images are {tuple(images.shape)} of {images.dtype}; give (image, channel, height, width) of bytes "
            "or of floats in [0, 1]."
        )
    if images.is_floating_point() and images.numel():
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 1):
            raise ShapeError(f"the images have values from {low:.3g} to {high:.3g}; give floats in [0, 1].")
    pixels = images.detach().cpu()
    return pixels if pixels.dtype == torch.uint8 else pixels.float()


def _checksum(pixels: Pixels) -> str:
    content = pixels.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return sha256(str(tuple(pixels.shape)).encode() + content).hexdigest()
