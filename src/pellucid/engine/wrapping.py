"""Wrapped models: unwrap compiled, exported and parallel ones, and refuse those that a computation cannot see into.

What is possible depends on what a computation needs of the model. Forward passes and autograd's derivatives work
through TorchScript, which hides its operations from Python. Recording a forward pass, for rules of relevance, needs to
see every operation, and class activation maps need one layer.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal, NoReturn
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._python_dispatch import TorchDispatchMode

from pellucid.core.errors import UnknownName, UnsupportedOperation

__all__ = [
    "Network",
    "check_hidden_norms",
    "check_hidden_paths",
    "check_model",
    "find_module",
    "find_modules",
    "fixed",
    "holds_script",
    "is_probabilities",
    "module_paths",
    "set_eval",
    "unwrap",
]

Network = nn.Module | ExportedProgram
"""A model as users pass it; `unwrap` makes a module of it."""

Need = Literal["passes", "derivatives", "layer", "operations", "training"]
"""Requirement of a computation: forward passes, derivatives, the output of a layer, every operation, or new weights."""

_exported: "WeakKeyDictionary[object, nn.Module]" = WeakKeyDictionary()
"""The module of each exported program, so that unwrapping it twice gives the same module."""


def unwrap(model: Network) -> nn.Module:
    """Return the model inside DataParallel, DistributedDataParallel, `torch.compile` or an exported program.

    Anything else is returned unchanged. Compiled submodules need no unwrapping, since `isolated` runs them as plain
    Python.

    >>> layer = nn.Linear(2, 2)
    >>> unwrap(nn.DataParallel(layer)) is layer
    True
    """
    inside: Any = model
    while (kind := _kind_of(inside)) in ("parallel", "compiled"):
        inside = inside.module if kind == "parallel" else inside._orig_mod
    if kind != "exported":
        return inside
    if inside not in _exported:
        _exported[inside] = inside.module()
    return _exported[inside]


_WRAPPERS = {
    "DataParallel": "parallel",
    "DistributedDataParallel": "parallel",
    "OptimizedModule": "compiled",
    "ExportedProgram": "exported",
    "ScriptModule": "scripted",
    "FullyShardedDataParallel": "sharded",
    "FSDPModule": "sharded",
    "FakeQuantizeBase": "calibrated",
    "_StatefulGraphModule": "program",
}
"""Kinds of wrapper by the name of a class of torch's, so that none of them has to be imported."""


def _kind_of(model: object) -> str:
    """Return the kind of wrapper that a module is; an empty string for ordinary ones."""
    kind: Any = type(model)
    return _kind(kind)


@lru_cache(maxsize=512)
def _kind(kind: type) -> str:
    for base in kind.__mro__:
        if base.__module__.startswith("torch.") and base.__name__ in _WRAPPERS:
            return _WRAPPERS[base.__name__]
        if "quantized" in base.__module__.split(".") and base.__module__.startswith(("torch.ao.nn", "torch.nn")):
            return "quantized"
    return ""


