"""Statistics of layers for models with several outputs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pellucid.core.errors import ConfigError, ShapeError, UnknownName
from pellucid.diagnostics import layer_statistics


@dataclass
class Outputs:
    logits: Tensor
    features: Tensor | None = None


class Several(nn.Module):
    """A network whose outputs are packed by a function; `is_mixed` subtracts the mean over the batch."""

    def __init__(self, pack: Callable[[Tensor, Tensor], Any], *, is_mixed: bool = False) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, 3)
        self.pack, self.is_mixed = pack, is_mixed

    def forward(self, x: Tensor) -> Any:
        features = torch.tanh(self.body(x))
        if self.is_mixed:
            features = features - features.mean(0, keepdim=True)
        return self.pack(self.head(features), features)


def twins(pack: Callable[[Tensor, Tensor], Any], **options: bool) -> tuple[Several, Several]:
    """Return a network with packed outputs, and the same one that returns its logits alone."""
    packed, plain = Several(pack, **options), Several(lambda logits, _: logits, **options)
    plain.load_state_dict(packed.state_dict())
    return packed, plain


@pytest.mark.parametrize("is_mixed", [False, True])
@pytest.mark.parametrize(
    ("pack", "output"),
    [
        (lambda logits, features: {"logits": logits, "features": features}, "logits"),
        (lambda logits, features: (features, [logits]), (1, 0)),
        (lambda logits, features: {"features": features, "logits": logits}, lambda outputs: outputs["logits"]),
        (lambda logits, _: {"logits": logits}, None),
        (lambda logits, _: Outputs(logits), None),
        (Outputs, "logits"),
    ],
)
def test_the_selected_logits_have_the_gradients(pack: Any, output: Any, is_mixed: bool) -> None:
    packed, plain = twins(pack, is_mixed=is_mixed)
    images, labels = torch.randn(9, 4), torch.arange(9) % 3
    found = layer_statistics(packed, images, labels, output=output)
    expected = layer_statistics(plain, images, labels)
    assert found.loss == pytest.approx(expected.loss)
    for own, other in zip(found.rows, expected.rows, strict=True):
        assert own.weight_gradient_norm == pytest.approx(other.weight_gradient_norm, nan_ok=True)
        assert (own.mean, own.std) == pytest.approx((other.mean, other.std), abs=1e-6)


@pytest.mark.parametrize("pack", [lambda logits, features: {"a": logits, "b": features}, Outputs])
def test_without_labels_no_output_needs_to_be_named(pack: Any) -> None:
    packed, plain = twins(pack, is_mixed=True)
    images = torch.randn(9, 4)
    found, expected = layer_statistics(packed, images), layer_statistics(plain, images)
    assert [row.std for row in found.rows] == pytest.approx([row.std for row in expected.rows], abs=1e-6)


def test_wrong_selections_are_named() -> None:
    packed, plain = twins(lambda logits, features: {"logits": logits, "features": features[:, :, None]})
    images, labels = torch.randn(3, 4), torch.arange(3)
    with pytest.raises(ConfigError, match=r"dict with 'logits', 'features'; name one of them, such as output='logits'"):
        layer_statistics(packed, images, labels)
    with pytest.raises(UnknownName, match="logit"):
        layer_statistics(packed, images, output="logit")
    with pytest.raises(ShapeError, match=r"returns \(1, 5, 1\) for one image.*select the logits with output="):
        layer_statistics(packed, images, labels, output="features")
    with pytest.raises(ConfigError, match="Omit the name"):
        layer_statistics(plain, images, labels, output="logits")
    with pytest.raises(ConfigError, match="expected an index, a key or field"):
        layer_statistics(plain, images, output=())
