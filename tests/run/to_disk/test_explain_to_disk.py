"""Explaining a data set into a store: values, unreadable images, settings, and everything that is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import pellucid
from pellucid.attribution._explanation import without_warnings
from pellucid.core.errors import ConfigError, DataError, ModelError, SaveError, UnknownName, UnsupportedOperation

X = torch.rand(70, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(70) % 3


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()


def stored(folder: Path) -> dict[str, np.ndarray]:
    return {name: array[:] for name, array in zarr.open_group(folder, mode="r").arrays()}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".partial"
    }


def explained(model: nn.Module, name: str, x: Tensor, target: Any = None, **options: Any) -> Any:
    with without_warnings():
        return pellucid.create_analyzer(name, model, **options).explain(x, target)


class Broken(Dataset[Any]):
    """A data set with three bad images and one without a label."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if index == 3:
            raise OSError("the disk says no")
        bad = {5: torch.full((1, 8, 8), torch.nan), 40: torch.rand(1, 9, 8)}
        return bad.get(index, X[index]), None if index == 7 else Y[index]


@pytest.mark.parametrize("target", ["predicted", "label", "all", 2, "b"])
def test_every_value_is_that_of_the_analyzers(target: Any, tmp_path: Path) -> None:
    model, methods = network(), ["gradient", "lrp.epsilon", "integrated_gradients"]
    pellucid.explain_to_disk(
        model, (X, Y), tmp_path, methods=methods, target=target, classes=["a", "b", "c"], embeddings=True, shard=32
    )
    arrays = stored(tmp_path)
    asked = {"predicted": None, "label": Y, "b": 1}.get(target, target)
    for number, name in enumerate(methods):
        one = explained(model, name, X, asked)
        np.testing.assert_allclose(arrays["relevance"][:, number], one.relevance, atol=1e-6)
        if one.residual is None:
            assert np.isnan(arrays["residual"][:, number]).all()
        else:
            np.testing.assert_allclose(arrays["expected"][:, number], one.expected, atol=1e-5)
            np.testing.assert_allclose(arrays["residual"][:, number], one.residual, atol=1e-5)
        if target != "all":
            assert arrays["target"].tolist() == one.target.tolist()
    with torch.no_grad():
        logits = model(X)
        embedding = model[:-1](X)
    np.testing.assert_allclose(arrays["logits"], logits, atol=1e-6)
    np.testing.assert_allclose(arrays["embedding"], embedding, atol=1e-6)
    assert arrays["prediction"].tolist() == logits.argmax(1).tolist()
    assert arrays["label"].tolist() == Y.tolist()
    assert arrays["key"].tolist() == [str(number) for number in range(70)]
    assert set(arrays["error"]) == {""}
    assert arrays["class"].tolist() == ["a", "b", "c"]
    assert arrays["attribution"].tolist() == methods
    assert "target" in arrays or target == "all"


def test_the_jacobian_and_bare_logits(tmp_path: Path) -> None:
    model = network()
    pellucid.explain_to_disk(model, (X, Y), tmp_path / "jacobian", jacobian=True)
    arrays = stored(tmp_path / "jacobian")
    np.testing.assert_allclose(arrays["jacobian"], pellucid.jacobian(model, X), atol=1e-6)
    assert "relevance" not in arrays
    pellucid.explain_to_disk(model, (X, Y), tmp_path / "bare", methods=[])
    arrays = stored(tmp_path / "bare")
    np.testing.assert_allclose(arrays["logits"], model(X).detach(), atol=1e-6)
    assert arrays["embedding"].shape == (70, 144)
    assert "relevance" not in arrays


def test_normalization_is_part_of_the_explained_function(tmp_path: Path) -> None:
    model = network()
    normalized = (X - 0.5) / 0.25
    pellucid.explain_to_disk(model, (normalized, Y), tmp_path, methods=["gradient"], mean=0.5, std=0.25)
    expected = explained(model, "gradient", normalized).relevance / 0.25
    np.testing.assert_allclose(stored(tmp_path)["relevance"][:, 0], expected, rtol=1e-4, atol=1e-6)


