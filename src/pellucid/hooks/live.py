"""The network as a program that the report can run on any image: weights, steps and a few examples."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.attribution import create_analyzer
from pellucid.attribution._explanation import without_warnings
from pellucid.core.errors import PellucidError
from pellucid.engine.model import dtype_of, frozen
from pellucid.engine.programs.export import export_program
from pellucid.engine.programs.interpreter import run_program
from pellucid.engine.programs.program import Program
from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.hooks._budget import TOO_EXPENSIVE, Allowance
from pellucid.hooks._hook import left_out
from pellucid.hooks._predictions import predictions_of
from pellucid.hooks._strokes import stroke_style

__all__ = ["Live"]

EXAMPLES = 10
"""Maximum number of example images."""
EXAMPLE_VALUES = 150_000
"""Maximum number of values in all examples, which bounds the size of the report."""
STYLE_IMAGES = 300
"""Maximum number of test images for measuring how they are drawn."""
TOLERANCE = 1e-4
"""Largest difference between program and network, relative to the largest value."""
PASSES = 12
"""Upper bound on the cost of checking one image, in forward passes."""


@HOOKS.register("live")
@dataclass(frozen=True)
class Live(Hook):
    """The network as a program of at most 400,000 weights, for maps computed in the report."""

    when: ClassVar[Literal["epoch", "end"]] = "end"

    weights: int = 400_000
    """Maximum number of weights, which bounds the size of the report."""
    multiply_adds: int = 15_000_000
    """Maximum number of multiplications per forward pass, which bounds the time per image in the report."""
    checks: int = 3
    """Number of test images on which program and network must agree."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """Yield the arrays `weights`, `indices` and `examples` (image, channel, height, width), and numbers.

        `program` is the record of a program with these weights and indices, see `pellucid.engine.programs`; `drawing`
        is the style of the data's shapes, None for photographs; `crop_share` is the part of an image's shorter side
        that the preprocessing keeps; `indices`, `labels` and `predictions` describe the examples. If the network cannot
        be exported, the reason is given instead.
        """
        if not len(scene.test):
            return
        try:
            program = self._exported(scene)
        except (PellucidError, RuntimeError) as error:  # also what torch raises for a copy on another device
            yield left_out(scene, _reason(error))
            return
        indices = _examples(scene)
        yield Artifact(
            caption=f"{scene.title}: network with {len(program.weights):,} weights, which runs in the report.",
            arrays={
                "weights": program.weights,
                "indices": program.indices,
                "examples": np.rint(scene.test.shown(indices).numpy() * 255).astype(np.uint8),
            },
            numbers={
                "program": program.record,
                "drawing": _drawing(scene),
                "crop_share": _crop_share(scene.model),
                **predictions_of(scene, indices).numbers,
            },
        )

    def _exported(self, scene: Scene) -> Program:
        """Return the program of the scene's network; raises `PellucidError` if it is unsuitable."""
        channels = scene.test.image_shape[0]
        if channels not in (1, 3):
            raise PellucidError(f"its images have {channels} channels; only gray and color images can be drawn")
        if not scene.is_displayed:
            raise PellucidError("the normalization of its images is unknown, so their pixels are not in [0, 1]")
        if not bool(scene.logits.isfinite().all()):
            raise PellucidError("its logits are not finite")
        weights = sum(parameter.numel() for parameter in scene.model.parameters())
        if weights > self.weights:
            raise PellucidError(f"it has {weights:,} weights, and the report holds at most {self.weights:,}")
        allowance = Allowance(scene, "live")
        checks = allowance.affordable(PASSES if allowance.is_limited else 0, min(self.checks, len(scene.test)))
        if not checks:
            raise PellucidError(TOO_EXPENSIVE.format(name="lrp.epsilon"))
        # on the CPU, because the convolutions of a GPU round to fewer digits than are compared
        model = scene.model if scene.device.type == "cpu" else copy.deepcopy(scene.model).cpu()
        images = scene.test.floats(list(range(checks))).to(dtype_of(model))
        with frozen(model):
            program = export_program(model, images[:1])
        if len(program.weights) + len(program.indices) > self.weights:
            count = len(program.weights) + len(program.indices)
            raise PellucidError(f"it needs {count:,} stored numbers, and the report holds at most {self.weights:,}")
        if program.multiply_adds > self.multiply_adds:
            count, most = program.multiply_adds, self.multiply_adds
            raise PellucidError(f"it needs {count:,} multiplications per image, and the report allows at most {most:,}")
        _check(model, program, images)
        return program


