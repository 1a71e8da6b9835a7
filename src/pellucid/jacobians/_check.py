"""Checks of a Jacobian against central differences in float64, with non-differentiable points reported separately."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from pellucid.core.errors import ShapeError
from pellucid.core.finite import check_inputs
from pellucid.core.isolation import isolated
from pellucid.core.options import check_argument
from pellucid.core.seeding import generator
from pellucid.core.showing import Shown
from pellucid.engine.arrays import described
from pellucid.engine.inputs import check_is_model, one_tensor
from pellucid.engine.model import Network, check_model, dtype_of, frozen, images_per_chunk, unwrap
from pellucid.engine.wrapping import check_hidden_norms
from pellucid.jacobians._algorithms.differences import STEP
from pellucid.jacobians._double import DoubleModel
from pellucid.jacobians._problem import Problem, check_count
from pellucid.jacobians._rows import gradient_rows

__all__ = ["JacobianCheck", "check_jacobian"]

TOLERANCE_SHARE = 1e-5
"""Changes of slope below this share of an image's largest derivative do not count as kinks."""


@dataclass(frozen=True, eq=False, repr=False)
class JacobianCheck(Shown):
    """Deviation of a Jacobian from central differences per image, on sampled inputs, in units of output per input."""

    error: Float64[Tensor, " batch"]
    """Largest deviation of the model's float64 Jacobian over sampled inputs without a kink; NaN if all have one."""
    given_error: Float64[Tensor, " batch"] | None
    """The same for the Jacobian passed in; None if none was."""
    on_kink: Bool[Tensor, " batch"]
    """Images with a kink at one or more of their sampled inputs."""
    entries_on_kink: Bool[Tensor, "batch sample"]
    """Sampled inputs at which at least one output has a kink."""
    positions: Int64[Tensor, "batch sample"]
    """Indices of the sampled inputs in the flattened image."""
    scale: Float64[Tensor, " batch"]
    """Largest absolute entry of each image's float64 Jacobian, for judging the size of an error."""

    def largest(self, *, with_kinks: bool = False) -> float | None:
        """Return the largest deviation over images without a kink, of the given Jacobian if there is one.

        `with_kinks` adds the smooth entries of images with a kink. Returns None if no entry remains.
        """
        errors = self.error if self.given_error is None else self.given_error
        kept = errors[(~self.on_kink | with_kinks) & (~self.entries_on_kink).any(1)]
        return float(kept.max()) if len(kept) else None


def check_jacobian(
    model: Network,
    x: Float[Tensor, "batch ..."],
    jacobian: Float[Tensor, "batch ..."] | None = None,
    *,
    samples: int = 16,
    seed: int = 0,
) -> JacobianCheck:
    r"""Compare the model's Jacobian (and `jacobian`, if given) with central differences in float64.

    For each image, `samples` random inputs are perturbed in a float64 copy of the model, and all outputs are
    differentiated along each as \((f(x+h) - f(x-h)) / 2h\).

    **Kinks.** Where a ReLU is exactly at zero or a max-pool has a tie, no derivative exists. There,
    \(|f(x+h) - 2f(x) + f(x-h)| / h\) equals the change of slope for every h, whereas for a smooth function it shrinks
    with h, however strong the curvature. The check therefore uses two steps, h and h/4: an input has a kink if this
    quantity does not shrink, or if the two central differences disagree (a kink within h of x).

    Raises `ModelError` for a model that cannot be copied or run in float64, and `ShapeError` for a Jacobian of the
    wrong shape.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> check = check_jacobian(model, torch.rand(2, 4))
    >>> bool(check.error.max() < 1e-7), check.on_kink.tolist()
    (True, [False, False])
    """
    model = unwrap(model)
    check_is_model(model)
    x, given = one_tensor(x, model, "x"), None if jacobian is None else one_tensor(jacobian, model, "jacobian")
    check_argument("check_jacobian", "seed", seed, int)
    check_count("samples", samples, "samples")
    if not x.is_floating_point():
        raise ShapeError(f"x is {described(x)}; integers have no derivative. Pass floats.")
    if x.ndim < 2 or not x.numel():
        raise ShapeError(
            f"expected x of shape (batch, …) and at least 1 sample, got shape {tuple(x.shape)}; samples is {samples}."
        )
    with isolated(), Problem.of(model, x, None).explained_errors(), frozen(model):
        check_inputs(x)
        check_model(model, "derivatives")
        check_hidden_norms(model, x[:1].to(dtype_of(model)))
        double = DoubleModel(model)
        inputs = double.prepare(x)
        positions = _draw_positions(inputs, samples, seed).to(inputs.device)
        exact, scale = _exact_entries(double, inputs, positions)  # first, because it rejects batch statistics
        with torch.no_grad():
            slopes, kinks = _slopes_and_kinks(double, inputs, positions)
        share = TOLERANCE_SHARE * scale[:, None, None]
        # from h to h/4, the bend falls to a quarter where f is smooth and stays constant at a kink: split at one half
        on_kink = ((kinks.disagreement > share) | (kinks.bend > share) & (kinks.bend > kinks.wide_bend / 2)).any(2)
        entries = None if given is None else _given_entries(given, exact, x, positions)
        return JacobianCheck(
            error=_largest_off_kinks(exact - slopes, on_kink),
            given_error=None if entries is None else _largest_off_kinks(entries - slopes, on_kink),
            on_kink=on_kink.any(1).cpu(),
            entries_on_kink=on_kink.cpu(),
            positions=positions.cpu(),
            scale=scale.cpu(),
        )


