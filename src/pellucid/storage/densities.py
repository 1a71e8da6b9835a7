"""Densities of a data set, each fitted once and kept: in a save folder, and with the data for later runs.

A run keeps its densities as `models/NAME.safetensors`, and a copy with the data, as `densities/NAME-KEY.safetensors`,
whose key depends on the images, the seed and the settings of the fit. A later run copies it from there. The copy with
the data is only a cache: if it is missing, damaged or cannot be written, the run fits the density itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from pellucid.core.checksum import checksum
from pellucid.core.contracts import ImageSet
from pellucid.core.errors import ConfigError, SaveError, ShapeError, WriteError
from pellucid.core.isolation import isolated
from pellucid.core.options import check_argument
from pellucid.core.terminal import console
from pellucid.core.types import Pixels
from pellucid.densities import DENSITIES, Density
from pellucid.engine.inputs import one_tensor
from pellucid.storage.atomic import write_bytes
from pellucid.storage.ownership import mark_as_ours
from pellucid.storage.reading import read_inside
from pellucid.storage.store import Store
from pellucid.training.checkpoint import TrainingState, pack_state, unpack_state
from pellucid.training.descent import descend

__all__ = ["DensityStore", "fit_density", "load_density"]


def _ignore(_: object) -> None:
    """Discard a checkpoint."""


@dataclass(frozen=True, eq=False)
class DensityStore:
    """The densities of some images: fitted once, kept in a save folder and with the data.

    `get` does everything in one process. A run that fits densities in another process calls `adopt` first, `fit` there
    (it writes no file), and `write` in the process that owns the save folder.

    >>> from tempfile import mkdtemp
    >>> pixels, folder = torch.randint(256, (50, 1, 4, 4)).byte(), Path(mkdtemp())
    >>> first, second = (DensityStore(pixels, 0, folder / save, data=folder / "data") for save in ("one", "two"))
    >>> first.adopt("gaussian_mixture") is None
    True
    >>> density, content = first.fit("gaussian_mixture")
    >>> first.write("gaussian_mixture", content)
    >>> torch.equal(second.adopt("gaussian_mixture").means, density.means)
    True
    """

    pixels: Pixels
    """The images that the densities are fitted to, on the CPU."""
    seed: int
    save: Path
    """The save folder."""
    data: Path | None = None
    """The folder of the data, where later runs find the densities; None to keep them in the save folder only."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """The device to fit on; it also holds the returned densities."""

    def get(self, name: str, *, write: bool = True) -> Density:
        """Load the density `name`, or fit it, resuming an interrupted fit; `write=False` stores nothing.

        Raises `DataError` if it cannot be fitted to these images, and `SaveError` as `load` and `write` do.
        """
        density = self.adopt(name) if write else self.load(name)
        if density is None:
            density, content = self.fit(name, partial(self.write_checkpoint, name) if write else _ignore)
            if write:
                self.write(name, content)
        return density

    def load(self, name: str) -> Density | None:
        """Load the density `name` from the save folder or from the data folder; None if neither has it.

        Raises `SaveError` if the one in the save folder is damaged or belongs to other images or another seed.
        """
        found = self._own(name) or self._shared(name)
        return None if found is None else found[0]

    def adopt(self, name: str) -> Density | None:
        """Load the density `name` as `load` does, and copy it to the save folder if only the data folder has it.

        Raises the errors of `load`, and `WriteError` if the copy cannot be written.
        """
        found = self._own(name)
        if found is None and (found := self._shared(name)) is not None:
            self._write_own(name, found[1])
        return None if found is None else found[0]

    def fit(self, name: str, keep: Callable[[bytes], None] = _ignore) -> tuple[Density, bytes]:
        """Fit the density `name` and return it with the content of its file, without writing anything.

        `keep` receives the content of a checkpoint every 15 seconds and on Ctrl-C; `write_checkpoint` stores it, and
        the next fit resumes from there.

        Raises `DataError` if the density cannot be fitted to these images.
        """
        kind, start = DENSITIES[name], self._read_checkpoint(name)
        minimise = partial(
            descend, label=f"fitting {name}", start=start, keep=lambda state: keep(self._mark(name) + pack_state(state))
        )
        # torch's optimizers create their step counters on the default device
        with isolated(takes_turns=False), torch.device(self.device):
            density = kind.fit(self.pixels, seed=self.seed, minimise=minimise, device=self.device)
            return density, safetensors.torch.save(density.state(), {"fitted to": self._origin})

    def write(self, name: str, content: bytes) -> None:
        """Store what `fit` returned, in the save folder and with the data, and remove the checkpoint of the fit.

        Raises `WriteError` if the save folder cannot be written. If the data folder cannot, prints a note.
        """
        self._write_own(name, content)
        path = self._shared_path(name)
        if path is None or self.data is None:
            return
        try:
            # a link inside the data folder must not lead the file elsewhere
            if not (self.data / path).resolve().is_relative_to(self.data.resolve()):
                raise WriteError(f"{self.data / path} cannot be written: its path is outside the data folder.")
            write_bytes(self.data / path, content)
        except (WriteError, OSError, RuntimeError) as error:  # RuntimeError: a loop of links
            reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else error
            _note(f"the density {name} is not kept for later runs: {self.data / path} cannot be written ({reason}).")

    def write_checkpoint(self, name: str, content: bytes) -> None:
        """Store a checkpoint that `fit` passed to `keep`."""
        self._store.write_model(f"{name}.ckpt", content)

    @property
    def _store(self) -> Store:
        return Store(self.save)

    @cached_property
    def _origin(self) -> str:
        """Checksum of the images, and the seed: the header of a stored density, the same in all versions."""
        return f"{checksum(self.pixels, header='{shape}')} {self.seed}"

    def _mark(self, name: str) -> bytes:
        """Return the first line of a checkpoint; one with another line belongs to other images or settings."""
        return f"{self._origin} {DENSITIES[name].recipe()}\n".encode()

    def _shared_path(self, name: str) -> str | None:
        """Return the path of a density in the data folder; None if it is not kept there."""
        if self.data is None or DENSITIES[name].recipe() is None:
            return None
        return f"densities/{name}-{sha256(self._mark(name)).hexdigest()[:16]}.safetensors"

    def _own(self, name: str) -> tuple[Density, bytes] | None:
        """Load a density from the save folder, with the content of its file."""
        content = self._store.read_model(f"{name}.safetensors")
        return None if content is None else (self._unpack(content, name, f"models/{name}.safetensors"), content)

    def _shared(self, name: str) -> tuple[Density, bytes] | None:
        """Load a density from the data folder, with the content of its file; prints a note if it is damaged."""
        path = self._shared_path(name)
        if path is None or self.data is None:
            return None
        try:
            content = read_inside(self.data, path)
            return self._unpack(content, name, str(self.data / path)), content
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            _note(f"{self.data / path} cannot be read ({error.strerror or error}); the density is fitted again.")
        except SaveError as error:
            _note(f"{error} It is fitted again.")
        return None

    def _unpack(self, content: bytes, name: str, path: str) -> Density:
        with isolated(takes_turns=False):  # weights created in inference mode could never be differentiated
            return _unpack(content, name, path, self._origin).on(self.device)

    def _write_own(self, name: str, content: bytes) -> None:
        mark_as_ours(self.save)
        self._store.write_model(f"{name}.safetensors", content)
        # removed last: an interruption before this line loses nothing
        self._store.remove_model(f"{name}.ckpt")

    def _read_checkpoint(self, name: str) -> TrainingState | None:
        """Return the state of an interrupted fit of these images and settings; None if no such fit exists."""
        content, mark = self._store.read_model(f"{name}.ckpt") or b"", self._mark(name)
        return unpack_state(content.removeprefix(mark)) if content.startswith(mark) else None


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
        name: `gaussian_mixture` or `vae` (one and four seconds for MNIST on one core).
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
        mark_as_ours(Path(save))
        return DensityStore(pixels, seed, Path(save), device=place).get(name)


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
        return _unpack(content, name, f"models/{name}.safetensors")


def _unpack(content: bytes, name: str, path: str, origin: str | None = None) -> Density:
    """Load a density from a file's content; raise `SaveError` if it is damaged or does not belong to `origin`."""
    try:
        state = safetensors.torch.load(content)
        if not all(bool(torch.isfinite(value).all()) for value in state.values()):
            raise ValueError("it has values that are not finite")
        density = DENSITIES[name].from_state(state)
    except (SafetensorError, KeyError, TypeError, RuntimeError, ValueError) as error:
        raise SaveError(f"{path} is damaged or has another version ({error}); remove it.") from error
    # A safetensors file starts with the length of its JSON header (8 bytes, little-endian), which holds the metadata.
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    if origin is not None and f'"{origin}"'.encode() not in header:
        raise SaveError(f"{path} was fitted to other images or with another seed; remove it, or choose another folder.")
    return density


def _note(text: str) -> None:
    console().print(f"  note: {text}", markup=False)


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
