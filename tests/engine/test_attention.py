"""Attention and its surroundings, as models implement them: conservation, gradients, and AttnLRP's formulas."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.attribution import AmplificationWarning
from pellucid.core.errors import UnsupportedOperation
from pellucid.engine.composites import Step
from pellucid.engine.model import frozen
from pellucid.engine.relevance import propagate
from pellucid.engine.rules import Derivative

pytestmark = pytest.mark.filterwarnings("ignore::pellucid.attribution._explanation.AmplificationWarning")
TOKENS, WIDTH = 5, 8
PADDED = torch.arange(TOKENS) >= TOKENS - 1
"""Mask of the keys that are hidden from every query."""
FAR = torch.zeros(TOKENS).double().masked_fill(PADDED, -math.inf)


class Net(nn.Module):
    """Maps (batch, token, feature) to logits: a given function, the mean over tokens, and a linear head."""

    def __init__(self, body: Callable[..., Tensor], **parts: Any) -> None:
        super().__init__()
        self.body = body
        for name, part in parts.items():
            setattr(self, name, part)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self, x).mean(1))


def mha(**options: Any) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(WIDTH, 2, **{"batch_first": True, **options})


def attends(**options: Any) -> Callable[[Net, Tensor], Tensor]:
    return lambda n, x: n.a(x, x, x, need_weights=False, **options)[0]


def padded(n: Net, x: Tensor, **options: Any) -> Tensor:
    return n.a(x, x, x, key_padding_mask=PADDED.expand(len(x), -1), need_weights=False, **options)[0]


def weighed(n: Net, x: Tensor) -> Tensor:
    attended, weights = n.a(x, x, x)
    return attended + weights @ x


def tokens_first(n: Net, x: Tensor) -> Tensor:
    x = x.transpose(0, 1)
    return n.a(x, x, x, need_weights=False)[0].transpose(0, 1)


def grouped(n: Net, x: Tensor) -> Tensor:
    q, k = x.unflatten(-1, (4, 2)).transpose(1, 2), n.k(x).unflatten(-1, (2, 2)).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, k, enable_gqa=True).transpose(1, 2).flatten(2)


def fused(**options: Any) -> Callable[[Net, Tensor], Tensor]:
    return lambda n, x: F.scaled_dot_product_attention(*n.qkv(x).chunk(3, -1), **options)


def by_hand(mix: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Net, Tensor], Tensor]:
    def body(n: Net, x: Tensor) -> Tensor:
        q, k, v = n.qkv(x).chunk(3, -1)
        return mix(q, k).softmax(-1) @ v

    return body


def by_einsum(n: Net, x: Tensor) -> Tensor:
    q, k, v = torch.einsum("btd,ecd->cbte", x, n.w)
    shares = torch.einsum("b i d, b j d -> b i j", q, k).softmax(-1)
    return torch.einsum("...ij,...jd->...id", shares, torch.einsum("bjd->bdj", v).mT)


def einsum_alone(n: Net, x: Tensor) -> Tensor:
    scaled = torch.einsum("btd,d->btd", x, n.w[0, 0])
    return torch.einsum("btd,btd->btd", scaled, torch.sigmoid(x)) + torch.einsum("btd->bd", x)[:, None]


def divided_by_hand(n: Net, x: Tensor) -> Tensor:
    root = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * n.w[0, 0]
    centered = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-6)
    return root + centered / (x.norm(dim=-1, keepdim=True) + 1) + (x.std(1, keepdim=True) + 1) ** -0.5 * x


def cosine(n: Net, x: Tensor) -> Tensor:
    unit = F.normalize(x, dim=-1)
    return (unit @ unit.mT * n.w[0, 0, 0].exp()).softmax(-1) @ x


def rotated(n: Net, x: Tensor) -> Tensor:
    angle = torch.arange(TOKENS).to(x)[:, None]
    turned = x * angle.cos() + torch.cat([-x[..., 4:], x[..., :4]], -1) * angle.sin()
    return torch.tanh(turned @ turned.mT / 5).mul(5).softmax(-1) @ x


def with_class_token(n: Net, x: Tensor) -> Tensor:
    x = torch.cat([n.w[:1, 0].unsqueeze(1).expand(len(x), -1, -1), x], 1)
    return torch.roll(x, (1, 2), (1, 2)) + n.w.flatten(0, 1)[: TOKENS + 1]


def windowed(n: Net, x: Tensor) -> Tensor:
    x = F.pad(x, (0, 0, 0, 1)).view(len(x), 2, 3, WIDTH).permute(0, 2, 1, 3).reshape(-1, 2, WIDTH)
    return n.a(x, x, x, need_weights=False)[0].view(-1, 3, 2, WIDTH).transpose(1, 2).flatten(1, 2)


def pooled(n: Net, x: Tensor) -> Tensor:
    shares = (x @ n.w[0, 0]).softmax(1)
    return (shares.unsqueeze(1) @ x) + shares.unsqueeze(-1) * x


def gated(n: Net, x: Tensor) -> Tensor:
    a, b = n.qkv(x)[..., :16].chunk(2, -1)
    return F.silu(a) * b + F.glu(n.qkv(x)[..., :16], -1)


def encoder(**options: Any) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def three() -> nn.Linear:
    return nn.Linear(WIDTH, 3 * WIDTH)


def weights() -> nn.Parameter:
    return nn.Parameter(torch.randn(WIDTH, 3, WIDTH))


CAUSAL = nn.Transformer.generate_square_subsequent_mask(TOKENS, dtype=torch.float64)
FORMS: dict[str, Callable[[], Net]] = {
    "module": lambda: Net(attends(), a=mha()),
    "tokens_first": lambda: Net(tokens_first, a=mha(batch_first=False)),
    "weights": lambda: Net(weighed, a=mha()),
    "padding": lambda: Net(padded, a=mha()),
    "padding_and_mask": lambda: Net(lambda n, x: padded(n, x, attn_mask=CAUSAL != 0), a=mha()),
    "added_keys": lambda: Net(padded, a=mha(add_bias_kv=True, add_zero_attn=True)),
    "causal": lambda: Net(attends(is_causal=True, attn_mask=CAUSAL), a=mha()),
    "mask_per_head": lambda: Net(
        lambda n, x: attends(attn_mask=torch.eye(TOKENS).double().expand(2 * len(x), -1, -1))(n, x), a=mha()
    ),
    "other_widths": lambda: Net(
        lambda n, x: n.a(x, x[..., :4], x[..., :6], need_weights=False)[0], a=mha(kdim=4, vdim=6)
    ),
    "encoder": lambda: Net(lambda n, x: n.a(x), a=encoder()),
    "encoder_padded": lambda: Net(
        lambda n, x: n.a(x, src_key_padding_mask=PADDED.expand(len(x), -1)), a=encoder(norm_first=True)
    ),
    "decoder": lambda: Net(
        lambda n, x: n.a(x, x), a=nn.Transformer(WIDTH, 2, 1, 1, 16, batch_first=True, activation="gelu")
    ),
    "grouped": lambda: Net(grouped, k=nn.Linear(WIDTH, 4)),
    "fused": lambda: Net(fused(scale=0.7), qkv=three()),
    "fused_causal": lambda: Net(fused(is_causal=True), qkv=three()),
    "fused_masked": lambda: Net(fused(attn_mask=FAR + 0.3), qkv=three()),
    "by_hand": lambda: Net(by_hand(lambda q, k: torch.bmm(q, k.transpose(1, 2)) / 3), qkv=three()),
    "minus_hundred": lambda: Net(by_hand(lambda q, k: q @ k.mT + PADDED * -100.0), qkv=three()),
    "minus_infinity": lambda: Net(by_hand(lambda q, k: q @ k.mT + FAR), qkv=three()),
    "filled_then_added": lambda: Net(by_hand(lambda q, k: (q @ k.mT).masked_fill(PADDED, -math.inf) + 1), qkv=three()),
    "lowest_number": lambda: Net(
        by_hand(lambda q, k: q @ k.mT + torch.zeros(1).double().masked_fill(PADDED, torch.finfo(q.dtype).min)),
        qkv=three(),
    ),
    "baddbmm": lambda: Net(
        by_hand(lambda q, k: torch.baddbmm(torch.arange(5.0).double(), q, k.mT, beta=0.5, alpha=0.3)), qkv=three()
    ),
    "relative_position": lambda: Net(
        by_hand(lambda q, k: q @ k.mT + torch.arange(-4.0, 5).double()[torch.arange(5) - torch.arange(5)[:, None] + 4]),
        qkv=three(),
    ),
    "einsum": lambda: Net(by_einsum, w=weights()),
    "einsum_alone": lambda: Net(einsum_alone, w=weights()),
    "divided_by_hand": lambda: Net(divided_by_hand, w=weights()),
    "cosine": lambda: Net(cosine, w=weights()),
    "rotated": lambda: Net(rotated, w=weights()),
    "class_token": lambda: Net(with_class_token, w=weights()),
    "windows": lambda: Net(windowed, a=mha()),
    "pooled": lambda: Net(pooled, w=weights()),
    "gated": lambda: Net(gated, qkv=three()),
}


QUICK = ("weights", "padding_and_mask", "fused_masked", "minus_infinity", "einsum", "divided_by_hand", "windows")
"""The forms that every test run covers; the others are marked slow."""


@pytest.fixture(params=[pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FORMS])
def form(request) -> tuple[Net, Tensor]:
    torch.manual_seed(0)
    model = FORMS[request.param]().double().eval()
    return model, torch.randn(3, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1)).double()


def test_each_form_is_complete_and_a_batch_equals_single_images(form) -> None:
    model, x = form
    for name in ("lrp.epsilon", "lrp.alpha_2_beta_1", "deeplift"):
        explanation = create_analyzer(name, model).explain(x, 1)
        size = explanation.relevance.flatten(1).abs().sum(1)
        assert (explanation.residual.abs() <= 1e-12 * size.clamp(min=1)).all(), (name, explanation.residual)
        alone = create_analyzer(name, model).analyze(x[1:2], 1)
        torch.testing.assert_close(explanation.relevance[1:2], alone, rtol=1e-9, atol=1e-11)


def test_the_tape_of_each_form_gives_the_gradient(form) -> None:
    model, x = form
    with frozen(model):
        result = propagate(model, x, (Step(Derivative()),), lambda logits: [torch.ones_like(logits)])[0].relevance
    leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad(model(leaf).sum(), leaf)[0]
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-11)


def test_hand_written_norms_are_explained_like_those_of_torch() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(3, TOKENS, WIDTH).double(), torch.randn(WIDTH).double(), torch.randn(WIDTH).double()

    def layer_by_hand(n: Net, x: Tensor) -> Tensor:
        deviation = torch.sqrt(x.var(-1, keepdim=True, correction=0) + 1e-5)
        return (x - x.mean(-1, keepdim=True)) / deviation * weight + bias

    def root_by_hand(n: Net, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight

    pairs: list[tuple[Callable[..., Tensor], Callable[..., Tensor]]] = [
        (layer_by_hand, lambda n, x: F.layer_norm(x, (WIDTH,), weight, bias, 1e-5)),
        (root_by_hand, lambda n, x: F.rms_norm(x, (WIDTH,), weight, 1e-5)),
    ]
    for hand_written, builtin in pairs:
        first, second = Net(hand_written).double(), Net(builtin).double()
        second.load_state_dict(first.state_dict())
        maps = [create_analyzer("lrp.epsilon", model, epsilon=1e-12).analyze(x, 1) for model in (first, second)]
        torch.testing.assert_close(*maps, rtol=1e-6, atol=1e-8)


def test_operations_without_a_rule_are_named() -> None:
    x = torch.randn(2, TOKENS, WIDTH).double()
    for body, word in (
        (lambda n, x: x.square().add(1).log().reciprocal() @ n.w[0].mT @ n.w[0], "'factor'"),
        (lambda n, x: x / torch.linalg.norm(x, "nuc", dim=(-2, -1), keepdim=True), "norm of matrices"),
        (lambda n, x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5), "random"),
    ):
        with pytest.raises(UnsupportedOperation, match=word):
            create_analyzer("lrp.epsilon", Net(body, w=weights()).double()).analyze(x)


def test_an_encoder_that_skips_padded_tokens_is_refused_if_that_changes_the_logits() -> None:
    """With gradients disabled, torch returns zeros at the positions of padded tokens; with gradients, it does not."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True)
    x, mask = torch.randn(2, TOKENS, WIDTH), PADDED.expand(2, -1)
    for place, is_refused in ((slice(None), True), (slice(0, 1), False)):
        model = Net(
            lambda n, x, p=place: n.a(x, src_key_padding_mask=mask[: len(x)])[:, p], a=nn.TransformerEncoder(layer, 1)
        )
        model.eval()
        for name in ("lrp.epsilon", "gradient"):
            if is_refused:
                with pytest.raises(UnsupportedOperation, match="enable_nested_tensor=False"):
                    create_analyzer(name, model).analyze(x)
            else:
                create_analyzer(name, model).analyze(x)
    model = Net(lambda n, x: n.a(x, src_key_padding_mask=mask[: len(x)]), a=nn.TransformerEncoder(layer, 1)).eval()
    model.a.use_nested_tensor = False
    create_analyzer("lrp.epsilon", model).explain(x, 1, strict=True)


