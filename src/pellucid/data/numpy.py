"""Images in NumPy's .npy and .npz files."""

from pathlib import Path

from pellucid.core.errors import DataError
from pellucid.data import DATASETS, Request
from pellucid.data._columns import check_options, ignores_labels
from pellucid.data._image_array import check_images, choose_arrays, class_labels, images_of
from pellucid.data._lazy import LazyImages, OpenData
from pellucid.data._npy import Array, arrays_in
from pellucid.data._read_all import LazySource
from pellucid.data._spec import split_options

__all__ = ["numpy"]

CLASS_NAMES = ("classes", "class_names", "label_names")


@DATASETS.register("numpy")
@LazySource
def numpy(request: Request) -> OpenData:
    """Open an .npy or .npz file at `request.argument`.

    An .npz file holds x_train, y_train, x_test and y_test, or images and labels (other usual names are known, too), and
    optionally class names as `classes`. The labels of NAME.npy are in NAME_labels.npy, in the same folder. Images are
    (image, height, width), (image, channel, height, width) or (image, height, width, channel), as bytes or as floats in
    [0, 1]. Only the images that are used are read. Without an array of labels, and with `?label=none`, they are
    unlabeled. Nothing is unpickled.

    Raises `DataError` if a file or an array is missing, damaged or of another shape.
    """
    argument, options = split_options(request.argument)
    is_unlabeled = ignores_labels(options)
    check_options(options, ())
    path = Path(argument).expanduser()
    if not path.is_file():
        raise DataError(f"there is no file {path}; --dataset expects an .npy or .npz file.")
    arrays = arrays_in(path)
    classes = _class_names(arrays)
    reason = f"{path} was opened without labels (label=none)." if is_unlabeled else ""
    chosen = choose_arrays(arrays, str(path), reason, _advice(path))
    sets = [_images(path, images, labels, classes) for images, labels in chosen]
    return OpenData(sets[0], sets[1] if len(sets) == 2 else None)


def _advice(path: Path) -> str:
    """Return the message that there are no labels, and where to put them."""
    labels = path.with_name(f"{path.stem}_labels.npy") if path.suffix.lower() == ".npy" else "the array labels"
    return f"there are no labels for {path}; save them as {labels}, one class index per image."


def _class_names(arrays: dict[str, Array]) -> tuple[str, ...] | None:
    name = next((name for name in CLASS_NAMES if name in arrays), None)
    if name is None:
        return None
    values = arrays[name].whole()
    if values.ndim != 1 or values.dtype.kind not in "US":
        raise DataError(f"{arrays[name].name} holds {values.dtype} of shape {values.shape}; expected strings.")
    return tuple(value.decode() if isinstance(value, bytes) else str(value) for value in values)


def _images(path: Path, images: Array, labels: Array | str, classes: tuple[str, ...] | None) -> LazyImages:
    """Return the images of an array, with the labels of another, or with the reason why it has no labels."""
    shape, dtype = images.header
    check_images(images.name, shape, dtype)
    numbers = labels if isinstance(labels, str) else class_labels(labels.name, labels.whole(), shape[0])
    name = (f"numpy:{path}", path.stem, images.name)
    return images_of(name, shape, images.rows, numbers, images.contents, classes)
