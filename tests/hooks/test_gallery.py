from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pellucid.attribution import create_analyzer, without_warnings
from pellucid.core.contracts import ImageSet
from pellucid.hooks import Scene, _class_maps
from pellucid.hooks import gallery as module
from pellucid.hooks._quantised import fitting_size, quantised, shrunk
from pellucid.hooks.gallery import Gallery

Maker = Callable[..., Scene]
METHODS = ("gradient", "lrp.epsilon")


def restored(artifact) -> np.ndarray:
    scales = artifact.arrays["scales"][..., None, None].astype(np.float64)
    return artifact.arrays["maps"] / 127 * scales


def test_maps_match_the_method_up_to_quantization(make_scene: Maker) -> None:
    scene = make_scene(channels=3, methods=METHODS)
    artifact, *_ = Gallery(images=6).run(scene)
    numbers, maps = artifact.numbers, restored(artifact)
    assert numbers["methods"] == list(METHODS)
    assert numbers["classes"] == [0, 1, 2, 3]
    assert artifact.arrays["maps"].shape == (2, 6, 4, 9, 9)
    images = scene.test.floats(numbers["indices"])
    np.testing.assert_array_equal(artifact.arrays["source"], scene.test.pixels[numbers["indices"]].numpy())
    for row, name in enumerate(METHODS):
        for label in range(4):
            expected = create_analyzer(name, scene.model).explain(images, label)
            plain = expected.relevance.sum(1).numpy()
            step = np.abs(plain).max((1, 2), keepdims=True) / 127
            np.testing.assert_allclose(artifact.arrays["scales"][row, :, label], step[:, 0, 0] * 127, rtol=1e-4)
            assert (np.abs(maps[row, :, label] - plain) <= 0.501 * step).all()
            if expected.expected is None:
                assert numbers["total"][name] is numbers["expected"][name] is numbers["residual"][name] is None
                continue
            sums = [np.array(numbers[key][name])[:, label] for key in ("expected", "total", "residual")]
            np.testing.assert_allclose(sums[0], expected.expected, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(sums[1], plain.sum((1, 2)), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(sums[2], sums[1] - sums[0], atol=2e-5)
    np.testing.assert_allclose(numbers["logits"], scene.logits[numbers["indices"]], rtol=1e-6)
    np.testing.assert_allclose(np.sum(numbers["probabilities"], 1), 1, rtol=1e-6)
    assert numbers["shrunk_from"] is None


def test_images_are_first_of_class_or_have_the_largest_losses(make_scene: Maker) -> None:
    scene = make_scene(methods=("gradient",))
    artifact, *_ = Gallery(images=6).run(scene)
    indices = artifact.numbers["indices"]
    assert indices[:3] == scene.first_of_each_class(3)
    losses = nn.functional.cross_entropy(scene.logits, scene.test.labels, reduction="none")
    hardest = [index for index in losses.argsort(descending=True).tolist() if index not in indices[:3]]
    assert indices[3:] == hardest[:3]


def many_classes(make_scene: Maker, count: int = 40, classes: int = 30) -> Scene:
    torch.manual_seed(1)
    test = ImageSet(torch.randint(256, (count, 1, 9, 9), dtype=torch.uint8), torch.arange(count) % classes)
    model = nn.Sequential(nn.Flatten(), nn.Linear(81, classes))
    with torch.no_grad():
        logits = model(test.floats())
    names = tuple(map(str, range(classes)))
    return replace(make_scene(methods=("gradient",)), model=model, test=test, logits=logits, classes=names)


def test_ten_of_many_classes_include_labels_and_predictions(make_scene) -> None:
    scene = many_classes(make_scene)
    artifact, *_ = Gallery(images=6).run(scene)
    numbers = artifact.numbers
    assert len(set(numbers["classes"])) == 10
    assert {*numbers["labels"], *numbers["predictions"]} <= set(numbers["classes"])
    assert numbers["indices"]
    gradient = scene.model[1].weight[numbers["classes"]].detach().numpy().reshape(10, 9, 9)
    step = np.abs(gradient).max((1, 2), keepdims=True) / 127
    assert (np.abs(restored(artifact)[0] - gradient) <= 0.501 * step).all()
    assert np.shape(numbers["logits"]) == np.shape(numbers["probabilities"]) == (len(numbers["indices"]), 10)


def test_large_maps_are_downsampled_with_their_sums_preserved(
    make_scene: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST_MAPS", 2 * 6 * 4 * 5 * 4)
    monkeypatch.setattr(module, "LARGEST_SOURCE", 6)
    monkeypatch.setattr(_class_maps, "VALUES_PER_CALL", 300)  # three images at a time
    scene = make_scene(size=(12, 9), methods=METHODS)
    artifact, *_ = Gallery(images=6).run(scene)
    assert artifact.numbers["shrunk_from"] == [12, 9]
    assert artifact.arrays["maps"].shape == (2, 6, 4, 5, 3)
    assert artifact.arrays["source"].shape == (6, 1, 6, 4)
    means = scene.test.pixels[artifact.numbers["indices"]].double().mean((1, 2, 3))
    np.testing.assert_allclose(artifact.arrays["source"].mean((1, 2, 3)), means, atol=0.5)
    sums = restored(artifact)[1].sum((2, 3))
    step = artifact.arrays["scales"][1] / 127
    assert (np.abs(sums - artifact.numbers["total"]["lrp.epsilon"]) <= 0.51 * 15 * step).all()
    assert "downsampled from 12×9 to 5×3" in artifact.caption


def test_downsampled_source_keeps_the_maps(make_scene: Maker, monkeypatch) -> None:
    monkeypatch.setattr(module, "LARGEST_SOURCE", 6)
    artifact, *_ = Gallery(images=6).run(make_scene(size=(12, 9), methods=METHODS))
    assert artifact.arrays["maps"].shape[3:] == (12, 9)
    assert artifact.arrays["source"].shape[2:] == (6, 4)
    assert artifact.numbers["shrunk_from"] == [12, 9]
    assert artifact.caption.endswith("for 4 classes.")


class Detached(nn.Module):
    """Detaches part of its computation, which LRP refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(81, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        return self.linear(flat * torch.from_numpy((flat.detach().numpy() > 0.2).astype("float32")))


def test_refused_methods_are_named(make_scene: Maker) -> None:
    artifact, *_ = Gallery(images=4).run(make_scene(model=Detached(), methods=METHODS))
    assert artifact.numbers["methods"] == ["gradient"]
    assert set(artifact.numbers["refused"]) == {"lrp.epsilon"}
    none, *_ = Gallery(images=4).run(make_scene(model=Detached(), methods=("lrp.epsilon",)))
    assert none.arrays["maps"].shape == (0, 4, 4, 9, 9)
    assert set(none.numbers["refused"]) == {"lrp.epsilon"}


@given(st.tuples(*[st.integers(1, 20)] * 4), st.integers(0, 99))
def test_downsampling_preserves_sums_and_constants(sizes: tuple[int, int, int, int], seed: int) -> None:
    size, smaller = sizes[:2], (min(sizes[0], sizes[2]), min(sizes[1], sizes[3]))
    maps = np.random.default_rng(seed).normal(size=(2, *size))
    small = shrunk(maps, smaller)
    assert small.shape == (2, *smaller)
    np.testing.assert_allclose(small.sum((1, 2)), maps.sum((1, 2)), atol=1e-9)
    np.testing.assert_allclose(shrunk(np.ones(size), smaller), size[0] * size[1] / (smaller[0] * smaller[1]))


def test_downsampling_by_an_integer_factor_sums_blocks() -> None:
    maps = np.random.default_rng(0).normal(size=(3, 6, 8))
    np.testing.assert_allclose(shrunk(maps, (3, 2)), maps.reshape(3, 3, 2, 2, 4).sum((2, 4)))


def test_zero_and_nan_maps_have_no_scale() -> None:
    values, scales = quantised(np.array([[[0.0, 0.0]], [[np.nan, 1.0]], [[-1e-30, 6e-31]]]))
    assert values.tolist() == [[[0, 0]], [[0, 0]], [[-127, 76]]]
    assert scales.tolist() == [0, 0, pytest.approx(1e-30)]


def test_fitting_size_respects_the_budget() -> None:
    for size in ((28, 28), (224, 224), (500, 3), (3, 9000)):
        height, width = fitting_size(size, 2400, 4_000_000)
        assert 2400 * height * width <= 4_000_000 or 1 in (height, width)


def pairs_of(scene: Scene, **options) -> tuple:
    main, pairs = Gallery(**options).run(scene)
    assert pairs.name == "pairs"
    return main, pairs


def test_all_misclassified_images_have_maps_of_two_classes(make_scene: Maker) -> None:
    scene = make_scene(channels=3, methods=METHODS)
    predictions = scene.logits.argmax(1)
    labels = torch.where(torch.arange(60) % 2 == 0, predictions, scene.test.labels)
    scene = replace(scene, test=replace(scene.test, labels=labels))
    main, pairs = pairs_of(scene, images=4)
    numbers = pairs.numbers
    wrong = (predictions != scene.test.labels).nonzero().flatten().tolist()
    assert set(wrong) <= {*numbers["indices"], *main.numbers["indices"]}
    assert not {*numbers["indices"]} & {*main.numbers["indices"]}
    losses = nn.functional.cross_entropy(scene.logits, scene.test.labels, reduction="none")
    np.testing.assert_allclose(numbers["losses"], losses[numbers["indices"]], rtol=1e-6)
    known = [label == prediction for label, prediction in zip(numbers["labels"], numbers["predictions"], strict=True)]
    assert any(known)
    assert not all(known)
    second = [
        scene.test.labels[index].item() if index in wrong else scene.logits[index].argsort()[-2].item()
        for index in numbers["indices"]
    ]
    assert numbers["classes"] == [list(pair) for pair in zip(numbers["predictions"], second, strict=True)]
    images = scene.test.floats(numbers["indices"])
    for place in range(2):
        classes = torch.tensor(numbers["classes"])[:, place]
        with without_warnings():
            plain = create_analyzer("lrp.epsilon", scene.model).explain(images, classes)
        maps = plain.relevance.sum(1).numpy()
        step = np.abs(maps).max((1, 2), keepdims=True) / 127
        assert (np.abs(restored(pairs)[1, :, place] - maps) <= 0.501 * step).all()
        for key in ("expected", "residual", "allowed"):
            stored = np.array(numbers[key]["lrp.epsilon"])[:, place]
            np.testing.assert_allclose(stored, getattr(plain, key), rtol=1e-3, atol=2e-5)
    assert numbers["allowed"]["gradient"] is None


def test_pairs_are_limited_to_the_largest_losses_and_the_selected_classes(make_scene: Maker, monkeypatch) -> None:
    scene = make_scene(count=200, methods=("gradient",), chosen_classes=(1, 2))
    monkeypatch.setattr(module, "LARGEST_MAPS", 9 * 9 * 2 * 40)
    main, pairs = pairs_of(scene, images=4, classes=4)
    indices, labels = pairs.numbers["indices"], pairs.numbers["labels"]
    assert len(indices) == 40
    assert pairs.arrays["maps"].shape == (1, 40, 2, 9, 9)
    assert set(labels) == {1, 2}
    losses = nn.functional.cross_entropy(scene.logits, scene.test.labels, reduction="none")
    own = [index for index in losses.argsort(descending=True).tolist() if scene.test.labels[index] in (1, 2)]
    is_wrong = scene.logits.argmax(1) != scene.test.labels
    mistakes = [index for index in own if is_wrong[index] and index not in main.numbers["indices"]]
    assert indices[:30] == mistakes[:30]
    assert not is_wrong[indices[30:]].any()


def test_sample_of_correct_images_depends_on_the_seed_and_covers_the_classes(make_scene: Maker) -> None:
    scene = make_scene(count=200, methods=("gradient",))
    perfect = replace(scene, logits=8.0 * nn.functional.one_hot(scene.test.labels, 4).float())
    first, again, other = (
        set(pairs_of(replace(perfect, seed=seed), images=4)[1].numbers["indices"]) for seed in (0, 0, 1)
    )
    assert first == again != other
    counts = torch.bincount(scene.test.labels[sorted(first)], minlength=3)
    assert counts.max() - counts.min() <= 14  # the sample has ten of each; twelve others have the largest losses


def test_pairs_of_diverged_logits_have_two_classes(make_scene: Maker) -> None:
    scene = make_scene(methods=("gradient",))
    scene = replace(scene, logits=torch.full_like(scene.logits, torch.nan))
    for pair in pairs_of(scene, images=4)[1].numbers["classes"]:
        assert len(set(pair)) == 2


def test_pairs_of_two_classes(make_scene: Maker) -> None:
    scene = make_scene(methods=("gradient",))
    binary = nn.Sequential(nn.Flatten(), nn.Linear(81, 2))
    test = replace(scene.test, labels=scene.test.labels % 2)
    logits = binary(test.floats()).detach()
    _, pairs = pairs_of(replace(scene, model=binary, test=test, logits=logits, classes=("a", "b")), images=4)
    assert {tuple(sorted(pair)) for pair in pairs.numbers["classes"]} == {(0, 1)}


def test_pairs_have_maps_of_the_same_size_as_the_main_artifact(make_scene: Maker, monkeypatch) -> None:
    monkeypatch.setattr(module, "LARGEST_MAPS", 2 * 6 * 4 * 5 * 4)
    main, pairs = pairs_of(make_scene(size=(12, 9), methods=METHODS), images=6)
    assert pairs.arrays["maps"].shape[3:] == main.arrays["maps"].shape[3:] == (5, 3)
    assert pairs.arrays["maps"].size <= module.LARGEST_MAPS
    assert pairs.numbers["shrunk_from"] == [12, 9]