def test_float16_reports_its_rounding_error(tmp_path: Path) -> None:
    model = network()
    pellucid.explain_to_disk(model, (X, Y), tmp_path, methods=["gradient"], dtype="float16", target="all")
    arrays = stored(tmp_path)
    maps = explained(model, "gradient", X, "all").relevance.numpy()
    assert arrays["relevance"].dtype == np.float16
    gap = np.abs(arrays["relevance"][:, 0].astype(np.float32) - maps).max((2, 3, 4))
    np.testing.assert_allclose(arrays["rounding"][:, 0], gap / np.abs(maps).max((2, 3, 4)), atol=1e-5)
    assert 0 < arrays["rounding"].max() < 2**-10
    large = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        large[1].weight.fill_(1e6)
    with pytest.raises(ConfigError, match="more than float16 can hold"):
        pellucid.explain_to_disk(large, (X, Y), tmp_path / "large", methods=["gradient"], dtype="float16")


def test_unreadable_images_are_recorded_and_skipped(tmp_path: Path) -> None:
    model = network()
    pellucid.explain_to_disk(model, Broken(), tmp_path / "predicted", methods=["gradient"], shard=16)
    arrays = stored(tmp_path / "predicted")
    assert np.flatnonzero(arrays["error"] != "").tolist() == [3, 5, 40]
    for index, reason in ((3, "the disk says no"), (5, "NaN or infinite"), (40, "(1, 9, 8)")):
        assert reason in arrays["error"][index]
        assert np.isnan(arrays["relevance"][index]).all()
        assert np.isnan(arrays["logits"][index]).all()
        assert arrays["prediction"][index] == -1
        assert arrays["key"][index] == str(index)
    assert arrays["label"][7] == -1
    good = [index for index in range(70) if index not in (3, 5, 40)]
    np.testing.assert_allclose(arrays["relevance"][good, 0], explained(model, "gradient", X[good]).relevance, atol=1e-6)
    pellucid.explain_to_disk(model, Broken(), tmp_path / "label", methods=["gradient"], target="label")
    assert "no label" in stored(tmp_path / "label")["error"][7]


