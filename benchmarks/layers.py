"""The cost of relevance at all layers of ResNet-18, compared with the input alone, and of maps through single channels.

A map through a channel is compared with a forward pass of the part of the network below the layer, for as many images.
Calls alternate, and each pair gives one ratio of CPU times; the table shows the median ratio. The weights are random,
and batch norms have plausible statistics. The exit code is 1 if a bound is missed.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torchvision.models import resnet18

from pellucid import create_analyzer

METHODS = {
    "gradient": {},
    "input_x_gradient": {},
    "deeplift": {},
    "lrp.epsilon": {},
    "lrp.gamma": {},
    "conductance": {"steps": 8},
    "integrated_gradients": {"steps": 8},
}
BOUND = 1.3
THROUGH = ("lrp.epsilon", "lrp.epsilon_plus_flat")
"""Methods whose maps through single channels are timed."""
CHANNELS, CHANNEL_BOUND = 64, 2.5
PASSES = 5
"""Number of forward passes, whose mean time is the unit."""


def network() -> nn.Module:
    """Return ResNet-18 with random weights."""
    torch.manual_seed(0)
    model = resnet18(weights=None)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model.eval()


def layers_of(model: nn.Module) -> dict[str, list[str]]:
    """Return the stages and blocks, and all layers that are called once."""
    blocks = ["conv1", "maxpool"]
    blocks += [name for stage in range(1, 5) for name in (f"layer{stage}.0", f"layer{stage}.1")] + ["avgpool"]
    single = [name for name, module in model.named_modules() if not list(module.children()) and "relu" not in name]
    single += [f"layer{stage}.{block}.relu@{call}" for stage in range(1, 5) for block in (0, 1) for call in (0, 1)]
    return {"blocks": blocks, "all": [name for name in [*single, "relu"] if name != "fc"]}


def ratio(name: str, options: dict[str, object], model: nn.Module, x: torch.Tensor, to: list[str]) -> float:
    """Return CPU time at the layers divided by that at the input."""
    analyzer = create_analyzer(name, model, **options)
    times = []
    for layers in (None, to):
        start = time.process_time()
        analyzer.analyze(x, 3, to=layers)
        times.append(time.process_time() - start)
    return times[1] / times[0]


def channel_ratio(name: str, model: nn.Module, x: torch.Tensor, layer: str) -> float:
    """Return the CPU time of a map through one of 64 channels, divided by a forward pass of the part below."""
    analyzer = create_analyzer(name, model)
    stages = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"]
    below = nn.Sequential(*(getattr(model, stage) for stage in stages[: stages.index(layer) + 1]))
    start = time.process_time()
    with torch.no_grad():
        for _ in range(PASSES):
            below(x)
    once = (time.process_time() - start) / PASSES
    start = time.process_time()
    analyzer.explain_channels(x, layer, 3, channels=CHANNELS)
    return (time.process_time() - start) / CHANNELS / once


def at_layers(options: argparse.Namespace, model: nn.Module, x: torch.Tensor) -> dict[str, list[float]]:
    """Measure relevance at layers, print the medians and return all ratios."""
    readings = {}
    for name, own in METHODS.items():
        for kind, to in layers_of(model).items():
            if name == "integrated_gradients" and kind == "all":
                continue  # a path of its own for each layer, by definition
            ratio(name, own, model, x[:1], to)  # warm up
            ratios = [ratio(name, own, model, x, to) for _ in range(options.rounds if "steps" not in own else 2)]
            readings[f"{name}, {kind} ({len(to)})"] = ratios
            print(f"{name:24} {kind:7} {len(to):3} layers  {statistics.median(ratios):.2f} ×", flush=True)
    return readings


def through_channels(options: argparse.Namespace, model: nn.Module, x: torch.Tensor) -> dict[str, list[float]]:
    """Measure maps through single channels, print the medians and return all ratios."""
    readings = {}
    for name in THROUGH:
        for layer in ("layer2", "layer3"):
            create_analyzer(name, model).explain_channels(x[:1], layer, 3, channels=2)  # warm up
            ratios = [channel_ratio(name, model, x, layer) for _ in range(options.rounds)]
            readings[f"{name}, one of {CHANNELS} channels of {layer}"] = ratios
            print(f"{name:24} channels of {layer}    {statistics.median(ratios):.2f} ×", flush=True)
    return readings


def main() -> None:
    """Print the table, and write it to a file on request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--only", choices=("layers", "channels"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, x = network(), torch.rand(options.images, 3, 224, 224)
    layers = {} if options.only == "channels" else at_layers(options, model, x)
    channels = {} if options.only == "layers" else through_channels(options, model, x)
    if options.json:
        options.json.write_text(json.dumps({**layers, **channels}, indent=1) + "\n", encoding="utf-8")
    bounds = {name: BOUND for name in layers if "steps" not in METHODS[name.split(",")[0]]}
    bounds |= dict.fromkeys(channels, CHANNEL_BOUND)
    missed = [name for name, bound in bounds.items() if statistics.median({**layers, **channels}[name]) > bound]
    for name in missed:
        print(f"missed: {name}, bound {bounds[name]}")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