# ── AttnLRP, reimplemented: every rule is a function whose "gradient" is the relevance ────────────────────────────────

EPSILON = 1e-9


def share(relevance: Tensor, z: Tensor) -> Tensor:
    return relevance / (z + EPSILON * torch.where(z >= 0, 1.0, -1.0).to(z))


def by_gradient(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], relevance: Tensor) -> tuple[Tensor, ...]:
    """Return x ⊙ ∂function · R / function: the ε rule for any function that is linear in each input."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        z = function(*leaves)
        slopes = torch.autograd.grad(z, leaves, share(relevance, z.detach()))
    return tuple(x.detach() * slope for x, slope in zip(leaves, slopes, strict=True))


class Linear(torch.autograd.Function):
    """The ε rule for sums, means, linear layers, and layer norms with fixed deviation."""

    @staticmethod
    def forward(ctx, function, *inputs):
        ctx.function, ctx.inputs = function, inputs
        return function(*inputs)

    @staticmethod
    def backward(ctx, relevance):
        return (None, *by_gradient(ctx.function, ctx.inputs, relevance))


class Halves(Linear):
    """A product: each factor gets half of its ε rule (Achtibat et al., 2024, proposition 3.3)."""

    @staticmethod
    def backward(ctx, relevance):
        return (None, *(part / 2 for part in by_gradient(ctx.function, ctx.inputs, relevance)))


class Softmax(torch.autograd.Function):
    """x ⊙ (R − p ΣR) (proposition 3.1)."""

    @staticmethod
    def forward(ctx, x):
        ctx.x, ctx.p = x, x.softmax(-1)
        return ctx.p

    @staticmethod
    def backward(ctx, relevance):
        return torch.nan_to_num(ctx.x, neginf=0.0) * (relevance - ctx.p * relevance.sum(-1, keepdim=True))


class Identity(torch.autograd.Function):
    """Elementwise nonlinearities and scaling (proposition 3.2)."""

    @staticmethod
    def forward(ctx, function, x):
        return function(x)

    @staticmethod
    def backward(ctx, relevance):
        return None, relevance


class Block(nn.Module):
    """A pre-norm transformer block with two heads and a causal mask, and its AttnLRP reference."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = three(), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.qkv(self.first(x)).chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.second(x))))

    def reference(self, x: Tensor) -> Tensor:
        def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
            deviation = (x.detach().var(-1, keepdim=True, correction=0) + layer.eps).sqrt()
            return Linear.apply(lambda x: (x - x.mean(-1, keepdim=True)) / deviation * layer.weight + layer.bias, x)

        parts = Linear.apply(self.qkv, norm(self.first, x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in parts)
        scores = Halves.apply(torch.matmul, Identity.apply(lambda q: q / 2, q), k.mT)
        scores = scores.masked_fill(CAUSAL[: x.shape[1], : x.shape[1]] != 0, -math.inf)
        attended = Halves.apply(torch.matmul, Softmax.apply(scores), v)
        x = Linear.apply(torch.add, x, Linear.apply(self.out, attended.transpose(1, 2).flatten(2)))
        hidden = Identity.apply(F.gelu, Linear.apply(self.up, norm(self.second, x)))
        return Linear.apply(torch.add, x, Linear.apply(self.down, hidden))


def test_attnlrp_agrees_with_its_formulas_as_autograd_functions() -> None:
    torch.manual_seed(0)
    blocks, head = [Block().double(), Block().double()], nn.Linear(WIDTH, 3).double()
    model = nn.Sequential(*blocks, Net(lambda n, x: x).double())
    head = model[-1].head
    x = torch.randn(3, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1)).double()
    leaf = x.clone().requires_grad_()
    hidden = blocks[1].reference(blocks[0].reference(leaf))
    logits = Linear.apply(head, Linear.apply(lambda x: x.mean(1), hidden))
    torch.testing.assert_close(logits, model(x))
    expected = torch.autograd.grad(logits, leaf, F.one_hot(torch.tensor([2, 2, 2]), 3) * logits.detach())[0]
    result = create_analyzer("lrp.epsilon", model, epsilon=EPSILON).explain(x, 2, strict=True)
    scale = expected.abs().max()
    assert float((result.relevance - expected).abs().max()) < 1e-6 * float(scale)
    assert float(scale) > 1e-2


