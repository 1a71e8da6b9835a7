"""Cache of layouts: the sizes and operations recorded in one forward pass are reused until the model changes.

The cache holds only what decides how a Jacobian is computed. The checks that its derivative is correct run at every
call, and a pass that differs from the cached one in any operation or shape is planned again.
"""

from dataclasses import replace
from types import MethodType
from typing import Any
from weakref import ref

from pellucid.jacobians._exact import ExactMasks, doubled
from pellucid.jacobians._kernels import KernelSwap
from pellucid.jacobians._plan import Layout, Plan, Signature
from pellucid.jacobians._problem import Problem

__all__ = ["recall", "remember"]

MAX_LAYOUTS = 32
"""Maximum number of cached layouts per model."""

Layouts = dict[tuple[object, ...], tuple[Layout, tuple[int, ...], Signature, bool]]

_LAYOUTS: dict[int, tuple[ref[Any], Layouts]] = {}
"""Layouts by the model's id. A weak reference removes the entry when the model dies, before its id can be reused."""


def recall(problem: Problem, chunk: int | None) -> Plan | None:
    """Return the plan of the last call with the same model and shapes, or None without one."""
    owner, key = _owner_and_key(problem, chunk)
    reference, layouts = _LAYOUTS.get(id(owner), (None, {}))
    entry = layouts.get(key)
    if reference is None or reference() is not owner or entry is None:
        return None
    layout, wanted, signature, is_quiet = entry
    if "double" in layout.swapped:
        return Plan(doubled(problem), layout, wanted, None, signature, is_quiet, ExactMasks())
    kernels = KernelSwap() if layout.swapped or layout.swapped_in_batches else None
    return Plan(problem, layout, wanted, None, signature, is_quiet, kernels)


def remember(problem: Problem, plan: Plan, chunk: int | None) -> None:
    """Cache a plan's layout, without its tensors, unless the model does not support weak references."""
    owner, key = _owner_and_key(problem, chunk)
    if plan.signature is None or not getattr(type(owner), "__weakrefoffset__", 0):
        return
    place = id(owner)
    if place not in _LAYOUTS:
        _LAYOUTS[place] = ref(owner, lambda _: _LAYOUTS.pop(place, None)), {}
    layouts = _LAYOUTS[place][1]
    if len(layouts) >= MAX_LAYOUTS:  # rare, so a plain reset is enough
        layouts.clear()
    # without the edge, which would keep the graph and all its tensors alive
    cut = plan.layout.cut and replace(plan.layout.cut, edge=None)
    layouts[key] = replace(plan.layout, cut=cut), plan.wanted, plan.signature, plan.is_quiet


def _owner_and_key(problem: Problem, chunk: int | None) -> tuple[Any, tuple[object, ...]]:
    """Return the object that owns the layout, and the key of the call.

    A bound method belongs to its instance, since `model.method` is a new object at every access.
    """
    model: Any = problem.model
    # not `getattr`, because a module takes its time to say that it has no such attribute
    function = model.__func__ if isinstance(model, MethodType) else None
    owner = model if function is None else model.__self__
    inputs = [(tensor.shape, tensor.dtype, tensor.device) for tensor in problem.inputs]
    # `chunk` decides the shapes in the signature; `known_layers` must match exactly, because such models skip its check
    names = problem.several and (problem.several.names, problem.several.style)
    return owner, (function, *inputs, names, problem.chooser, problem.indices, chunk, problem.known_layers)
