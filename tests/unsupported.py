"""Operations that the engine has no rule for and never will, in place of torch functions that may get one."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

__all__ = ["UNSUPPORTED", "unsupported_function"]


def unsupported_function(name: str, compute: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a new function called `name`, which torch dispatches like its own functions."""

    def function(x: Tensor) -> Tensor:
        if has_torch_function_unary(x):
            return handle_torch_function(function, (x,), x)
        return compute(x)

    function.__name__ = function.__qualname__ = name
    return function


@torch.library.custom_op("pellucid_tests::unsupported_operator", mutates_args=())
def _operator(x: Tensor) -> Tensor:
    return x.square()


_operator.register_autograd(
    lambda ctx, cotangent: 2 * ctx.saved_tensors[0] * cotangent,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
)
_function = unsupported_function("unsupported_function", torch.square)

UNSUPPORTED: dict[str, Callable[[Tensor], Tensor]] = {
    "unsupported_function": _function,
    "unsupported_function in a sum": lambda x: x + _function(x * 2),
    "unsupported_function as a gate": lambda x: x * torch.sigmoid(_function(x)),
    "unsupported_function of a mean": lambda x: x - _function(x.mean(1, keepdim=True)),
    "unsupported_operator": lambda x: torch.ops.pellucid_tests.unsupported_operator(x),
    "unsupported_operator in a sum": lambda x: x + torch.ops.pellucid_tests.unsupported_operator(x),
}
"""Functions of a batch that use an operation without a rule; the first word of the key is the operation's name."""
