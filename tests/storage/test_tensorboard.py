"""TensorBoard logs, read back with TensorBoard."""

import io
from itertools import chain

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from torch import nn

from pellucid.core.contracts import EmbeddingTable
from pellucid.core.errors import DataError
from pellucid.storage.tensorboard import PARTS, Board, pack_embedding
from pretended_run import metrics_line


def png(width=5, height=3):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, format="PNG")
    return buffer.getvalue()


def read(logs):
    events = EventAccumulator(str(logs), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return events


def table(count=5, side=4, **columns):
    points = np.arange(count * 3, dtype=np.float32).reshape(count, 3) / 7
    thumbnails = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None] * 10, (count, side, side, 1))
    labels = [str(number) for number in range(count)]
    return EmbeddingTable(points, {"label": labels, "prediction": labels, **columns}, thumbnails)


def test_scalars_pictures_and_graph(tmp_path):
    with Board(tmp_path) as board:
        board.scalars({"loss/test": 0.5}, 0)
        board.scalars({"loss/test": 0.25}, 1)
        board.picture("saliency", png(), 1)
        assert board.graph(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.zeros(1, 1, 2, 2))
    events = read(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("loss/test")] == [(0, 0.5), (1, 0.25)]
    picture = events.Images("saliency")[0]
    assert (picture.step, picture.width, picture.height) == (1, 5, 3)
    assert picture.encoded_image_string == png()
    assert "linear" in str(events.Graph()).lower()


def test_resumed_run_shows_each_epoch_once(tmp_path):
    with Board(tmp_path) as board:
        for epoch in range(4):
            board.scalars({"loss/test": float(epoch)}, epoch)
            board.picture("saliency", png(), epoch)
    with Board(tmp_path, start_epoch=2) as board:
        for epoch in range(2, 5):
            board.scalars({"loss/test": 10.0 + epoch}, epoch)
            board.picture("saliency", png(), epoch)
    events = read(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("loss/test")] == [
        (0, 0.0),
        (1, 1.0),
        (2, 12.0),
        (3, 13.0),
        (4, 14.0),
    ]
    assert [event.step for event in events.Images("saliency")] == [0, 1, 2, 3, 4]


def record(epoch, best=0.0):
    scores = {f"{part}_{name}": epoch + len(part) + best for part in PARTS for name in ("loss", "accuracy")}
    return metrics_line(epoch) | scores | ({"train_loss": None, "train_accuracy": None} if epoch == 0 else {})


def scores(logs, part, name="loss"):
    return [(event.step, event.value) for event in read(logs / part).Scalars(name)]


def test_scores_of_each_part_are_a_run_of_their_own(tmp_path):
    with Board(tmp_path) as board:
        for epoch in range(3):
            board.metrics(record(epoch))
    assert scores(tmp_path, "train") == [(1, 6.0), (2, 7.0)]
    assert scores(tmp_path, "validation", "accuracy") == [(0, 10.0), (1, 11.0), (2, 12.0)]
    assert scores(tmp_path, "test") == [(0, 4.0), (1, 5.0), (2, 6.0)]
    assert read(tmp_path).Tags()["scalars"] == ["training/learning_rate"]


def test_scores_of_a_resumed_run_are_shown_once(tmp_path):
    with Board(tmp_path) as board:
        for epoch in range(3):
            board.metrics(record(epoch))
    with Board(tmp_path, start_epoch=2) as board:
        board.add_earlier([record(epoch) for epoch in range(3)])
        for epoch in (2, 3):
            board.metrics(record(epoch, best=0.5))
    assert scores(tmp_path, "train") == [(1, 6.0), (2, 7.5), (3, 8.5)]
    assert scores(tmp_path, "test") == [(0, 4.0), (1, 5.0), (2, 6.5), (3, 7.5)]
    assert [event.step for event in read(tmp_path).Scalars("training/learning_rate")] == [0, 1, 2, 3]


def test_scores_of_an_older_layout_are_added_when_the_run_is_resumed(tmp_path):
    with Board(tmp_path) as board:
        for epoch in range(3):
            board.scalars({"loss/test": float(epoch), "training/learning_rate": 0.1}, epoch)
    with Board(tmp_path, start_epoch=2) as board:
        board.add_earlier([record(epoch) for epoch in range(3)])
        board.metrics(record(2, best=0.5))
    assert scores(tmp_path, "test") == [(0, 4.0), (1, 5.0), (2, 6.5)]
    assert scores(tmp_path, "train") == [(1, 6.0), (2, 7.5)]
    assert [event.step for event in read(tmp_path).Scalars("training/learning_rate")] == [0, 1, 2]


class Untraceable(nn.Module):
    def forward(self, x):
        raise ValueError("no")


