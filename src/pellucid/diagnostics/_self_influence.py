"""Influence of each example on its own loss, in closed form for the last layer."""

import torch
from torch import Tensor

__all__ = ["influence_of_norm", "last_layer_self_influence"]


def last_layer_self_influence(probabilities: Tensor, labels: Tensor, embedding: Tensor) -> Tensor:
    r"""Return the squared norm of the gradient of each example's loss for the weights and biases of the last layer.

    The loss is the cross-entropy. This is the influence of an example on its own loss at one checkpoint (TracIn, Pruthi
    et al., 2020), restricted to the last layer. There it has the closed form $\lVert p - e_y\rVert^2 (\lVert h\rVert^2
    + 1)$ with the layer's input $h$. Mislabeled examples tend to have a large one.

    >>> last_layer_self_influence(torch.tensor([[0.5, 0.5]]), torch.tensor([0]), torch.tensor([[1.0, 1.0]]))
    tensor([1.5000], dtype=torch.float64)
    """
    # the norm of half-precision numbers would overflow
    exact = embedding if embedding.dtype == torch.float64 else embedding.float()
    return influence_of_norm(probabilities, labels, torch.linalg.vector_norm(exact, dim=1).double().square())


def influence_of_norm(probabilities: Tensor, labels: Tensor, squared_norm: Tensor) -> Tensor:
    """Return the self-influence from the squared norm of each embedding."""
    own = probabilities.gather(1, labels[:, None])[:, 0].double()
    # ‖p − e_y‖² = ‖p‖² − 2 p_y + 1 = Σ_{j≠y} p_j² + (1 − p_y)², without cancellation
    others = probabilities.double().scatter(1, labels[:, None], 0.0).square().sum(1)
    return (others + (1 - own).square()) * (squared_norm.double() + 1)