class Explosive(nn.Module):
    """Returns NaN for images whose first pixel is large."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.network, self.limit = network(), limit

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.network(x) / (x[:, :1, 0, 0] <= self.limit)
        return result * (x[:, :1, 0, 0] <= self.limit) if self.limit < 0 else result


def test_images_for_which_the_model_fails_are_recorded(tmp_path: Path) -> None:
    limit = float(X[:, 0, 0, 0].sort().values[-4])
    pellucid.explain_to_disk(Explosive(limit), (X, Y), tmp_path, methods=["gradient"], shard=32)
    arrays = stored(tmp_path)
    bad = (X[:, 0, 0, 0] > limit).nonzero().flatten().tolist()
    assert np.flatnonzero(arrays["error"] != "").tolist() == bad
    assert len(bad) == 3
    assert all("logits for this image hold" in arrays["error"][index] for index in bad)
    good = [index for index in range(70) if index not in bad]
    expected = explained(network(), "gradient", X[good]).relevance
    np.testing.assert_allclose(arrays["relevance"][good, 0], expected, atol=1e-6)


def test_a_limit_takes_evenly_spaced_images(tmp_path: Path) -> None:
    pellucid.explain_to_disk(network(), (X, Y), tmp_path, methods=["gradient"], limit=7)
    assert stored(tmp_path)["key"].tolist() == [str(number) for number in range(0, 70, 10)]


def test_options_and_fitted_methods_are_those_of_the_analyzers(tmp_path: Path) -> None:
    model = network()
    pattern = pellucid.create_analyzer("pattern.attribution", model).fit([X])
    few = pellucid.create_analyzer("integrated_gradients", model, steps=4)
    pellucid.explain_to_disk(model, (X, Y), tmp_path, methods=[pattern, few])
    arrays = stored(tmp_path)
    with without_warnings():
        for number, one in enumerate((pattern, few)):
            np.testing.assert_allclose(arrays["relevance"][:, number], one.explain(X).relevance, atol=1e-6)
    settings = zarr.open_group(tmp_path, mode="r").attrs["settings"]["methods"]
    assert settings["integrated_gradients"]["steps"] == 4
    assert len(settings["pattern.attribution"]["fitted"]) == 16
    with pytest.raises(ConfigError, match="pattern.attribution learns from data.*fit it in Python"):
        pellucid.explain_to_disk(model, (X, Y), tmp_path / "no", methods=["pattern.attribution"])
    other = pellucid.create_analyzer("pattern.attribution", model).fit([X[:20]])
    with pytest.raises(SaveError, match=r"methods\.pattern\.attribution\.fitted is"):
        pellucid.explain_to_disk(model, (X, Y), tmp_path, methods=[other, few])


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"methods": ["lrp.epsilon"]}, "methods.gradient is"),
        ({"target": "label"}, 'target is "predicted" there and "label" here'),
        ({"dtype": "float16"}, 'dtype is "float32" there and "float16" here'),
        ({"limit": 40}, "images is 70 there and 40 here"),
        ({"shard": 8}, "shard is 32 there and 8 here"),
        ({"threads": 3}, "threads is 1 there and 3 here"),
        ({"jacobian": True, "methods": ["gradient"]}, "jacobian is false there and true here"),
        ({"model": network(1)}, "weights is"),
        ({"data": (X.flip(0), Y)}, "data.first_image is"),
        ({"data": (X, Y.flip(0))}, "data.fingerprint is"),
        ({"mean": 0.5, "std": 1.0}, "preprocessing.mean is null there and [0.5] here"),
    ],
)
def test_other_settings_are_refused_with_the_difference(
    change: dict[str, Any], difference: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "explained to disk, with one setting or another"
    arguments = {"model": network(), "data": (X, Y), "methods": ["gradient"], "threads": None}
    pellucid.explain_to_disk(arguments.pop("model"), arguments.pop("data"), folder, **arguments)  # type: ignore[arg-type]
    before = contents(folder)
    changed = {"model": network(), "data": (X, Y), "methods": ["gradient"], **change}
    with pytest.raises(SaveError) as caught:
        pellucid.explain_to_disk(changed.pop("model"), changed.pop("data"), folder, **changed)
    assert difference in str(caught.value)
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"methods": ["cam"]}, UnsupportedOperation, "cam cannot explain this model"),
        ({"methods": ["gradient", "no"]}, UnknownName, "no method 'no'"),
        ({"methods": ["gradient", "gradient"]}, ConfigError, "gradient is named twice"),
        ({"methods": ["lrp.z_box"], "data": (X * 4 - 2, Y)}, ConfigError, "lrp.z_box cannot explain"),
        ({"target": "dog"}, UnknownName, "no class 'dog'"),
        ({"target": 3}, ConfigError, "the model has 3 classes"),
        ({"target": "label", "data": (X, torch.full((70,), -1))}, ConfigError, "has no labels"),
        ({"methods": [], "embeddings": False}, ConfigError, "nothing to compute"),
        ({"dtype": "bfloat16"}, ConfigError, "expected float32 or float16"),
        ({"shard": 0}, ConfigError, "shard is 0"),
        ({"classes": ["a", "b"]}, (ConfigError, DataError), "class names"),
        ({"data": (X[:0], Y[:0])}, DataError, "empty"),
        ({"data": (torch.rand(70, 3, 8, 8), Y)}, (pellucid.errors.ShapeError, DataError, ModelError), "1 channel"),
        ({"model": nn.Conv2d(1, 3, 3)}, ModelError, "it must return one logit per class"),
        ({"model": network().half()}, ModelError, "explanations need float32"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    change: dict[str, Any], error: Any, message: str, tmp_path: Path
) -> None:
    arguments = {"model": network(), "data": (X, Y), "methods": ["gradient"], **change}
    with pytest.raises(error, match=message):
        pellucid.explain_to_disk(arguments.pop("model"), arguments.pop("data"), tmp_path / "maps.zarr", **arguments)
    assert not (tmp_path / "maps.zarr").exists()


def test_streams_are_refused(tmp_path: Path) -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(zip(X, Y, strict=True))

    with pytest.raises(DataError, match="stream of unknown length"):
        pellucid.explain_to_disk(network(), Stream(), tmp_path / "maps.zarr", methods=["gradient"])


def test_a_loader_gives_the_same_store(tmp_path: Path) -> None:
    loader = DataLoader(TensorDataset(X, Y), batch_size=7)
    for name, data in (("pair", (X, Y)), ("loader", loader)):
        pellucid.explain_to_disk(network(), data, tmp_path / name, methods=["gradient"])
    np.testing.assert_array_equal(stored(tmp_path / "pair")["relevance"], stored(tmp_path / "loader")["relevance"])


def test_a_failing_model_ends_the_job_and_finished_shards_stay(tmp_path: Path) -> None:
    class Dying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.passes = network(), 0

        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            result: Tensor = self.network(x)
            return result if self.passes < 25 else result * torch.nan

    with pytest.raises(ModelError, match="NaN|nan"):
        pellucid.explain_to_disk(Dying(), (X, Y), tmp_path, methods=["gradient"], shard=8)
    count = len(list((tmp_path / "completed").glob("c.*")))
    assert 1 <= count < 8
    assert (stored(tmp_path)["error"] == "").all()
    assert not np.isnan(stored(tmp_path)["relevance"][: 8 * count]).any()


def test_a_finished_store_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pellucid.explain_to_disk(network(), (X, Y), tmp_path, methods=["gradient"], shard=16)
    before = contents(tmp_path)
    (tmp_path / "completed" / "c.2").unlink()
    from pellucid.run.to_disk import work

    sizes, compute = [], work.rows_of

    def counting(job: Any, reads: Any, *rest: Any) -> Any:
        sizes.append([read.index for read in reads])
        return compute(job, reads, *rest)

    monkeypatch.setattr(work, "rows_of", counting)
    pellucid.explain_to_disk(network(), (X, Y), tmp_path, methods=["gradient"], shard=16)
    assert sizes == [list(range(32, 48))]
    assert contents(tmp_path) == before


def test_the_settings_are_in_the_store(tmp_path: Path) -> None:
    pellucid.explain_to_disk(network(), (X, Y), tmp_path, methods=["lrp.epsilon"])
    attributes = json.loads((tmp_path / "zarr.json").read_text())["attributes"]
    settings = attributes["settings"]
    assert (
        settings["methods"]["lrp.epsilon"]["epsilon"]
        == pellucid.create_analyzer("lrp.epsilon", network()).method.epsilon
    )  # type: ignore[attr-defined]
    assert settings["threads"] == 1
    assert settings["device"] == "cpu"
    assert settings["data"]["images"] == 70
    assert len(settings["weights"]) == 64
    assert attributes["provenance"]["versions"]["torch"] == torch.__version__.split("+")[0]


def test_a_foreign_table_is_never_replaced_by_the_index(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra `parquet`")
    (tmp_path / "maps.parquet").write_bytes(b"precious")
    with pytest.raises(SaveError, match=r"maps\.parquet exists, and is not the index of a store"):
        pellucid.explain_to_disk(network(), (X, Y), tmp_path / "maps.zarr", methods=["gradient"])
    assert (tmp_path / "maps.parquet").read_bytes() == b"precious"
    assert not (tmp_path / "maps.zarr").exists()


class Mixing(nn.Module):
    """Subtracts the mean of a batch, so that an image alone has other logits."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.network(x - x.mean(0) if len(x) > 1 else x)
        return result


