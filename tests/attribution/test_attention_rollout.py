"""Attention rollout: compared with attention written out by hand, for every way to write it; refusals by name."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.attribution.attention_rollout import rollout
from pellucid.core.errors import ConfigError, UnsupportedOperation

IMAGES = torch.rand(3, 3, 12, 8, generator=torch.Generator().manual_seed(1)).double()
WIDTH, HEADS = 8, 2


class Block(nn.Module):
    """Self-attention with a residual connection, in one of several spellings; keeps its weights for the tests."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.module = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.how.startswith("module"):
            return x + self.module(x, x, x, need_weights=self.how == "module with weights")[0]
        q, k, v = self.qkv(x).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        if self.how == "fused":
            mixed = F.scaled_dot_product_attention(q, k, v)
        elif self.how == "merged heads":
            weights = torch.bmm(q.flatten(0, 1) / math.sqrt(q.shape[-1]), k.flatten(0, 1).mT).softmax(-1)
            mixed = torch.bmm(F.dropout(weights, 0.1, self.training), v.flatten(0, 1)).unflatten(0, (-1, HEADS))
        else:
            weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
            mixed = weights.to(v.dtype) * 2 @ v if self.how == "changed" else weights @ v
        return x + self.out(mixed.transpose(1, 2).flatten(2))

    def by_hand(self, x: Tensor) -> Tensor:
        """Return the attention weights, (batch, head, token, token)."""
        if self.how.startswith("module"):
            weight, bias = self.module.in_proj_weight, self.module.in_proj_bias
        else:
            weight, bias = self.qkv.weight, self.qkv.bias
        q, k, _ = (x @ weight.T + bias).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return torch.einsum("bhqd,bhkd->bhqk", q, k).div(math.sqrt(WIDTH / HEADS)).softmax(-1)


class Transformer(nn.Module):
    """Patches of 4×4 pixels, two blocks, and a head on the class token or on the mean over patches."""

    def __init__(self, how: str = "fused", head: str = "class") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Conv2d(3, WIDTH, 4, stride=4), nn.Linear(WIDTH, 3)
        self.start = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.blocks = nn.ModuleList(Block(how) for _ in range(2))
        self.pools = head
        self.double().eval()

    def tokens(self, x: Tensor) -> Tensor:
        return torch.cat([self.start.expand(len(x), -1, -1), self.embed(x).flatten(2).mT], 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0] if self.pools == "class" else x[:, 1:].mean(1))

    def matrices(self, images: Tensor) -> list[Tensor]:
        """Return the attention weights of both layers, by hand."""
        with torch.no_grad():
            x = self.tokens(images)
            first = self.blocks[0].by_hand(x)
            return [first, self.blocks[1].by_hand(self.blocks[0](x))]


def by_hand(matrices: list[Tensor], residual: float = 0.5, fuse: Callable = lambda a: a.mean(0)) -> Tensor:
    """Multiply the layers of each image, token by token."""
    result = []
    for image in range(len(matrices[0])):
        product = torch.eye(matrices[0].shape[-1]).double()
        for layer in matrices:
            fused = fuse(layer[image])
            mixed = (1 - residual) * fused + residual * torch.eye(len(fused)).double()
            product = torch.stack([row / row.sum() for row in mixed]) @ product
        result.append(product)
    return torch.stack(result)


SPELLINGS = ["fused", "module", "module with weights", "eager", "merged heads"]


