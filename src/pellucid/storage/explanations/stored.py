"""`open_explanations`: a store of explanations, read on demand."""

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from pellucid.core.cards import card, facts_html
from pellucid.core.errors import ConfigError, DataError
from pellucid.storage.explanations.arrays import Rows, StoredArrays
from pellucid.storage.explanations.one import StoredExplanation
from pellucid.storage.explanations.selection import ClassChoice, Query, choose, method_index
from pellucid.storage.sharded import Address

if TYPE_CHECKING:
    from pellucid.storage.explanations.dataset import StoredMaps
    from pellucid.storage.explanations.jacobian import StoredJacobian

__all__ = ["StoredExplanations", "open_explanations"]

Index = slice | np.ndarray | list[int] | list[bool]
"""Several images of a store, as for an array."""


class StoredExplanations:
    """A store of explanations, or a selection of its images. Nothing is read until it is asked for.

    The arrays have one row per image of this selection, in its order. Results that do not exist are never returned:
    `logits`, `relevance`, `expected`, `residual`, `rounding`, `embeddings` and `jacobian` raise `DataError` if one of
    the images has none, and everything does for an image whose shard is missing. `select()` leaves such images out, and
    iterating skips them. A damaged file raises `DataError` with the number of its shard.
    """

    def __init__(self, arrays: StoredArrays, rows: Rows, *, is_readable: bool = False) -> None:
        self._arrays = arrays
        self._rows = rows
        # True if all of these images are known to have results
        self._is_readable = is_readable or "error" not in arrays

    # --- the store -----------------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Address of the store: an absolute path or an address of fsspec."""
        return self._arrays.address.text

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the attribution methods; empty for a store without maps."""
        return self._arrays.methods

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by index; empty for a store without logits."""
        return self._arrays.classes

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings that determine the results: model, weights, data, methods with their options, target and so on."""
        attributes = self._arrays.metadata.attributes
        settings = attributes.get("settings", attributes)
        return settings if isinstance(settings, dict) else {}

    @property
    def attributes(self) -> Mapping[str, Any]:
        """All attributes of the store, including its settings and the provenance of the process that began it."""
        return self._arrays.metadata.attributes

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the variables with one row per image, such as "logits" and "relevance"."""
        headers = self._arrays.metadata.headers
        return tuple(name for name, header in headers.items() if header.dimensions[0] == "image")

    @property
    def is_complete(self) -> bool:
        """True if the shards of all these images were complete when the store was opened."""
        return self.completed == len(self)

    @property
    def completed(self) -> int:
        """Number of these images whose shards were complete when the store was opened."""
        return sum(len(part) for _, part in self._arrays.by_shard(self._rows))

    @property
    def methods_with_sums(self) -> tuple[str, ...]:
        """Methods that promise the sum of their maps, which have `expected` and `residual`.

        They are determined from the first image that has results; empty if no image has any.
        """
        first = next(self.parts(), None)
        if first is None or "expected" not in self._arrays:
            return ()
        sums = self._arrays.read("expected", first._rows[:1])[0]
        return tuple(name for name, values in zip(self.methods, sums, strict=True) if not np.isnan(values).all())

    def unit(self, method: str) -> str:
        """Return the unit of a method's maps, such as "logits"; empty if the store does not state it."""
        attributes = self._arrays.header("relevance").record.get("attributes")
        units = attributes.get("units") if isinstance(attributes, dict) else None
        method_index(self._arrays, method)
        return str(units.get(method, "")) if isinstance(units, dict) else ""

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the maps, or of the Jacobian's pixels; (0, 0) if there are neither."""
        headers = self._arrays.metadata.headers
        for name in ("relevance", "jacobian"):
            if name in headers:
                height, width = headers[name].shape[-2:]
                return height, width
        return 0, 0

    # --- small variables -----------------------------------------------------------------------------------------

    @property
    def indices(self) -> np.ndarray:
        """(image,) positions of these images in the store."""
        return np.asarray(self._rows, np.int64)

    @property
    def keys(self) -> np.ndarray:
        """(image,) identifiers of the images in their data set, such as paths."""
        return self._arrays.read("key", self._rows)

    @property
    def errors(self) -> np.ndarray:
        """(image,) reasons why images have no results; empty texts for the others."""
        return self._arrays.read("error", self._rows)

    @property
    def labels(self) -> np.ndarray:
        """(image,) true classes; −1 if unknown."""
        return self._classes_of("label", self._rows)

    @property
    def predictions(self) -> np.ndarray:
        """(image,) classes with the largest logit; −1 for images without results."""
        return self._classes_of("prediction", self._rows)

    @property
    def targets(self) -> np.ndarray:
        """(image,) explained classes; −1 for images without results. Absent if all classes are explained."""
        return self._classes_of("target", self._rows)

    @property
    def logits(self) -> np.ndarray:
        """(image, class) logits."""
        return self._results("logits", self._rows)

    @property
    def probabilities(self) -> np.ndarray:
        """(image,) probabilities of the predicted classes, by the softmax of the logits."""
        logits = self.logits
        shifted = np.exp(logits - logits.max(1, keepdims=True))
        # the largest logit has become exp(0)
        return np.asarray(1 / shifted.sum(1))

    @property
    def embeddings(self) -> np.ndarray:
        """(image, feature) inputs of the last linear layer, or of another one that the settings name."""
        return self._results("embedding", self._rows)

    # --- explanations --------------------------------------------------------------------------------------------

    def relevance(self, method: str, indices: Index | None = None) -> np.ndarray:
        """Return maps (image, channel, height, width) in float32, or (image, class, …) if all classes are explained.

        `indices` are positions among these images; by default, all of them are read into memory. Raises `UnknownName`
        for a method that is not stored.
        """
        return self._results("relevance", self._at(indices), method_index(self._arrays, method))

    def expected(self, method: str) -> np.ndarray:
        """Return the sums that a method promises, in logits: (image,), or (image, class) if all classes are explained.

        Raises `ConfigError` for a method that promises none.
        """
        return self._promised("expected", method)

    def residual(self, method: str) -> np.ndarray:
        """Return the sum of each map minus the promised one, in logits; shape and errors as for `expected`."""
        return self._promised("residual", method)

    def rounding(self, method: str) -> np.ndarray:
        """Return the largest rounding error of each map relative to its largest absolute value, for float16 stores."""
        return self._results("rounding", self._rows, method_index(self._arrays, method))

    @property
    def jacobian(self) -> "StoredJacobian":
        """Derivatives of all logits with respect to all pixels, (image, class, channel, height, width).

        Indexing reads only the chosen images.

        >>> import torch, pellucid
        >>> from tempfile import mkdtemp
        >>> folder = pellucid.jacobian_to_disk(torch.nn.Linear(3, 2), [torch.rand(4, 3)], mkdtemp())
        >>> stored = pellucid.open_explanations(folder)
        >>> stored.jacobian.shape, stored.jacobian[1:3].shape
        ((4, 2, 3), (2, 2, 3))
        """
        from pellucid.storage.explanations.jacobian import StoredJacobian

        header = self._arrays.header("jacobian")
        return StoredJacobian(header, len(self), lambda at: self._results("jacobian", self._at(at)))

    # --- images --------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int | np.integer) -> StoredExplanation: ...

    @overload
    def __getitem__(self, index: Index) -> "StoredExplanations": ...

    def __getitem__(self, index: int | np.integer | Index) -> "StoredExplanation | StoredExplanations":
        """Return one image, or a selection by slice, positions or a Boolean mask.

        Raises `DataError` for an image whose shard is missing; an image without results has an `error`.
        """
        if isinstance(index, int | np.integer):
            if not -len(self) <= index < len(self):
                raise IndexError(f"image {index} is out of range; there are {len(self):,} images.")
            return next(self._each(np.array([self._rows[int(index)]], np.int64)))
        return StoredExplanations(self._arrays, self._at(index), is_readable=self._is_readable)

    def __iter__(self) -> Iterator[StoredExplanation]:
        """Yield the images that have results, one shard in memory at a time."""
        for part in self.parts():
            yield from part._each(part.indices)

    def parts(self, *, readable: bool | None = True) -> Iterator["StoredExplanations"]:
        """Yield the images shard by shard, as selections; `readable` as for `select`. Missing shards are skipped."""
        for _, rows in self._arrays.by_shard(self._rows):
            part = StoredExplanations(self._arrays, rows, is_readable=self._is_readable)
            part = part if readable is None else part.select(readable=readable)
            if len(part):
                yield part

    def select(
        self,
        *,
        label: ClassChoice = None,
        prediction: ClassChoice = None,
        target: ClassChoice = None,
        correct: bool | None = None,
        readable: bool | None = True,
        residual_above: tuple[str, float] | None = None,
    ) -> "StoredExplanations":
        """Return the images that meet all conditions, as a selection that reads its arrays on demand.

        Images in missing shards are left out.

        Args:
            label: true classes by name or index; one or several.
            prediction: predicted classes, likewise.
            target: explained classes, likewise.
            correct: True for correct predictions, False for wrong ones; images without a label are neither.
            readable: True for images with results, False for those without, None for both.
            residual_above: a method and a number of logits; chooses images whose residual is larger in absolute value.

        Raises `UnknownName` for unknown classes and methods, and `ConfigError` for a method that promises no sum.

        >>> import torch, pellucid
        >>> from tempfile import mkdtemp
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
        >>> data = torch.rand(20, 1, 4, 4), torch.arange(20) % 2
        >>> stored = pellucid.explain_to_disk(model, data, mkdtemp(), methods="gradient")
        >>> ones = stored.select(label=1)
        >>> len(ones), ones.relevance("gradient").shape
        (10, (10, 1, 4, 4))
        """
        query = Query(label, prediction, target, correct, readable, residual_above)
        if residual_above is not None:
            self._check_promise(residual_above[0])
        is_plain = query == Query() and self._is_readable and self.is_complete
        rows = self._rows if is_plain else choose(self._arrays, self._rows, query)
        return StoredExplanations(self._arrays, rows, is_readable=readable is True)

    def to_dataset(self, method: str | None = None) -> "StoredMaps":
        """Return the images that have results as a map-style torch data set, for a `DataLoader`; see `StoredMaps`.

        `method` chooses one method; by default, an item has the maps of all methods, (method, …).
        """
        from pellucid.storage.explanations.dataset import StoredMaps

        return StoredMaps(self.select(), method)

    def to_xarray(self) -> Any:
        """Return the images that have results as a lazy `xarray.Dataset`; `.chunk()` makes its arrays those of Dask.

        Raises `ConfigError` without xarray.
        """
        from pellucid.storage.explanations.labeled import labeled

        return labeled(self._arrays, self.select()._rows)

    # --- display -------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}: {value}" for name, value in self._facts())
        return f"StoredExplanations({self.address!r}: {facts})"

    def _repr_html_(self) -> str:
        return card(self.address, facts_html(self._facts()))

    def _facts(self) -> list[tuple[str, str]]:
        completed = self.completed
        shown = [("images", f"{len(self):,}")]
        if completed < len(self):
            shown.append(("in complete shards", f"{completed:,}"))
        if self.methods:
            shown.append(("methods", ", ".join(self.methods)))
        if self.classes:
            shown.append(("classes", f"{len(self.classes):,}"))
        shown.append(("variables", ", ".join(self.variables)))
        return shown

    # --- reading -------------------------------------------------------------------------------------------------

    def _at(self, index: Index | None) -> Rows:
        """Return the rows at positions among these images."""
        rows = self._rows
        if index is None:
            return rows
        if isinstance(index, slice):
            return rows[index]
        places = np.asarray(index)
        if places.dtype == bool:
            if places.shape != (len(rows),):
                raise IndexError(f"the mask has shape {places.shape}; expected ({len(rows)},), one entry per image.")
            places = np.flatnonzero(places)
        places = places.astype(np.int64) if not places.size else places
        if places.ndim != 1 or places.dtype.kind not in "iu":
            raise IndexError(
                f"got indices of shape {places.shape} and type {places.dtype}; expected one axis of integers."
            )
        if places.size and not (-len(rows) <= places.min() and places.max() < len(rows)):
            raise IndexError(f"indices reach from {places.min()} to {places.max()}; there are {len(rows):,} images.")
        places = np.where(places < 0, places + len(rows), places)
        # a range of all images of a store can be too long for an array
        return rows.start + rows.step * places if isinstance(rows, range) else rows[places]

    def _classes_of(self, name: str, rows: Rows) -> np.ndarray:
        values = self._arrays.read(name, rows)
        if values.size and not (values.min() >= -1 and values.max() < max(1, len(self.classes))):
            raise DataError(
                f"{self.address} is damaged: {name} has values from {values.min()} to {values.max()}, but there are "
                f"{len(self.classes)} classes."
            )
        return values

    def _results(self, name: str, rows: Rows, method: int | None = None) -> np.ndarray:
        """Read results, which all images must have, and which are finite unless a file is damaged."""
        self._arrays.header(name)
        self._check_results(rows)
        values = self._arrays.read(name, rows, method)
        # Jacobians of earlier versions were written as they were
        # −∞ is the logit of a masked class
        is_sound = np.isfinite(values) | (np.isneginf(values) if name == "logits" else False)
        if self._arrays.metadata.headers[name].version == 3 and not is_sound.all():
            places = np.asarray(rows, np.int64)
            is_bad = ~is_sound.reshape(len(values), -1).all(1)
            row = int(places[is_bad][0])
            raise self._arrays.damaged(
                name, row // self._arrays.metadata.shard, f"image {row} has NaN without an error"
            )
        return values

    def _check_results(self, rows: Rows) -> None:
        if self._is_readable:
            return
        errors = self._arrays.read("error", rows)
        if (errors != "").any():
            first = int(np.flatnonzero(errors != "")[0])
            raise DataError(
                f"{int((errors != '').sum()):,} of {len(errors):,} images have no results; the first is image "
                f"{int(np.asarray(rows)[first]):,}: {errors[first]}. Use select() to leave them out."
            )

    def _check_promise(self, method: str) -> None:
        """Raise `ConfigError` if a method promises no sum."""
        method_index(self._arrays, method)
        if len(self) and method not in self.methods_with_sums:
            raise ConfigError(f"{method} promises no sum of its maps, so it has neither `expected` nor `residual`.")

    def _promised(self, name: str, method: str) -> np.ndarray:
        number = method_index(self._arrays, method)
        self._check_results(self._rows)
        self._check_promise(method)
        return self._arrays.read(name, self._rows, number)

    def _each(self, rows: np.ndarray) -> Iterator[StoredExplanation]:
        """Yield the images at rows of one shard."""
        arrays, count = self._arrays, len(rows)
        small = {name: arrays.read(name, rows) for name in ("key", "error") if name in arrays}
        for name in ("label", "prediction", "target"):
            small[name] = self._classes_of(name, rows) if name in arrays else np.full(count, -1)
        errors = small.get("error", np.full(count, "", object))
        has_results = errors == ""
        place = np.cumsum(has_results) - 1
        inside = rows[has_results]
        logits = self._results("logits", inside) if "logits" in arrays else None
        maps = [self._results("relevance", inside, number) for number in range(len(self.methods))]
        sums = {name: arrays.read(name, inside) for name in ("expected", "residual") if name in arrays}
        for number, row in enumerate(rows.tolist()):
            label, prediction, target = (_known(small[name][number]) for name in ("label", "prediction", "target"))
            at = int(place[number])
            results: dict[str, Any] = {}
            if has_results[number]:
                results["logits"] = None if logits is None else logits[at]
                results["relevance"] = {name: values[at] for name, values in zip(self.methods, maps, strict=True)}
                for name, values in sums.items():
                    pairs = zip(self.methods, values[at], strict=True)
                    results[name] = {method: _plain(value) for method, value in pairs if not np.isnan(value).all()}
            yield StoredExplanation(
                row, str(small["key"][number]) if "key" in small else str(row), str(errors[number]), label,
                self._name(label), prediction, self._name(prediction), target, **results,
            )  # fmt: skip

    def _name(self, number: int | None) -> str:
        return self.classes[number] if number is not None else ""


