"""Stratified samples of data sets, loaders, streams and tensors."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from pellucid.core.errors import ConfigError, DataError, ShapeError
from pellucid.core.preprocessing import Preprocessing
from pellucid.data import Request
from pellucid.data._open import open_data
from pellucid.data._sample import sample_data

STEPS = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
COUNT = 600
SHARES = (0.5, 0.3, 0.15, 0.05)


def labels_of(count: int = COUNT) -> torch.Tensor:
    """Four classes of different sizes, in random order."""
    sizes = [round(share * count) for share in SHARES]
    labels = torch.cat([torch.full((size,), index) for index, size in enumerate(sizes)])
    return labels[torch.randperm(count, generator=torch.Generator().manual_seed(1))]


def numbered_pixels(count: int = COUNT) -> torch.Tensor:
    """Color images; the number of each is in its first pixels."""
    pixels = torch.randint(256, (count, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    numbers = torch.arange(count)
    pixels[:, 0, 0, 0], pixels[:, 0, 0, 1] = (numbers // 256).byte(), (numbers % 256).byte()
    return pixels


def numbers_of(sample: Any) -> list[int]:
    pixels = sample.images.pixels.long()
    return (pixels[:, 0, 0, 0] * 256 + pixels[:, 0, 0, 1]).tolist()


PIXELS, LABELS = numbered_pixels(), labels_of()
NORMALIZED = STEPS.normalized(PIXELS.float() / 255)


class Items(Dataset[Any]):
    """A data set without any attribute that tells its labels; counts what is read."""

    def __init__(self, images: torch.Tensor = NORMALIZED) -> None:
        self.images, self.read = images, []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.read.append(index)
        return self.images[index], int(LABELS[index])


class Known(Items):
    def __init__(self) -> None:
        super().__init__()
        self.targets = LABELS.tolist()
        self.classes = ["ant", "bee", "cat", "dog"]


class Stream(IterableDataset[Any]):
    def __init__(self, order: list[int] | None = None) -> None:
        self.order = list(range(COUNT)) if order is None else order

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        worker = torch.utils.data.get_worker_info()
        part = self.order if worker is None else self.order[worker.id :: worker.num_workers]
        return ((NORMALIZED[index], LABELS[index]) for index in part)


def as_dictionaries(items: list[Any]) -> dict[str, torch.Tensor]:
    return {"labels": torch.tensor([y for _, y in items]), "pixel_values": torch.stack([x for x, _ in items])}


SOURCES = {
    "data set": Known,
    "tensors": lambda: TensorDataset(NORMALIZED, LABELS),
    "pair": lambda: (NORMALIZED, LABELS),
    "list pair": lambda: [NORMALIZED, LABELS.tolist()],
    "arrays": lambda: (NORMALIZED.numpy(), LABELS.numpy()),
    "list": lambda: [(NORMALIZED[index], int(LABELS[index])) for index in range(COUNT)],
    "loader": lambda: DataLoader(Known(), batch_size=7, shuffle=True),
    "loader of workers": lambda: DataLoader(Known(), batch_size=50, shuffle=True, num_workers=2),
    "batch sampler": lambda: DataLoader(Known(), batch_sampler=BatchSampler(RandomSampler(Known()), 7, False)),
    "own batch sampler": lambda: DataLoader(Known(), batch_sampler=[[one] for one in torch.randperm(COUNT).tolist()]),
    "collate": lambda: DataLoader(Known(), batch_size=16, collate_fn=as_dictionaries),
    "stream": Stream,
    "loader of a stream": lambda: DataLoader(Stream(), batch_size=9),
    "stream with workers": lambda: DataLoader(Stream(), batch_size=9, num_workers=2),
    "sorted stream": lambda: Stream(LABELS.argsort(stable=True).tolist()),
    "concatenated": lambda: ConcatDataset([Subset(Known(), range(200)), Subset(Known(), range(200, COUNT))]),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_a_stratified_sample_of_displayed_bytes(name: str) -> None:
    sample = sample_data(SOURCES[name](), limit=100, preprocessing=STEPS)
    assert len(sample.images) == 100
    assert sample.images.pixels.dtype == torch.uint8
    numbers = numbers_of(sample)
    assert len(set(numbers)) == 100
    # the images are undone from their normalization exactly, and the labels belong to them
    assert torch.equal(sample.images.pixels, PIXELS[numbers])
    assert torch.equal(sample.images.labels, LABELS[numbers])
    counts = sample.images.labels.bincount(minlength=4).tolist()
    assert all(abs(count - 100 * share) <= 1.5 for count, share in zip(counts, SHARES, strict=True)), counts
    assert sample.total == COUNT
    assert sample.images.scale == (0, 1)


def test_the_notice_and_the_sample_follow_from_the_seed() -> None:
    one, again, other = (sample_data(Known(), limit=100, preprocessing=STEPS, seed=seed) for seed in (0, 0, 1))
    assert one.notice == "100 of 600 test images, stratified by class, seed 0"
    assert other.notice == "100 of 600 test images, stratified by class, seed 1"
    assert one.sha256 == again.sha256 != other.sha256
    assert numbers_of(one) == numbers_of(again) != numbers_of(other)
    assert (one.name, one.title, one.classes) == ("Known", "Known", ("ant", "bee", "cat", "dog"))
    whole = sample_data(Known(), limit=600, preprocessing=STEPS, kind="training")
    assert whole.notice == "all 600 training images"
    assert numbers_of(whole) == list(range(600))


def test_only_chosen_images_are_read_and_labels_are_not() -> None:
    data = Known()
    sample_data(data, limit=20, preprocessing=STEPS)
    assert len(data.read) == 21  # the first one twice, to learn its size


def test_unknown_labels_give_a_random_sample_and_say_so() -> None:
    data = Items()
    sample = sample_data(data, limit=50, preprocessing=STEPS)
    assert (
        sample.notice == "50 of 600 test images, chosen at random (their labels are known only after reading), seed 0"
    )
    assert len(set(numbers_of(sample))) == 50
    assert len(data.read) == 51
    assert torch.equal(sample.images.labels, LABELS[numbers_of(sample)])


def test_a_sampler_that_chooses_images_is_respected() -> None:
    chosen = list(range(0, COUNT, 3))
    for loader in (
        DataLoader(Known(), sampler=SubsetRandomSampler(chosen), batch_size=5),
        DataLoader(Known(), sampler=WeightedRandomSampler([1.0 if one % 3 == 0 else 0 for one in range(COUNT)], 150)),
        DataLoader(Subset(Known(), chosen), batch_size=5, sampler=SequentialSampler(chosen)),
    ):
        sample = sample_data(loader, limit=100, preprocessing=STEPS)
        assert all(number % 3 == 0 for number in numbers_of(sample))


def test_random_states_generators_and_loaders_are_left_alone() -> None:
    class Augmented(Known):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            torch.rand(1), np.random.rand()
            return super().__getitem__(index)

    def batches() -> tuple[list[int], Any]:
        torch.manual_seed(3), np.random.seed(3)
        shuffled = DataLoader(Augmented(), batch_size=100, shuffle=True, generator=torch.Generator().manual_seed(4))
        persistent = DataLoader(Stream(), batch_size=100, num_workers=1, persistent_workers=True)
        return shuffled, persistent

    def following(loaders: tuple[Any, Any]) -> list[Any]:
        orders = [[int(label) for _, labels in loader for label in labels] for loader in loaders]
        # not Python's own state, from which the type checks of the tests draw
        return [*orders, torch.rand(1).item(), np.random.rand()]

    expected = following(batches())
    loaders = batches()
    for loader in loaders:
        sample_data(loader, limit=10, preprocessing=STEPS)
    sample_data(Augmented(), limit=10, preprocessing=STEPS)
    assert following(loaders) == expected


def test_the_sample_of_an_augmented_set_is_reproducible() -> None:
    class Noisy(Known):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            image, label = super().__getitem__(index)
            return image + torch.rand(1), label

    torch.manual_seed(5)
    one = sample_data(Noisy(), limit=10)
    torch.manual_seed(6)
    assert sample_data(Noisy(), limit=10).sha256 == one.sha256


def test_memory_is_limited() -> None:
    size = PIXELS[0].nbytes
    sample = sample_data(Known(), limit=600, preprocessing=STEPS, most_bytes=100 * size + 5)
    assert len(sample.images) == 100
    assert sample.notice.startswith("100 of 600 test images, stratified")
    # floats take four times as much, which only shows after reading some
    images = NORMALIZED.clone()
    images[300:] += 0.001
    data = TensorDataset(images, LABELS)
    assert len(sample_data(data, limit=600, preprocessing=STEPS, most_bytes=100 * size).images) == 25
    stream = sample_data(Stream(), limit=600, preprocessing=STEPS, most_bytes=100 * size)
    assert 46 <= len(stream.images) <= 100
    assert len(sample_data(Known(), limit=600, preprocessing=STEPS, most_bytes=1).images) == 1


def test_floats_between_bytes_are_kept() -> None:
    images = torch.rand(10, 3, 4, 4, generator=torch.Generator().manual_seed(7))
    sample = sample_data((STEPS.normalized(images), torch.arange(10)), limit=10, preprocessing=STEPS)
    assert sample.images.pixels.dtype == torch.float32
    assert (sample.images.pixels - images).abs().max() < 1e-6
    assert sample.images.pixels.min() >= 0


def test_unknown_normalization_gives_a_stated_scale() -> None:
    sample = sample_data((NORMALIZED, LABELS), limit=600)
    low, high = NORMALIZED.min().item(), NORMALIZED.max().item()
    assert torch.equal(sample.images.pixels, NORMALIZED)
    assert sample.images.scale == (low, high)
    assert sample.notice == (
        f"all 600 test images; mean and std are unknown: pixels range from {low:.3g} to {high:.3g} and are drawn on "
        "that scale"
    )
    shown = sample.images.shown()
    assert (shown.min(), shown.max()) == (0, 1)


def test_a_wrong_normalization_is_noticed() -> None:
    sample = sample_data((NORMALIZED * 2, LABELS), limit=600, preprocessing=STEPS)
    assert "with mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225 undone, pixels range from -0.4" in sample.notice
    assert torch.allclose(sample.images.pixels, STEPS.displayed(NORMALIZED * 2))
    assert sample.images.scale[0] < 0


def test_a_constant_image_has_a_scale() -> None:
    sample = sample_data((torch.full((2, 1, 2, 2), 7.0), [0, 1]), limit=2)
    assert sample.images.shown().isfinite().all()


def test_byte_tensors_stand_for_displayed_values() -> None:
    sample = sample_data((PIXELS, LABELS), limit=600, preprocessing=STEPS)
    assert torch.equal(sample.images.pixels, PIXELS)
    assert sample.notice == "all 600 test images; bytes 0…255 mean [0, 1]"


def pictures(mode: str = "RGB", count: int = 6) -> list[tuple[Image.Image, int]]:
    return [(Image.new(mode, (12, 8), 40 * one if mode == "L" else (40 * one, 0, 9)), one % 2) for one in range(count)]


def test_pictures_are_preprocessed_by_pellucid() -> None:
    steps = Preprocessing(mean=STEPS.mean, std=STEPS.std, resize=6, crop=(4, 4))
    sample = sample_data(pictures(), limit=6, preprocessing=steps)
    assert sample.images.image_shape == (3, 4, 4)
    assert sample.images.pixels[:, 0, 0, 0].tolist() == [0, 40, 80, 120, 160, 200]
    # three means need three channels
    gray = sample_data(pictures("L"), limit=6, preprocessing=steps)
    assert gray.images.image_shape == (3, 4, 4)
    assert sample_data(pictures("L"), limit=6).images.image_shape == (1, 8, 12)
    assert sample_data(pictures("L"), limit=6, channels=3).images.image_shape == (3, 8, 12)
    mixed = sample_data([*pictures("L", 3), *pictures("RGB", 3)], limit=6)
    assert mixed.images.pixels[1, :, 0, 0].tolist() == [40, 40, 40]


def test_pictures_pass_through_the_users_own_preprocessing() -> None:
    def transform(picture: Image.Image) -> torch.Tensor:
        values = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
        return (values - torch.tensor([0.5, 0.5, 0.5])[:, None, None]) / 0.5

    sample = sample_data(pictures(), limit=6, preprocessing=transform)
    expected = [one * 40 / 255 * 2 - 1 for one in range(6)]
    assert sample.images.pixels[:, 0, 0, 0].tolist() == pytest.approx(expected)
    assert sample.images.scale[0] == -1
    # a transform for color fails for a gray picture, which is then given in color
    assert sample_data(pictures("L"), limit=6, preprocessing=transform).images.image_shape == (3, 8, 12)

    def fail(picture: Image.Image) -> torch.Tensor:
        raise ZeroDivisionError("oh")

    with pytest.raises(DataError, match="preprocess failed for item 0 of list with ZeroDivisionError: oh"):
        sample_data(pictures(), limit=6, preprocessing=fail)


def test_items_may_be_dictionaries() -> None:
    items = [{"image": image, "label": label} for image, label in pictures()]
    assert sample_data(items, limit=6).images.labels.tolist() == [0, 1, 0, 1, 0, 1]
    with pytest.raises(
        DataError, match="dictionary with the keys picture, label; expected the image under one of pixel_v"
    ):
        sample_data([{"picture": 1, "label": 1}], limit=6)


ONE = torch.zeros(1, 4, 4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((NORMALIZED, torch.nn.functional.one_hot(LABELS)), r"a label of shape \(4,\) .*one-hot vector: label.argmax"),
        ((NORMALIZED, LABELS.float()), r"a label of torch.float32 \(convert it: label.long"),
        ([(ONE, 1.0)], "the label 1.0; expected a class index"),
        ([(ONE, "cat")], "the label 'cat'; expected a class index"),
        ([(ONE, -1)], "the label -1; expected 0 or more"),
        ((NORMALIZED, LABELS[:5]), "got 600 images but 5 labels"),
        ((NORMALIZED, 5), "labels of type int|expected"),
        ([(ONE,)], "tuple of length 1; expected a pair"),
        ([ONE], "is a Tensor; expected a pair"),
        ([], "is empty"),
        (5, "got data of type int; expected a torch Dataset, a DataLoader, or a pair"),
        ([(torch.zeros(8, 8, 3), 0)], r"shape \(8, 8, 3\).*image.permute\(2, 0, 1\)"),
        ([(torch.zeros(4), 0)], r"image of shape \(4,\)"),
        ([(ONE.long(), 0)], "image of torch.int64; expected uint8"),
        ([(ONE + torch.nan, 0)], "NaN or infinite"),
        ([(ONE, 0), (torch.zeros(1, 5, 5), 1)], "item 0 of list has 4×4 pixels, item 1 of list has 5×5"),
        ([(ONE.to_sparse(), 0)], "sparse_coo tensor"),
        ([(object(), 0)], "object as image"),
    ],
)
def test_data_that_cannot_be_used_is_refused(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        sample_data(data, limit=10)


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="a sample of 0 images"):
        sample_data(Known(), limit=0)


def test_labels_beyond_the_class_names_are_refused() -> None:
    with pytest.raises(DataError, match="has the label 3; expected 0 to 2, for 3 class names"):
        sample_data((NORMALIZED, LABELS), limit=600, classes=["a", "b", "c"])


def test_classes_are_matched_by_name() -> None:
    names = ("zebra", "Dog", "cat", "bee", "ant")
    sample = sample_data(Known(), limit=100, preprocessing=STEPS, classes=names)
    truth = LABELS[numbers_of(sample)]
    assert sample.images.labels.tolist() == [(4, 3, 2, 1)[label] for label in truth.tolist()]
    assert sample.classes == names
    assert sample.notice.endswith("seed 0; labels of 4 classes are matched by name with 5 classes")


def test_as_many_other_names_are_matched_by_order() -> None:
    sample = sample_data(Known(), limit=100, preprocessing=STEPS, classes=["Ameise", "Biene", "Katze", "Hund"])
    assert torch.equal(sample.images.labels, LABELS[numbers_of(sample)])
    assert sample.notice.endswith("classes are matched by order (ant is Ameise, …)")
    assert "matched" not in sample_data(Known(), limit=9, classes=Known().classes, preprocessing=STEPS).notice


def test_names_that_differ_only_by_case_are_matched_exactly() -> None:
    names = ("CAT", "dog", "cat", "bee", "ant")
    sample = sample_data(Known(), limit=100, preprocessing=STEPS, classes=names)
    truth = LABELS[numbers_of(sample)]
    assert sample.images.labels.tolist() == [(4, 3, 2, 1)[label] for label in truth.tolist()]


def test_shared_names_in_another_order_are_not_matched_by_order() -> None:
    with pytest.raises(DataError, match="have ant at different places"):
        sample_data(Known(), limit=100, preprocessing=STEPS, classes=["bee", "ant", "fox", "dog"])
    sample = sample_data(Known(), limit=100, preprocessing=STEPS, classes=["ant", "wasp", "cat", "dog"])
    assert sample.notice.endswith("classes are matched by order (ant is ant, …)")


def test_normalized_gray_images_do_not_fit_a_normalization_of_three_channels() -> None:
    with pytest.raises(ShapeError, match="mean and std have 3 values for normalized images of shape"):
        sample_data(
            (torch.zeros(4, 1, 6, 6), torch.arange(4)),
            limit=4,
            preprocessing=Preprocessing((0.5,) * 3, (0.2, 0.3, 0.4)),
        )


def test_a_wrong_number_of_classes_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"Known has 4 classes \(ant, bee, cat, dog\), which cannot be matched with the 2"
    ):
        sample_data(Known(), limit=100, classes=["cat", "dog"])


def test_titles_are_those_of_the_underlying_data() -> None:
    for data, title in (
        (Subset(Known(), [1, 2]), "Known"),
        (ConcatDataset([Known(), Subset(Known(), [3])]), "Known"),
        (DataLoader(Subset(Known(), [1, 2])), "Known"),
        (TensorDataset(NORMALIZED, LABELS), "Images"),
        (ConcatDataset([Known(), Items()]), "Images"),
        ((NORMALIZED, LABELS), "Images"),
        (Stream(), "Stream"),
    ):
        assert sample_data(data, limit=2).title == title


def test_class_names_are_unknown_after_a_transform_of_the_labels() -> None:
    data = Known()
    data.target_transform = lambda label: label // 2  # type: ignore[attr-defined]
    assert sample_data(data, limit=5).classes is None


def test_string_labels_are_looked_up() -> None:
    items = [(ONE, name) for name in ("dog", "cat", "dog")]
    assert sample_data(items, limit=3, classes=["cat", "dog"]).images.labels.tolist() == [1, 0, 1]


def test_more_classes_than_images_fit() -> None:
    stream = DataLoader(
        TensorDataset(torch.zeros(3000, 1, 1, 1), torch.arange(3000) % 1000), batch_sampler=[range(3000)]
    )
    sample = sample_data(stream, limit=20)
    assert len(sample.images.labels.unique()) == 20


def test_an_opened_data_set_is_sampled(tmp_path: Path) -> None:
    opened = open_data("digits", Request(tmp_path))
    steps = Preprocessing(mean=STEPS.mean, std=STEPS.std, resize=(16, 16))
    sample = sample_data(opened, limit=50, preprocessing=steps)
    assert sample.images.image_shape == (3, 16, 16)
    assert (sample.title, sample.total, len(sample.images)) == ("scikit-learn digits", 359, 50)
    plain = sample_data(opened, limit=359)
    assert torch.equal(plain.images.pixels, torch.stack([item.image for item in opened.test.read(None)]))
