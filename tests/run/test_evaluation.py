"""The commands `pellucid evaluate` and `pellucid ground-truth`, and how well methods find a known ground truth."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import pellucid
from pellucid.cli import main
from pellucid.core.errors import SaveError
from pellucid.evaluation import DEFAULT_METHODS
from pellucid.evaluation._statistics import sign_flip
from pellucid.storage.runs import load_data_of

NOT_LOCALIZING = frozenset({"lrp.w_square", "smoothgrad.variance"})
"""Methods that cannot localize by definition: they ignore activations or measure the variance of gradients."""
FEW = {"integrated_gradients": {"tolerance": 0.05}, "shapley_sampling": {"permutations": 5}, "rise": {"masks": 500}}
"""Options that make slow methods faster, and still accurate enough to find a patch."""


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A run on planted patches in scikit-learn's digits."""
    folder = tmp_path_factory.mktemp("small") / "save"
    small = "--dataset planted_patch:digits --epochs 1 --hooks none --limit-train 200 --limit-test 30 --threads 1"
    assert main(["run", *small.split(), "--model", "mlp", "--save", str(folder)]) == 0
    return folder


def test_evaluate_uses_the_masks_of_the_run(small, capsys):
    asked = ["--methods", "gradient,lrp.epsilon", "--metrics", "relevance_mass,sparseness", "--images", "20"]
    assert main(["evaluate", str(small), *asked]) == 0
    output = capsys.readouterr().out
    assert "lrp.epsilon" in output
    assert "No faithfulness metric was measured" in output
    saved = json.loads((small / "evaluation" / "evaluation.json").read_text())
    assert saved["images"] == 20
    assert {row["metric"] for row in saved["rows"]} == {"relevance_mass", "sparseness"}
    assert (small / "evaluation" / "leaderboard.png").stat().st_size > 10_000
    assert len((small / "evaluation" / "evaluation.csv").read_text().splitlines()) == 1 + 2 * 6
    trained = pellucid.load_run(small)
    test = load_data_of(small, trained).test
    chosen = test[torch.arange(20) * 30 // 20]
    evaluation = pellucid.evaluate(
        trained.model, chosen.floats(), None, ["gradient"], ["relevance_mass"], masks=chosen.masks
    )
    (row,) = (row for row in saved["rows"] if (row["method"], row["metric"]) == ("gradient", "relevance_mass"))
    assert row["value"] == pytest.approx(evaluation.value("gradient", "relevance_mass"))


def test_methods_that_learn_from_data_are_fitted_to_the_training_images(small):
    asked = ["--methods", "pattern.net,random", "--metrics", "sparseness", "--images", "10"]
    assert main(["evaluate", str(small), *asked]) == 0
    rows = json.loads((small / "evaluation" / "evaluation.json").read_text())["rows"]
    trained = pellucid.load_run(small)
    data = load_data_of(small, trained)
    analyzer = pellucid.create_analyzer("pattern.net", trained.model).fit([data.train.floats()])
    chosen = data.test[torch.arange(10) * 30 // 10].floats()
    expected = pellucid.evaluate(trained.model, chosen, None, [analyzer], ["sparseness"])
    assert [row["method"] for row in rows] == [row.method for row in expected.rows]
    assert [row["value"] for row in rows] == pytest.approx([row.value for row in expected.rows])


def test_run_with_changed_data_is_refused(small):
    record = json.loads((small / "run.json").read_text())
    record["dataset"]["sha256"] = "0" * 64
    other = small.parent / "other"
    (other / "models").mkdir(parents=True)
    (other / "models" / "best.safetensors").write_bytes((small / "models" / "best.safetensors").read_bytes())
    (other / "run.json").write_text(json.dumps(record))
    with pytest.raises(SaveError, match="has changed since the run"):
        load_data_of(other, pellucid.load_run(other))
    assert main(["evaluate", str(small.parent / "absent")]) == 2


def test_ground_truth_metrics_need_masks(tmp_path, capsys):
    small = "--dataset digits --epochs 1 --hooks none --limit-train 60 --limit-test 20 --threads 1 --model mlp"
    assert main(["run", *small.split(), "--save", str(tmp_path)]) == 0
    assert main(["evaluate", str(tmp_path), "--metrics", "relevance_mass"]) == 2
    assert "have no ground-truth masks" in capsys.readouterr().err


def test_ground_truth_needs_an_accurate_network(tmp_path, capsys):
    asked = ["--datasets", "planted_patch:digits", "--epochs", "1", "--save", str(tmp_path)]
    assert main(["ground-truth", *asked]) == 1
    assert "at least 98% is required" in capsys.readouterr().err


def train(folder: Path, mnist_files: Path, name: str, epochs: int, images: int) -> Path:
    limits = f"--limit-train {images} --limit-test 400 --epochs {epochs} --hooks none --threads 1".split()
    data = ["--dataset", name, "--mirror", str(mnist_files), "--data-dir", str(folder / "data")]
    assert main(["run", *data, *limits, "--save", str(folder / name)]) == 0
    return folder / name


@pytest.mark.slow
def test_methods_find_the_planted_patch(tmp_path, mnist_files):
    folder = train(tmp_path, mnist_files, "planted_patch", epochs=2, images=12000)
    trained = pellucid.load_run(folder)
    assert max(line["validation_accuracy"] for line in trained.metrics) >= 0.98
    part = load_data_of(folder, trained, tmp_path / "data").test[:50]
    share = float(part.masks.double().mean())
    known = {method.name: method for method in pellucid.methods()}
    names = [
        name
        for name, method in known.items()
        if "class_specific" in method.promises and not method.needs_fit and name != "expected_gradients"
    ]
    asked = [pellucid.create_analyzer(name, trained.model, **FEW.get(name, {})) for name in names]
    evaluation = pellucid.evaluate(trained.model, part.floats(), None, asked, ["relevance_mass"], masks=part.masks)
    assert evaluation.value(evaluation.best("relevance_mass"), "relevance_mass") >= 0.8
    assert max(evaluation.value(name, "relevance_mass") for name in DEFAULT_METHODS if name in names) >= 0.8
    assert abs(evaluation.value("random", "relevance_mass") - share) <= 0.02
    for row in evaluation.rows:
        if row.method.partition("(")[0] in names and row.method not in NOT_LOCALIZING:
            assert row.low > share, row


@pytest.mark.slow
def test_methods_find_the_confound(tmp_path, mnist_files):
    runs = {
        name: train(tmp_path, mnist_files, name, epochs=3, images=6000) for name in ("confound", "confound.control")
    }
    learned, ignorant = (pellucid.load_run(folder) for folder in runs.values())
    assert learned.metrics[-1]["test_accuracy"] < 0.8 < 0.94 < ignorant.metrics[-1]["test_accuracy"]
    part = load_data_of(runs["confound"], learned, tmp_path / "data").validation[:100]
    names = ("gradient", "input_x_gradient", "lrp.epsilon", "lrp.alpha_2_beta_1", "deeplift")
    mass = [
        pellucid.evaluate(run.model, part.floats(), part.labels, names, ["relevance_mass"], masks=part.masks)
        for run in (learned, ignorant)
    ]
    for name in names:
        learned_mass, control_mass = (np.array(one.scores[name, "relevance_mass"].values, dtype=float) for one in mass)
        assert np.nanmean(learned_mass - control_mass) > 0, name
        assert sign_flip((learned_mass - control_mass)[:, None], seed=0)[0] < 0.01, name
