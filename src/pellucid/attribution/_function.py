"""Functions of arrays as models: scikit-learn's `predict_proba`, an ONNX session, or any other program."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.core.errors import ConfigError, ModelError, ShapeError, UnsupportedOperation
from pellucid.engine.arrays import shown

__all__ = ["ArrayFunction", "check_suits_function", "function"]


class ArrayFunction(nn.Module):
    """A function of NumPy arrays as a model without parameters, operations or derivatives; see `function`."""

    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Run the function on copies of the inputs, (batch, …) each; return its outputs in the inputs' dtype."""
        tensors = [value for value in (*inputs, *named.values()) if isinstance(value, Tensor)]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            raise UnsupportedOperation(
                "the model is a function of arrays, which has no derivatives with respect to its inputs; choose an "
                "attribution method that needs only its outputs, such as 'kernel_shap', 'lime' or 'occlusion'."
            )
        outputs = self.call(*map(_array, inputs), **{name: _array(value) for name, value in named.items()})
        floats = [tensor for tensor in tensors if tensor.is_floating_point()]
        return _tensor(outputs, like=(floats or tensors)[0], batch=len(tensors[0]))

    def extra_repr(self) -> str:
        return getattr(self.call, "__qualname__", type(self.call).__name__)


def function(call: Callable[..., Any]) -> ArrayFunction:
    """Make a model of a function of NumPy arrays, for attribution methods that only need its outputs.

    `call` receives the inputs as arrays, (batch, …), in the dtype in which they are passed to the analyzer, and returns
    scores as floats, (batch, class), or one per example, (batch,). Each row must depend only on its own example.
    Probabilities are explained as they are, without undoing a softmax, so values are in units of probability.

    The methods are `occlusion`, `rise`, `shapley_sampling`, `kernel_shap`, `lime`, `feature_ablation`,
    `feature_permutation` and the controls. Others need derivatives or the operations of the model and raise
    `UnsupportedOperation`.

    >>> from pellucid.attribution import create_analyzer
    >>> model = function(lambda x: x @ np.array([[1.0, 0.0], [2.0, 0.0]]))
    >>> create_analyzer("feature_ablation", model).analyze(np.array([[3.0, 4.0]]), target=0)
    tensor([[3., 8.]], dtype=torch.float64)
    """
    if isinstance(call, nn.Module):
        raise ModelError(f"the function is the module {type(call).__name__}; pass it to create_analyzer as it is.")
    if isinstance(call, type) or not callable(call):
        raise ModelError(f"expected a function of arrays, got {shown(call)}; pass, for example, model.predict_proba.")
    return ArrayFunction(call)


def check_suits_function(name: str, is_model_agnostic: bool, unwrap_softmax: bool, agnostic: Sequence[str]) -> None:
    """Raise an error if a method, or removing a softmax, needs more than the outputs of a function of arrays."""
    if not is_model_agnostic:
        raise UnsupportedOperation(
            f"{name} needs the derivatives or the operations of a model, and a function of arrays has neither; choose "
            f"a method that only needs its outputs: {', '.join(map(repr, agnostic))}."
        )
    if unwrap_softmax:
        raise ConfigError(
            "unwrap_softmax=True removes a softmax of torch, but the model is a function of arrays; explain its "
            "probabilities as they are, or return their logarithms from the function."
        )


def _array(value: Any) -> Any:
    return value.detach().to("cpu").numpy().copy() if isinstance(value, Tensor) else value


def _tensor(outputs: Any, like: Tensor, batch: int) -> Tensor:
    """Return the outputs of a function as a tensor, after checking that they are scores."""
    if isinstance(outputs, Tensor):
        outputs = outputs.detach().cpu().numpy()
    if isinstance(outputs, tuple | list) and any(np.ndim(entry) > 1 for entry in outputs):
        raise ModelError(
            f"the function returns a {type(outputs).__name__} of {len(outputs)} arrays; return one of them, "
            "for example: pellucid.function(lambda x: run(x)[0])."
        )
    try:
        array = np.asarray(outputs)
    except ValueError as error:  # rows of different lengths
        raise ModelError(f"the function returns {shown(outputs)}; expected an array (batch, class).") from error
    if array.dtype.kind != "f":
        raise ModelError(
            f"the function returns an array of {array.dtype}, not floats; return scores or probabilities, "
            "(batch, class), rather than labels: predict_proba instead of predict."
        )
    if not array.ndim or len(array) != batch:
        raise ShapeError(
            f"the function returns shape {array.shape} for {batch} inputs; expected scores for each, (batch, class)."
        )
    return torch.as_tensor(array.astype(np.float64), dtype=like.dtype, device=like.device)
