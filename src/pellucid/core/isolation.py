"""Isolation from the caller: from its other threads, and from the torch modes it has switched on.

While a model is explained it is in eval mode, its weights are frozen, and the global random state is not the caller's.
Two threads doing this to one model, or to two models that share a layer, would corrupt each other. So all of them take
turns on one lock.
"""

import os
from threading import RLock
from types import TracebackType
from typing import Any

import torch

from pellucid.core.errors import ModelError, UnsupportedOperation

__all__ = ["exclusive", "isolated", "without_autocast"]

_lock = RLock()


def exclusive() -> Any:
    """Return the process-wide re-entrant lock, to be held while a model or the global random state is changed.

    >>> with exclusive(), exclusive():
    ...     pass
    """
    return _lock


def _renew_lock() -> None:
    global _lock
    _lock = RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    # A forked process has only the thread that forked. If another thread held the lock at that moment, nobody would
    # ever release the child's copy, and the first explanation in a DataLoader worker would hang.
    os.register_at_fork(after_in_child=_renew_lock)


class without_autocast:  # noqa: N801  (reads like torch.no_grad)
    """Switch `torch.autocast` off for every device type, and on again at the end.

    Products in bfloat16 or float16 put relevances and derivatives off by tens of percent.

    >>> with torch.autocast("cpu", torch.bfloat16), without_autocast():
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.float32
    """

    __slots__ = ("_devices",)

    def __enter__(self) -> None:
        self._devices: tuple[str, ...] = ()
        if torch._C._is_any_autocast_enabled():
            supported = torch._C._autocast_supported_devices()
            self._devices = tuple(device for device in supported if torch.is_autocast_enabled(device))
        for device in self._devices:  # torch.autocast(device, enabled=False) would warn where a device is missing
            torch.set_autocast_enabled(device, False)

    def __exit__(self, *_: object) -> None:
        for device in self._devices:
            torch.set_autocast_enabled(device, True)


class isolated:  # noqa: N801  (reads like torch.no_grad)
    """Hold the lock, with autocast and inference mode off and gradients on; every mode is restored at the end.

    To be entered by each public function that runs a model. It costs about a microsecond. With `takes_turns=False` the
    lock is left alone, for long work on a model of pellucid's own that no other thread knows of.

    The default device and dtype stay as they are, since the model's own forward pass may count on them; pellucid's code
    names device and dtype in each tensor it makes instead.

    Raises `UnsupportedOperation` inside a transform of `torch.func`, or where tensors hold no values, and `ModelError`
    where a weight made in inference mode is needed for a derivative.

    >>> with torch.inference_mode(), isolated():
    ...     torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    (True, False)
    """

    __slots__ = ("_autocast", "_gradients", "_held")

    def __init__(self, *, takes_turns: bool = True) -> None:
        self._held = (
            _lock if takes_turns else None
        )  # kept: a child forked in the body has a new lock, and leaves by this

    def __enter__(self) -> None:
        _refuse_tracing()
        if self._held is not None:
            self._held.acquire()
        self._autocast = without_autocast()
        self._autocast.__enter__()
        self._gradients: Any = None
        if torch.is_inference_mode_enabled():
            self._gradients = torch.inference_mode(False)  # which also enables gradients
        elif not torch.is_grad_enabled():
            self._gradients = torch.enable_grad()
        if self._gradients is not None:
            self._gradients.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._gradients is not None:
            self._gradients.__exit__(kind, error, trace)
        self._autocast.__exit__()
        if self._held is not None:
            self._held.release()
        if isinstance(error, RuntimeError):
            _raise_named(error)


def _raise_named(error: RuntimeError) -> None:
    """Raise what torch says of an unsuitable surrounding as one of pellucid's errors."""
    if "nference tensor" in str(error):
        raise ModelError(
            "a weight or buffer of the model (or a tensor used by the target function) was made under "
            "torch.inference_mode(), and torch cannot compute derivatives with it; make it outside of inference mode, "
            "for instance under torch.no_grad()."
        ) from error
    if "torch.compile region" in str(error):
        raise UnsupportedOperation(_TRACED) from error


def _refuse_tracing() -> None:
    """Raise `UnsupportedOperation` where what runs is not the values themselves."""
    level = torch._C._functorch.peek_interpreter_stack()
    if level is not None:
        raise UnsupportedOperation(
            f"pellucid was called inside the transform torch.func.{level.key().name.lower()}, and it computes "
            "derivatives of whole batches by itself; call it outside the transform, with all inputs as one batch."
        )
    if torch._C._get_dispatch_mode(_FAKE) is not None or torch.compiler.is_compiling():
        raise UnsupportedOperation(_TRACED)


_TRACED = (
    "pellucid was called while torch traces a program (torch.compile, torch.export or FakeTensorMode), where tensors "
    "hold no values to explain; call it outside, on real tensors. The model itself may be compiled."
)
_FAKE = torch._C._TorchDispatchModeKey.FAKE
