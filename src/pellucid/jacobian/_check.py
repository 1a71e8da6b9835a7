"""A Jacobian checked against central differences in float64, with the places apart where there is no derivative."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn

from pellucid.core.errors import ShapeError
from pellucid.core.isolation import isolated
from pellucid.core.seeding import generator
from pellucid.core.showing import Shown
from pellucid.engine.chunks import images_per_chunk
from pellucid.engine.freezing import frozen
from pellucid.jacobian._double import DoubleModel
from pellucid.jacobian._rows import gradient_rows
from pellucid.jacobian._ways.differences import STEP

__all__ = ["JacobianCheck", "check_jacobian"]

TOLERANCE_SHARE = 1e-5
"""A change of slope below this share of an image's largest derivative is no kink."""


@dataclass(frozen=True, eq=False, repr=False)
class JacobianCheck(Shown):
    """How far a Jacobian is from central differences, image by image, on sampled entries. Unit: output per input."""

    error: Float64[Tensor, " batch"]
    """Largest deviation of the model's float64 Jacobian over the sampled inputs off kinks; NaN where there is none."""
    given_error: Float64[Tensor, " batch"] | None
    """The same for the Jacobian that was passed in; None without one."""
    on_kink: Bool[Tensor, " batch"]
    """Images with a kink at one of their sampled inputs at least."""
    entries_on_kink: Bool[Tensor, "batch sample"]
    """The sampled inputs at which some output has a kink."""
    positions: Int64[Tensor, "batch sample"]
    """The sampled inputs, as indices into the flattened image."""
    scale: Float64[Tensor, " batch"]
    """The largest absolute entry of each image's float64 Jacobian: what an error is to be compared with."""

    def largest(self, *, with_kinks: bool = False) -> float | None:
        """The largest deviation over images that are not on a kink, of the given Jacobian if there was one.

        `with_kinks` includes the smooth entries of the images on a kink. None where no entry is left.
        """
        errors = self.error if self.given_error is None else self.given_error
        kept = errors[(~self.on_kink | with_kinks) & (~self.entries_on_kink).any(1)]
        return float(kept.max()) if len(kept) else None


def check_jacobian(
    model: nn.Module,
    x: Float[Tensor, "batch ..."],
    jacobian: Float[Tensor, "batch ..."] | None = None,
    *,
    samples: int = 16,
    seed: int = 0,
) -> JacobianCheck:
    r"""The deviation of the model's Jacobian (and of `jacobian`, if given) from central differences in float64.

    For each image, `samples` inputs are drawn; along each, all outputs are differentiated as
    \((f(x+h) - f(x-h)) / 2h\), by a copy of the model in float64.

    **Kinks.** At a ReLU exactly at zero or a tie in a max-pool there is no derivative to compare with. There,
    \(|f(x+h) - 2f(x) + f(x-h)| / h\) is the change of slope at any h, while on a smooth stretch it shrinks with h,
    however curved. So two steps are compared, h and h/4: an input is on a kink where this quantity does not shrink, or
    where the two central differences disagree (a kink within h of x).

    Raises `ModelError` for a model that cannot be copied or run in float64, `ShapeError` for a Jacobian of another
    shape.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> check = check_jacobian(model, torch.rand(2, 4))
    >>> bool(check.error.max() < 1e-7), check.on_kink.tolist()
    (True, [False, False])
    """
    if samples < 1 or x.ndim < 2 or not len(x):
        raise ShapeError(
            f"x has shape {tuple(x.shape)} and samples is {samples}; give (batch, …) and at least 1 sample."
        )
    with isolated(), frozen(model):
        double = DoubleModel(model)
        inputs = double.prepare(x)
        positions = _draw_positions(inputs, samples, seed).to(inputs.device)
        exact, scale = _exact_entries(double, inputs, positions)  # first: it refuses batch statistics
        with torch.no_grad():
            slopes, kinks = _slopes_and_kinks(double, inputs, positions)
        share = TOLERANCE_SHARE * scale[:, None, None]
        on_kink = ((kinks.disagreement > share) | (kinks.bend > share) & (kinks.bend > kinks.wide_bend / 2)).any(2)
        given = None if jacobian is None else _given_entries(jacobian, exact, x, positions)
        return JacobianCheck(
            error=_largest_off_kinks(exact - slopes, on_kink),
            given_error=None if given is None else _largest_off_kinks(given - slopes, on_kink),
            on_kink=on_kink.any(1).cpu(),
            entries_on_kink=on_kink.cpu(),
            positions=positions.cpu(),
            scale=scale.cpu(),
        )