def _reason(error: Exception) -> str:
    """Return an error as one line that continues a sentence."""
    return " ".join(str(error).split()).removesuffix(".")


def _unlike(images: Tensor) -> Tensor:
    """Return a negative and noise: a program that fits only images like the exported one gives other logits for them.

    Masks and orders that depend on the image, for example, are exported as they are for one image.
    """
    noise = torch.rand(images[:1].shape, generator=torch.Generator().manual_seed(0)).to(images)
    return torch.cat([1 - images[:1], noise])


def _check(model: nn.Module, program: Program, images: Tensor) -> None:
    """Raise `PellucidError` unless logits and maps of the program are those of the network."""
    others = _unlike(images)
    with frozen(model), torch.no_grad():
        logits, other_logits = model(images), model(others)
    targets = logits.argmax(1)
    with without_warnings():
        explained = {
            name: create_analyzer(name, model).analyze(images, targets).double().numpy()
            for name in ("gradient", "lrp.epsilon")
        }
    pairs = zip(images.numpy(), targets.tolist(), strict=True)
    try:
        own = [run_program(program, image, target) for image, target in pairs]
        more = [run_program(program, image).logits for image in others.numpy()]
    except (ArithmeticError, LookupError, ValueError) as error:  # a wrong program must not fail the user's run
        raise PellucidError(f"its program cannot be run ({type(error).__name__}: {error})") from error
    gaps = {
        "logits": _gaps([*(one.logits for one in own), *more], torch.cat([logits, other_logits]).double().numpy()),
        "gradients": _gaps([one.gradient for one in own], explained["gradient"]),
        "relevance maps": _gaps([one.relevance for one in own], explained["lrp.epsilon"]),
    }
    for name, gap in gaps.items():
        # the median of maps: a unit within rounding of a kink may differ in one image; logits have no such jumps
        largest = float(np.max(gap) if name == "logits" else np.median(gap))
        if not largest <= TOLERANCE:
            raise PellucidError(
                f"the {name} of its program differ from the network's by {largest:.1e}, relative to the largest value"
            )


def _gaps(own: list[np.ndarray], expected: np.ndarray) -> list[float]:
    """Return the largest difference for each image, relative to the largest value."""
    return [
        float(np.abs(one - other).max() / max(np.abs(other).max(), 1e-12))
        for one, other in zip(own, expected, strict=True)
    ]


def _examples(scene: Scene) -> list[int]:
    """Return the first correctly classified image of each class, or else the first: as many as fit into the page."""
    most = min(EXAMPLES, EXAMPLE_VALUES // max(1, scene.test.pixels[0].numel()))
    predictions = scene.logits.argmax(1)
    chosen = []
    for label in scene.shown_classes(most, with_images=True) if most else []:
        own = (scene.test.labels == label).nonzero().flatten()
        right = own[predictions[own] == label]
        chosen.append(int((right if len(right) else own)[0]))
    return chosen


def _drawing(scene: Scene) -> dict[str, Any] | None:
    if scene.test.image_shape[0] != 1:
        return None
    count = min(len(scene.test), STYLE_IMAGES)
    spread = (torch.arange(count) * len(scene.test) // count).tolist()
    return stroke_style(scene.test.floats(spread)[:, 0].numpy())


def _crop_share(model: torch.nn.Module) -> float:
    """Return the part of the shorter side that the model's preprocessing keeps; 1 if it does not crop."""
    steps = getattr(model, "preprocessing", None)
    resize, crop = (getattr(steps, name, None) for name in ("resize", "crop"))
    return min(1.0, _shortest(crop) / _shortest(resize)) if resize and crop else 1.0


def _shortest(size: int | tuple[int, int]) -> int:
    return size if isinstance(size, int) else min(size)
