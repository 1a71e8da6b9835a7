"""Tokens are folded to the plane by their positions in the image; the oracle is a Grad-CAM written by hand."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.attribution._places import Places
from pellucid.core.errors import ModelError, UnsupportedOperation

X = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)).double()
GRID = (4, 6)
WIDTH = 8


def grad_cam(model: nn.Module, layer: str, reshape: Callable[[Tensor], Tensor], images: Tensor = X) -> Tensor:
    """Compute Grad-CAM of class 1 from a hook, before ReLU and interpolation."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        seen.append(output)

    handle = model.get_submodule(layer).register_forward_hook(keep)
    model(images.clone().requires_grad_())[:, 1].sum().backward()
    handle.remove()
    values, slopes = reshape(seen[0].detach()), reshape(seen[0].grad)
    return (values * slopes.mean((2, 3), keepdim=True)).sum(1)


class Block(nn.Module):
    """Attention and an MLP, each after a norm and with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out, self.mlp = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.out((q @ k.transpose(1, 2)).softmax(-1) @ v)
        return x + self.mlp(self.norm2(x)).relu()


class Transformer(nn.Module):
    """A vision transformer with any number of extra tokens, before or after those of the image."""

    def __init__(self, before: int = 1, after: int = 0, pool: str = "first") -> None:
        super().__init__()
        torch.manual_seed(3)
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.before, self.after = torch.rand(1, before, WIDTH).double(), torch.rand(1, after, WIDTH).double()
        self.places = torch.rand(1, before + 24 + after, WIDTH).double()
        self.blocks, self.norm, self.head = nn.Sequential(Block(), Block()), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)
        self.pool = pool
        self.double().eval()

    def tokens(self, x: Tensor) -> Tensor:
        return self.patches(x).flatten(2).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        extra = (tokens.expand(len(x), -1, -1) for tokens in (self.before, self.after))
        start, end = extra
        tokens = self.norm(self.blocks(torch.cat([start, self.tokens(x), end], 1) + self.places))
        return self.head(tokens[:, 0] if self.pool == "first" else tokens.mean(1))


class Windowed(Transformer):
    """Tokens in the order of 2×3 windows, as masked autoencoders and Hiera keep them."""

    def tokens(self, x: Tensor) -> Tensor:
        maps = self.patches(x).unflatten(3, (2, 3)).unflatten(2, (2, 2))
        return maps.permute(0, 2, 4, 3, 5, 1).flatten(1, 4)


class Sliced(Transformer):
    """Patches cut by reshaping instead of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(48, WIDTH).double()

    def tokens(self, x: Tensor) -> Tensor:
        pieces = x.unflatten(3, (6, 4)).unflatten(2, (4, 4)).permute(0, 2, 4, 1, 3, 5)
        return self.embed(pieces.reshape(len(x), 24, 48))


