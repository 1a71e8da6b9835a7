"""`pellucid export`: the table, read with DuckDB and pandas, has the values of the run."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import required
from PIL import Image

from pellucid import inspect, load_run
from pellucid.cli import main
from pellucid.core.errors import ConfigError
from pellucid.data import Request, load_data
from pellucid.data._open import open_data
from pellucid.engine.tap import find_embedding
from pellucid.storage.runs import load_data_of
from pellucid.storage.store import Store

pytestmark = pytest.mark.integrations

SIZE = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three classes, told apart by color, without a test part."""
    root, draws = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for label, name in enumerate(("blue", "green", "red")):
        (root / name).mkdir()
        for number in range(40):
            pixels = draws.integers(0, 120, (SIZE, SIZE, 3), np.uint8)
            pixels[..., 2 - label] += 60
            Image.fromarray(pixels).save(root / name / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    save = tmp_path_factory.mktemp("trained") / "save"
    assert main(["run", "--dataset", f"folder:{folder}", "--model", "mlp", "--epochs", "2", "--hooks", "tsne",
                 "--serial", "--limit-test", "20", "--save", str(save)]) == 0  # fmt: skip
    return save


@pytest.fixture(scope="module")
def inspected(trained: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    save = tmp_path_factory.mktemp("inspected") / "save"
    assert main(["inspect", "--model", f"run:{trained}", "--dataset", f"folder:{folder}", "--hooks", "none",
                 "--budget", "small", "--save", str(save)]) == 0  # fmt: skip
    return save


def export(save: Path, to: Path) -> Any:
    """Export a run and return the table as DuckDB reads it, with the schema's metadata."""
    assert main(["export", str(save), "--to", str(to)]) == 0
    return required("duckdb").connect().execute(f"select * from '{to}'").fetch_df()


def test_a_training_run(trained: Path, folder: Path, tmp_path: Path) -> None:
    table = export(trained, tmp_path / "run.parquet")
    run = load_run(trained)
    test = load_data_of(trained, run).test
    with torch.no_grad():
        logits = run.model(test.floats())
    assert len(table) == len(test) == 20
    assert table["index"].tolist() == list(range(20))
    assert table["label"].tolist() == [run.classes[label] for label in test.labels.tolist()]
    assert table["prediction_index"].tolist() == logits.argmax(1).tolist()
    assert table["is_correct"].tolist() == (logits.argmax(1) == test.labels).tolist()
    probabilities = torch.from_numpy(np.stack(table["probabilities"]))
    torch.testing.assert_close(probabilities, logits.softmax(1))
    loss = torch.nn.functional.cross_entropy(logits, test.labels, reduction="none")
    assert np.allclose(table["loss"], loss)
    assert np.allclose(table["probability"], logits.softmax(1).amax(1))
    assert np.allclose(table["probability_of_label"], logits.softmax(1)[torch.arange(20), test.labels])
    embedding = find_embedding(run.model, test.floats()).read(test.floats())
    assert np.allclose(np.stack(table["embedding"]), embedding.numpy())
    # the file of each row is the image that the model saw
    for path, pixels in zip(table["path"], test.pixels, strict=True):
        assert path.startswith(str(folder))
        assert np.array_equal(np.asarray(Image.open(path)), pixels.permute(1, 2, 0).numpy())
    for cell, pixels in zip(table["image"], test.pixels, strict=True):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(cell["bytes"]))), pixels.permute(1, 2, 0).numpy())


def test_the_projection_is_the_tsne_of_the_exported_weights(trained: Path, tmp_path: Path) -> None:
    table = export(trained, tmp_path / "run.parquet")
    store = Store(trained)
    best = max(line["epoch"] for line in store.metrics() if line["best"])
    arrays = store.read_arrays(f"plots/tsne/epoch_{best:03d}.npz")
    assert np.array_equal(table[["projection_x", "projection_y"]].to_numpy()[arrays["indices"]], arrays["points"])
    about = metadata(tmp_path / "run.parquet")
    assert about["projection"] == f"t-SNE of epoch {best}"
    assert (about["epoch"], about["classes"]) == (best, ["blue", "green", "red"])


def metadata(path: Path) -> dict[str, Any]:
    return json.loads(required("pyarrow.parquet").read_schema(path).metadata[b"pellucid"])


