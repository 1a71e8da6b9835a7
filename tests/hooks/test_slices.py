"""Slices of the test images by metadata and by cluster."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pellucid.core.budget import find_budget
from pellucid.core.contracts import Artifact, Metadata
from pellucid.diagnostics import find_slices
from pellucid.hooks import Scene
from pellucid.hooks.slices import CLUSTERS, SliceErrors, cluster

Maker = Callable[..., Scene]


def with_metadata(scene: Scene, **columns: np.ndarray) -> Scene:
    return replace(scene, metadata=Metadata(columns, {"photo": "its values are of the type binary"}, len(scene.test)))


def test_columns_and_clusters_are_slices_of_the_same_correction(make_scene: Maker) -> None:
    scene = make_scene(count=200)
    site = np.array(["A", "B"] * 100, object)
    (artifact,) = SliceErrors().run(with_metadata(scene, site=site))
    numbers, codes = artifact.numbers, artifact.arrays["clusters"]
    is_wrong = (scene.logits.argmax(1) != scene.test.labels).numpy()
    assert (numbers["images"], numbers["errors"], numbers["left_out"]) == (
        200,
        int(is_wrong.sum()),
        {"photo": "its values are of the type binary"},
    )
    rows = {(row["column"], row["value"]): row for row in numbers["slices"]}
    assert len(rows) == numbers["looks"]
    assert {column for column, _ in rows} == {"site", CLUSTERS}
    large = {value for column, value in rows if column == CLUSTERS and value.isdecimal()}
    cluster_of = dict(zip(codes[:, 0].tolist(), map(str, codes[:, 1].tolist()), strict=True))
    values = np.array([cluster_of[index] if cluster_of[index] in large else "other" for index in range(200)])
    for (column, value), row in rows.items():
        members = site == value if column == "site" else values == (value if value in large else "other")
        assert (row["images"], row["errors"]) == (members.sum(), (members & is_wrong).sum())
        if column == CLUSTERS:
            counts = np.bincount(scene.test.labels.numpy()[members])
            assert (row["majority"], row["share"]) == (
                scene.classes[counts.argmax()],
                pytest.approx(counts.max() / members.sum(), abs=1e-6),
            )
    alone = find_slices(is_wrong, {"site": site})
    wider = {one.value: one for one in alone.slices}
    assert rows["site", "A"]["high"] > wider["A"].high
    assert "significantly more errors than the rest" in artifact.caption


def test_examples_are_the_hardest_errors_and_the_central_images(make_scene: Maker) -> None:
    scene = make_scene(count=160)
    (artifact,) = SliceErrors().run(with_metadata(scene, half=np.arange(160) < 80))
    clusters = cluster(scene)
    assert not isinstance(clusters, str)
    losses = torch.nn.functional.cross_entropy(scene.logits, scene.test.labels, reduction="none").numpy()
    is_wrong = (scene.logits.argmax(1) != scene.test.labels).numpy()
    for row, chosen in zip(artifact.numbers["slices"], artifact.arrays["examples"], strict=True):
        shown = chosen[chosen >= 0]
        if row["column"] == "half":
            members = np.flatnonzero(is_wrong & ((np.arange(160) < 80) == (row["value"] == "true")))
            assert shown.tolist() == sorted(members, key=lambda index: -losses[index])[:8]
        elif row["value"].isdecimal():
            members = np.flatnonzero(clusters.codes == int(row["value"]))
            assert shown.tolist() == sorted(members, key=lambda index: clusters.distances[index])[:8]
    assert artifact.numbers["shown"] == sorted(set(artifact.arrays["examples"].ravel().tolist()) - {-1})
    assert artifact.arrays["thumbnails"].shape == (len(artifact.numbers["shown"]), 9, 9, 1)


def test_clusters_ignore_labels_and_outcomes(make_scene: Maker) -> None:
    scene = make_scene(count=200)
    first = cluster(scene)
    labels = scene.test.labels.roll(1)
    second = cluster(replace(scene, test=replace(scene.test, labels=labels), logits=-scene.logits, _computed={}))
    assert not isinstance(first, str)
    assert not isinstance(second, str)
    assert np.array_equal(first.codes, second.codes)
    assert np.all(np.diff(np.bincount(first.codes)[1:]) <= 0)  # numbered by size
    features = scene.embedding.double().numpy()
    centers = np.stack([features[first.codes == code].mean(0) for code in range(1, first.codes.max() + 1)])
    distances = np.linalg.norm(features[:, None] - centers, axis=2)
    np.testing.assert_allclose(first.distances, distances[np.arange(200), first.codes - 1], rtol=1e-6)
    assert (distances.argmin(1) + 1 == first.codes).mean() > 0.98  # Lloyd's algorithm has converged


def test_a_budget_limits_the_clusters_to_the_embedded_images(make_scene: Maker) -> None:
    scene = make_scene(count=400)
    budget = replace(find_budget("small"), images=120)
    (artifact,) = SliceErrors().run(with_metadata(replace(scene, budget=budget), third=np.arange(400) % 3))
    assert artifact.arrays["clusters"][:, 0].tolist() == (torch.arange(120) * 400 // 120).tolist()
    images = [row["images"] for row in artifact.numbers["slices"] if row["column"] == CLUSTERS]
    assert sum(images) <= 120 < 400 == sum(row["images"] for row in artifact.numbers["slices"]) - sum(images)


def test_a_column_named_like_the_clusters_keeps_its_name(make_scene: Maker) -> None:
    scene = with_metadata(make_scene(count=120), **{CLUSTERS: np.arange(120) % 2})
    (artifact,) = SliceErrors().run(scene)
    assert artifact.numbers["cluster_column"] == f"{CLUSTERS} "
    assert {row["column"] for row in artifact.numbers["slices"]} == {CLUSTERS, f"{CLUSTERS} "}


class Flat(nn.Module):
    """A network without a linear layer, and so without an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :4] * self.scale


