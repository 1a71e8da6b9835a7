"""Isolation from the caller's other threads, torch modes and random states.

While pellucid explains a model, the model is in eval mode, its weights are frozen, and the global random state is
temporarily replaced. Two threads that do this to the same model, or to two models that share a layer, would corrupt
each other's state, so all of them share one lock.
"""

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from threading import RLock
from types import TracebackType
from typing import Any

import numpy as np
import torch

from pellucid.core.errors import ModelError, ShapeError, UnsupportedOperation

__all__ = ["exclusive", "isolated", "preserved_random_state", "raise_translated", "uncompiled", "without_autocast"]

_lock = RLock()


def exclusive() -> Any:
    """Return the process-wide reentrant lock. Hold it while modifying a model or the global random state.

    >>> with exclusive(), exclusive():
    ...     pass
    """
    return _lock


def _replace_lock() -> None:
    global _lock
    _lock = RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    # A forked child contains only the thread that called fork. If another thread holds the lock at that moment, nothing
    # ever releases the child's copy, and the first explanation in a DataLoader worker would hang.
    os.register_at_fork(after_in_child=_replace_lock)


class without_autocast:  # noqa: N801  (reads like torch.no_grad)
    """Disable `torch.autocast` for all device types, and restore it on exit.

    Matrix products in bfloat16 or float16 change relevances and derivatives by tens of percent.

    >>> with torch.autocast("cpu", torch.bfloat16), without_autocast():
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.float32
    """

    __slots__ = ("_devices",)

    def __enter__(self) -> None:
        self._devices: tuple[str, ...] = ()
        # one cheap query in the usual case
        if torch._C._is_any_autocast_enabled():
            supported = torch._C._autocast_supported_devices()
            self._devices = tuple(device for device in supported if torch.is_autocast_enabled(device))
        for device in self._devices:  # torch.autocast(device, enabled=False) would warn if the device is missing
            torch.set_autocast_enabled(device, False)

    def __exit__(self, *_: object) -> None:
        for device in self._devices:
            torch.set_autocast_enabled(device, True)


def uncompiled() -> Any:
    """Return a context in which compiled modules and functions run as plain Python. Enter it under the lock.

    Compiled code hides its operations from the modes that watch a forward pass, and would be recompiled for them.

    >>> with exclusive(), uncompiled():
    ...     pass
    """
    # Without the compiler, nothing can be compiled; importing it would take seconds.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo.eval_frame" in sys.modules else nullcontext()


class isolated:  # noqa: N801  (reads like torch.no_grad)
    """Hold the lock, with autocast and inference mode off, gradients on, and compiled code run as plain Python.

    All modes are restored on exit. Every public function that runs a model enters this context. It costs about a
    microsecond, and six once torch's compiler is loaded. `takes_turns=False` skips
    the lock; use it for long computations on a model that pellucid created and that no other thread can access.

    The default device and dtype stay unchanged because the model's forward pass may rely on them. Instead, pellucid
    passes device and dtype explicitly whenever it creates a tensor.

    Raises `UnsupportedOperation` inside a `torch.func` transform or while torch traces a program, `ModelError` if a
    derivative requires a tensor that was created in inference mode, and `ShapeError` for sizes that an exported program
    does not accept.

    >>> with torch.inference_mode(), isolated():
    ...     torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    (True, False)
    """

    __slots__ = ("_autocast", "_eager", "_gradients", "_held")

    def __init__(self, *, takes_turns: bool = True) -> None:
        # stored, because a child forked in the body gets a new `_lock` but has to release this one
        self._held = _lock if takes_turns else None

    def __enter__(self) -> None:
        _refuse_tracing()
        if self._held is not None:
            self._held.acquire()
        # The switch is process-wide, so it needs the lock. It takes effect when it is made, without being entered.
        self._eager: Any = None if self._held is None else uncompiled()
        self._autocast = without_autocast()
        self._autocast.__enter__()
        self._gradients: Any = None
        if torch.is_inference_mode_enabled():
            self._gradients = torch.inference_mode(False)  # also enables gradients
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
        if self._eager is not None:
            self._eager.__exit__(kind, error, trace)
        if self._held is not None:
            self._held.release()
        if isinstance(error, (RuntimeError, AssertionError)):
            raise_translated(error)


def raise_translated(error: Exception) -> None:
    """Raise a pellucid error for torch's errors about inference mode, compilation and exported sizes; ignore others."""
    # torch writes the first letter in upper or lower case
    if "nference tensor" in str(error):
        raise ModelError(
            "a tensor of the model that is neither a parameter nor a buffer (or one used by the target function) was "
            "created under torch.inference_mode(), and torch cannot compute derivatives with it; create it outside "
            "inference mode, for example under torch.no_grad(), or register it as a buffer."
        ) from error
    if "torch.compile region" in str(error):
        raise UnsupportedOperation(_TRACED) from error
    if str(error).startswith("Guard failed"):
        raise ShapeError(
            f"the exported model does not accept inputs of this size ({error}); pellucid also runs images one by one, "
            "so export it with a batch axis of any size: torch.export.export(model, (x,), "
            "dynamic_shapes=({0: torch.export.Dim('batch')},))."
        ) from error


def _refuse_tracing() -> None:
    """Raise `UnsupportedOperation` inside a function transform or while torch traces a program."""
    level = torch._C._functorch.peek_interpreter_stack()
    if level is not None:
        raise UnsupportedOperation(
            f"pellucid was called inside the transform torch.func.{level.key().name.lower()}, which is not supported; "
            "call it outside the transform and pass all inputs as one batch: it differentiates whole batches itself."
        )
    if torch._C._get_dispatch_mode(_FAKE) is not None or torch.compiler.is_compiling():
        raise UnsupportedOperation(_TRACED)


_TRACED = (
    "pellucid was called while torch traces a program (torch.compile, torch.export or FakeTensorMode), where tensors "
    "have no values to explain; call it outside the traced code, on real tensors. The model itself may be compiled."
)
_FAKE = torch._C._TorchDispatchModeKey.FAKE


@contextmanager
def preserved_random_state(*, torch_alone: bool = False) -> Iterator[None]:
    """Restore the global random states on exit, even if the body raises.

    `torch_alone` restores only torch's state, for a body that cannot draw from Python's and NumPy's; these take 0.1 ms,
    a tenth of the Jacobian of a small network. Holds the lock throughout.
    """
    with exclusive():
        # fork_rng queries the devices, which takes as long as a forward pass of a small network
        devices = torch.random.fork_rng() if torch.cuda.is_initialized() else nullcontext()
        state = torch.get_rng_state()
        if not torch_alone:
            python, numpy = random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002
        with devices:
            try:
                yield
            finally:
                torch.set_rng_state(state)
                if not torch_alone:
                    random.setstate(python)
                    np.random.set_state(numpy)  # noqa: NPY002
