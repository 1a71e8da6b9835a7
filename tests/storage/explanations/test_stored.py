import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from pellucid import explain_to_disk, jacobian_to_disk, open_explanations
from pellucid.core.errors import ConfigError, DataError, UnknownName
from pretended_store import CLASSES, METHODS, values, write_store

READABLE = [number for number in range(20) if number not in (3, 11)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete store of 20 images in shards of 6; tests must not change it."""
    folder = tmp_path_factory.mktemp("stored") / "maps.zarr"
    write_store(folder)
    return folder


def test_every_array_is_what_was_written(store: Path) -> None:
    rows, stored = values(), open_explanations(store)
    assert (len(stored), stored.methods, stored.classes) == (20, METHODS, CLASSES)
    assert stored.is_complete
    assert stored.settings["target"] == "predicted"
    assert stored.unit("lrp.epsilon") == "logits"
    for name, attribute in (("key", "keys"), ("error", "errors"), ("label", "labels"), ("prediction", "predictions")):
        np.testing.assert_array_equal(getattr(stored, attribute), rows[name])
    readable = stored.select()
    np.testing.assert_array_equal(readable.indices, READABLE)
    np.testing.assert_array_equal(readable.logits, rows["logits"][READABLE])
    softmax = torch.from_numpy(rows["logits"][READABLE]).softmax(1).max(1).values
    np.testing.assert_allclose(readable.probabilities, softmax, rtol=1e-6)
    for number, method in enumerate(METHODS):
        np.testing.assert_array_equal(readable.relevance(method), rows["relevance"][READABLE, number])
    np.testing.assert_array_equal(readable.expected("lrp.epsilon"), rows["expected"][READABLE, 1])
    np.testing.assert_array_equal(readable.residual("lrp.epsilon"), rows["residual"][READABLE, 1])


@pytest.mark.parametrize("seed", range(5))
def test_any_index_reads_the_same_rows_as_an_array(store: Path, seed: int) -> None:
    draw, rows = np.random.default_rng(seed), values()
    stored = open_explanations(store).select()
    maps = rows["relevance"][READABLE]
    picked = draw.integers(-len(stored), len(stored), size=draw.integers(1, 30))
    (start, stop), step = sorted(draw.integers(0, 18, 2).tolist()), int(draw.integers(1, 4))
    mask = draw.random(len(stored)) < 0.5
    for index in (picked, slice(start, stop, step), slice(None, None, -2), mask, [], np.array([0])):
        wanted = maps[np.asarray(index, np.int64) if isinstance(index, list) else index]
        np.testing.assert_array_equal(stored.relevance("gradient", index), wanted[:, 0])
        np.testing.assert_array_equal(stored[index].relevance("lrp.epsilon"), wanted[:, 1])


def test_an_image_has_its_results_by_method(store: Path) -> None:
    rows, stored = values(), open_explanations(store)
    one = stored[-3]
    assert (one.index, one.key, one.error) == (17, "image 17.png", "")
    assert one.label_name == CLASSES[rows["label"][17]]
    assert one.is_correct == (rows["label"][17] == rows["prediction"][17])
    np.testing.assert_array_equal(one.relevance["gradient"], rows["relevance"][17, 0])
    assert list(one.expected) == ["lrp.epsilon"]
    assert one.residual["lrp.epsilon"] == rows["residual"][17, 1]
    unreadable = stored[3]
    assert unreadable.error == "damaged <i>file</i> 3"
    assert unreadable.logits is None
    assert unreadable.relevance == {}
    assert unreadable.prediction is None
    assert stored[5].label is None
    assert stored[5].is_correct is None


def test_iterating_skips_images_without_results(store: Path) -> None:
    seen = list(open_explanations(store))
    assert [one.index for one in seen] == READABLE
    np.testing.assert_array_equal([one.relevance["lrp.epsilon"] for one in seen], values()["relevance"][READABLE, 1])
    assert [one.index for one in open_explanations(store)[[9, 3, 2, 8]]] == [9, 2, 8]


def test_results_that_do_not_exist_are_errors(store: Path) -> None:
    stored = open_explanations(store)
    for read in (lambda: stored.logits, lambda: stored.relevance("gradient"), lambda: stored.residual("lrp.epsilon")):
        with pytest.raises(DataError, match=r"2 of 20 images have no results; the first is image 3: damaged"):
            read()
    with pytest.raises(ConfigError, match="gradient promises no sum"):
        stored.select().residual("gradient")
    with pytest.raises(UnknownName, match="lrp.epsilon"):
        stored.relevance("lrp.epsilo")
    with pytest.raises(DataError, match=r"holds no embedding, only .*logits"):
        _ = stored.embeddings
    with pytest.raises(IndexError, match="20 images"):
        _ = stored[20]


def test_selection_agrees_with_masks(store: Path) -> None:
    rows, stored = values(), open_explanations(store)
    label, prediction, has = rows["label"], rows["prediction"], rows["error"] == ""
    cases = (
        ({"label": "dog"}, (label == 1) & has),
        ({"label": [0, "dog"]}, np.isin(label, [0, 1]) & has),
        ({"prediction": 2, "correct": False}, (prediction == 2) & (label != 2) & (label >= 0)),
        ({"correct": True}, (prediction == label) & has),
        ({"readable": False}, ~has),
        ({"readable": None}, np.ones(20, bool)),
        ({"target": 1}, prediction == 1),
        ({"residual_above": ("lrp.epsilon", 2.5)}, np.abs(rows["residual"][:, 1]) > 2.5),
    )
    for query, mask in cases:
        assert mask.any()
        np.testing.assert_array_equal(stored.select(**query).indices, np.flatnonzero(mask), str(query))
    twice = stored[10:].select(label=1).select(correct=True)
    wanted = (label == 1) & (prediction == 1) & has & (np.arange(20) >= 10)
    np.testing.assert_array_equal(twice.indices, np.flatnonzero(wanted))


def test_selection_refuses_what_cannot_apply(store: Path) -> None:
    stored = open_explanations(store)
    with pytest.raises(UnknownName, match="did you mean 'dog'"):
        stored.select(label="dgo")
    with pytest.raises(ConfigError, match="from 0 to 2"):
        stored.select(prediction=3)
    with pytest.raises(ConfigError, match="gradient promises no sum"):
        stored.select(residual_above=("gradient", 0.1))


def test_a_store_is_read_while_it_is_filled(tmp_path: Path) -> None:
    rows = write_store(tmp_path / "maps.zarr", without=(1, 3))
    stored = open_explanations(tmp_path / "maps.zarr")
    inside = [0, 1, 2, 4, 5, *range(12, 18)]
    assert (len(stored), stored.completed, stored.is_complete) == (20, 12, False)
    np.testing.assert_array_equal(stored.select().indices, inside)
    np.testing.assert_array_equal(stored.select().relevance("gradient"), rows["relevance"][inside, 0])
    assert [one.index for one in stored] == inside
    with pytest.raises(DataError, match=r"8 of 20 requested images .* the first is image 6 in shard 1\. Use select"):
        _ = stored.labels
    with pytest.raises(DataError, match="shard 3"):
        _ = stored[19]
    write_store(tmp_path / "maps.zarr", without=(3,))
    assert stored.completed == 12
    assert open_explanations(tmp_path / "maps.zarr").completed == 18


def test_float16_is_returned_as_float32(tmp_path: Path) -> None:
    rows = write_store(tmp_path / "maps.zarr", dtype="float16")
    maps = open_explanations(tmp_path / "maps.zarr").select().relevance("gradient")
    assert maps.dtype == np.float32
    np.testing.assert_array_equal(maps, rows["relevance"][READABLE, 0].astype(np.float16).astype(np.float32))


def test_maps_of_all_classes(tmp_path: Path) -> None:
    rows = write_store(tmp_path / "maps.zarr", values(target_all=True))
    stored = open_explanations(tmp_path / "maps.zarr")
    np.testing.assert_array_equal(stored.select().relevance("gradient"), rows["relevance"][READABLE, 0])
    np.testing.assert_array_equal(stored[4].residual["lrp.epsilon"], rows["residual"][4, 1])
    assert stored[4].target is None
    large = (np.abs(rows["residual"][:, 1]) > 6).any(1)
    assert 0 < large.sum() < 18
    np.testing.assert_array_equal(stored.select(residual_above=("lrp.epsilon", 6)).indices, np.flatnonzero(large))


def test_stores_of_jacobians_alone(tmp_path: Path) -> None:
    rows = {"jacobian": np.random.default_rng(0).normal(size=(10, 3, 1, 2, 2)).astype(np.float32)}
    write_store(tmp_path / "new.zarr", rows, shard=4)
    jacobian = open_explanations(tmp_path / "new.zarr").jacobian
    np.testing.assert_array_equal(np.asarray(jacobian), rows["jacobian"])
    np.testing.assert_array_equal(jacobian[7], rows["jacobian"][7])
    np.testing.assert_array_equal(jacobian[2:9, 1], rows["jacobian"][2:9, 1])
    with pytest.raises(DataError, match="holds no logits, only"):
        _ = open_explanations(tmp_path / "new.zarr").logits


def test_arrays_of_earlier_versions(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(10, 3, 1, 2, 2)).astype(np.float32)
    about = {"content": "Jacobian (image, *outputs, *inputs)", "method": "auto"}
    header = {"zarr_format": 2, "shape": [10, 3, 1, 2, 2], "chunks": [4, 3, 1, 2, 2], "dtype": "<f4", "order": "C"}
    header |= {"compressor": None, "filters": None, "fill_value": 0.0}
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / ".zarray").write_text(json.dumps(header))
    (tmp_path / "old" / ".zattrs").write_text(json.dumps(about))
    padded = np.concatenate([rows, np.zeros((2, *rows.shape[1:]), np.float32)])
    for number in range(3):
        (tmp_path / "old" / f"{number}.0.0.0.0").write_bytes(padded[4 * number : 4 * number + 4].tobytes())
    stored = open_explanations(tmp_path / "old")
    assert (len(stored), stored.methods, stored.is_complete) == (10, (), True)
    np.testing.assert_array_equal(stored.jacobian[[9, 0]], rows[[9, 0]])
    np.testing.assert_array_equal(stored[2:5].jacobian[1:], rows[3:5])
    (tmp_path / "old" / "1.0.0.0.0").unlink()
    with pytest.raises(DataError, match="chunk 1 of jacobian is damaged"):
        _ = np.asarray(stored.jacobian)


def test_what_jacobian_to_disk_writes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    images = torch.rand(7, 1, 4, 4, dtype=torch.float64)
    stored = open_explanations(jacobian_to_disk(model, images.split(3), tmp_path / "j.zarr", chunk=2))
    assert (len(stored), stored.is_complete, stored.jacobian.shape) == (7, True, (7, 3, 1, 4, 4))
    weights = model[1].weight.detach().view(3, 1, 4, 4)
    np.testing.assert_allclose(stored.jacobian[:], weights.expand(7, -1, -1, -1, -1))
    assert stored[3].relevance == {}


def test_a_data_set_for_several_workers(store: Path) -> None:
    rows = values()
    maps = pickle.loads(pickle.dumps(open_explanations(store).to_dataset("lrp.epsilon")))
    assert len(maps) == 18
    batches = list(DataLoader(maps, batch_size=5, num_workers=2))
    np.testing.assert_array_equal(torch.cat([batch["index"] for batch in batches]), READABLE)
    np.testing.assert_array_equal(torch.cat([batch["relevance"] for batch in batches]), rows["relevance"][READABLE, 1])
    np.testing.assert_array_equal(torch.cat([batch["label"] for batch in batches]), rows["label"][READABLE])
    assert batches[0]["key"][0] == "image 0.png"
    both = open_explanations(store).to_dataset()[3]
    np.testing.assert_array_equal(both["relevance"], rows["relevance"][4])
    with pytest.raises(UnknownName):
        open_explanations(store).to_dataset("occlusion")


def test_what_was_explained_is_what_is_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    images = torch.rand(10, 1, 4, 4)
    stored = explain_to_disk(
        model, (images, torch.arange(10) % 2), tmp_path / "m.zarr", methods="gradient", jacobian=True
    )
    weights = model[1].weight.detach().view(2, 1, 4, 4)
    predictions = model(images).argmax(1)
    np.testing.assert_allclose(stored.relevance("gradient"), weights[predictions], rtol=1e-6)
    np.testing.assert_allclose(stored.jacobian[3], weights, rtol=1e-6)
    np.testing.assert_array_equal(stored.targets, predictions)


def test_display_is_short_and_escaped(tmp_path: Path) -> None:
    write_store(tmp_path / "<b>x</b>.zarr", without=(1,))
    stored = open_explanations(tmp_path / "<b>x</b>.zarr")
    assert "in complete shards: 14" in repr(stored)
    assert "methods: gradient, lrp.epsilon" in repr(stored)
    assert "<b>x</b>" not in stored._repr_html_()
    assert "&lt;b&gt;x&lt;/b&gt;.zarr" in stored._repr_html_()
    assert repr(stored[0]).startswith("StoredExplanation(0, key='image 0.png', label=")
    assert "error='damaged" in repr(stored[3])
