"""Layouts of earlier calls: what one pass told of a model's sizes and operations holds until the model changes.

Remembered is only what decides how a Jacobian is computed. Whether its derivative can be right is watched at every
call, and a pass that is not the remembered one, operation by operation and shape by shape, is planned anew.
"""

from dataclasses import replace
from typing import Any

from torch.utils.weak import WeakIdKeyDictionary

from pellucid.jacobian._exact import ExactMasks, doubled
from pellucid.jacobian._plan import Layout, Plan, Signature
from pellucid.jacobian._problem import Problem

__all__ = ["recall", "remember"]

AT_MOST = 32
"""So many shapes are remembered for each model."""

_LAYOUTS: Any = WeakIdKeyDictionary()


def recall(problem: Problem, chunk: int | None) -> Plan | None:
    """The plan of the last call with the same model and shapes; None where there was none."""
    owner, key = _place(problem, chunk)
    if owner is None or owner not in _LAYOUTS:
        return None
    found: tuple[Layout, tuple[int, ...], Signature] | None = _LAYOUTS[owner].get(key)
    if found is None:
        return None
    layout, wanted, signature = found
    if "double" in layout.swapped:
        return Plan(doubled(problem), layout, wanted, signature=signature, kernels=ExactMasks())
    return Plan(problem, layout, wanted, signature=signature)


def remember(problem: Problem, plan: Plan, chunk: int | None) -> None:
    """Keep a plan's layout for the next call, without its tensors; not for what cannot be referred to weakly."""
    owner, key = _place(problem, chunk)
    if owner is None or plan.signature is None:
        return
    layouts = _LAYOUTS.setdefault(owner, {})
    if len(layouts) >= AT_MOST:
        layouts.clear()
    cut = plan.layout.cut and replace(plan.layout.cut, edge=None)  # which would keep the graph, and so its tensors
    layouts[key] = replace(plan.layout, cut=cut), plan.wanted, plan.signature


def _place(problem: Problem, chunk: int | None) -> tuple[Any, tuple[object, ...]]:
    """Whose layout it is (None: nobody's), and for which call."""
    model: Any = problem.model
    function = getattr(model, "__func__", None)
    owner = model if function is None else model.__self__
    inputs = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in problem.inputs)
    has_references = getattr(type(owner), "__weakrefoffset__", 0) != 0
    return owner if has_references else None, (function, inputs, problem.name, problem.indices, chunk)