@pytest.mark.parametrize("methods", [["gradient", "lrp.epsilon"], []])
def test_images_that_a_model_mixes_are_explained_one_by_one(methods: list[str], tmp_path: Path) -> None:
    pellucid.explain_to_disk(Mixing(), (X, Y), tmp_path, methods=methods)
    arrays = stored(tmp_path)
    with torch.no_grad():
        logits = torch.cat([network()(image[None]) for image in X])
    np.testing.assert_allclose(arrays["logits"], logits, atol=1e-6)
    assert arrays["prediction"].tolist() == logits.argmax(1).tolist()
    if methods:
        expected = explained(network(), "gradient", X, logits.argmax(1)).relevance
        np.testing.assert_allclose(arrays["relevance"][:, 0], expected, atol=1e-6)
    else:
        np.testing.assert_allclose(arrays["embedding"], network()[:-1](X).detach(), atol=1e-6)  # type: ignore[index]


class Alike(nn.Module):
    """Networks with the same weights that compute something else."""

    def __init__(self, activation: nn.Module, order: list[int]) -> None:
        super().__init__()
        self.network = network()
        self.network[1] = activation  # type: ignore[operator]
        self.register_buffer("order", torch.tensor(order))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.network(x)[:, self.order]
        return result


def test_a_store_is_not_continued_with_another_network_or_other_names(tmp_path: Path) -> None:
    def explain(model: nn.Module, classes: list[str]) -> None:
        pellucid.explain_to_disk(model, (X, Y), tmp_path, methods=["gradient"], classes=classes)

    explain(Alike(nn.ReLU(), [0, 1, 2]), ["a", "b", "c"])
    for model in (Alike(nn.Tanh(), [0, 1, 2]), Alike(nn.ReLU(), [1, 0, 2])):
        with pytest.raises(SaveError, match="structure is"):
            explain(model, ["a", "b", "c"])
    with pytest.raises(SaveError, match="classes is"):
        explain(Alike(nn.ReLU(), [0, 1, 2]), ["b", "a", "c"])
    explain(Alike(nn.ReLU(), [0, 1, 2]), ["a", "b", "c"])


