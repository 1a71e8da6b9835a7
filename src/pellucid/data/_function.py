"""A data set returned by a user's function."""

import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pellucid.core import importing
from pellucid.core.errors import DataError
from pellucid.data._lazy import OpenData
from pellucid.data._materialise import materialise
from pellucid.data._source import RawData, Request
from pellucid.data._user_data import of_dataset

__all__ = ["load_function", "open_function"]

EXPECTED = "(train data set, test data set, class names)"


def load_function(request: Request) -> RawData:
    """Load the data set returned by the function `request.argument` ("package.module:function").

    The function takes no arguments and returns two map-style data sets and the class names. Its module may be in the
    current folder. `materialise` describes the supported items. Each item is read once, so random transforms are
    frozen.

    Raises `ConfigError` if the module cannot be imported, `UnknownName` if it has no such function, and `DataError` if
    the function fails or returns something else.
    """
    name = request.argument
    train, test, classes = _checked(_call(name), name)
    sets = [
        materialise(dataset, f"the {kind} set of {name}", len(classes), request.image_size, request.crop)
        for kind, dataset in (("training", train), ("test", test))
    ]
    return RawData(sets[0], sets[1], classes, title=name.partition(":")[2])


def open_function(request: Request) -> OpenData:
    """Open the data set that a user's function returns; for the function and the errors see `load_function`."""
    train, test, classes = _checked(_call(request.argument), request.argument)
    sets = []
    for kind, dataset in (("training", train), ("test", test)):
        images = of_dataset(dataset, f"the {kind} set of {request.argument}")
        title = request.argument.partition(":")[2]
        sets.append(replace(images, name=request.argument, title=title, classes=classes, is_displayed=True))
    return OpenData(test=sets[1], train=sets[0])


def _call(name: str) -> Any:
    """Call the user's function."""
    function = importing.load_function("--dataset", name)
    try:
        return function()
    except (Exception, SystemExit) as error:  # a function that calls sys.exit must not end the run with its code
        # the innermost frame, where the function failed
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise DataError(
            f"--dataset {name} failed with {type(error).__name__}: {error} ({place.filename}, line {place.lineno})."
        ) from error


def _checked(returned: Any, name: str) -> tuple[Any, Any, tuple[str, ...]]:
    """Validate the returned value, and split it into the two data sets and the class names."""
    if not isinstance(returned, Sequence) or len(returned) != 3:
        length = f" of length {len(returned)}" if isinstance(returned, Sequence) else ""
        raise DataError(f"{name} returned a {type(returned).__name__}{length}; expected {EXPECTED}.")
    train, test, classes = returned
    for kind, dataset in (("training", train), ("test", test)):
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise DataError(
                f"{name} returned a {type(dataset).__name__} as the {kind} set; "
                "expected a map-style data set, with __len__ and __getitem__."
            )
    # a string is a sequence too, and would give one class per character
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise DataError(f"{name} returned class names of type {type(classes).__name__}; expected a list of strings.")
    return train, test, tuple(str(each) for each in classes)
