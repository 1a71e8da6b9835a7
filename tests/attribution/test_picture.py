"""Explanations keep their inputs and draw themselves."""

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pellucid
from pellucid.attribution import Display, Explanation, Explanations, create_analyzer
from pellucid.attribution import _display as module
from pellucid.core.errors import ConfigError, WriteError
from pellucid.plots.colours import WRONG

pytestmark = pytest.mark.filterwarnings("ignore::pellucid.attribution._explanation.AmplificationWarning")


IDS = torch.tensor([[3, 4, 5, 0, 0, 0], [1, 2, 3, 4, 5, 6]])


def reader() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(48, 6), nn.ReLU(), nn.Linear(6, 3))


def network(channels: int = 3, classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, classes)
    )


def explanation(method: str = "lrp.epsilon", target: object = None, images: int = 2, **changes: object) -> Explanation:
    torch.manual_seed(1)
    x = torch.rand(images, 3, 9, 9)
    return replace(create_analyzer(method, network()).explain(x, target), **changes)  # type: ignore[arg-type]


def texts(figure: object) -> str:
    return " ".join(text.get_text() for text in figure.texts)  # type: ignore[attr-defined]


def planes(figure: object) -> list[np.ndarray]:
    """The second picture of each row of images: the map."""
    drawn = [axes.images for axes in figure.axes if axes.images]  # type: ignore[attr-defined]
    return [np.asarray(images[0].get_array()) for images in drawn[1::3]]


# --- what it keeps ---------------------------------------------------------------------------------------------


def test_inputs_are_a_copy() -> None:
    x = torch.rand(2, 3, 9, 9)
    before = x.clone()
    one = create_analyzer("gradient", network()).explain(x)
    x.zero_()
    assert torch.equal(one.inputs, before)
    array = np.random.default_rng(0).random((2, 3, 9, 9)).astype("float32")
    assert torch.equal(create_analyzer("gradient", network()).explain(array, "all").inputs, torch.from_numpy(array))


def test_inputs_of_tokens_and_of_several_inputs_are_kept() -> None:
    assert torch.equal(create_analyzer("lrp.epsilon", reader()).explain(IDS).inputs, IDS)
    pair = {"image": torch.rand(2, 1, 4, 4), "numbers": torch.rand(2, 3)}
    one = create_analyzer("lrp.epsilon", Two()).explain(pair)
    assert all(torch.equal(one.inputs[name], pair[name]) for name in pair)
    assert one.inputs["image"] is not pair["image"]


@pytest.mark.parametrize(
    ("method", "unit"),
    [
        ("lrp.epsilon", "logits"),
        ("integrated_gradients", "logits"),
        ("gradient", "logits per unit of pixel value"),
        ("sensitivity", "(logits per unit of pixel value)²"),
        ("excitation_backprop", "probability"),
        ("random", ""),
    ],
)
def test_unit(method: str, unit: str) -> None:
    assert explanation(method).unit == explanation(method, "all").unit == unit


def test_unit_names_the_kind_of_input_and_of_score() -> None:
    model = nn.Linear(3, 2)
    assert create_analyzer("gradient", model).explain(torch.rand(1, 3)).unit == "logits per unit of input value"
    assert create_analyzer("gradient", reader()).explain(IDS).unit == "logits per unit of embedding"
    score = create_analyzer("lrp.epsilon", model).explain(torch.rand(1, 3), lambda logits: logits.sum(1))
    assert score.unit == "units of the score"


def test_repr_stays_short() -> None:
    shown = repr(explanation(classes=tuple(f"name {n}" for n in range(1000))))
    assert len(shown.splitlines()) < 24
    assert len(shown) < 1200
    assert "inputs = float32 (2, 3, 9, 9)" in shown


# --- its text --------------------------------------------------------------------------------------------------


def test_verdict_states_sum_residual_and_tolerance() -> None:
    one = explanation("lrp.z")
    total = float(one.relevance[1].sum())
    match = re.match(r"Attributions sum to (\S+), as expected \(residual (\S+), within tolerance\)\.", one.verdict(1))
    assert match is not None
    assert float(match[1]) == pytest.approx(total, rel=1e-3)
    assert float(match[2]) == pytest.approx(abs(float(one.residual[1])), rel=0.5, abs=1e-12)
    absorbed = sum(float(values[1]) for values in one.absorbed.values())
    promised = float(one.logits[1].max())
    assert f"Biases and constants absorb {absorbed:.4g} of {promised:.4g}." in one.verdict(1)
    assert explanation("gradient").verdict() == "The method promises no sum."


