"""Open the data set named by `--dataset`, without reading its images where possible."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pellucid.core.checksum import checksum
from pellucid.core.contracts import ImageSet
from pellucid.data import DATASETS
from pellucid.data._download import MirrorsFailed
from pellucid.data._function import open_function
from pellucid.data._lazy import Item, LazyImages, OpenData
from pellucid.data._load import digits_instead, resolved_name
from pellucid.data._read_all import LazySource
from pellucid.data._source import RawData, Request
from pellucid.data._spec import AUTO, FUNCTION, parse_spec

__all__ = ["open_data"]


def open_data(dataset: str, request: Request) -> OpenData:
    """Open the data set that `dataset` names: read labels and class names now, and images on demand.

    `dataset` is a value of `--dataset`. `mnist`, `digits` and the data sets with known ground truth are small, and are
    read at once. Without a test split, all images of a data set are test images.

    Raises the errors of `load_data`.

    >>> from pathlib import Path
    >>> opened = open_data("digits", Request(Path("save/data")))
    >>> opened.test.total, opened.train.total, opened.test.classes[:3]
    (359, 1438, ('0', '1', '2'))
    """
    source, argument = parse_spec(dataset)
    request = replace(request, argument=argument)
    if source == FUNCTION:
        return open_function(request)
    if source == AUTO:
        try:
            return _held(DATASETS["mnist"](request), "mnist")
        except MirrorsFailed as failure:
            return _held(DATASETS["digits"](request), "digits", digits_instead(failure))
    name, entry = resolved_name(source, argument), DATASETS[source]
    if not isinstance(entry, LazySource):
        return _held(entry(request), name)
    opened = entry.open(request)
    test, train = replace(opened.test, name=name), opened.train
    if train is not None:
        return OpenData(test, replace(train, name=name))
    return OpenData(replace(test, remark="; ".join(filter(None, (NO_TEST_PART, test.remark)))))


NO_TEST_PART = "the data set has no test part, so every image counts as one"


def _held(raw: RawData, name: str, remark: str = "") -> OpenData:
    """Return images that are already in memory."""
    test, train = (_of_images(images, raw, name, remark) for images in (raw.test, raw.train))
    return OpenData(test, train)


def _of_images(images: ImageSet, raw: RawData, name: str, remark: str) -> LazyImages:
    def read(indices: Sequence[int] | None) -> Iterator[Item]:
        for index in range(len(images)) if indices is None else indices:
            yield Item(f"image {index} of {name}", images.pixels[index], images.labels[index], str(index))

    def contents() -> Iterator[bytes]:
        # the pixels are in memory, and random images, unlike files, depend on the seed
        yield name.encode()
        yield checksum(images.pixels).encode()

    return LazyImages(
        name,
        raw.title,
        len(images),
        read,
        images.labels,
        raw.classes,
        is_displayed=True,
        remark=remark,
        contents=contents,
    )
