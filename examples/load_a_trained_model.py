"""Load a model trained without pellucid, and compute its Jacobian.

python examples/load_a_trained_model.py [FOLDER]

FOLDER (default: save/example) has the weights saved by `train_and_utilise.py`. Any trained module works.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

import pellucid


def main(folder: Path) -> None:
    """Load, augment, differentiate, check, and write the Jacobians of a data set to disk."""
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2))
    model.load_state_dict(load_file(folder / "regression.safetensors"))
    augmented = pellucid.augment(model)
    points = torch.rand(256, 4, generator=torch.Generator().manual_seed(1))
    maps = augmented.return_jacobian(points)
    report = pellucid.jacobian_report(model, points)
    print(f"Jacobian of shape {tuple(maps.shape)}, computed with method {report.method}:", end=" ")
    print(f"{report.forwards} forward and {report.backwards} backward passes")
    check = pellucid.check_jacobian(model, points, maps)
    print(f"largest deviation from central differences in float64: {check.largest():.1e}")
    spectrum = pellucid.jacobian_spectrum(model, points)
    print(f"a step of length 1 changes the outputs by at most {float(spectrum.values.max()):.3f}")
    path = pellucid.jacobian_to_disk(model, points.split(100), folder / "jacobian.zarr")
    print(f"all Jacobians are in {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "save/example"))
