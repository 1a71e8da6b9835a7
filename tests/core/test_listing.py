"""Comma-separated names."""

import pytest

from pellucid.core.listing import parse_names

GROUPS = {"default": ["a", "b"], "all": ["a", "b", "c"], "none": []}


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        ("a", ["a"]),
        (" c , a ", ["c", "a"]),
        ("default", ["a", "b"]),
        ("b,default,c", ["b", "a", "c"]),
        ("all,default", ["a", "b", "c"]),
        ("none", []),
        ("a,a", ["a"]),
    ],
)
def test_names_and_groups(listed: str, names: list[str]) -> None:
    assert parse_names(listed, groups=GROUPS) == names


def test_only_names_are_checked() -> None:
    checked: list[str] = []
    assert parse_names("default,c,", checked.append, GROUPS) == ["a", "b", "c", ""]
    assert checked == ["c", ""]  # an empty name is a mistake that the check reports


def test_error_of_the_check_is_passed_on() -> None:
    with pytest.raises(ZeroDivisionError):
        parse_names("a", lambda name: 1 / 0)