def test_an_inspected_model(inspected: Path, trained: Path, folder: Path, tmp_path: Path) -> None:
    table = export(inspected, tmp_path / "inspected.parquet")
    assert len(table) == 120
    run = load_run(trained)
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in table["path"]])
    with torch.no_grad():
        logits = run.model(pixels / 255)
    torch.testing.assert_close(torch.from_numpy(np.stack(table["probabilities"])), logits.softmax(1))
    assert [Path(path).parent.name for path in table["path"]] == table["label"].tolist()
    assert metadata(tmp_path / "inspected.parquet")["projection"] == "principal components of the embedding"
    # the variance along the projection is the largest possible, from a singular value decomposition
    embedding = np.stack(table["embedding"]).astype(np.float64)
    values = np.linalg.svd(embedding - embedding.mean(0), compute_uv=False)
    points = table[["projection_x", "projection_y"]].to_numpy().astype(np.float64)
    assert np.allclose((points**2).sum(0), values[:2] ** 2, rtol=1e-4)


def test_neighbors_are_the_nearest_rows(inspected: Path, tmp_path: Path) -> None:
    table = export(inspected, tmp_path / "inspected.parquet")
    embedding = np.stack(table["embedding"]).astype(np.float64)
    distances = np.linalg.norm(embedding[:, None] - embedding[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    for row, cell in enumerate(table["neighbors"]):
        assert np.allclose(cell["distances"], np.sort(distances[row])[:10], atol=1e-4)
        assert np.allclose(distances[row][list(cell["ids"])], cell["distances"], atol=1e-4)


def test_pandas_reads_the_table_and_pellucid_too(inspected: Path, tmp_path: Path) -> None:
    export(inspected, tmp_path / "again.parquet")
    table = required("pandas").read_parquet(tmp_path / "again.parquet")
    documented = "index path label prediction probabilities loss embedding projection_x projection_y neighbors image"
    assert set(documented.split()) <= set(table.columns)
    opened = open_data(str(tmp_path / "again.parquet"), Request(tmp_path))
    assert opened.test.classes == ("blue", "green", "red")
    splits = load_data(str(tmp_path / "again.parquet"), Request(tmp_path))
    assert splits.test.image_shape == (3, SIZE, SIZE)


def test_the_table_is_replaced_as_a_whole(
    inspected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "out.parquet"
    to.write_bytes(b"earlier")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pellucid.storage.atomic.replace_file", full)
    assert main(["export", str(inspected), "--to", str(to)]) == 1
    assert "the disk is full" in capsys.readouterr().err
    assert to.read_bytes() == b"earlier"


def test_changed_data_and_weights_are_refused(
    folder: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, save = tmp_path / "photos", tmp_path / "save"
    for name in ("blue", "green", "red"):
        (photos / name).mkdir(parents=True)
        for number in range(3):
            (photos / name / f"{number}.png").write_bytes((folder / name / f"{number:02}.png").read_bytes())
    shutil.copytree(trained, tmp_path / "copy")
    model = tmp_path / "copy" / "models" / "best.safetensors"
    flags = ["--model", f"run:{tmp_path / 'copy'}", "--dataset", f"folder:{photos}", "--hooks", "none"]
    assert main(["inspect", *flags, "--save", str(save)]) == 0, capsys.readouterr().err
    assert main(["export", str(save), "--to", str(tmp_path / "a.parquet")]) == 0
    from safetensors.torch import load_file, save_file

    content = model.read_bytes()
    save_file({name: value + 1 for name, value in load_file(model).items()}, model)
    assert main(["export", str(save), "--to", str(tmp_path / "b.parquet")]) == 2
    assert "/copy have changed since the run" in capsys.readouterr().err
    model.write_bytes(content)
    Image.new("RGB", (SIZE, SIZE)).save(photos / "blue" / "0.png")
    assert main(["export", str(save), "--to", str(tmp_path / "b.parquet")]) == 2
    assert "has changed since the run" in capsys.readouterr().err
    assert not (tmp_path / "b.parquet").exists()


def test_runs_of_a_program_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    inspect(model, (torch.rand(8, 1, 4, 4), torch.arange(8) % 2), save=tmp_path / "save", hooks="none")
    assert main(["export", str(tmp_path / "save"), "--to", str(tmp_path / "a.parquet")]) == ConfigError.exit_code
    assert (
        "was written by a Python program (pellucid.inspect), and only that program has its model and data"
        in capsys.readouterr().err
    )


def test_a_model_without_an_embedding(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets_of_export.py").write_text(
        "from torch import nn\n"
        "def pooled():\n"
        "    return nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    save, to = tmp_path / "save", tmp_path / "a.parquet"
    flags = ["--model", "nets_of_export:pooled", "--dataset", f"folder:{folder}", "--hooks", "none"]
    assert main(["inspect", *flags, "--save", str(save)]) == 0
    assert main(["export", str(save), "--to", str(to)]) == 2  # without --trust
    assert main(["export", str(save), "--to", str(to), "--trust"]) == 0
    assert metadata(to)["embedding"].startswith("the logits, because there is no embedding (")
    assert metadata(to)["projection"] == "principal components of the logits"
