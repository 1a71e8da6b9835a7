"""`pellucid explain`: pictures to one page or figure, and errors before any work."""

import json
import re
import subprocess
import sys
import zlib
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pellucid.attribution import create_analyzer
from pellucid.cli import main
from pretended_run import data_of

NETS = """
import torch
from torch import nn

def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 7)
    )

class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 12 * 10, 7)

    def forward(self, x):
        flat = x.flatten(1)
        return self.linear(flat * torch.from_numpy((flat.detach().numpy() > 0.2).astype("float32")))
"""
SLOWLY = ("--threads", "1")
NAMES = ["cat", "dog", "<script>alert(1)</script>", "fox", "owl", "bee", "ant"]


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with two pictures, a module of models and class names."""
    (tmp_path / "door_nets.py").write_text(NETS)
    picture(0).save(tmp_path / "a.png")
    picture(1).save(tmp_path / "b <i>.png")
    (tmp_path / "names.json").write_text(json.dumps(NAMES))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def network() -> nn.Module:
    scope: dict[str, Any] = {}
    exec(NETS, scope)
    return scope["small"]().eval()


def pixels(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.array(picture(seed))).permute(2, 0, 1).float() / 255


def test_page_has_the_maps_of_every_image_method_and_class(folder: Path) -> None:
    arguments = ["a.png", "b <i>.png", "--model", "door_nets:small", "--methods", "gradient,lrp.epsilon"]
    normalization = ["--mean", "0.5", "--std", "0.25"]
    assert main(["explain", *arguments, *normalization, "--class-names", "names.json", "--target", "owl", *SLOWLY]) == 0
    page = (folder / "why.html").read_text()
    content = data_of(page)
    (data,) = content["sections"]["explain"]["data"]["parts"]
    assert content["classes"] == NAMES
    assert data["titles"] == ["a.png", "b <i>.png"]
    model, x = network(), torch.stack([pixels(0), pixels(1)])
    with torch.no_grad():
        logits = model((x - 0.5) / 0.25)
    assert data["predictions"] == logits.argmax(1).tolist()
    assert data["targets"] == [4, 4]
    for image in range(2):
        likeliest = logits[image].argsort(descending=True).tolist()
        assert data["classes"][image] == list(dict.fromkeys([4, *likeliest]))[:4]
    np.testing.assert_allclose(
        data["probabilities"], logits.softmax(1).gather(1, torch.tensor(data["classes"])), rtol=1e-4
    )
    stored = np.frombuffer(zlib.decompress(b64decode(data["maps"][0])), np.int8).reshape(2, 4, 12, 10)
    for image in range(2):
        for place, label in enumerate(data["classes"][image]):
            # per unit of the displayed pixel, not of the normalized one
            own = create_analyzer("gradient", model).analyze((x[image : image + 1] - 0.5) / 0.25, label) / 0.25
            scale = data["scales"][0][image][place]
            np.testing.assert_allclose(stored[image, place] / 127 * scale, own[0].sum(0), atol=0.51 * scale / 127)
    source = np.frombuffer(zlib.decompress(b64decode(data["source"])), np.uint8).reshape(2, 12, 10, 3)
    np.testing.assert_array_equal(source[0], np.array(picture(0)))
    residuals = np.array(data["residual"][1], float)
    assert np.abs(residuals).max() < 1e-5


def test_page_is_self_contained_and_escaped(folder: Path) -> None:
    arguments = ["b <i>.png", "--model", "door_nets:small", "--methods", "gradient"]
    assert main(["explain", *arguments, "--class-names", "names.json", "--out", "page.html", *SLOWLY]) == 0
    page = (folder / "page.html").read_text()
    assert "alert(1)</script>" not in page
    assert "b <i>" not in page
    assert "default-src 'none'" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "The model&#39;s normalization is unknown" in page


def test_figure_has_one_row_per_method(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["explain", "a.png", "--model", "door_nets:small", "--methods", "gradient,cam", "--out", "w.png", *SLOWLY])
        == 0
    )
    with Image.open(folder / "w.png") as wide:
        tall = wide.height
    assert main(["explain", "a.png", "--model", "door_nets:small", "--out", "w.png", *SLOWLY]) == 0
    with Image.open(folder / "w.png") as single:
        assert single.height < tall
    assert capsys.readouterr().out.rstrip().endswith("w.png")


def test_methods_that_do_not_apply(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", "door_nets:Detached"]
    assert main(["explain", "a.png", *model, "--methods", "lrp.epsilon,gradient", *SLOWLY]) == 0
    assert "Not applicable to this model: lrp.epsilon" in (folder / "why.html").read_text()
    assert main(["explain", "a.png", *model, "--methods", "lrp.epsilon", "--out", "no.html", *SLOWLY]) != 0
    assert "no method applies to this model. lrp.epsilon: " in " ".join(capsys.readouterr().err.split())
    assert not (folder / "no.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.png", "y.png", "--model", "door_nets:small"], "the images x.png, y.png do not exist."),
        (["--model", "door_nets:small"], "got no image to explain"),
        (["a.png", "--model", "smal_cnn"], "no model 'smal_cnn'; did you mean 'small_cnn'"),
        (
            ["a.png", "--model", "door_nets:small", "--methods", "gradent"],
            "no method 'gradent'; did you mean 'gradient'",
        ),
        (
            ["a.png", "--model", "door_nets:small", "--out", "why.gif"],
            "--out why.gif has an unsupported suffix; use .html, .png",
        ),
        (["a.png", "--model", "door_nets:small", "--out", "./a.png"], "would overwrite the picture"),
        (["a.png", "--model", "door_nets:small", "--out", "no/why.png"], "--out no/why.png cannot be written"),
        (["a.png", "--model", "door_nets:small", "--dataset", "mnist"], "--dataset and IMAGE are mutually exclusive"),
        (["--model", "door_nets:small", "--dataset", "mnist", "--out", "a.html"], "--out a.html is not a Zarr store"),
        (["--model", "door_nets:small", "--dataset", "mnist", "--open"], "--open is for pages; run `pellucid report"),
        (["--model", "door_nets:small", "--dataset", "mmnist"], "did you mean 'mnist'"),
        (["a.png", "--model", "door_nets:small", "--out", "a.zarr"], "give the data with --dataset"),
        (["a.png", "--model", "door_nets:small", "--limit", "3"], "--limit is for whole data sets"),
        (["a.png", "--model", "door_nets:small", "--methods", "none"], "--methods none is for whole data sets"),
        (["a.png", "--model", "door_nets:small", "--mean", "0.5"], "--mean is given without --std"),
        ([".", "--model", "door_nets:small"], ". is a folder; pass the images in it"),
    ],
)
def test_mistakes_exit_with_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["explain", *arguments, *SLOWLY]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (folder / "why.html").exists()


def test_mistakes_leave_torch_unimported(folder: Path) -> None:
    mistakes = [["x.png"], ["a.png", "--out", "a"], ["a.png", "--methods", "gradent"]]
    code = f"import sys; from pellucid.cli import main; rows = {mistakes}; "
    code += "codes = [main(['explain', *row, '--model', 'door_nets:small']) for row in rows]; "
    code += "assert codes == [2, 2, 2] and 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "cta", "--class-names", "names.json"], "there is no class 'cta'; did you mean 'cat'"),
        (["--target", "cat"], "the class names are unknown"),
        (["--target", "7"], "--target is 7, but the model has 7 classes"),
        (["--class-names", "few.txt"], "got 2 class names for a model with 7 outputs"),
        (["--class-names", "absent.txt"], "cannot be read"),
    ],
)
def test_choices_that_do_not_fit_the_model(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (folder / "few.txt").write_text("cat\ndog\n")
    assert main(["explain", "a.png", "--model", "door_nets:small", *arguments, *SLOWLY]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (folder / "why.html").exists()


def test_unreadable_picture_keeps_the_earlier_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "why.html").write_text("earlier")
    (folder / "text.png").write_text("no picture")
    assert main(["explain", "text.png", "--model", "door_nets:small", *SLOWLY]) == 2
    assert "text.png cannot be read as an image" in " ".join(capsys.readouterr().err.split())
    assert (folder / "why.html").read_text() == "earlier"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_in_a_browser(folder: Path, scheme: str) -> None:
    from browser import chromium

    arguments = ["a.png", "b <i>.png", "--model", "door_nets:small", "--methods", "gradient,lrp.epsilon"]
    assert main(["explain", *arguments, "--class-names", "names.json", "--target", "owl", *SLOWLY]) == 0
    (data,) = data_of((folder / "why.html").read_text())["sections"]["explain"]["data"]["parts"]
    wrong: list[str] = []
    with chromium("--disable-gpu") as browser:
        context = browser.new_context(color_scheme=scheme)
        context.set_offline(True)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto((folder / "why.html").as_uri())
        page.wait_for_selector("#explain[data-ready=true], [data-ready=true]")
        assert page.locator(".strip legend").inner_text() == "Image"
        assert page.locator(".strip label").all_inner_texts() == ["a.png", "b <i>.png"]
        best = NAMES[data["predictions"][0]]
        answer = page.locator(".answer").inner_text()
        assert answer.startswith(f"a.png is predicted as {best} with confidence ")
        assert "Class owl has" in answer
        options = page.locator("select.by-class option").all_inner_texts()
        assert options[0].startswith("owl · ")
        assert options[0].endswith("target") or options[0].endswith("target · predicted")
        page.locator(".strip input").nth(1).check(force=True)
        assert page.locator(".answer").inner_text().startswith("b <i>.png is predicted as")
        page.locator("select.by-method").select_option(label="lrp.epsilon")
        sums = page.locator(".certificate dl div", has_text="expected sum").locator("dd").all_text_contents()
        assert float(sums[0].replace("−", "-")) == pytest.approx(data["expected"][1][1][0], rel=1e-3)
        assert page.locator("#status").count() == 0
        context.close()
    assert wrong == []