def _plain(value: np.floating | np.ndarray) -> float | np.ndarray:
    return value if isinstance(value, np.ndarray) else float(value)


def _known(number: int | np.integer) -> int | None:
    return None if number < 0 else int(number)


def open_explanations(path: "str | os.PathLike[str] | Address") -> StoredExplanations:
    """Open a store of explanations or Jacobians, even while it is being filled.

    Args:
        path: what was given to `--out`, `explain_to_disk` or `jacobian_to_disk`: a folder, or any address of fsspec,
            such as `s3://bucket/maps.zarr`. Arrays that `jacobian_to_disk` wrote in earlier versions can be read, too.

    Returns the store, whose images are read on demand. It sees the shards that are complete now; open it again
    to see later ones.

    Raises `DataError` if there is no store, or if its metadata is invalid. Nothing in a store can run code.

    >>> import torch
    >>> from tempfile import mkdtemp
    >>> from pellucid import explain_to_disk
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    >>> folder = mkdtemp()
    >>> _ = explain_to_disk(model, (torch.rand(20, 1, 4, 4), torch.arange(20) % 2), folder, methods="gradient")
    >>> stored = open_explanations(folder)
    >>> stored.is_complete, stored[17].label, stored[17].relevance["gradient"].shape
    (True, 1, (1, 4, 4))
    """
    arrays = StoredArrays.open(Address.of(path))
    return StoredExplanations(arrays, range(arrays.metadata.images))
