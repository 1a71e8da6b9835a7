"""Comma-separated lists of names, as flags take them. Does not import torch, so that `--help` stays fast."""

from collections.abc import Callable, Iterable, Mapping

__all__ = ["parse_names"]


def parse_names(
    listed: str, check: Callable[[str], object] | None = None, groups: Mapping[str, Iterable[str]] | None = None
) -> list[str]:
    """Split NAME,NAME, expand the names of groups (such as `default`) and drop repetitions.

    `check` is called with each name that is no group and raises for an unknown one.

    >>> parse_names("default, tsne, saliency", groups={"default": ["saliency", "gallery"]})
    ['saliency', 'gallery', 'tsne']
    """
    names: list[str] = []
    for name in (part.strip() for part in listed.split(",")):
        if groups is not None and name in groups:
            names += groups[name]
            continue
        if check is not None:
            check(name)
        names.append(name)
    # a dict keeps the order, unlike a set
    return list(dict.fromkeys(names))