def test_untraceable_model_has_no_graph(tmp_path, capsys):
    with Board(tmp_path) as board:
        assert not board.graph(Untraceable(), torch.zeros(1, 1, 2, 2))
    assert capsys.readouterr().out == ""


def test_projector_keeps_every_epoch_after_a_resume(tmp_path):
    with Board(tmp_path) as board:
        assert board.embedding(0, pack_embedding(table())) == f"{tmp_path.name}/projector/epoch_000/tensors.tsv"
    with Board(tmp_path, start_epoch=1) as board:
        board.embedding(1, pack_embedding(table()))
    config = text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), ProjectorConfig())
    assert [entry.tensor_name for entry in config.embeddings] == ["epoch 001", "epoch 000"]
    entry = config.embeddings[0]
    assert list(entry.sprite.single_image_dim) == [4, 4]
    points = np.loadtxt(tmp_path / entry.tensor_path, delimiter="\t")
    assert np.array_equal(points, (table().points.astype(float) * 10).round())  # a standard deviation of 0.6
    with Image.open(tmp_path / entry.sprite.image_path) as sprite:
        pixels = np.asarray(sprite)
    assert pixels.shape == (12, 12)  # a 3×3 grid for 5 thumbnails
    assert [pixels[0, 0], pixels[0, 4], pixels[4, 0], pixels[4, 4], pixels[11, 11]] == [0, 10, 30, 40, 255]


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 7.0, 1e5])
def test_points_are_whole_numbers_of_a_fifth_of_a_deviation_at_most(scale):
    points = (np.random.default_rng(0).normal(size=(60, 40)) * scale).astype(np.float32)
    points[:, ::2] = np.maximum(points[:, ::2], 0)
    text = pack_embedding(EmbeddingTable(points, {"label": ["a"] * 60}, np.zeros((60, 2, 2, 1), np.uint8))).points
    rows = [row.split("\t") for row in text.removesuffix("\n").split("\n")]
    steps = np.array(rows, dtype=float)
    assert (steps == steps.round()).all()
    unit = 10.0 ** round(np.log10(points.astype(float).std() / steps.std()))
    read_back = steps * unit
    assert unit <= 0.2 * points.astype(float).std() < 10 * unit
    assert np.abs(read_back - points).max() <= 0.5001 * unit
    assert rows[0][0] == "0" or points[0, 0] > 0
    assert not any("." in number for number in chain(*rows))
    pairs = ~np.eye(60, dtype=bool)
    after, before = (np.linalg.norm(part[:, None] - part[None], axis=2)[pairs] for part in (read_back, points / scale))
    assert np.abs(after / scale / before - 1).max() < 0.03
    assert len(text) < 5 * points.size


def test_equal_thumbnails_are_stored_once(tmp_path):
    other = EmbeddingTable(table().points, table().columns, table().thumbnails + np.uint8(1))
    with Board(tmp_path) as board:
        for epoch, shown in enumerate((table(), table(), other, table())):
            board.embedding(epoch, pack_embedding(shown))
        board.embedding(0, pack_embedding(table()))  # written again after an interruption
    config = text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), ProjectorConfig())
    names = {entry.tensor_name: entry.sprite.image_path for entry in config.embeddings}
    expected = {0: 0, 1: 0, 2: 2, 3: 3}
    assert names == {f"epoch {e:03d}": f"projector/epoch_{at:03d}/sprite.png" for e, at in expected.items()}
    assert len(list(tmp_path.glob("projector/*/sprite.png"))) == 3


def test_points_without_a_scale_keep_all_digits():
    points = np.array([[np.nan, np.inf], [-0.0, 1 / 3]], dtype=np.float32)
    thumbnails = np.zeros((2, 2, 2, 1), np.uint8)
    packed = pack_embedding(EmbeddingTable(points, {"label": ["a", "b"]}, thumbnails))
    assert packed.points == "nan\tinf\n0\t.3333333\n"
    equal = pack_embedding(EmbeddingTable(np.full((2, 2), 0.1, np.float32), {"label": ["a", "b"]}, thumbnails))
    assert equal.points == ".1\t.1\n.1\t.1\n"


def test_tabs_and_line_breaks_in_labels_become_spaces(tmp_path):
    with Board(tmp_path) as board:
        board.embedding(0, pack_embedding(table(2, label=["a\tb", "c\nd\r\u2028e"])))
    text = (tmp_path / "projector/epoch_000/metadata.tsv").read_text()
    assert text.split("\n") == ["label\tprediction", "a b\t0", "c d  e\t1", ""]


def test_too_large_thumbnails_are_refused():
    with pytest.raises(DataError, match="at most 8192 pixels wide"):
        pack_embedding(table(5, side=3000))
