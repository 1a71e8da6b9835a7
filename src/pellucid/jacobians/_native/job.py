"""The size of a job: the number of images whose Jacobians a caller computes in several calls."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

__all__ = ["expected_images", "images_expected", "images_in"]

_EXPECTED: ContextVar[int | None] = ContextVar("images of the whole job", default=None)


@contextmanager
def expected_images(count: int | None) -> Iterator[None]:
    """Announce the number of images of the whole job to the calls inside; None keeps what is already announced.

    >>> with expected_images(5000), expected_images(None):
    ...     images_expected()
    5000
    """
    token = _EXPECTED.set(_EXPECTED.get() if count is None else count)
    try:
        yield
    finally:
        _EXPECTED.reset(token)


def images_expected() -> int | None:
    """Return the number of images of the whole job; None if the caller did not announce it."""
    return _EXPECTED.get()


def images_in(loader: Iterable[Any]) -> int | None:
    """Return the number of images that a loader, or a list of batches, yields; None if that is unknown.

    >>> import torch
    >>> images_in([(torch.zeros(4, 2), torch.zeros(4)), (torch.zeros(3, 2), torch.zeros(3))])
    7
    """
    try:
        if isinstance(loader, list | tuple):
            return sum(len(batch[0] if isinstance(batch, list | tuple) else batch) for batch in loader)
        # the sampler of a DataLoader may choose some images of its data set
        return len(loader.sampler if hasattr(loader, "sampler") else loader.dataset)  # type: ignore[attr-defined]
    except (TypeError, AttributeError, IndexError, NotImplementedError):  # a generator, a stream, or no batches at all
        return None
