"""The interpreter of the report in a browser, compared with torch."""

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from browser import chromium
from networks import NETWORKS, random_images, random_network
from pellucid import create_analyzer
from pellucid.engine.model import frozen
from pellucid.engine.programs.export import export_program
from pellucid.engine.programs.program import Program
from pellucid.report.sections.explain import packed

pytestmark = pytest.mark.slow

METHODS = ("gradient", "input_x_gradient", "lrp.epsilon")
RUN = """async ({ images, target }) => {
  const results = [];
  for (const image of images) {
    const result = await pellucid.runModel(Float32Array.from(image), target);
    for (const [name, map] of Object.entries(result.maps)) result.maps[name] = [...map];
    results.push({ ...result, logits: [...result.logits], probabilities: [...result.probabilities] });
  }
  return results;
}"""


@pytest.fixture(scope="module")
def tab() -> Iterator[Any]:
    with chromium("--disable-gpu") as browser:
        yield browser.new_page()


def load(tab: Any, program: Program, folder: Path) -> None:
    """Open a page that contains only the interpreter and a network."""
    page = files("pellucid.report") / "page"
    scripts = "".join(f"<script>{(page / name).read_text('utf-8')}</script>" for name in ("page.js", "maps.js", "interpreter.js"))
    model = {"program": program.record, "weights": packed(program.weights), "indices": packed(program.indices)}
    data = f'<script type="application/json" id="data-draw">{json.dumps({"model": model})}</script>'
    (folder / "page.html").write_text(f"<!doctype html><meta charset=utf-8>{data}{scripts}", "utf-8")
    tab.goto((folder / "page.html").as_uri())


def export(model: nn.Module, images: Tensor) -> Program:
    with frozen(model):
        return export_program(model, images[:1])


def distance(own: Any, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest value of each row."""
    wanted = expected.double().flatten(1).numpy()
    return float((np.abs(np.array(own).reshape(wanted.shape) - wanted) / np.abs(wanted).max(1, keepdims=True)).max())


def compare(tab: Any, model: nn.Module, images: Tensor, target: int | None = None) -> list[dict[str, Any]]:
    """Assert that logits, probabilities and maps are those of torch; return the results."""
    results = tab.evaluate(RUN, {"images": images.flatten(1).tolist(), "target": target})
    with torch.no_grad():
        logits = model(images)
    targets = logits.argmax(1) if target is None else torch.full((len(images),), target)
    assert [result["prediction"] for result in results] == logits.argmax(1).tolist()
    assert [result["target"] for result in results] == targets.tolist()
    assert distance([result["logits"] for result in results], logits) < 1e-5
    assert distance([result["probabilities"] for result in results], logits.softmax(1)) < 1e-5
    for name in METHODS:
        # in float64: the float32 rounding of the library's own maps can exceed 1e-4 behind a sigmoid
        expected = create_analyzer(name, model.double()).analyze(images.double(), targets).sum(1)
        assert distance([result["maps"][name] for result in results], expected) < 1e-4, name
        totals = [result["sums"][name] for result in results]
        assert np.allclose(totals, expected.sum((1, 2)), rtol=1e-4, atol=1e-4 * float(expected.abs().sum()))
        model.float()
    return results


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_equal_those_of_torch(name: str, tab: Any, tmp_path: Path) -> None:
    model, size = random_network(name)
    images = random_images(size, 3)
    load(tab, export(model, images), tmp_path)
    compare(tab, model, images)
    for result in compare(tab, model, images, target=2):
        parts = result["certificate"]
        absorbed = parts["pixels"] + parts["bias"] + parts["stabiliser"] + parts["constant"]
        assert absorbed == pytest.approx(parts["logit"], abs=1e-6)
        assert parts["logit"] == pytest.approx(result["logits"][2], rel=1e-5)
        assert parts["pixels"] == pytest.approx(result["sums"]["lrp.epsilon"], abs=1e-4)