def _draw_positions(inputs: Tensor, samples: int, seed: int) -> Tensor:
    """(batch, sample): different inputs of each image, in random order; all of them where there are so few."""
    shape, source = (len(inputs), inputs[0].numel()), generator(seed, "check_jacobian")
    draws = torch.rand(shape, generator=source, dtype=torch.float32, device="cpu")
    return draws.argsort(1)[:, :samples]


@dataclass(frozen=True, eq=False)
class _Kinks:
    """What tells a kink, each (batch, sample, output), with the rounding error taken off."""

    disagreement: Tensor
    """Between the central differences at the two steps."""
    bend: Tensor
    """|f(x+h) - 2f(x) + f(x-h)| / h at the small step."""
    wide_bend: Tensor
    """The same at the large step."""


def _slopes_and_kinks(double: DoubleModel, inputs: Tensor, positions: Tensor) -> tuple[Tensor, _Kinks]:
    """Central differences at the large step, and how they compare with those at the small one."""
    wide = STEP * 2.0 ** max(0, int(inputs.abs().max().clamp(min=1e-300).log2().ceil()))
    near = wide / 4
    chunk = images_per_chunk(double, inputs)
    centre = torch.cat([double(part).flatten(1) for part in inputs.split(chunk)])[:, None]
    columns = []
    for sample in range(positions.shape[1]):
        moved = [_moved(inputs, positions[:, sample], step) for step in (wide, -wide, near, -near)]
        values = torch.cat([double(part).flatten(1) for part in torch.cat(moved).split(chunk)])
        columns.append(values.unflatten(0, (4, len(inputs))))
    right, left, near_right, near_left = torch.stack(columns, 2)  # each (batch, sample, output)
    slopes, near_slopes = (right - left) / (2 * wide), (near_right - near_left) / (2 * near)
    noise = 256 * torch.finfo(torch.float64).eps * centre.abs().amax(2, keepdim=True) / near
    return slopes, _Kinks(
        disagreement=(slopes - near_slopes).abs() - noise,
        bend=(near_right - 2 * centre + near_left).abs() / near - noise,
        wide_bend=(right - 2 * centre + left).abs() / wide - noise,
    )


def _moved(inputs: Tensor, positions: Tensor, step: float) -> Tensor:
    """Each image with one input moved by `step`."""
    flat = inputs.flatten(1).clone()
    flat[torch.arange(len(flat), device=flat.device), positions] += step
    return flat.view_as(inputs)


def _exact_entries(double: DoubleModel, inputs: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """The float64 Jacobian at the sampled inputs (batch, sample, output), and its largest absolute entry."""
    entries, scales = [], []
    double(inputs[:1].clone().requires_grad_())  # first of all, since it refuses batch statistics
    for part, here in zip(*(t.split(images_per_chunk(double, inputs)) for t in (inputs, positions)), strict=True):
        rows = [row.flatten(1) for row in gradient_rows(double, part)]
        entries.append(torch.stack([row.gather(1, here) for row in rows], 2))
        scales.append(torch.stack([row.abs().amax(1) for row in rows], 1).amax(1))
    return torch.cat(entries), torch.cat(scales)


def _given_entries(jacobian: Tensor, exact: Tensor, x: Tensor, positions: Tensor) -> Tensor:
    batch, _, outputs = exact.shape
    fits = jacobian.shape[:1] == x.shape[:1] and jacobian.shape[jacobian.ndim - x.ndim + 1 :] == x.shape[1:]
    if not fits or jacobian.numel() != outputs * x.numel():
        raise ShapeError(
            f"the Jacobian has shape {tuple(jacobian.shape)}; for {outputs} outputs and inputs {tuple(x.shape)} it "
            "should be (batch, *outputs, *inputs)."
        )
    flat = jacobian.detach().to(exact).reshape(batch, outputs, -1).movedim(1, 2)
    return flat.gather(1, positions[:, :, None].expand(-1, -1, outputs))


def _largest_off_kinks(deviation: Tensor, on_kink: Tensor) -> Tensor:
    """(batch,): the largest absolute deviation of the entries that are not on a kink; NaN where there is none."""
    largest = deviation.abs().amax(2).masked_fill(on_kink, -1).amax(1)
    return largest.masked_fill(largest < 0, torch.nan).cpu()