def module_paths(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module of `model` with its path as the user knows it.

    A wrapper that only adapts the input, such as `pellucid.models._adapted.Adapted`, names the attribute with the
    user's model in `wrapped_by_pellucid`, which is left out of the paths.
    """
    inside = getattr(model, "wrapped_by_pellucid", None)
    for path, module in model.named_modules():
        if isinstance(inside, str):
            path = "" if path == inside else path.removeprefix(f"{inside}.")
        yield path, module


def find_module(model: nn.Module, path: str) -> nn.Module:
    """Return the module with a path of `module_paths`; raises `UnknownName` with the available paths.

    >>> find_module(nn.Sequential(nn.ReLU(), nn.Tanh()), "1")
    Tanh()
    """
    return find_modules(model, [path])[0]


def find_modules(model: nn.Module, paths: Sequence[str]) -> list[nn.Module]:
    """Return the modules with several paths of `module_paths`, like `find_module`, in one walk through the model."""
    known = {name: module for name, module in module_paths(model) if name}
    full = known if all(path in known for path in paths) else {**dict(model.named_modules()), **known}
    for path in paths:
        if path not in full or not path:
            raise UnknownName("layer", path, known)
    return [full[path] for path in paths]


def check_model(model: nn.Module, need: Need = "passes", *, layers: Sequence[str] | None = None) -> None:
    """Raise `UnsupportedOperation` for a model whose wrapping or compression hides what a computation needs.

    The error names the module, and a way out that fits the need. `layers` are the layers that are read, if they were
    named.

    >>> check_model(nn.Sequential(nn.Linear(2, 2)), "operations")
    """
    for module in _modules_of(model):
        kind = _kind_of(module)
        if not kind:
            continue
        name = next(path for path, part in module_paths(model) if part is module)
        if kind == "sharded":
            _refuse_sharded(name, module)
        if need == "training" and kind in ("scripted", "program", "quantized"):
            raise UnsupportedOperation(
                f"{_place(name)} is a {type(module).__name__}, which cannot be retrained; pass the model as it was "
                "before it was scripted, exported or quantized."
            )
        if kind == "scripted" and (need == "operations" or (need == "layer" and _hides(name, layers))):
            _refuse_script(name, need)
        if kind == "calibrated" and _is_observing(module):
            raise UnsupportedOperation(
                f"{_place(name)} is a {type(module).__name__} that adapts to its inputs, so the model is another one "
                "after every pass; call model.apply(torch.ao.quantization.disable_observer) first."
            )
        if kind == "quantized" and need not in ("passes", "training"):
            raise UnsupportedOperation(
                f"{_place(name)} is a quantized {type(module).__name__}, for which there are no rules and no "
                "derivatives; explain the model as it was before quantization, or choose an attribution method "
                "that needs only forward passes, such as 'occlusion' or 'rise'."
            )
    _check_sharding(model)


def _is_observing(module: Any) -> bool:
    return bool(module.observer_enabled.any())


def _check_sharding(model: nn.Module) -> None:
    """Raise `UnsupportedOperation` for parameters that are spread over processes."""
    sharded = sys.modules.get("torch.distributed.tensor")
    if sharded is None:  # not loaded, so nothing is sharded
        return
    for name, parameter in model.named_parameters():
        if isinstance(parameter, sharded.DTensor):
            raise UnsupportedOperation(f"the parameter {name!r} is a DTensor, {_SHARDED}")


def holds_script(model: nn.Module) -> bool:
    """True if the model is or contains a TorchScript module, whose operations are invisible to Python.

    >>> holds_script(nn.Sequential(nn.Linear(2, 2)))
    False
    """
    return any(_kind_of(module) == "scripted" for module in _modules_of(model))


def _modules_of(model: nn.Module) -> Iterator[nn.Module]:
    """Yield a model and its submodules, except the insides of scripted ones."""
    waiting, seen = [model], {model}
    while waiting:
        module = waiting.pop()
        yield module
        if _kind_of(module) != "scripted":
            inside = [child for child in module._modules.values() if child is not None and child not in seen]
            waiting += inside
            seen.update(inside)


def _place(name: str) -> str:
    return f"module {name!r}" if name else "the model"


def _hides(name: str, layers: Sequence[str] | None) -> bool:
    """True if the scripted module `name` may hide one of the layers.

    Layers without names are the last one with maps, which may be inside. torch puts no hooks on scripted modules.
    """
    return not name or layers is None or any(layer == name or layer.startswith(f"{name}.") for layer in layers)


def _refuse_script(name: str, need: Need) -> NoReturn:
    problem = "which hides its operations from Python" if need == "operations" else "whose layers cannot be read"
    # a layer outside the scripted module can be read
    other = "" if need == "operations" or not name else f"name a layer outside {name!r}, "
    methods = "a method that needs only derivatives or forward passes"
    raise UnsupportedOperation(
        f"{_place(name)} is a ScriptModule, {problem}; explain the model as it was before torch.jit.trace or "
        f"torch.jit.script, {other}or explain its inputs by {methods}, such as 'integrated_gradients', 'gradient' or "
        "'occlusion'."
    )


def _refuse_sharded(name: str, module: nn.Module) -> NoReturn:
    raise UnsupportedOperation(f"{_place(name)} is an FSDP module ({type(module).__name__}), {_SHARDED}")


_SHARDED = (
    "sharded over processes, so this process may hold only a part of the weights; gather the full weights "
    "(torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True), load them into an "
    "unsharded copy of the model, and explain that."
)


def set_eval(model: nn.Module) -> nn.Module:
    """Put a model in eval mode and return it; exported programs, whose mode is fixed, keep their operations.

    >>> set_eval(nn.Dropout()).training
    False
    """
    try:
        return model.eval()
    except NotImplementedError:  # an exported program refuses to change its mode
        for module in model.modules():
            module.training = False
        return model


def fixed(model: nn.Module) -> nn.Module:
    """Put a copy of a model in eval mode, turn off the gradients of its weights, and return it.

    >>> fixed(nn.Linear(2, 2)).weight.requires_grad
    False
    """
    for parameter in set_eval(model).parameters():  # a ScriptModule has no `requires_grad_`
        parameter.requires_grad_(False)
    return model


def check_hidden_norms(model: object, *image: Tensor) -> None:
    """Raise `UnsupportedOperation` if a batch norm inside TorchScript uses batch statistics.

    Runs a single image (one tensor per input of the model), and only if parts of the model are TorchScript.
    """
    if not isinstance(model, nn.Module) or not holds_script(model):
        return
    with torch.no_grad(), _HiddenNorms() as hidden:
        model(*(tensor.detach().clone() for tensor in image))
    if hidden.uses_batch_statistics:
        raise UnsupportedOperation(
            "a batch norm inside TorchScript uses batch statistics, which makes each image depend on the others; "
            "trace or script the model in eval mode, with running statistics."
        )


def check_hidden_paths(model: object, way_out: str) -> None:
    """Raise `UnsupportedOperation` if code inside TorchScript cuts values off from the input with `detach`.

    Outside TorchScript, the values that lose their gradient are followed one by one; inside, only the code can be read.

    >>> check_hidden_paths(nn.ReLU(), "")
    """
    for module in _modules_of(model) if isinstance(model, nn.Module) else ():
        if _kind_of(module) == "scripted":
            graph: Any = getattr(module, "inlined_graph", None)
            cuts = [kind for kind in ("aten::detach", "aten::detach_", "prim::data") if _holds(graph, kind)]
            if cuts:
                raise UnsupportedOperation(
                    f"{cuts[0]} inside TorchScript may cut the output off from the input (entirely or in part), so the "
                    f"derivative could be silently wrong. Remove it from the model, {way_out}"
                )


def _holds(graph: Any, kind: str) -> bool:
    return graph is not None and bool(graph.findAllNodes(kind, True))


class _HiddenNorms(TorchDispatchMode):
    """Notes batch norms with batch statistics, also inside TorchScript, where no function mode sees them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.uses_batch_statistics = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        if "batch_norm" in name and "backward" not in name:
            # the only flag among the arguments of these operators that is not about the backend
            named = {spec.name: value for spec, value in zip(func._schema.arguments, args, strict=False)}
            named |= kwargs or {}
            self.uses_batch_statistics |= bool(named.get("training", named.get("train", False)))
        return func(*args, **(kwargs or {}))


def is_probabilities(logits: Tensor) -> bool:
    """True if every row is a softmax, and so sums to 1, or the logarithm of one.

    >>> is_probabilities(torch.rand(3, 4).softmax(1)), is_probabilities(torch.rand(3, 4))
    (True, False)
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        return False
    sums = logits.sum(1) if bool((logits >= 0).all()) else logits.exp().sum(1)
    return bool(((sums - 1).abs() < 1e-4).all())