def test_verdict_beyond_the_tolerance() -> None:
    values = {"residual": torch.tensor([0.5, 0.0]), "expected": torch.tensor([16.04, 1]), "absorbed": {}}
    one = explanation("lrp.epsilon", allowed=torch.tensor([0.01, 0.01]), **values)
    assert one.verdict() == (
        "Attributions sum to 16.54 instead of the expected 16.04 (residual 0.5, beyond the tolerance of 0.01)."
    )
    assert one.verdict(1) == "Attributions sum to 1, as expected (residual 0, within tolerance)."
    broken = explanation(
        "lrp.epsilon", allowed=torch.tensor([0.01, 0.01]), **{**values, "residual": torch.full((2,), torch.nan)}
    )
    assert "instead of" in broken.verdict()


def test_extreme_probabilities_are_not_rounded_to_certainty() -> None:
    logits = torch.tensor([[12.0, 0.0, 0.0, 0.0]])
    shown = texts(explanation("gradient", 1, images=1, logits=logits).figure())
    assert "class 0 (above 99.9%)" in shown
    assert "class 1 (below 0.1%)" in shown


def test_missed_sums_are_warnings() -> None:
    values = {"residual": torch.tensor([0.5]), "allowed": torch.tensor([0.01])}
    one = explanation("lrp.epsilon", images=1, **values)
    (line,) = [text for text in one.figure().texts if "instead of the expected" in text.get_text()]
    assert line.get_color() == WRONG
    assert '<p class="warning">lrp.epsilon for class' in one._repr_html_()
    fine = explanation("lrp.epsilon", images=1)
    assert WRONG not in {text.get_color() for text in fine.figure().texts}
    assert 'class="warning"' not in fine._repr_html_()


def test_text_has_prediction_probability_target_and_verdict() -> None:
    names = ("cat", "dog", "fox", "owl")
    one = explanation("lrp.epsilon", torch.tensor([1, 3]), classes=names, display=Display(titles=("a.png", "b.png")))
    shown = texts(one.figure())
    for image, (title, label) in enumerate((("a.png", 1), ("b.png", 3))):
        shares = one.logits[image].softmax(0)
        best = int(shares.argmax())
        assert f"{title}: predicted as {names[best]} ({float(shares[best]):.1%})" in shown
        target = names[label] if label == best else f"{names[label]} ({float(shares[label]):.1%})"
        assert f"lrp.epsilon for {target}." in shown
        assert " ".join(one.verdict(image).split()[:4]) in shown


def test_names_that_are_numbers_or_long() -> None:
    one = explanation("gradient", torch.tensor([2]), images=1, classes=("0", "1", "7", "a" * 200))
    assert "gradient for class 7" in texts(one.figure())
    long = explanation("gradient", torch.tensor([3]), images=1, classes=("0", "1", "2", "a" * 200))
    assert f"gradient for {'a' * 59}…" in texts(long.figure())


def test_other_targets_and_outputs_are_described() -> None:
    assert "gradient for a custom score." in texts(explanation("gradient", lambda o: o.sum(1), 1).figure())
    assert "class 2 rather than class 0" in texts(explanation("gradient", pellucid.Contrast(2, 0), 1).figure())
    single = create_analyzer("gradient", nn.Sequential(nn.Flatten(), nn.Linear(4, 1))).explain(torch.ones(1, 1, 2, 2))
    assert f"Output {float(single.logits):.4g}" in texts(single.figure())
    dense = create_analyzer("gradient", nn.Conv2d(3, 5, 1)).explain(
        torch.rand(1, 3, 6, 6), lambda o: o[:, 1].sum((1, 2))
    )
    assert "Output of shape (5, 6, 6)" in texts(dense.figure())


def test_probability_of_a_model_that_ends_in_a_softmax() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Softmax(1))
    x = torch.rand(1, 1, 2, 2)
    share = float(model(x).detach().max())
    assert f"({share:.1%})" in texts(create_analyzer("gradient", model, unwrap_softmax=True).explain(x).figure())


