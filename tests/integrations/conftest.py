"""Fixtures of the integration tests: one architecture at a time, ready to be explained."""

import pytest
from architectures import find, required
from checks import Case

_KEPT: dict[str, Case] = {}


@pytest.fixture
def case(architecture: str) -> Case:
    """The architecture with this name in float64; built once for all its tests."""
    required(architecture.partition("/")[0])
    if architecture not in _KEPT:
        _KEPT.clear()
        _KEPT[architecture] = Case(find(architecture))
    return _KEPT[architecture].to("float64")
