"""The interpreter of the report in a browser, compared with torch."""

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from browser import chromium
from networks import NETWORKS, random_images, random_network
from pellucid import create_analyzer
from pellucid.engine.model import frozen
from pellucid.engine.programs.export import export_program
from pellucid.report.sections.explain import packed

pytestmark = pytest.mark.slow

METHODS = ("gradient", "input_x_gradient", "lrp.epsilon")
IMAGES = 3
TARGETS = (None, None, 2)
"""The explained class of each image; None for the predicted one."""
RUN = """async ([name, images, targets]) => {
  const { program, weights, indices } = networks[name];
  const [floats, integers] = await Promise.all([weights, indices].map(pellucid.unpack));
  const run = pellucid.interpreter(program, new Float32Array(floats.buffer), new Int32Array(integers.buffer));
  return images.map((image, number) => {
    const result = run(Float32Array.from(image), targets[number]);
    for (const [method, map] of Object.entries(result.maps)) result.maps[method] = [...map];
    return { ...result, logits: [...result.logits], probabilities: [...result.probabilities] };
  });
}"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A page with the interpreter and all networks."""
    networks = {}
    for name in NETWORKS:
        model, size = random_network(name)
        with frozen(model):
            program = export_program(model, random_images(size, 1))
        networks[name] = {
            "program": program.record,
            "weights": packed(program.weights),
            "indices": packed(program.indices.astype(np.int32)),
        }
    page = files("pellucid.report") / "page"
    scripts = [(page / name).read_text("utf-8") for name in ("page.js", "maps.js", "interpreter.js")]
    path = tmp_path_factory.mktemp("page") / "page.html"
    code = "\n".join([*scripts, f"const networks = {json.dumps(networks)};"])
    path.write_text(f"<!doctype html><meta charset=utf-8><script>{code}</script>", "utf-8")
    with chromium("--disable-gpu") as browser:
        tab = browser.new_page()
        tab.goto(path.as_uri())
        yield tab


def distance(own: Any, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest value of each row."""
    wanted = expected.double().flatten(1).numpy()
    return float((np.abs(np.array(own).reshape(wanted.shape) - wanted) / np.abs(wanted).max(1, keepdims=True)).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_maps_and_certificates_are_those_of_torch(name: str, tab: Any) -> None:
    model, size = random_network(name)
    images = random_images(size, IMAGES)
    results = tab.evaluate(RUN, [name, images.flatten(1).tolist(), TARGETS])
    # in float64: the float32 rounding of the library's own maps can exceed 1e-4 behind a sigmoid
    model, images = model.double(), images.double()
    with torch.no_grad():
        logits = model(images)
    targets = torch.tensor(
        [int(row.argmax()) if target is None else target for row, target in zip(logits, TARGETS, strict=True)]
    )
    assert [result["prediction"] for result in results] == logits.argmax(1).tolist()
    assert [result["target"] for result in results] == targets.tolist()
    assert distance([result["logits"] for result in results], logits) < 1e-5
    assert distance([result["probabilities"] for result in results], logits.softmax(1)) < 1e-5
    for method in METHODS:
        expected = create_analyzer(method, model).analyze(images, targets).sum(1)
        assert distance([result["maps"][method] for result in results], expected) < 1e-4, method
        sums = [result["sums"][method] for result in results]
        assert np.allclose(sums, expected.sum((1, 2)), rtol=0, atol=1e-4 * float(expected.abs().sum((1, 2)).max()))
    for result, target in zip(results, targets.tolist(), strict=True):
        parts = result["certificate"]
        absorbed = parts["pixels"] + parts["bias"] + parts["stabiliser"] + parts["constant"]
        assert absorbed == pytest.approx(parts["logit"], abs=1e-6)
        assert parts["logit"] == pytest.approx(result["logits"][target], rel=1e-5)
        assert parts["pixels"] == pytest.approx(result["sums"]["lrp.epsilon"], abs=1e-4)


def test_logits_that_are_not_finite_have_no_maps(tab: Any) -> None:
    run = """() => {
      const step = { op: "dense", from: [0], to: 1, shape: [2], weight: [0, 4], bias: null };
      const program = { input: [1, 1, 2], classes: 2, epsilon: 1e-7, steps: [step] };
      const weights = new Float32Array([1, 2, NaN, 4]);
      const result = pellucid.interpreter(program, weights, new Int32Array())(new Float32Array([1, 1]));
      return [result.prediction, result.target, result.maps, result.certificate];
    }"""
    assert tab.evaluate(run) == [None, None, None, None]


def test_an_input_of_another_size_is_refused(tab: Any) -> None:
    with pytest.raises(Exception, match=r"takes 16 values \(1 × 4 × 4\), got 15"):
        tab.evaluate(RUN, ["one layer", [[0.0] * 15], [None]])