# ── DeepLIFT ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_deeplift_of_a_softmax_credits_the_only_changed_input_with_everything() -> None:
    model = Net(lambda n, x: F.softmax(x * 2, -1)).double()
    base, x = torch.randn(1, TOKENS, WIDTH).double(), torch.zeros(1, TOKENS, WIDTH).double()
    x += base
    x[0, 2, 3] += 1.7
    relevance = create_analyzer("deeplift", model, baseline=base).analyze(x, 1)
    change = (model(x) - model(base))[0, 1]
    torch.testing.assert_close(relevance[0, 2, 3], change)
    assert int((relevance != 0).sum()) == 1


def test_deeplift_is_complete_for_scores_far_from_the_baseline() -> None:
    torch.manual_seed(0)
    model = Net(by_hand(lambda q, k: q @ k.mT * 40), qkv=three())
    x = torch.randn(2, TOKENS, WIDTH) * 3
    q, k, _ = model.qkv(x).detach().chunk(3, -1)
    assert float((q @ k.mT * 40).abs().max()) > 200
    create_analyzer("deeplift", model).explain(x, 1, strict=True)
    create_analyzer("lrp.epsilon", model).explain(x, 1, strict=True)


def test_deeplift_of_attention_with_fixed_weights_is_linear() -> None:
    torch.manual_seed(0)
    keys = torch.randn(1, TOKENS, WIDTH).double()
    model = Net(lambda n, x: F.scaled_dot_product_attention(keys.expand_as(x), keys.expand_as(x), x)).double()
    x = torch.randn(2, TOKENS, WIDTH).double()
    relevance = create_analyzer("deeplift", model).analyze(x, 1)
    shares = (keys @ keys.mT / math.sqrt(WIDTH)).softmax(-1).mean(1)
    torch.testing.assert_close(relevance, shares[..., None] * x * model.head.weight[1])


