"""Layouts of earlier calls: what one pass told of a model's sizes and operations holds until the model changes.

Remembered is only what decides how a Jacobian is computed. Whether its derivative can be right is watched at every
call, and a pass that is not the remembered one, operation by operation and shape by shape, is planned anew.
"""

from dataclasses import replace
from typing import Any
from weakref import ref

from pellucid.jacobian._exact import ExactMasks, doubled
from pellucid.jacobian._plan import Layout, Plan, Signature
from pellucid.jacobian._problem import Problem

__all__ = ["recall", "remember"]

AT_MOST = 32
"""So many shapes are remembered for each model."""

Layouts = dict[tuple[object, ...], tuple[Layout, tuple[int, ...], Signature, bool]]

_LAYOUTS: dict[int, tuple[ref[Any], Layouts]] = {}
"""By the model's id, which is its own as long as it lives; with it the entry goes."""


def recall(problem: Problem, chunk: int | None) -> Plan | None:
    """The plan of the last call with the same model and shapes; None where there was none."""
    owner, key = _place(problem, chunk)
    held, layouts = _LAYOUTS.get(id(owner), (None, {}))
    found = layouts.get(key)
    if held is None or held() is not owner or found is None:
        return None
    layout, wanted, signature, is_quiet = found
    if "double" in layout.swapped:
        return Plan(doubled(problem), layout, wanted, None, signature, is_quiet, ExactMasks())
    return Plan(problem, layout, wanted, None, signature, is_quiet)


def remember(problem: Problem, plan: Plan, chunk: int | None) -> None:
    """Keep a plan's layout for the next call, without its tensors; not for what cannot be referred to weakly."""
    owner, key = _place(problem, chunk)
    if plan.signature is None or not getattr(type(owner), "__weakrefoffset__", 0):
        return
    place = id(owner)
    if place not in _LAYOUTS:
        _LAYOUTS[place] = ref(owner, lambda _: _LAYOUTS.pop(place, None)), {}
    layouts = _LAYOUTS[place][1]
    if len(layouts) >= AT_MOST:
        layouts.clear()
    cut = plan.layout.cut and replace(plan.layout.cut, edge=None)  # which would keep the graph, and so its tensors
    layouts[key] = replace(plan.layout, cut=cut), plan.wanted, plan.signature, plan.is_quiet


def _place(problem: Problem, chunk: int | None) -> tuple[Any, tuple[object, ...]]:
    """Whose layout it is, and for which call."""
    model: Any = problem.model
    function = getattr(model, "__func__", None)
    owner = model if function is None else model.__self__
    inputs = [(tensor.shape, tensor.dtype, tensor.device) for tensor in problem.inputs]
    return owner, (function, *inputs, problem.name, problem.indices, chunk, problem.known_layers)