class Mixer(nn.Module):
    """An MLP over the tokens; the sum starts with the mixed ones, which have lost their positions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.patches, self.mix, self.norm = nn.Conv2d(3, WIDTH, 4, 4), nn.Linear(24, 24), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 3)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = self.mix(tokens.transpose(1, 2)).transpose(1, 2) + tokens
        return self.head(self.norm(tokens).mean(1))


def by_rows(skip: int) -> Callable[[Tensor], Tensor]:
    return lambda tokens: tokens[:, skip : skip + 24].transpose(1, 2).unflatten(2, GRID)


def by_windows(tokens: Tensor) -> Tensor:
    """Fold the tokens after the class token, which come in 2×2 windows of 2×3 tokens."""
    maps = tokens[:, 1:].transpose(1, 2).unflatten(2, (2, 2, 2, 3))
    return maps.permute(0, 1, 2, 4, 3, 5).reshape(len(tokens), -1, *GRID)


@pytest.mark.parametrize(
    ("model", "layer", "reshape"),
    [
        # only a class token reaches the logits, so the last norm of the image's tokens has no gradient
        (Transformer(), "blocks.1.norm1", by_rows(1)),
        (Transformer(before=2), "blocks.1.norm1", by_rows(2)),
        (Transformer(before=1, after=4), "blocks.1.norm1", by_rows(1)),
        (Transformer(before=0, pool="mean"), "norm", by_rows(0)),
        (Windowed(), "blocks.1.norm1", by_windows),
        (Sliced(), "blocks.1.norm1", by_rows(1)),
        (Mixer(), "norm", by_rows(0)),
    ],
    ids=["class token", "distilled", "registers", "mean", "windows", "sliced", "mixer"],
)
def test_tokens_are_found_and_folded(model, layer, reshape) -> None:
    explanation = create_analyzer("grad_cam", model, relu=False).explain(X, 1)
    expected = grad_cam(model, layer, reshape)
    assert f"{layer!r}: 8×4×6" in explanation.notes[0]
    torch.testing.assert_close(explanation.details["map"], expected)
    large = F.interpolate(expected[:, None], size=X.shape[2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(explanation.relevance, large.expand_as(X))
    named = create_analyzer("grad_cam", model, layer=layer, relu=False).explain(X, 1)
    torch.testing.assert_close(named.details["map"], expected)
    given = create_analyzer("grad_cam", model, layer=layer, reshape=reshape, relu=False).explain(X, 1)
    torch.testing.assert_close(given.details["map"], expected)


@pytest.mark.parametrize("name", ["grad_cam_pp", "layer_cam", "guided_grad_cam"])
def test_every_class_activation_map_folds_tokens(name) -> None:
    model = Transformer()
    found = create_analyzer(name, model).analyze(X, 1)
    given = create_analyzer(name, model, layer="blocks.1.norm1", reshape=by_rows(1)).analyze(X, 1)
    torch.testing.assert_close(found, given)


@pytest.mark.parametrize("model", [Transformer(before=0, pool="mean"), Mixer()], ids=["transformer", "mixer"])
def test_cam_of_averaged_tokens_adds_up_to_the_logit(model) -> None:
    explanation = create_analyzer("cam", model).explain(X, 1)
    tokens: list[Tensor] = []
    handle = model.norm.register_forward_hook(lambda *call: tokens.append(call[2].detach()))
    logits = model(X)
    handle.remove()
    maps = torch.einsum("bnc,c->bn", tokens[0], model.head.weight[1].detach()).unflatten(1, GRID)
    torch.testing.assert_close(explanation.details["map"], maps)
    torch.testing.assert_close(maps.mean((1, 2)) + model.head.bias[1], logits[:, 1])


def test_cam_of_a_class_token_is_refused_with_a_way_out_that_works() -> None:
    with pytest.raises(UnsupportedOperation, match="choose 'grad_cam'"):
        create_analyzer("cam", Transformer()).analyze(X, 1)


def test_tokens_of_torchvision() -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    vit = models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3).double().eval()
    nn.init.normal_(vit.heads.head.weight)
    images = torch.rand(2, 3, 32, 32).double()
    explanation = create_analyzer("grad_cam", vit, relu=False).explain(images, 1)
    layer = "encoder.layers.encoder_layer_1.ln_1"
    expected = grad_cam(vit, layer, lambda tokens: tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4)), images)
    torch.testing.assert_close(explanation.details["map"], expected)
    swin = models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], num_classes=3).double().eval()
    explanation = create_analyzer("grad_cam", swin, relu=False).explain(images, 1)
    expected = grad_cam(swin, "norm", lambda maps: maps.permute(0, 3, 1, 2), images)
    torch.testing.assert_close(explanation.details["map"], expected)


def test_tokens_without_positions_are_refused_with_a_way_out_that_works() -> None:
    class Shuffled(Transformer):
        """The tokens of half the image, which fill no rectangle."""

        def tokens(self, x: Tensor) -> Tensor:
            everything = super().tokens(x)
            return torch.cat([everything[:, 1:], everything[:, 1:2]], 1)

    model = Shuffled()
    with pytest.raises(ModelError, match=r"regular grid.*reshape=function"):
        create_analyzer("grad_cam", model).analyze(X, 1)
    explanation = create_analyzer("grad_cam", model, layer="blocks.1.norm1", reshape=by_rows(1), relu=False)
    torch.testing.assert_close(explanation.explain(X, 1).details["map"], grad_cam(model, "blocks.1.norm1", by_rows(1)))


def test_positions_follow_moves_averages_and_assignments() -> None:
    image = torch.rand(1, 2, 4, 6)
    with Places(image) as places:
        pooled = F.avg_pool2d(image, 2)
        merged = torch.cat([image[:, :, 0::2, 0::2], image[:, :, 1::2, 1::2]], 1).permute(0, 2, 3, 1)
        reduced = F.linear(merged, torch.rand(5, 4)).flatten(1, 2)
        written = torch.zeros(1, 7, 5)
        written[:, 1:] = reduced
        mixed = F.linear(reduced.transpose(1, 2), torch.rand(6, 6))
    for value, axis, order in (
        (pooled, 1, [0, 1, 2, 3, 4, 5]),
        (reduced, 2, [0, 1, 2, 3, 4, 5]),
        (written, 2, [1, 2, 3, 4, 5, 6]),
    ):
        fold = places.fold(value)
        assert (fold.axis, fold.order.tolist(), fold.grid) == (axis, order, (2, 3))
    assert places.fold(mixed) is None
