"""Part of the hook `robustness` that corrupts images."""

import torch
from torch import Tensor

from pellucid.core.contracts import Artifact
from pellucid.diagnostics.robustness import CORRUPTIONS, CorruptionAccuracy, corrupt, corruption_accuracy
from pellucid.hooks._attacked import display
from pellucid.hooks._hook import Scene
from pellucid.plots.robustness import CorruptionCurve, accuracy_under_corruption

__all__ = ["corruption_artifact"]

LARGEST_BYTES = 200_000_000
"""Maximum size of the images held at a time."""


def corruption_artifact(scene: Scene, count: int, note: str, left_out: dict[str, str]) -> Artifact:
    """Return the figure of the accuracy on corrupted images, of `count` test images spread evenly over the test set."""
    count = max(1, min(count, LARGEST_BYTES // (4 * scene.test.pixels[0].numel())))
    indices = torch.arange(count) * len(scene.test) // count
    result = corruption_accuracy(
        scene.model,
        scene.test.floats(indices),
        scene.test.labels[indices],
        pixel_range=scene.test.scale,
        seed=scene.seed,
    )
    title = f"{scene.title}: accuracy on corrupted images"
    clean = float(result.accuracy("noise")[0])
    worst = min(result.correct, key=lambda name: float(result.accuracy(name)[1:].mean()))
    summary = (
        f"Clean {clean:.1%}, mean over all corruptions and strengths {result.mean_accuracy:.1%}; {worst} hurts most."
    )
    most = float(torch.bincount(scene.test.labels[indices]).max()) / count
    subtitle = (
        f"{count:,} test images. {summary} Bands: 95% Wilson intervals. Dashed: the share of the largest class, "
        f"{most:.0%}. Below: one test image at each strength.{scene.scale_note}{note}"
    )
    # an image in the middle of the test set, since the first ones may all be of one class
    example = scene.test.floats(indices[count // 2 : count // 2 + 1])
    return Artifact(
        caption=f"{title}, {count:,} test images. {summary}{note}",
        figure=accuracy_under_corruption(
            [_curve(scene, result, name, example) for name in result.correct], most, (title, subtitle)
        ),
        numbers={
            "images": count,
            "strengths": {name: list(strengths) for name, strengths in result.strengths.items()},
            "units": {name: CORRUPTIONS[name].unit for name in result.strengths},
            "accuracy": {name: result.accuracy(name).tolist() for name in result.correct},
            "low": {name: result.interval(name)[0].tolist() for name in result.correct},
            "high": {name: result.interval(name)[1].tolist() for name in result.correct},
            "mean_accuracy": result.mean_accuracy,
            "left_out": left_out,
            **scene.pixel_range,
        },
    )


def _curve(scene: Scene, result: CorruptionAccuracy, name: str, example: Tensor) -> CorruptionCurve:
    strengths = result.strengths[name]
    shown = [corrupt(example, name, one, pixel_range=scene.test.scale, seed=scene.seed) for one in strengths]
    low, high = result.interval(name)
    return CorruptionCurve(
        name=name,
        unit=CORRUPTIONS[name].label,
        strengths=strengths,
        accuracy=result.accuracy(name).numpy(),
        low=low.numpy(),
        high=high.numpy(),
        examples=display(scene, torch.cat(shown)),
    )
