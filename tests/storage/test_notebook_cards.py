"""What results show in a notebook: small, self-contained HTML with the numbers of the result."""

import re
from typing import Any

import pytest
import torch
from torch import nn

import pellucid
from pellucid.core.cards import card, page, picture_html, text_html
from pellucid.storage.runs import Run
from pellucid.synthesis import Prototypes

EVIL = "</style><script>alert(1)</script>"


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def check(html: str) -> None:
    assert html.startswith('<div class="pellucid-card">')
    assert "<script" not in html
    assert "prefers-color-scheme: dark" in html
    assert not re.search(r'(src|href)="(?!data:image/)', html)
    assert len(html) < 300_000


def test_text_is_escaped() -> None:
    html = card(EVIL, text_html(EVIL), picture_html(b"x", "png", '"><script>', 10))
    check(html)
    assert "<title>&lt;/style&gt;" in page(EVIL, html)


def test_evaluation() -> None:
    images = torch.rand(6, 1, 4, 4)
    evaluation = pellucid.evaluate(model(), images, None, ["gradient", "lrp.epsilon"], ["sparseness"])
    html = evaluation._repr_html_()
    check(html)
    assert "Evaluation of 6 images" in html
    for metric in evaluation.metrics:
        for method in evaluation.methods:
            assert f">{evaluation.value(method, metric):.3f}" in html
        best = evaluation.best(metric)
        assert f"{evaluation.value(best, metric):.3f} ★" in html


@pytest.mark.parametrize("shape", [(3, 1, 8, 8), (2, 3, 500, 400), (60, 3, 64, 64)])
def test_prototypes(shape: tuple[int, ...]) -> None:
    count = shape[0]
    numbers: dict[str, Any] = {name: torch.zeros(count) for name in ("logit", "objective", "log_prior")}
    probabilities = torch.linspace(0.1, 0.9, count)
    prototypes = Prototypes(
        images=torch.rand(shape), classes=torch.arange(count), log_probability=probabilities.log(),
        history=torch.zeros(count, 2), seed=3, prior="l2", **numbers,
    )  # fmt: skip
    html = prototypes._repr_html_()
    check(html)
    assert f"class 1: {float(probabilities[1]):.1%}" in html
    assert html.count("<img") == min(count, 40)
    assert ("The first 40 of 60 are shown." in html) == (count == 60)


def test_jacobian_report() -> None:
    x = torch.rand(2, 1, 4, 4)
    report = pellucid.jacobian_report(model(), x)
    html = report._repr_html_()
    check(html)
    assert "2×3×1×4×4" in html
    expected = model()[1].weight.detach()
    assert f"{float(expected.norm()):.4g}" in html
    assert f"{float(expected.abs().max()):.4g}" in html


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.linear(a) + b.sum(1, keepdim=True)


def test_jacobian_of_several_inputs() -> None:
    html = pellucid.jacobian_report(Two(), {"a": torch.rand(2, 3), "b": torch.rand(2, 5)})._repr_html_()
    check(html)
    assert "<td>a</td><td>2×2×3</td>" in html
    assert "<td>b</td><td>2×2×5</td>" in html


def test_run() -> None:
    lines = [{"epoch": n, "train_loss": 0.5 / (n + 1), "test_accuracy": n / 100, "best": n == 7} for n in range(30)]
    run = Run(model(), {"model": "mlp", "dataset": "digits", "seed": 5}, (EVIL, "b"), lines)
    html = run._repr_html_()
    check(html)
    assert "7.00%" in html
    assert "12 of 30 epochs" in html
    assert "&lt;script&gt;" in html
    assert f"{sum(p.numel() for p in run.model.parameters())}" in html
    check(Run(model(), {}, ("a",), [])._repr_html_())