def _draw_positions(inputs: Tensor, samples: int, seed: int) -> Tensor:
    """Return random input positions (batch, sample), distinct within an image; all inputs if there are fewer."""
    shape, source = (len(inputs), inputs[0].numel()), generator(seed, "check_jacobian")
    draws = torch.rand(shape, generator=source, dtype=torch.float32, device="cpu")
    # the ranks of random numbers are a random permutation, so no position repeats
    return draws.argsort(1)[:, :samples]


@dataclass(frozen=True, eq=False)
class _Kinks:
    """Indicators of kinks, each of shape (batch, sample, output), with the rounding error subtracted."""

    disagreement: Tensor
    """Difference between the central differences at the two steps."""
    bend: Tensor
    """|f(x+h) - 2f(x) + f(x-h)| / h for the small step."""
    wide_bend: Tensor
    """The same for the large step."""


def _slopes_and_kinks(double: DoubleModel, inputs: Tensor, positions: Tensor) -> tuple[Tensor, _Kinks]:
    """Return central differences for the large step, and the kink indicators from comparing both steps."""
    # scale the step with the inputs, by powers of two: adding it to a float32 value is then exact in float64
    # the clamp keeps the logarithm finite for images of zeros
    wide = STEP * 2.0 ** max(0, int(inputs.abs().max().clamp(min=1e-300).log2().ceil()))
    near = wide / 4
    chunk = images_per_chunk(double, inputs)
    center = torch.cat([double(part).flatten(1) for part in inputs.split(chunk)])[:, None]
    columns = []
    for sample in range(positions.shape[1]):
        perturbed = [_perturbed(inputs, positions[:, sample], step) for step in (wide, -wide, near, -near)]
        values = torch.cat([double(part).flatten(1) for part in torch.cat(perturbed).split(chunk)])
        columns.append(values.unflatten(0, (4, len(inputs))))
    right, left, near_right, near_left = torch.stack(columns, 2)  # each (batch, sample, output)
    slopes, near_slopes = (right - left) / (2 * wide), (near_right - near_left) / (2 * near)
    # bound on the rounding error of the outputs, with room for errors accumulated over many layers
    noise = 256 * torch.finfo(torch.float64).eps * center.abs().amax(2, keepdim=True) / near
    return slopes, _Kinks(
        disagreement=(slopes - near_slopes).abs() - noise,
        bend=(near_right - 2 * center + near_left).abs() / near - noise,
        wide_bend=(right - 2 * center + left).abs() / wide - noise,
    )


def _perturbed(inputs: Tensor, positions: Tensor, step: float) -> Tensor:
    """Return the images, each with one input changed by `step`."""
    flat = inputs.flatten(1).clone()
    flat[torch.arange(len(flat), device=flat.device), positions] += step
    return flat.view_as(inputs)


def _exact_entries(double: DoubleModel, inputs: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the float64 Jacobian at the sampled inputs (batch, sample, output), and its largest absolute entry."""
    entries, scales = [], []
    double(inputs[:1].clone().requires_grad_())  # rejects batch statistics before any chunking
    for part, sampled in zip(*(t.split(images_per_chunk(double, inputs)) for t in (inputs, positions)), strict=True):
        rows = [row.flatten(1) for row in gradient_rows(double, part)]
        entries.append(torch.stack([row.gather(1, sampled) for row in rows], 2))
        scales.append(torch.stack([row.abs().amax(1) for row in rows], 1).amax(1))
    return torch.cat(entries), torch.cat(scales)


def _given_entries(jacobian: Tensor, exact: Tensor, x: Tensor, positions: Tensor) -> Tensor:
    batch, _, outputs = exact.shape
    shape_matches = jacobian.shape[:1] == x.shape[:1] and jacobian.shape[jacobian.ndim - x.ndim + 1 :] == x.shape[1:]
    if not shape_matches or jacobian.numel() != outputs * x.numel():
        raise ShapeError(
            f"expected a Jacobian of shape (batch, *outputs, *inputs) for {outputs} outputs and inputs of shape "
            f"{tuple(x.shape)}, got {tuple(jacobian.shape)}."
        )
    flat = jacobian.detach().to(exact).reshape(batch, outputs, -1).movedim(1, 2)
    return flat.gather(1, positions[:, :, None].expand(-1, -1, outputs))


def _largest_off_kinks(deviation: Tensor, on_kink: Tensor) -> Tensor:
    """Return the largest absolute deviation per image over entries without a kink; NaN if there are no such entries."""
    # deviations are at least 0, so −1 only remains if every entry has a kink
    largest = deviation.abs().amax(2).masked_fill(on_kink, -1).amax(1)
    return largest.masked_fill(largest < 0, torch.nan).cpu()
