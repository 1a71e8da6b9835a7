"""Hooks that run after an epoch or at the end of training: one file each, discovered by the registry."""

from typing import TYPE_CHECKING

from pellucid.core.registry import Registry

if TYPE_CHECKING:
    from pellucid.hooks._hook import Hook

HOOKS: "Registry[type[Hook]]" = Registry("hook", __name__)
"""All hooks by name."""
