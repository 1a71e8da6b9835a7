"""Networks of timm, torchvision and transformers, each the smallest of its family, on the smallest input it accepts.

Nothing is downloaded: weights are random, and `alive` sets what a fresh network leaves at zero.
"""

import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from timm_networks import TIMM
from torch import Tensor, nn
from torchvision_networks import TORCHVISION
from transformers_networks import LAST_TOKEN, TRANSFORMERS

CLASSES = 10
WEAK, STRONG = 0.8, 1.2
"""Weights whose standard deviation times the root of their inputs is below the first number are scaled to the second.
A network with many small weights hardly sees its input."""


@dataclass(frozen=True)
class Architecture:
    """One network and the input it is explained on."""

    name: str
    """Library and name of the network, such as `timm/resnet10t`."""
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    """Shape of one input without the batch; (token,) for token ids."""
    output: Callable[[Any], Tensor] | None = None
    """Function from what the network returns to the logits; None if it returns logits."""

    @property
    def library(self) -> str:
        """Library that defines the network."""
        return self.name.partition("/")[0]

    @property
    def reads_tokens(self) -> bool:
        """True if the network reads token ids."""
        return len(self.shape) == 1

    def inputs(self, count: int = 2) -> Tensor:
        """Return images in [0, 1] of different brightness, or token ids; equal at each call."""
        generator = torch.Generator().manual_seed(1)
        if self.reads_tokens:
            ids = torch.randint(5, 60, (count, *self.shape), generator=generator)
            ids[:, -1] = LAST_TOKEN
            return ids
        brightness = torch.linspace(1, 0.4, count).view(count, *(1 for _ in self.shape))
        return torch.rand(count, *self.shape, generator=generator) * brightness

    def ready(self) -> nn.Module:
        """Build the network in float32 and eval mode, with random weights whose outputs differ between inputs."""
        torch.manual_seed(0)
        model = self.build()
        return alive(model, self.inputs(4))


def catalog() -> Iterator[Architecture]:
    """Yield all architectures."""
    for name, side, options in TIMM:
        yield Architecture(f"timm/{name}", _timm(name, options), (3, side, side))
    for name, (build, shape, output) in TORCHVISION.items():
        yield Architecture(f"torchvision/{name}", build, shape, output)
    for name, (build, shape) in TRANSFORMERS.items():
        yield Architecture(f"transformers/{name}", build, shape, _logits)


def required(library: str) -> Any:
    """Import a library of networks; skip the test without it, or fail in CI, where the gate has installed it."""
    try:
        return importlib.import_module(library)
    except ImportError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{library} is missing ({error}); install the extra 'integrations'.")
        pytest.skip(f"{library} is not installed (pip install -e '.[integrations]')")


def find(name: str) -> Architecture:
    """Return the architecture called `name`, such as `timm/resnet10t`."""
    return next(architecture for architecture in catalog() if architecture.name == name)


def _logits(output: Any) -> Tensor:
    logits: Tensor = output.logits
    return logits if logits.ndim == 2 else logits[:, -1, :CLASSES]  # of the next token


def _timm(name: str, options: dict[str, Any]) -> Callable[[], nn.Module]:
    return lambda: importlib.import_module("timm").create_model(name, num_classes=CLASSES, **options)


def alive(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Randomize norm statistics and constant parameters (zero-initialized gains, layer scales, position embeddings).

    An untrained network has many branches that a zero switches off, and its logits barely depend on the input.
    """
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                _randomize(parameter, generator)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.momentum = None  # the average of all batches since the reset, here of one
                module.reset_running_stats()
        model.train()
        for module in model.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.eval()
        try:
            model(inputs)
        finally:
            model.eval()
    return model.requires_grad_(False)


def _randomize(parameter: Tensor, generator: torch.Generator) -> None:
    """Replace a constant parameter by random numbers, and give weak weights their usual size."""
    if not parameter.numel():
        return
    size, inputs = float(parameter.abs().max()), parameter[0].numel() if parameter.ndim > 1 else 1
    is_constant = float(parameter.min()) == float(parameter.max())
    if parameter.ndim > 1 and (size == 0 or not is_constant):
        spread = float(parameter.std(correction=0)) * inputs**0.5
        if size == 0 or inputs == 1:
            parameter.normal_(0, inputs**-0.5, generator=generator)
        elif 0 < spread < WEAK:
            parameter.mul_(STRONG / spread)
    elif size == 0:
        parameter.normal_(0, 0.1, generator=generator)
    elif is_constant and size <= 0.1:  # a layer scale, which starts small
        parameter.uniform_(0.2, 0.6, generator=generator)
    elif is_constant:
        parameter.mul_(torch.rand(parameter.shape, generator=generator) + 0.5)