def test_options_that_change_the_outputs_are_refused(tmp_path: Path) -> None:
    negated = pellucid.create_analyzer("gradient", network(), output=lambda outputs: -outputs)
    with pytest.raises(ConfigError, match="gradient has the option output or unwrap_softmax"):
        pellucid.explain_to_disk(network(), (X, Y), tmp_path / "maps.zarr", methods=[negated])
    with pytest.raises(UnknownName, match=r"grad_cam cannot explain.*nope"):
        lost = pellucid.create_analyzer("grad_cam", network(), layer="nope")
        pellucid.explain_to_disk(network(), (X, Y), tmp_path / "maps.zarr", methods=[lost])


def test_functions_among_the_options_are_the_same_in_every_process(tmp_path: Path) -> None:
    from pellucid.run.to_disk.request import options_of

    def made(sign: int) -> Any:
        first, second = (lambda value: value), (lambda value: -value)
        return pellucid.create_analyzer("grad_cam", network(), reshape=first if sign > 0 else second)

    assert options_of(made(1)) == options_of(made(1))
    assert options_of(made(1)) != options_of(made(-1))
    assert " at 0x" not in str(options_of(made(1)))


def test_labels_outside_the_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="labels up to 4, but the model has 3 outputs"):
        pellucid.explain_to_disk(network(), (X, torch.arange(70) % 5), tmp_path / "no", methods=["gradient"])

    class Hidden(Dataset[Any]):
        def __len__(self) -> int:
            return 70

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return X[index], index % 5

    pellucid.explain_to_disk(network(), Hidden(), tmp_path / "maps", methods=["gradient"])
    arrays = stored(tmp_path / "maps")
    bad = [index for index in range(70) if index % 5 > 2]
    assert np.flatnonzero(arrays["error"] != "").tolist() == bad
    assert arrays["error"][3] == "the label is 3, but the model has 3 classes"
    assert pellucid.open_explanations(tmp_path / "maps").labels.max() == 2