def test_deeplift_of_a_product_is_the_average_rule() -> None:
    torch.manual_seed(0)
    model = Net(lambda n, x: x[..., :4] @ x[..., 4:].mT @ n.w[0, :1].expand(TOKENS, -1), w=weights()).double()
    base, x = torch.randn(1, TOKENS, WIDTH).double(), torch.randn(2, TOKENS, WIDTH).double()
    relevance = create_analyzer("deeplift", model, baseline=base).analyze(x, 1)
    factor = (model.w[0, 0] @ model.head.weight[1]) / TOKENS  # every entry of the matrix product has the same weight
    sums = ((x + base) / 2).sum(1, keepdim=True).expand(-1, TOKENS, -1)
    expected = torch.cat([sums[..., 4:], sums[..., :4]], -1) * (x - base) * factor
    torch.testing.assert_close(relevance, expected)


ACTIVATIONS = {"gelu": F.gelu, "silu": F.silu, "relu": F.relu}
plans = st.fixed_dictionaries(
    {
        "depth": st.integers(1, 2),
        "heads": st.sampled_from([1, 2, 4]),
        "mask": st.sampled_from(["none", "causal", "padding", "added"]),
        "norm_first": st.booleans(),
        "activation": st.sampled_from(sorted(ACTIVATIONS)),
        "batch_first": st.booleans(),
        "bias": st.booleans(),
        "seed": st.integers(0, 10**6),
    }
)