@pytest.mark.parametrize("how", SPELLINGS)
@pytest.mark.parametrize("head", ["class", "mean"])
def test_equals_the_product_by_hand(how, head) -> None:
    model = Transformer(how, head)
    explanation = create_analyzer("attention_rollout", model).explain(IMAGES)
    product = by_hand(model.matrices(IMAGES))
    row = product[:, 0] if head == "class" else product[:, 1:].mean(1)
    plain = row[:, 1:].view(-1, 3, 2)
    torch.testing.assert_close(explanation.details["map"], plain, rtol=1e-9, atol=1e-12)
    large = F.interpolate(plain[:, None], size=(12, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(explanation.relevance, large.expand_as(IMAGES), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(explanation.logits, model(IMAGES).detach())
    rows = "0" if head == "class" else "6 tokens"
    assert explanation.notes == (f"2 attention layers over 7 tokens; row of the product: {rows}",)
    assert bool((explanation.details["map"].flatten(1).sum(1) < 1).all())


FUSE = {"mean": lambda a: a.mean(0), "max": lambda a: a.max(0).values, "min": lambda a: a.min(0).values}


@pytest.mark.parametrize(("heads", "residual"), [("mean", 0.3), ("mean", 1.0), ("max", 0.0), ("min", 0.5)])
def test_options_change_the_matrices(heads, residual) -> None:
    model = Transformer()
    product = by_hand(model.matrices(IMAGES), residual, FUSE[heads])
    found = create_analyzer("attention_rollout", model, heads=heads, residual=residual).explain(IMAGES).details["map"]
    torch.testing.assert_close(found, product[:, 0, 1:].view(-1, 3, 2), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("row", "tokens"), [(3, [3]), (-1, [6]), ("mean", [1, 2, 3, 4, 5, 6])])
def test_other_rows(row, tokens) -> None:
    model = Transformer()
    expected = by_hand(model.matrices(IMAGES))[:, tokens].mean(1)[:, 1:].view(-1, 3, 2)
    found = create_analyzer("attention_rollout", model, row=row).explain(IMAGES).details["map"]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_the_smallest_weights_are_discarded(share) -> None:
    model = Transformer()

    def fuse(layer: Tensor) -> Tensor:
        fused = layer.mean(0)
        limit = sorted(fused.flatten().tolist())[int(share * 49) - 1]
        return torch.where(fused <= limit, 0.0, fused)

    expected = by_hand(model.matrices(IMAGES), 0.5, fuse)[:, 0, 1:].view(-1, 3, 2)
    found = create_analyzer("attention_rollout", model, discard_share=share).explain(IMAGES).details["map"]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_the_product_sum_to_one(seed) -> None:
    layers = torch.rand(3, 2, 5, 5, generator=torch.Generator().manual_seed(seed)).double().softmax(-1)
    torch.testing.assert_close(rollout(list(layers)).sum(-1), torch.ones(2, 5).double())
    eye = torch.eye(5).double().expand(2, 5, 5)
    assert torch.equal(rollout([eye, eye]), eye)
    torch.testing.assert_close(rollout([torch.zeros_like(eye)], residual=0.0), torch.zeros_like(eye))
    with pytest.raises(ConfigError, match="at least one attention matrix"):
        rollout([])


def test_torchvision() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 32)
    own = torchvision.models.VisionTransformer(32, 16, 2, 2, 32, 64, num_classes=5).eval()
    nn.init.normal_(own.heads.head.weight)
    matrices: list[Tensor] = []
    for layer in own.encoder.layers:
        attention = layer.self_attention
        layer.ln_1.register_forward_hook(
            lambda *call, a=attention: matrices.append(a(*[call[2]] * 3, average_attn_weights=False)[1])
        )
    with torch.no_grad():
        own(images)
    expected = by_hand([matrix.double() for matrix in matrices])[:, 0, 1:].view(-1, 2, 2)
    for layer in own.encoder.layers:
        layer.ln_1._forward_hooks.clear()
    found = create_analyzer("attention_rollout", own).explain(images).details["map"]
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.integrations
def test_timm() -> None:
    timm = pytest.importorskip("timm", reason="needs the extra `integrations`")
    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 32)
    options = {"img_size": 32, "depth": 2, "num_classes": 5, "reg_tokens": 3}
    registers = timm.create_model("vit_tiny_patch16_224", pretrained=False, **options).eval()
    explanation = create_analyzer("attention_rollout", registers).explain(images)
    assert explanation.details["map"].shape == (2, 2, 2)
    assert "over 8 tokens; row of the product: 0" in explanation.notes[0]


def test_token_ids_get_the_share_of_each_token() -> None:
    torch.manual_seed(0)

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(20, WIDTH), nn.Linear(WIDTH, 3)
            self.blocks = nn.Sequential(Block("fused"), Block("module"))

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.blocks(self.words(ids))[:, 0])

    model, ids = Reader().double().eval(), torch.randint(20, (2, 6))
    explanation = create_analyzer("attention_rollout", model).explain(ids)
    with torch.no_grad():
        x = model.words(ids)
        product = by_hand([model.blocks[0].by_hand(x), model.blocks[1].by_hand(model.blocks[0](x))])
    torch.testing.assert_close(explanation.details["map"], product[:, 0])
    torch.testing.assert_close(explanation.relevance, (product[:, 0] / WIDTH)[..., None].expand(-1, -1, WIDTH))


