"""The test images that several models have in common."""

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from pellucid.core.contracts import ImageSet
from pellucid.core.errors import ConfigError
from pellucid.run.compared import Loaded

__all__ = ["align", "common_classes"]

LEAST = 2
"""Minimum number of common test images."""


def common_classes(models: Sequence[Loaded]) -> tuple[str, ...]:
    """Return the class names; raises `ConfigError` if the models have different classes.

    A model without class names, whose classes are their indices, takes those of the others.
    """
    names = {one.classes for one in models}
    named = {one for one in names if one != tuple(map(str, range(len(one))))} or names
    if len(named) > 1 or len({len(one) for one in names}) > 1:
        first, other = models[0], next(one for one in models if one.classes != models[0].classes)
        raise ConfigError(
            f"{first.folder} and {other.folder} have different classes: {_listed(first.classes)} and "
            f"{_listed(other.classes)}. Compare models that have the same classes in the same order."
        )
    return next(iter(named))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f", … ({len(names)})" if len(names) > 6 else "")


def align(models: Sequence[Loaded]) -> tuple[list[np.ndarray], list[str]]:
    """Return the rows of the common test images in each model's own test images, and notes about differences.

    Images are matched by their pixels and labels. Where these differ or are not available, they are matched by their
    position in the data set's test images, if the labels agree there. Raises `ConfigError` if fewer than two images are
    common to all models.
    """
    keys, notes = [_keys(one, models) for one in models], []
    common = set.intersection(*(set(one) for one in keys))
    if len(common) < LEAST:
        keys = [_places(one) for one in models]
        common = set.intersection(*(set(one) for one in keys)) if all(keys) and _is_one_data_set(models) else set()
        common = {key for key in common if _agree(key, keys, models)}
        smallest = min(map(len, keys))
        if len(common) < max(LEAST, 0.9 * smallest):  # chance alone gives one agreement per class
            raise _no_common_images(models)
        notes.append("The models' inputs differ, so test images are matched by their position in the data set.")
    order = sorted(common, key=lambda key: keys[0][key])
    rows = [np.array([one[key] for key in order], dtype=np.int64) for one in keys]
    sizes = {len(one.outcome.labels) for one in models}
    if len(order) < max(sizes):
        notes.append(
            f"The models have different test images; the comparison covers the {len(order):,} that all of them "
            f"have ({_counts(models)})."
        )
    return rows, notes


def _counts(models: Sequence[Loaded]) -> str:
    counts = [len(one.outcome.labels) for one in models]
    return f"of {counts[0]:,} each" if len(set(counts)) == 1 else f"of {min(counts):,} to {max(counts):,}"


def _keys(model: Loaded, models: Sequence[Loaded]) -> dict[object, int]:
    """Return a key for each test image, equal for equal images, with its row."""
    if all(one.images is not None for one in models):
        assert model.images is not None
        return _numbered(_digests(model.images))
    # without pixels, only equal checksums of the data prove that the test images are the same
    sums = {(one.record["dataset"].get("sha256"), len(one.outcome.labels)) for one in models}
    labels = {model.outcome.labels.astype(np.int64).tobytes() for model in models}
    if len(sums) > 1 or len(labels) > 1:
        return {}
    return {row: row for row in range(len(model.outcome.labels))}


def _digests(images: ImageSet) -> list[bytes]:
    """Return a checksum of each image with its label."""
    header = f"{images.pixels.dtype}{tuple(images.pixels.shape[1:])}".encode()
    pixels = images.pixels.contiguous().flatten(1).numpy()
    return [
        blake2b(header + row.tobytes() + label.to_bytes(8, "little"), digest_size=16).digest()
        for row, label in zip(pixels, images.labels.tolist(), strict=True)
    ]


def _numbered(digests: Sequence[bytes]) -> dict[object, int]:
    """Number equal images, so that each has its own key."""
    seen: Counter[bytes] = Counter()
    keys: dict[object, int] = {}
    for row, digest in enumerate(digests):
        keys[digest, seen[digest]] = row
        seen[digest] += 1
    return keys


def _places(model: Loaded) -> dict[object, int]:
    if model.positions is None:
        return {}
    return {int(position): row for row, position in enumerate(model.positions)}


def _is_one_data_set(models: Sequence[Loaded]) -> bool:
    return len({one.record["dataset"].get("name") for one in models}) == 1


def _agree(key: object, keys: Sequence[dict[object, int]], models: Sequence[Loaded]) -> bool:
    labels = {int(one.outcome.labels[rows[key]]) for one, rows in zip(models, keys, strict=True)}
    return len(labels) == 1


def _no_common_images(models: Sequence[Loaded]) -> ConfigError:
    names = [str(one.record["dataset"].get("title", one.record["dataset"].get("name"))) for one in models]
    if len(set(names)) > 1:
        reason = f"their data sets are {', '.join(dict.fromkeys(names))}"
    else:
        reason = f"they have no test images of {names[0]} in common"
    return ConfigError(
        f"the models cannot be compared: {reason}. Compare models that are tested on the same images of one data set."
    )