# --- its pictures ----------------------------------------------------------------------------------------------


def test_maps_in_the_figure_are_the_relevance() -> None:
    one = explanation()
    for image, plane in enumerate(planes(one.figure())):
        np.testing.assert_allclose(plane, one.relevance[image].sum(0), rtol=1e-5, atol=1e-8)
    picture = next(axes.images[0].get_array() for axes in one.figure().axes if axes.images)
    np.testing.assert_allclose(picture, one.inputs[0].permute(1, 2, 0), rtol=1e-6)


def test_all_classes_are_shown_from_the_likeliest_on() -> None:
    one = explanation("lrp.epsilon", "all", images=1)
    order = one.logits[0].argsort(descending=True).tolist()
    drawn = planes(one.figure(rows=3))
    assert len(drawn) == 3
    for label, plane in zip(order, drawn, strict=False):
        np.testing.assert_allclose(plane, one.relevance[0, label].sum(0), rtol=1e-5, atol=1e-8)
    assert "3 of 4 maps are shown." in texts(one.figure(rows=3))


def test_rows_are_limited_and_the_limit_is_stated() -> None:
    one = explanation(images=5)
    figure = one.figure(rows=3)
    assert len(planes(figure)) == 3
    assert "3 of 5 maps are shown." in texts(figure)
    figure = one.figure()  # at most eight
    assert len(planes(figure)) == 5
    assert "maps are shown" not in texts(figure)
    with pytest.raises(ConfigError, match="rows is 0"):
        one.figure(rows=0)


def test_several_explanations_are_grouped_by_image() -> None:
    parts = [explanation("lrp.epsilon"), explanation("gradient")]
    both = Explanations(parts)
    drawn = planes(both.figure())
    for row, (image, number) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        np.testing.assert_allclose(drawn[row], parts[number].relevance[image].sum(0), rtol=1e-5, atol=1e-8)
    assert "2 images explained by 2 methods" in texts(both.figure())
    assert both[1] is parts[1]
    assert both[:1].explanations == (parts[0],)
    assert repr(both).splitlines()[1].startswith("  lrp.epsilon, target ")


def test_explanations_without_inputs_are_refused() -> None:
    with pytest.raises(ConfigError, match="has no inputs"):
        explanation(inputs=None).figure()
    with pytest.raises(ConfigError, match="got no explanation"):
        Explanations([]).figure()


def test_values_outside_of_0_and_1_state_their_scale() -> None:
    x = torch.linspace(-2, 6, 3 * 81).reshape(1, 3, 9, 9)
    one = create_analyzer("gradient", network()).explain(x)
    assert "Input values are drawn from -2 (black) to 6 (white)." in texts(one.figure())
    picture = next(axes.images[0].get_array() for axes in one.figure().axes if axes.images)
    np.testing.assert_allclose(picture, (x[0].permute(1, 2, 0) + 2) / 8, atol=1e-6)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.images, self.numbers = nn.Linear(16, 3), nn.Linear(3, 3)

    def forward(self, image: Tensor, numbers: Tensor) -> Tensor:
        return self.images(image.flatten(1)) + self.numbers(numbers)


def test_each_of_several_inputs_has_its_panel() -> None:
    one = create_analyzer("lrp.epsilon", Two()).explain({"image": torch.rand(1, 1, 4, 4), "numbers": torch.rand(1, 3)})
    figure = one.figure()
    np.testing.assert_allclose(planes(figure)[0], one.relevance["image"][0, 0], rtol=1e-5)
    widths = [bar.get_width() for axes in figure.axes for bar in axes.patches if len(axes.patches) == 3]
    np.testing.assert_allclose(widths, one.relevance["numbers"][0], rtol=1e-5)
    assert {"input image", "input numbers"} <= {text.get_text() for text in figure.texts}


