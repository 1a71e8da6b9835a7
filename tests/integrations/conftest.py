"""Fixtures of the integration tests: one architecture at a time, ready to be explained."""

import importlib
import os

import pytest
from architectures import find
from checks import Case

_KEPT: dict[str, Case] = {}


def _require(library: str) -> None:
    """Skip without the library, or fail where the gate has installed it."""
    try:
        importlib.import_module(library)
    except ImportError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{library} is missing ({error}); the gate installs the extra 'integrations'.")
        pytest.skip(f"{library} is not installed (pip install -e '.[integrations]')")


@pytest.fixture
def case(architecture: str) -> Case:
    """The architecture with this name in float64; built once for all its tests."""
    _require(architecture.partition("/")[0])
    if architecture not in _KEPT:
        _KEPT.clear()
        _KEPT[architecture] = Case(find(architecture))
    return _KEPT[architecture].to("float64")
