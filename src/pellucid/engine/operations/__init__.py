"""Handlers that record the operations of a forward pass; importing this package fills the table."""

from pellucid.engine.operations import (
    attention,
    contractions,
    elementwise,
    kernels,
    moves,
    norms,
    pooling,
    queries,
    sums,
)
from pellucid.engine.operations.elementwise import register_elementwise
from pellucid.engine.table import operation

__all__ = [
    "attention",
    "contractions",
    "elementwise",
    "kernels",
    "moves",
    "norms",
    "operation",
    "pooling",
    "queries",
    "register_elementwise",
    "sums",
]
