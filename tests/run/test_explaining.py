"""`pellucid.explain`: one call from a image file to its explanation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import pellucid
from pellucid.attribution import Explanations, create_analyzer
from pellucid.core.errors import ConfigError, DataError, ShapeError, UnknownName, UnsupportedOperation
from pellucid.core.origin import Origin, remember_origin
from pellucid.core.preprocessing import Preprocessing

pytestmark = pytest.mark.filterwarnings("ignore::pellucid.attribution._explanation.AmplificationWarning")

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NAMES = ("cat", "dog", "fox", "owl")


def network(channels: int = 3, classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, classes)
    ).eval()


def picture(seed: int = 0, size: tuple[int, int] = (12, 10), channels: int = 3) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.fromarray(pixels if channels == 3 else pixels[..., 0])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    picture().save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


def pixels_of(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


def normalized(x: Tensor) -> Tensor:
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


class Normalized(nn.Module):
    """The model with the normalization written out, which `explain` should amount to."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(normalized(x))


# --- inputs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gradient", "lrp.epsilon_plus_flat", "lrp.z_box", "integrated_gradients"])
def test_path_picture_and_normalized_tensor_give_one_map(path: Path, method: str) -> None:
    model, x = network(), pixels_of(picture())
    kinds = (path, str(path), picture(), [path], normalized(x), normalized(x)[0], normalized(x).numpy())
    expected = create_analyzer(method, Normalized(model)).explain(x)
    for images in kinds:
        why = pellucid.explain(model, images, method, mean=MEAN, std=STD)
        one = why[0] if isinstance(why, Explanations) else why
        torch.testing.assert_close(one.relevance, expected.relevance, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(one.inputs, x, rtol=0, atol=1e-6)
        assert one.notes == ()


def test_derivatives_are_per_displayed_pixel() -> None:
    model, x = network(), pixels_of(picture())
    leaf = normalized(x).requires_grad_()
    logits = model(leaf)
    (slope,) = torch.autograd.grad(logits.max(), leaf)
    why = pellucid.explain(model, normalized(x), "gradient", mean=MEAN, std=STD)
    torch.testing.assert_close(why.relevance, slope / torch.tensor(STD)[:, None, None], rtol=1e-4, atol=1e-7)
    assert why.unit == "logits per unit of pixel value"


def test_pictures_are_preprocessed(path: Path) -> None:
    steps = Preprocessing(resize=8, crop=(6, 6), mean=(0.5,), std=(0.5,))
    why = pellucid.explain(network(), path, "gradient", preprocess=steps)
    expected = pixels_of(steps.picture(picture()))
    torch.testing.assert_close(why.inputs, expected)
    assert why.display.titles == ("cat.png",)


def test_pictures_are_converted_to_the_channels_of_the_model(tmp_path: Path) -> None:
    picture(channels=1).save(tmp_path / "gray.png")
    gray = pellucid.explain(network(3), tmp_path / "gray.png", "gradient", mean=0.0, std=1.0).inputs
    assert gray.shape == (1, 3, 10, 12)
    assert torch.equal(gray[:, 0], gray[:, 2])
    color = pellucid.explain(network(1), picture(), "gradient", mean=0.0, std=1.0).inputs
    torch.testing.assert_close(color[0, 0], torch.from_numpy(np.array(picture().convert("L"))) / 255)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    steps = Preprocessing(crop=(6, 6))
    assert pellucid.explain(flat, picture(), "gradient", preprocess=steps).inputs.shape == (1, 1, 6, 6)


def test_pictures_are_resized_for_a_model_of_a_run() -> None:
    model = network(1)
    remember_origin(model, Origin((1, 8, 6)))
    why = pellucid.explain(model, picture(), "gradient")
    expected = picture().convert("L").resize((6, 8), Image.Resampling.BILINEAR)
    torch.testing.assert_close(why.inputs[0, 0], torch.from_numpy(np.array(expected)) / 255)
    assert why.notes == ()


def test_list_of_pictures_is_a_batch(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "a.png")
    why = pellucid.explain(network(), [tmp_path / "a.png", picture(2)], "gradient", mean=MEAN, std=STD)
    torch.testing.assert_close(why.inputs, torch.cat([pixels_of(picture(1)), pixels_of(picture(2))]))
    assert why.display.titles == ("a.png", "image 1")


def test_unknown_normalization_is_noted(path: Path) -> None:
    (note,) = pellucid.explain(network(), path).notes
    assert note.startswith("The model's normalization is unknown, so it receives pixels from 0 to 1; pass mean and std")
    assert pellucid.explain(network(), pixels_of(picture())).notes == ()
    why = pellucid.explain(network(), normalized(pixels_of(picture())))
    assert why.notes == ("The normalization of these images is unknown; pass mean and std to display them correctly",)
    assert "are drawn from" in " ".join(text.get_text() for text in why.figure().texts)


def test_wrong_normalization_is_noted() -> None:
    (note,) = pellucid.explain(network(), torch.full((1, 3, 5, 5), 9.0), "gradient", mean=MEAN, std=STD).notes
    assert note == "After undoing the normalization, pixels range from 2.43 to 2.55, not from 0 to 1"


def test_function_as_preprocessing(path: Path) -> None:
    def prepare(image: Image.Image) -> Tensor:
        return pixels_of(image)[0] * 7 - 3

    why = pellucid.explain(network(), path, "gradient", preprocess=prepare)
    torch.testing.assert_close(why.inputs, pixels_of(picture()) * 7 - 3)
    assert why.notes == ("The normalization in prepare is unknown, so relevance is per value of the model's input",)


@pytest.mark.parametrize(
    ("model", "x", "shape"),
    [
        (network(), torch.rand(3, 9, 9), (1, 3, 9, 9)),
        (network(1), torch.rand(9, 9), (1, 1, 9, 9)),
        (network(), [torch.rand(3, 9, 9), torch.rand(1, 3, 9, 9)], (2, 3, 9, 9)),
        (network(), [np.zeros((3, 9, 9), np.float32)] * 2, (2, 3, 9, 9)),
        (nn.Sequential(nn.Flatten(), nn.Linear(81, 4)), torch.rand(1, 9, 9), (1, 1, 9, 9)),
        (nn.Sequential(nn.Flatten(), nn.Linear(81, 4)), torch.rand(2, 1, 9, 9), (2, 1, 9, 9)),
        (nn.Linear(5, 4), torch.rand(5), (1, 5)),
        (nn.Linear(5, 4), torch.rand(1, 5), (1, 5)),
        (nn.Sequential(nn.Conv1d(2, 4, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten()), torch.rand(2, 30), (1, 2, 30)),
        (
            nn.Sequential(nn.Conv3d(1, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten()),
            torch.rand(1, 4, 5, 6),
            (1, 1, 4, 5, 6),
        ),
    ],
)
def test_missing_axes_are_added(model: nn.Module, x: Any, shape: tuple[int, ...]) -> None:
    if shape == (1, 1, 9, 9) and isinstance(model[0], nn.Flatten):  # (1, 9, 9) is a batch of one, and fits as it is
        shape = (1, 9, 9)
    assert pellucid.explain(model, x, "gradient").inputs.shape == shape


def test_tokens_and_several_inputs() -> None:
    reader = nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(24, 3))
    why = pellucid.explain(reader, torch.tensor([3, 4, 5]), tokens=[["the", "red", "cat"]], classes=("a", "b", "c"))
    expected = create_analyzer(why.method, reader).explain(torch.tensor([[3, 4, 5]]))
    torch.testing.assert_close(why.relevance, expected.relevance)
    assert {"the", "red", "cat"} <= {text.get_text() for text in why.figure().texts}
    with pytest.raises(ConfigError, match="expected one text per token id"):
        pellucid.explain(reader, torch.tensor([[3, 4, 5]]), tokens=[["the", "red"]])

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 2), nn.Linear(3, 2)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.a(a) + self.b(b)

    pair = (torch.rand(2, 4), torch.rand(2, 3))
    both = pellucid.explain(Sum(), pair, "lrp.epsilon")
    assert [part.shape for part in both.relevance] == [(2, 4), (2, 3)]


# --- methods and targets ---------------------------------------------------------------------------------------


def test_default_method_and_names() -> None:
    model, x = network(), torch.rand(2, 3, 9, 9)
    why = pellucid.explain(model, x, classes=NAMES)
    expected = create_analyzer("lrp.epsilon_plus_flat", model).explain(x)
    assert why.method == "lrp.epsilon_plus_flat"
    torch.testing.assert_close(why.relevance, expected.relevance)
    assert why.classes == NAMES
    assert model.training is False


class Unknown(nn.Module):
    """A part of the computation is out of sight, so that relevance methods refuse it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(27, 2)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return self.linear(flat * torch.from_numpy((flat.detach().numpy() > 0.2).astype("float32")))


@pytest.mark.filterwarnings("ignore::pellucid.attribution._explanation.CompletenessWarning")
def test_next_method_is_used_and_stated_if_the_default_does_not_apply() -> None:
    model, x = Unknown(), torch.rand(1, 3, 3, 3)
    with pytest.raises(UnsupportedOperation):
        create_analyzer("lrp.epsilon_plus_flat", model).explain(x)
    why = pellucid.explain(model, x)
    assert why.method == "integrated_gradients"
    (note,) = why.notes
    assert note.startswith("lrp.epsilon_plus_flat and lrp.epsilon do not apply (the operation 'numpy' ")
    assert note.endswith(", so integrated_gradients is used")
    assert "integrated_gradients is used." in why._repr_html_()
    assert "instead of the expected" in why.verdict()  # the hidden mask jumps on the path
    with pytest.raises(UnsupportedOperation):
        pellucid.explain(model, x, "lrp.epsilon")


def test_list_of_methods_gives_one_row_each() -> None:
    model, x = network(), torch.rand(1, 3, 9, 9)
    why = pellucid.explain(model, x, ["gradient", "lrp.epsilon"])
    assert isinstance(why, Explanations)
    assert [one.method for one in why] == ["gradient", "lrp.epsilon"]
    torch.testing.assert_close(why[0].relevance, create_analyzer("gradient", model).analyze(x))
    refused = pellucid.explain(Unknown(), torch.rand(1, 3, 3, 3), ["lrp.epsilon", "gradient"])
    assert [one.method for one in refused] == ["gradient"]
    assert refused[0].notes[0].startswith("lrp.epsilon does not apply (")
    with pytest.raises(UnknownName, match="there is no method 'gradent'"):
        pellucid.explain(model, x, ["lrp.epsilon", "gradent"])


def test_methods_with_bounds_are_refused_for_unknown_scales() -> None:
    x = torch.randn(1, 3, 9, 9) * 3
    why = pellucid.explain(network(), x, ["lrp.z_box", "lrp.epsilon"])
    assert [one.method for one in why] == ["lrp.epsilon"]
    assert why[0].notes[1].startswith("lrp.z_box does not apply (")


def test_targets_by_name_list_and_tensor() -> None:
    model, x = network(), torch.rand(2, 3, 9, 9)
    one = pellucid.explain(model, x, "gradient", target="fox", classes=NAMES)
    assert one.target.tolist() == [2, 2]
    rows = pellucid.explain(model, x, "gradient", target=["owl", 0, None], classes=NAMES)
    assert [row.target.tolist() for row in rows] == [[3, 3], [0, 0], model(x).argmax(1).tolist()]
    each = pellucid.explain(model, x, "gradient", target=torch.tensor([1, 3]))
    assert each.target.tolist() == [1, 3]
    every = pellucid.explain(model, x, ["gradient", "lrp.epsilon"], target=[0, 1])
    assert [(row.method, int(row.target[0])) for row in every] == [
        ("gradient", 0), ("gradient", 1), ("lrp.epsilon", 0), ("lrp.epsilon", 1),
    ]  # fmt: skip


def test_options_of_the_method_and_of_the_call() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = network()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"first": self.model(x), "logits": -self.model(x)}

    x = torch.rand(1, 3, 9, 9)
    why = pellucid.explain(Pair(), x, "lrp.epsilon", output="first", epsilon=0.1)
    torch.testing.assert_close(why.relevance, create_analyzer("lrp.epsilon", network(), epsilon=0.1).analyze(x))
    layered = pellucid.explain(network(), normalized(x), "grad_cam", layer="0", mean=MEAN, std=STD)
    torch.testing.assert_close(
        layered.relevance,
        create_analyzer("grad_cam", network(), layer="0").analyze(normalized(x)),
        rtol=1e-4,
        atol=1e-6,
    )
    with pytest.raises(ConfigError, match="has no option 'epsilom'"):
        pellucid.explain(network(), x, epsilom=1)


class Output:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


def test_outputs_with_logits() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = network()

        def forward(self, pixel_values: Tensor) -> Output:
            return Output(self.model(pixel_values))

    x = torch.rand(1, 3, 9, 9)
    torch.testing.assert_close(
        pellucid.explain(Wrapped(), x, "lrp.epsilon").relevance, create_analyzer("lrp.epsilon", network()).analyze(x)
    )


def test_model_state_is_restored() -> None:
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    pellucid.explain(model, picture(), mean=MEAN, std=STD, classes=NAMES)
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


# --- errors ----------------------------------------------------------------------------------------------------


def test_missing_files_are_named_at_once(tmp_path: Path, path: Path) -> None:
    with pytest.raises(DataError) as caught:
        pellucid.explain(network(), [tmp_path / "a.png", path, tmp_path / "b.png"])
    assert str(caught.value) == f"the images {tmp_path / 'a.png'}, {tmp_path / 'b.png'} do not exist."


def test_unreadable_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match=r"text\.png cannot be read as an image: not a BMP"):
        pellucid.explain(network(), tmp_path / "text.png")
    picture().save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:80])
    with pytest.raises(DataError, match=r"cut\.png cannot be read as an image"):
        pellucid.explain(network(), tmp_path / "cut.png")
    with pytest.raises(DataError, match=r"is a folder; pass the images in it"):
        pellucid.explain(network(), tmp_path)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([], DataError, "empty list of images"),
        (torch.zeros(0, 3, 9, 9), ShapeError, "the images are"),
        (np.zeros((9, 9, 3), np.uint8), ShapeError, "PIL.Image.fromarray"),
        (torch.zeros(1, 3, 9, 9, dtype=torch.uint8), ShapeError, "images.float\\(\\) / 255"),
        ([picture(), torch.zeros(3, 9, 9)], DataError, "pictures and Tensors"),
        ([picture(), picture(1, (8, 8))], DataError, r"image 0 \(3, 10, 12\), image 1 \(3, 8, 8\)"),
        ([torch.zeros(3, 9, 9), torch.zeros(3, 8, 9)], ShapeError, r"\(3, 9, 9\), \(3, 8, 9\)"),
        (torch.zeros(1, 4, 9, 9), ShapeError, "expects \\(batch, 3 channels"),
        (np.zeros((9, 8, 3), np.float32), ShapeError, r"channels last.*permute\(2, 0, 1\)"),
        (torch.zeros(2, 9, 8, 3), ShapeError, r"permute\(0, 3, 1, 2\)"),
        (object(), ShapeError, "object"),
        (torch.full((1, 3, 9, 9), torch.nan), DataError, "NaN"),
    ],
)
def test_wrong_images_are_refused(images: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pellucid.explain(network(), images)


def test_wrong_choices_are_refused(path: Path) -> None:
    model, x = network(), torch.rand(1, 3, 9, 9)
    with pytest.raises(ConfigError, match="got 3 class names for a model with 4 outputs"):
        pellucid.explain(model, x, classes=("a", "b", "c"))
    with pytest.raises(UnknownName, match="there is no class 'cta'; did you mean 'cat'"):
        pellucid.explain(model, x, target="cta", classes=NAMES)
    with pytest.raises(ConfigError, match="the class names are unknown; pass classes="):
        pellucid.explain(model, x, target="cat")
    with pytest.raises(ConfigError, match=r"the name of the classes \[0, 2\]"):
        pellucid.explain(model, x, target="cat", classes=("cat", "dog", "cat", "owl"))
    with pytest.raises(ConfigError, match="mean is given without std"):
        pellucid.explain(model, x, mean=MEAN)
    with pytest.raises(ConfigError, match="are for images"):
        pellucid.explain(nn.Linear(3, 2), torch.rand(1, 3), mean=0.5, std=0.5)
    with pytest.raises(ConfigError, match="tensors are passed to the model as they are"):
        pellucid.explain(model, x, preprocess=lambda image: image)
    for choice in ({"method": []}, {"target": []}):
        with pytest.raises(ConfigError, match="is an empty list"):
            pellucid.explain(model, x, **choice)
    with pytest.raises(DataError, match="the model takes 5 channels"):
        pellucid.explain(network(5), path)


# --- architectures ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "vit_b_16"])
def test_large_networks_of_torchvision(name: str, tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=1000).eval()
    photo = picture(0, (300, 260))
    photo.save(tmp_path / "photo.jpg")
    steps = Preprocessing(resize=232, crop=(224, 224), mean=MEAN, std=STD)
    names = tuple(f"class <{n}>" for n in range(1000))
    why = pellucid.explain(model, tmp_path / "photo.jpg", preprocess=steps, classes=names)
    assert why.method == "lrp.epsilon_plus_flat"
    assert why.inputs.shape == (1, 3, 224, 224)
    with torch.no_grad():
        logits = model(normalized(why.inputs))
    torch.testing.assert_close(why.logits, logits, rtol=1e-4, atol=1e-5)
    label = int(logits.argmax())
    share = float(F.softmax(logits.double(), 1)[0, label])
    assert f"photo.jpg: predicted as class &lt;{label}&gt; ({share:.1%})" in why._repr_html_()
    assert "as expected" in why.verdict()
    assert len(why._repr_html_()) < 300_000


@pytest.mark.slow
def test_torchscript_and_exported_programs() -> None:
    x = torch.rand(2, 3, 9, 9)
    exported = torch.export.export(network(), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    why = pellucid.explain(exported, x)
    torch.testing.assert_close(
        why.relevance, create_analyzer("lrp.epsilon_plus_flat", network()).analyze(x), rtol=1e-4, atol=1e-6
    )
    compiled = pellucid.explain(torch.compile(network()), x)
    torch.testing.assert_close(compiled.relevance, why.relevance, rtol=1e-4, atol=1e-6)


def test_a_tensor_of_bytes_is_refused_with_and_without_a_normalization():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 2))
    for options in ({}, {"mean": 0.5, "std": 0.2}):
        with pytest.raises(ShapeError, match="got a tensor of bytes"):
            pellucid.explain(model, torch.zeros(1, 3, 8, 8, dtype=torch.uint8), **options)
