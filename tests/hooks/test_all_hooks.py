"""Contract of all hooks: they restore the model, are deterministic and return JSON-compatible numbers."""

import copy
import io
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from pellucid.core.contracts import Artifact
from pellucid.diagnostics.robustness import Attack, MovementSearch
from pellucid.hooks import HOOKS, Scene

COSTLY = ("influence", "out_of_distribution", "robustness")
"""Hooks that take seconds, and have quick tests of their own."""
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in COSTLY else name for name in HOOKS.names()]
Maker = Callable[..., Scene]


FAST = {
    "leaderboard": {"images": 6, "metrics": ("selectivity", "sparseness", "random_logit")},
    "gallery": {"images": 4},
    "out_of_distribution": {"density_names": ("gaussian_mixture",)},
    "robustness": {
        "images": 8,
        "attacked": 3,
        "explained": 2,
        "attack": Attack(steps=5, starts=3, rounds=3),
        "search": MovementSearch(draws=2, steps=2),
    },
}
"""Options that shorten slow hooks."""


def run(name: str, scene: Scene) -> list[Artifact]:
    if name in FAST:
        scene = replace(scene, methods=("gradient", "lrp.epsilon"))
    return list(HOOKS[name](**FAST.get(name, {})).run(scene))


def png(artifact: Artifact) -> bytes:
    buffer = io.BytesIO()
    if artifact.figure is not None:
        artifact.figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_hook_restores_the_model(name: str, make_scene: Maker) -> None:
    scene = make_scene()
    model = scene.model.train()
    model[4].eval()
    model[0].weight.grad = grad = torch.ones_like(model[0].weight)
    model[0].bias.requires_grad_(False)
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    requires = [parameter.requires_grad for parameter in model.parameters()]
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    run(name, scene)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == requires
    assert model[0].weight.grad is grad
    assert bool((grad == 1).all())
    assert all(parameter.grad is None for parameter in list(model.parameters())[1:])
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", NAMES)
def test_hook_is_deterministic(name: str, make_scene: Maker) -> None:
    for first, second in zip(run(name, make_scene()), run(name, make_scene()), strict=True):
        assert first.caption == second.caption
        numbers = [{key: value for key, value in one.numbers.items() if key != "timing"} for one in (first, second)]
        assert json.dumps(numbers[0], allow_nan=False) == json.dumps(numbers[1], allow_nan=False)
        assert all(array.tobytes() == second.arrays[key].tobytes() for key, array in first.arrays.items())
        assert png(first) == png(second)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "images",
    [
        {"count": 1},
        {"count": 3, "channels": 3, "size": (7, 12)},
        {"count": 30, "channels": 2, "chosen_classes": (2, 0)},
        {"count": 30, "chosen_classes": (3,)},  # no images
    ],
    ids=str,
)
def test_small_and_color_images(name: str, images: dict[str, object], make_scene: Maker) -> None:
    for artifact in run(name, make_scene(**images)):
        png(artifact)
        json.dumps(artifact.numbers, allow_nan=False)
        assert artifact.caption.startswith("Bars, epoch 2")
        assert "\n" not in artifact.caption
        assert all(np.isfinite(value) for value in artifact.scalars.values())


@pytest.mark.parametrize("name", NAMES)
def test_model_in_double_precision(name: str, make_scene: Maker) -> None:
    model = make_scene().model.double()
    for artifact in run(name, make_scene(model=model)):
        png(artifact)
        assert all(
            array.dtype in (np.float32, np.int64, np.int32, np.int8, np.uint8) for array in artifact.arrays.values()
        )
    assert all(p.dtype == torch.float64 for p in model.parameters())
