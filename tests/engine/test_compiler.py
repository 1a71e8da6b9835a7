"""Explaining a model must not import torch's compiler, which takes seconds."""

import subprocess
import sys

PROGRAM = """
import sys, torch, pellucid
from torch import nn
model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)).eval()
for name in ("lrp.epsilon", "deeplift", "guided_backprop"):
    pellucid.create_analyzer(name, model).explain(torch.rand(40, 1, 8, 8), 1)
print("torch._dynamo" in sys.modules)
"""


def test_the_first_call_does_not_import_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "False"