def build(plan: dict[str, Any]) -> Net:
    torch.manual_seed(plan["seed"])
    layer = nn.TransformerEncoderLayer(
        WIDTH, plan["heads"], 16, activation=ACTIVATIONS[plan["activation"]], norm_first=plan["norm_first"],
        batch_first=plan["batch_first"], bias=plan["bias"],
    )  # fmt: skip
    stack = nn.TransformerEncoder(layer, plan["depth"], enable_nested_tensor=False)
    masks = {"none": None, "padding": None, "causal": CAUSAL != 0, "added": torch.randn(TOKENS, TOKENS).double()}
    noise = torch.randn(TOKENS, WIDTH).double()

    def body(n: Net, x: Tensor) -> Tensor:
        x = x + noise
        turned = x if plan["batch_first"] else x.transpose(0, 1)
        padding = PADDED.expand(len(x), -1) if plan["mask"] == "padding" else None
        out = n.stack(turned, mask=masks[plan["mask"]], src_key_padding_mask=padding)
        return out if plan["batch_first"] else out.transpose(0, 1)

    model = Net(body, stack=stack).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)  # the layers of a stack start as copies
    return model.eval()


def check(plan: dict[str, Any]) -> None:
    model, x = build(plan), torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1)).double()
    others = ("lrp.gamma", "lrp.alpha_2_beta_1", "lrp.z", "lrp.epsilon_plus_flat", "excitation_backprop")
    for name in ("lrp.epsilon", "deeplift", others[plan["seed"] % len(others)]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AmplificationWarning)
            explanation = create_analyzer(name, model).explain(x, 1)
        size = explanation.relevance.flatten(1).abs().sum(1).maximum(explanation.logits[:, 1].abs())
        assert (explanation.residual.abs() <= 1e-9 * size).all(), (name, explanation.residual, size)


def drawn(examples: int) -> settings:
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )


@drawn(4)
@given(plan=plans)
def test_some_random_transformers_are_complete(plan) -> None:
    check(plan)


@pytest.mark.slow
@drawn(20)
@given(plan=plans)
def test_20_random_transformers_are_complete(plan) -> None:
    check(plan)


def test_a_causal_mask_is_aligned_at_the_top_left_if_there_are_more_keys_than_queries() -> None:
    class Few(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x[:, :2], x, x, is_causal=True).flatten(1)

    x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)).double()
    explanation = create_analyzer("lrp.epsilon", Few()).explain(x, 0)
    torch.testing.assert_close(explanation.logits, Few()(x))
    assert not explanation.relevance[:, 1:].any()  # the first query sees the first key alone
