"""The cost of relevance at all layers of ResNet-18, compared with the input alone.

Calls alternate, and each pair gives one ratio of CPU times; the table shows the median ratio. The weights are random,
and batch norms have plausible statistics.
"""

import argparse
import json
import statistics
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


def main() -> None:
    """Print the table, and write it to a file on request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, x = network(), torch.rand(options.images, 3, 224, 224)
    readings = {}
    for name, own in METHODS.items():
        for kind, to in layers_of(model).items():
            if name == "integrated_gradients" and kind == "all":
                continue  # a path of its own for each layer, by definition
            ratio(name, own, model, x[:1], to)  # warm up
            ratios = [ratio(name, own, model, x, to) for _ in range(options.rounds if "steps" not in own else 2)]
            readings[f"{name}, {kind} ({len(to)})"] = ratios
            print(f"{name:24} {kind:7} {len(to):3} layers  {statistics.median(ratios):.2f} ×", flush=True)
    if options.json:
        options.json.write_text(json.dumps(readings, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
