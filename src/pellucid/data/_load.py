"""Load the data set named by `--dataset`, split and ready for training."""

from dataclasses import replace
from pathlib import Path

from pellucid.core.checksum import checksum
from pellucid.core.contracts import DataSplits, ImageSet
from pellucid.core.errors import ConfigError, DataError
from pellucid.core.seeding import generator
from pellucid.core.text import check_text
from pellucid.data import DATASETS
from pellucid.data._download import MirrorsFailed
from pellucid.data._function import load_function
from pellucid.data._read_all import LazySource, read_all
from pellucid.data._resize import cropped
from pellucid.data._source import RawData, Request
from pellucid.data._spec import AUTO, FUNCTION, parse_spec
from pellucid.data._splitting import chosen_by_limit, limited, split_off_validation

__all__ = ["checksum_of", "digits_instead", "load_data", "resolved_name"]


def load_data(
    dataset: str, request: Request, *, limit_train: int | None = None, limit_test: int | None = None
) -> DataSplits:
    """Load the data set that `dataset` names, split into training, validation and test images.

    `dataset` is a value of `--dataset`, such as `auto`, `folder:PATH` or `photos.parquet`. The limits are maximum
    numbers of images. One twelfth of the limited training images, at most 5,000, becomes the validation set. All draws
    are stratified and follow from `request.seed`. `auto` loads MNIST; if it cannot be downloaded, it loads the bundled
    digits, with a `notice` that gives the reason.

    Raises `UnknownName` or `ConfigError` for an invalid name, `DownloadError` if no mirror delivers, and `DataError`
    for invalid data.

    >>> from pathlib import Path
    >>> splits = load_data("digits", Request(Path("save/data")), limit_train=120, limit_test=50)
    >>> len(splits.train), len(splits.validation), len(splits.test), splits.train.image_shape
    (110, 10, 50, (1, 28, 28))
    """
    source, argument = parse_spec(dataset)
    for flag, limit in (("--limit-train", limit_train), ("--limit-test", limit_test)):
        if limit is not None and limit < 1:
            raise ConfigError(f"{flag} {limit} leaves no images; give at least 1.")
    name, raw, notice = _load_raw(source, replace(request, argument=argument), (limit_train, limit_test))
    if request.crop is not None:
        raw = replace(raw, train=_cropped(raw.train, request.crop), test=_cropped(raw.test, request.crop))
    _check(raw, name)
    # each draw has its own generator, so a limit on one set does not change the choice in the other
    train = limited(raw.train, limit_train, generator(request.seed, "limit", "train"))
    kept = chosen_by_limit(raw.test.labels, limit_test, generator(request.seed, "limit", "test"))
    test = raw.test if len(kept) == len(raw.test) else raw.test[kept]
    train, validation = split_off_validation(train, generator(request.seed, "validation"))
    return DataSplits(
        requested=dataset,
        name=name,
        title=raw.title,
        train=train,
        validation=validation,
        test=test,
        classes=raw.classes,
        sha256=checksum_of(train, validation, test),
        shift_share=raw.shift_share,
        default_epochs=raw.default_epochs,
        notice=notice,
        test_positions=kept if raw.test_positions is None else raw.test_positions[kept],
        test_total=len(raw.test) if raw.test_total is None else raw.test_total,
    )


def _load_raw(source: str, request: Request, limits: tuple[int | None, int | None]) -> tuple[str, RawData, str | None]:
    """Return the resolved name, the raw images and a notice for the user."""
    if source == FUNCTION:
        return request.argument, load_function(request), None
    if source != AUTO:
        name, entry = resolved_name(source, request.argument), DATASETS[source]
        if not isinstance(entry, LazySource):
            return name, entry(request), None
        opened = entry.open(request)
        # images beyond the limits are not read at all
        return name, read_all(opened, request, *limits), opened.test.remark or None
    try:
        return "mnist", DATASETS["mnist"](request), None
    # no other error: the user can fix a full disk, and a different data set would come as a surprise
    except MirrorsFailed as failure:
        return "digits", DATASETS["digits"](request), digits_instead(failure)


def digits_instead(failure: MirrorsFailed) -> str:
    """Return the notice that the bundled digits replace MNIST."""
    return (
        f"MNIST could not be downloaded ({'; '.join(failure.reasons)}), so this run uses scikit-learn's 1,797 "
        "digits instead. To use MNIST, pass a folder or URL that has its files with --mirror."
    )


def resolved_name(source: str, argument: str) -> str:
    """Return the name of a data set for run.json, with an absolute path.

    A run can then be resumed from another working directory.

    >>> resolved_name("confound", "digits")
    'confound:digits'
    """
    if source in ("folder", "hf", "numpy", "parquet", "webdataset", "zarr"):
        path, mark, options = (argument, "", "") if source == "folder" else argument.partition("?")
        if source != "hf" or Path(path).expanduser().exists():  # otherwise, it is a name on the Hugging Face Hub
            argument = f"{Path(path).expanduser().resolve()}{mark}{options}"
    return f"{source}:{argument}" if argument else source


def _cropped(images: ImageSet, crop: int) -> ImageSet:
    """Crop the images; images from a folder already have that size."""
    masks = None if images.masks is None else cropped(images.masks, crop)
    return ImageSet(cropped(images.pixels, crop), images.labels, masks, images.scale)


def _check(raw: RawData, name: str) -> None:
    """Raise `DataError` for images that cannot be trained on."""
    for kind, images in (("training", raw.train), ("test", raw.test)):
        if not len(images):
            raise DataError(f"{name} has no {kind} images; at least one is required.")
        if images.labels.min() < 0 or images.labels.max() >= len(raw.classes):
            raise DataError(
                f"{name} has {kind} labels from {images.labels.min()} to {images.labels.max()} "
                f"for {len(raw.classes)} class names; expected 0 to {len(raw.classes) - 1}."
            )
    if raw.train.image_shape != raw.test.image_shape:
        raise DataError(
            f"{name} has training images of shape {raw.train.image_shape} and test images of shape "
            f"{raw.test.image_shape} (channels, height, width); use one shape, or give --image-size."
        )
    for text in (raw.title, *raw.classes):
        check_text(text, f"a class name or the title of {name}")
    if len(raw.classes) < 2:
        raise DataError(f"{name} has {len(raw.classes)} class; at least two classes are required.")


def checksum_of(*sets: ImageSet) -> str:
    """Return the checksum of the images and labels of the sets."""
    # run.json stores this checksum, so the header must not change
    return checksum(*(part for images in sets for part in (images.pixels, images.labels)), header="{dtype} {shape}\n")