class Masked(nn.Module):
    """Returns −∞ for a class that is masked."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.network(x)
        return torch.cat([result[:, :2], torch.full_like(result[:, 2:], -torch.inf)], 1)


def test_masked_classes_are_written_and_read(tmp_path: Path) -> None:
    store = pellucid.explain_to_disk(Masked(), (X, Y), tmp_path, methods=["gradient"])
    assert np.isneginf(store.logits[:, 2]).all()
    assert np.isfinite(store.logits[:, :2]).all()


@pytest.mark.parametrize("shard", [64, 69])
def test_a_failing_image_alone_in_the_last_shard_does_not_end_the_job(shard: int, tmp_path: Path) -> None:
    images = X.clone()
    images[64:] = 0
    images[0] = 0  # also the first image that is tried

    class Standardizing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.network(x / x.flatten(1).std(1)[:, None, None, None])
            return result

    pellucid.explain_to_disk(Standardizing(), (images, Y), tmp_path, methods=["gradient"], shard=shard)
    arrays = stored(tmp_path)
    assert np.flatnonzero(arrays["error"] != "").tolist() == [0, *range(64, 70)]


def test_a_model_that_raises_for_one_image(tmp_path: Path) -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def forward(self, x: Tensor) -> Tensor:
            if bool((x[:, 0, 0, 0] == X[5, 0, 0, 0]).any()):
                raise KeyError("no such image")
            result: Tensor = self.network(x)
            return result

    pellucid.explain_to_disk(Picky(), (X, Y), tmp_path, methods=["gradient"])
    errors = stored(tmp_path)["error"]
    assert np.flatnonzero(errors != "").tolist() == [5]
    assert "no such image" in errors[5]


def test_data_that_vanish_end_the_job(tmp_path: Path) -> None:
    class Vanishing(Dataset[Any]):
        reads = 0

        def __len__(self) -> int:
            return 70

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            Vanishing.reads += 1
            if Vanishing.reads > 40:
                raise ConnectionError("the server is down")
            return X[index], Y[index]

    with pytest.raises(DataError, match="cannot be read any more; even image 0.*the server is down"):
        pellucid.explain_to_disk(network(), Vanishing(), tmp_path, methods=["gradient"], shard=10)
    assert set(stored(tmp_path)["error"]) == {""}
    Vanishing.reads = -1000
    pellucid.explain_to_disk(network(), Vanishing(), tmp_path, methods=["gradient"], shard=10)
    assert set(stored(tmp_path)["error"]) == {""}
    assert not np.isnan(stored(tmp_path)["relevance"]).any()


def test_one_bad_item_of_a_loader_with_its_own_collate_function(tmp_path: Path) -> None:
    def collate(items: list[Any]) -> tuple[Tensor, Tensor]:
        return torch.stack([image for image, _ in items]), torch.tensor([int(label) for _, label in items])

    class Broken(Dataset[Any]):
        def __len__(self) -> int:
            return 70

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            if index == 13:
                raise OSError("bad sector")
            return X[index], Y[index]

    loader = DataLoader(Broken(), batch_size=8, collate_fn=collate)
    pellucid.explain_to_disk(network(), loader, tmp_path, methods=["gradient"])
    arrays = stored(tmp_path)
    assert np.flatnonzero(arrays["error"] != "").tolist() == [13]
    assert arrays["key"].tolist() == [str(number) for number in range(70)]


def test_values_beyond_float32_are_errors(tmp_path: Path) -> None:
    large = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    with torch.no_grad():
        large[1].weight.mul_(1e60)
    with pytest.raises(DataError, match="more than float32 can hold"):
        pellucid.explain_to_disk(large, (X, Y), tmp_path, methods=["gradient"])


def test_a_damaged_last_shard_is_repaired(tmp_path: Path) -> None:
    pellucid.explain_to_disk(network(), (X, Y), tmp_path, methods=["gradient"], shard=32)
    before = contents(tmp_path)
    for name in ("logits/c.2.0", "key/c.2"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:20])
    (tmp_path / "completed" / "c.2").unlink()
    pellucid.explain_to_disk(network(), (X, Y), tmp_path, methods=["gradient"], shard=32)
    assert contents(tmp_path) == before
