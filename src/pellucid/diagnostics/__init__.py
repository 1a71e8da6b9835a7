"""Diagnostics of a trained classifier: what the training data taught it, and how far its predictions can be trusted.

All functions take and return tensors; the hooks and sections of the same names apply them to a run.

"""

from pellucid.core.lazy import lazy_exports

__all__: list[str] = []

__getattr__, __dir__ = lazy_exports(__name__, {})
