"""All errors that pellucid raises on purpose: `from pellucid.errors import PellucidError`."""

from pellucid.core.errors import *  # noqa: F403
from pellucid.core.errors import __all__ as __all__
