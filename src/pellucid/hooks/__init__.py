"""What happens after an epoch: one file each, found by the registry."""

from typing import TYPE_CHECKING

from pellucid.core.registry import Registry

if TYPE_CHECKING:
    from pellucid.hooks._hook import Hook

HOOKS: "Registry[type[Hook]]" = Registry("hook", __name__)
"""Every hook by name."""