def reason_of(artifact: Artifact) -> str:
    assert artifact.name == "left_out"
    return artifact.numbers["reason"]


def test_reasons_for_no_slices(make_scene: Maker) -> None:
    (artifact,) = SliceErrors().run(make_scene(model=Flat()))
    assert reason_of(artifact).endswith("; pass --metadata for slices by the columns of a table")
    (artifact,) = SliceErrors().run(make_scene(count=30))
    assert "there are too few different images for clusters of 40" in reason_of(artifact)
    (artifact,) = SliceErrors().run(with_metadata(make_scene(count=30), name=np.array([str(n) for n in range(30)])))
    assert "none of its 30 values has 20 images" in reason_of(artifact)


def test_metadata_without_an_embedding(make_scene: Maker) -> None:
    scene = make_scene(model=Flat())
    (artifact,) = SliceErrors().run(with_metadata(scene, half=np.arange(60) < 30))
    assert CLUSTERS in artifact.numbers["left_out"]
    assert [row["column"] for row in artifact.numbers["slices"]] == ["half", "half"]
    assert artifact.arrays["clusters"].shape == (0, 2)


@pytest.mark.parametrize("case", ["right", "wrong", "nan", "constant"])
def test_extreme_outcomes(case: str, make_scene: Maker) -> None:
    scene = make_scene(count=120)
    right = torch.nn.functional.one_hot(scene.test.labels, 4).float()
    logits = {"right": right, "wrong": -right, "nan": right.clone(), "constant": torch.zeros(120, 4)}[case]
    if case == "nan":
        logits[:60] = torch.nan
    (artifact,) = SliceErrors().run(with_metadata(replace(scene, logits=logits), half=np.arange(120) < 60))
    json.dumps(artifact.numbers, allow_nan=False)
    expected = {"right": 0, "wrong": 120, "nan": 60, "constant": int((scene.test.labels != 0).sum())}[case]
    assert artifact.numbers["errors"] == expected
    worse = [
        row["value"] for row in artifact.numbers["slices"] if row["column"] == "half" and row["verdict"] == "worse"
    ]
    assert worse == (["true"] if case == "nan" else [])
    assert artifact.figure is not None
    artifact.figure.canvas.draw()


def test_binary_and_many_classes(make_scene: Maker) -> None:
    for count in (2, 1000):
        scene = make_scene(count=200)
        labels = torch.arange(200) % count
        logits = torch.randn(200, count, generator=torch.Generator().manual_seed(0))
        scene = replace(
            scene,
            test=replace(scene.test, labels=labels),
            logits=logits,
            classes=tuple(f"class {index}" for index in range(count)),
        )
        (artifact,) = SliceErrors().run(scene)
        assert artifact.numbers["looks"] >= 2
        assert artifact.arrays["clusters"][:, 1].max() == 5  # one per 40 images