class Crossing(nn.Module):
    """Attention that rollout is not defined for."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.embed, self.head = nn.Conv2d(3, WIDTH, 2, stride=2), nn.Linear(WIDTH, 3)
        self.first, self.second = Block("fused"), Block("fused")
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.query = nn.Parameter(torch.randn(1, 1, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        maps = self.embed(x)
        tokens = maps.flatten(2).mT
        if self.how == "cross-attention":
            return self.head(self.attention(self.query.expand(len(x), -1, -1), tokens, tokens)[0][:, 0])
        if self.how == "windows":
            rows = maps.permute(0, 2, 3, 1).flatten(0, 1)
            return self.head(self.first(rows).unflatten(0, (len(x), -1)).mean((1, 2)))
        if self.how == "pooled":
            fewer = F.avg_pool2d(self.first(tokens).mT.unflatten(2, maps.shape[2:]), 2).flatten(2).mT
            return self.head(self.second(fewer).mean(1))
        if self.how == "other order":
            return self.head(self.second(self.first(tokens).flip(1)).mean(1))
        return self.head(self.first(tokens[:, :5]).mean(1))  # a part of the image


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cross-attention", "in 'attention', 1 tokens attend to 24"),
        ("windows", r"'first', with weights of shape \(6, 2, 4, 4\) for one image, are those of windows"),
        ("pooled", "'second' connects 6 tokens, after 24 in 'first'"),
        ("other order", "'second' connects the tokens in another order than in 'first'"),
        ("part", "those of 'first' do not"),
    ],
)
def test_other_attention_is_refused_by_name(how, message) -> None:
    with pytest.raises(UnsupportedOperation, match=message):
        create_analyzer("attention_rollout", Crossing(how).double().eval()).analyze(IMAGES)


def test_models_without_suitable_attention_are_refused(network, images) -> None:
    with pytest.raises(UnsupportedOperation, match="needs a transformer"):
        create_analyzer("attention_rollout", network).analyze(images)
    with pytest.raises(UnsupportedOperation, match="in 'blocks.0' changes the result of a softmax"):
        create_analyzer("attention_rollout", Transformer("changed")).analyze(IMAGES)
    untrained = Transformer()
    nn.init.zeros_(untrained.head.weight)
    with pytest.raises(UnsupportedOperation, match="no token of the last attention layer has a gradient"):
        create_analyzer("attention_rollout", untrained).analyze(IMAGES)
    assert create_analyzer("attention_rollout", untrained, row=0).analyze(IMAGES).shape == IMAGES.shape


def test_invalid_options_are_reported() -> None:
    model = Transformer()
    for options, message in (({"row": 7}, "row is 7.*7 tokens.*-7 to 6"), ({"row": -8}, "row is -8")):
        with pytest.raises(ConfigError, match=message):
            create_analyzer("attention_rollout", model, **options).analyze(IMAGES)
    for options in ({"heads": "median"}, {"residual": 1.5}, {"discard_share": -0.1}, {"row": "last"}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            create_analyzer("attention_rollout", model, **options)


def test_results_do_not_depend_on_the_surroundings() -> None:
    model = Transformer("module")
    expected = create_analyzer("attention_rollout", model).analyze(IMAGES)
    with torch.inference_mode():
        assert torch.equal(create_analyzer("attention_rollout", model.train()).analyze(IMAGES.clone()), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        assert torch.equal(create_analyzer("attention_rollout", model).analyze(IMAGES), expected)
