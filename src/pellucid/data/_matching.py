"""Match the classes of a data set with those of a model, by name where both are known."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from pellucid.core.errors import DataError
from pellucid.data._items import label_of
from pellucid.data._lazy import LazyImages

__all__ = ["MatchedClasses", "match_classes"]


@dataclass(frozen=True)
class MatchedClasses:
    """Class names, and the index of each of the data set's labels among them."""

    names: tuple[str, ...] | None
    own: tuple[str, ...] | None
    """The data set's own names, by label."""
    mapping: tuple[int, ...] | None = None
    """The index in `names` of each label of the data set; None if they are equal."""
    remark: str = ""

    def index(self, label: Any, place: str) -> int:
        """Return the class index of a label; raises `DataError` for an invalid label."""
        number = label_of(label, self.own, place)
        return number if self.mapping is None else self.mapping[number]


def match_classes(images: LazyImages, classes: Sequence[str] | None) -> MatchedClasses:
    """Match the classes of `images` with `classes`, the names given by the user or known from the model.

    If `classes` contains all names (ignoring case), they are matched by name, in any order. Otherwise, if there are
    equally many names, labels are used as indices. Raises `DataError` if the numbers differ,
    or if a name that occurs in both has different places, which rules out the same order.

    >>> pets = LazyImages("pets", "Pets", 0, lambda _: iter(()), classes=("cat", "dog"))
    >>> match_classes(pets, ["dog", "fox", "cat"]).index(0, "item 0")
    2
    """
    own = images.classes
    if classes is None:
        return MatchedClasses(own, own)
    names = tuple(map(str, classes))
    if own is None or own == names:
        return MatchedClasses(names, names)
    mapping = _places(own, names)
    if None not in mapping and len(set(mapping)) == len(own):
        is_same = mapping == tuple(range(len(own)))
        remark = "" if is_same else f"labels of {len(own)} classes are matched by name with {len(names)} classes"
        return MatchedClasses(names, own, cast("tuple[int, ...]", mapping), remark)
    moved = [name for index, name in enumerate(own) if mapping[index] not in (None, index)]
    if len(own) == len(names) and moved:
        raise DataError(
            f"the classes of {images.name} ({_shortened(own)}) and the class names given or known from the model "
            f"({_shortened(names)}) have {moved[0]} at different places, but not all names occur in both; rename the "
            "classes, so that they can be matched by name."
        )
    if len(own) == len(names):
        return MatchedClasses(names, own, None, f"classes are matched by order ({own[0]} is {names[0]}, …)")
    raise DataError(
        f"{images.name} has {len(own)} classes ({_shortened(own)}), which cannot be matched with the {len(names)} "
        f"class names given or known from the model ({_shortened(names)}); rename the classes of the data set, so that "
        "all of them occur among those names, or give one name per class."
    )


def _places(own: tuple[str, ...], names: tuple[str, ...]) -> tuple[int | None, ...]:
    """Return the index in `names` of each of the data set's names; None for those that are missing or ambiguous."""
    # ImageNet has a "Cardigan" (a dog) and a "cardigan", so case is ignored only where nothing else fits
    exact, folded = ({key(name): index for index, name in enumerate(names)} for key in (str, str.lower))
    counts, folded_counts = Counter(names), Counter(map(str.lower, names))

    def place(name: str) -> int | None:
        if name in exact:
            return exact[name] if counts[name] == 1 else None
        return folded[name.lower()] if folded_counts[name.lower()] == 1 else None

    return tuple(map(place, own))


def _shortened(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
