"""pellucid: what has my network learned?"""

from typing import Any

__all__ = ["create_analyzer", "methods"]

_HOMES = {"create_analyzer": "pellucid.attribution", "methods": "pellucid.attribution"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pellucid' has no attribute {name!r}")
