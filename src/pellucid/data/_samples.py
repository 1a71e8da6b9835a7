"""The samples of a WebDataset shard: which member is the image, and which label it has."""

import json
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pellucid.core.errors import DataError
from pellucid.data._tar import Member, Members

__all__ = ["BAD_LABEL", "IMAGE_SUFFIXES", "LABEL_SUFFIXES", "NO_LABEL", "Choice", "Samples", "list_samples"]

IMAGE_SUFFIXES = ("bmp", "gif", "jpeg", "jpg", "pbm", "pgm", "png", "ppm", "tif", "tiff", "webp")
LABEL_SUFFIXES = ("cls", "label", "txt", "json")
"""Names of members with a label, in the order in which they are tried."""
NO_LABEL, BAD_LABEL = -1, -2
"""Values that mark samples without a label, and samples whose label is not a class index."""
LARGEST_LABEL = 1 << 20
"""Largest member to read for a label, in bytes."""
NAME = re.compile(r"((?:.*/)?[^./][^.]*)\.([^/]*)", re.DOTALL)
"""Key and suffix of a member: the suffix starts at the first dot of the file's name."""
META = re.compile(r"__[^/]*__(?:$|/)")
"""Names that WebDataset reserves, and skips."""


@dataclass(frozen=True)
class Choice:
    """The members to use, by suffix; None to find them."""

    image: str | None = None
    label: str | None = None
    """"none" reads no labels."""


@dataclass
class Samples:
    """The samples of one shard, in order: 24 bytes each, and their keys."""

    keys: list[str] = field(default_factory=list)
    starts: "array[int]" = field(default_factory=lambda: array("q"))
    """Offsets of the images; -1 for a sample without image."""
    sizes: "array[int]" = field(default_factory=lambda: array("q"))
    labels: "array[int]" = field(default_factory=lambda: array("q"))
    is_complete: bool = True
    """False if the shard lacks the mark at the end of an archive, or is truncated."""


def list_samples(path: Path, name: str, choice: Choice) -> Samples:
    """Read the headers and the labels of a shard.

    Members with one key follow one another; those with other suffixes, and names that start with a dot, are ignored.
    Nothing is unpickled. Raises `DataError` for a damaged shard, a key that occurs twice, and a sample with several
    images or members of one name.
    """
    samples, seen = Samples(), set()
    try:
        with path.open("rb", buffering=1 << 13) as file:
            members = Members(file, path)
            wanted = {None: LABEL_SUFFIXES, "none": ()}.get(choice.label, (choice.label or "",))
            for key, group in _grouped(members, file, wanted):
                if key in seen:
                    raise DataError(
                        f"{path} has the sample {key} twice; all members of a sample must follow one another. Sort the "
                        "archive by name."
                    )
                seen.add(key)
                image = _image(group, choice, f"the sample {key} of {name}")
                samples.keys.append(key)
                samples.starts.append(-1 if image is None else image.start)
                samples.sizes.append(0 if image is None else image.size)
                samples.labels.append(_label(group, wanted))
            samples.is_complete = members.is_complete
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    return samples


Group = dict[str, tuple[Member, bytes]]
"""Members of a sample, by suffix, with the content of those that can hold a label."""


def _grouped(members: Members, file: IO[bytes], wanted: tuple[str, ...]) -> Iterator[tuple[str, Group]]:
    current = ""
    group: Group = {}
    for member in members:
        match = NAME.fullmatch(member.name)
        if match is None or META.match(member.name):
            continue
        key, suffix = match[1], match[2].lower()
        if key != current:
            if group:
                yield current, group
            current, group = key, {}
        if suffix in group:
            raise DataError(f"{members.path} has {member.name} twice in one sample; write each member once.")
        content = b""
        if suffix in wanted and member.size <= LARGEST_LABEL:
            file.seek(member.start)
            content = file.read(member.size)
        group[suffix] = member, content
    if group:
        yield current, group


def _image(group: Group, choice: Choice, place: str) -> Member | None:
    """Return the member with the image; None if there is none."""
    if choice.image is not None:
        return group[choice.image][0] if choice.image in group else None
    found = [suffix for suffix in group if suffix.rpartition(".")[2] in IMAGE_SUFFIXES]
    # next to image.jpg, there may be image.mask.png
    plain = [suffix for suffix in found if "." not in suffix] or found
    if len(plain) > 1:
        raise DataError(f"{place} has several images ({', '.join(plain)}); choose one: --dataset …?image={plain[0]}.")
    return group[plain[0]][0] if plain else None


def _label(group: Group, wanted: tuple[str, ...]) -> int:
    """Return the class index of a sample, `NO_LABEL` or `BAD_LABEL`."""
    for suffix in wanted:
        if suffix not in group:
            continue
        member, content = group[suffix]
        label = _parsed(suffix, content) if len(content) == member.size else BAD_LABEL
        if label is not None:
            return label
    return NO_LABEL


def _parsed(suffix: str, content: bytes) -> int | None:
    """Return the label in a member; None if it holds something else, such as a caption."""
    if suffix.rpartition(".")[2] == "json":
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            return BAD_LABEL
        if not isinstance(found, dict) or found.get("label") is None:
            return None
        value = found["label"]
        is_index = isinstance(value, int) and not isinstance(value, bool)
    else:
        # at most 18 digits, which 64 bits can hold
        value = content.strip()
        is_index = re.fullmatch(rb"[+-]?[0-9]{1,18}", value) is not None
        if not is_index and suffix == "txt":
            return None
    number = int(value) if is_index else BAD_LABEL
    return number if NO_LABEL <= number < 2**62 else BAD_LABEL