def test_signals_volumes_and_wide_arrays() -> None:
    signal = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 18, 2))
    one = create_analyzer("lrp.epsilon", signal).explain(torch.randn(1, 2, 20))
    figure = one.figure()
    np.testing.assert_allclose(figure.axes[1].images[0].get_array(), one.relevance[0, 1][None], rtol=1e-5)
    np.testing.assert_allclose(figure.axes[1].lines[0].get_ydata(), one.inputs[0, 1])
    volume = nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 3 * 4 * 5, 2))
    deep = create_analyzer("lrp.epsilon", volume).explain(torch.rand(1, 1, 5, 6, 7))
    depth = sorted(deep.relevance[0, 0].abs().sum((1, 2)).argsort(descending=True)[:4].tolist())[0]
    np.testing.assert_allclose(deep.figure().axes[1].images[0].get_array(), deep.relevance[0, 0, depth], rtol=1e-5)
    wide = create_analyzer("gradient", nn.Sequential(nn.Flatten(), nn.Linear(300, 2))).explain(torch.rand(1, 12, 25))
    np.testing.assert_allclose(planes(wide.figure())[0], wide.relevance[0], rtol=1e-5)


def test_tokens_are_ids_unless_they_have_names() -> None:
    one = create_analyzer("lrp.epsilon", reader()).explain(IDS[:1])
    boxes = next(axes for axes in one.figure().axes if axes.patches).patches
    assert len(boxes) == 6
    assert {"3", "4", "5", "0"} <= {text.get_text() for text in one.figure().texts}
    named = replace(one, display=Display(tokens=(("the", "<b>", "cat", "", "", ""),)))
    assert "&lt;b&gt;" in named._repr_html_()
    value = float(one.relevance[0, 1].sum())
    assert f'title="{value:+.4g}"' in named._repr_html_()


# --- files and HTML --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml"), (".html", b"<!doc")]
)
def test_save_writes_the_format_of_the_suffix(tmp_path: Path, suffix: str, start: bytes) -> None:
    path = tmp_path / f"why{suffix.upper()}"
    assert explanation().save(str(path)) == path
    assert path.read_bytes().startswith(start)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_save_refuses_other_suffixes_before_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = explanation()
    with pytest.raises(ConfigError, match=r"'why\.jpeg'; use one of the suffixes \.png, \.pdf, \.svg, \.html"):
        one.save(tmp_path / "why.jpeg")
    with pytest.raises(WriteError, match="No such file"):
        one.save(tmp_path / "absent" / "why.png")


def test_failed_save_keeps_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "why.png"
    path.write_bytes(b"earlier")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(WriteError, match="No space left"):
        explanation().save(path)
    assert path.read_bytes() == b"earlier"
    assert len(list(tmp_path.iterdir())) == 1


class Markup(HTMLParser):
    """Collects tags, and checks that they are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


EVIL = "</style><script>alert(1)</script>"


def test_html_is_small_self_contained_and_escaped(tmp_path: Path) -> None:
    one = explanation(classes=(EVIL,) * 4, display=Display(titles=(EVIL, '"onerror="x')))
    html = one._repr_html_()
    markup = Markup()
    markup.feed(html)
    assert markup.open == []
    assert set(markup.tags) == {"div", "style", "h3", "h4", "p", "img"}
    assert f"predicted as {EVIL}" in markup.text
    assert "prefers-color-scheme: dark" in html
    assert not re.search(r"(src|href)=.(?!data:)", html)
    saved = one.save(tmp_path / "why.html").read_text()
    assert "<script" not in saved
    assert "default-src 'none'" in saved


def test_html_of_large_maps_is_small() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 7, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = torch.rand(2, 3, 600, 700)
    assert len(create_analyzer("gradient", model).explain(x)._repr_html_()) < 300_000
    ids = torch.arange(3000)[None] % 20
    model = nn.Sequential(nn.Embedding(20, 4), nn.Flatten(), nn.Linear(12000, 2))
    assert len(create_analyzer("gradient", model).explain(ids)._repr_html_()) < 300_000


# --- show ------------------------------------------------------------------------------------------------------


def test_show_opens_a_page_in_the_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(module, "opens_in_browser", lambda address: not opened.append(address))
    explanation().show()
    (page,) = tmp_path.iterdir()
    assert opened == [page.as_uri()]
    assert "Attributions sum to" in page.read_text()


def test_show_without_a_browser_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(module, "opens_in_browser", lambda address: False)
    with pytest.raises(ConfigError, match=r"save\('why.png'\)"):
        explanation().show()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_computing_an_explanation_does_not_import_matplotlib() -> None:
    code = (
        "import sys, torch, pellucid; from torch import nn; "
        "pellucid.create_analyzer('gradient', nn.Linear(2, 2)).explain(torch.rand(1, 2)); "
        "print('matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
