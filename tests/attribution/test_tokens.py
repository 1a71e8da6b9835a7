"""Token models are explained at the output of their embedding."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.attribution import METHODS, Analyzer
from pellucid.core.errors import ConfigError, PellucidError, ShapeError, UnsupportedOperation

pytestmark = pytest.mark.filterwarnings("ignore::pellucid.attribution._explanation.AmplificationWarning")
FEW = {"samples": 3, "steps": 6, "places": 3, "halvings": 3}
WIDTH, LENGTH, WORDS = 8, 6, 20
IDS = torch.tensor([[3, 4, 5, 0, 0, 0], [1, 2, 3, 4, 5, 6], [9, 9, 9, 9, 0, 0]])


class Reader(nn.Module):
    """An encoder with word and position embeddings that masks padding and averages over the words."""

    def __init__(self, how: str = "plain") -> None:
        super().__init__()
        self.how = how
        self.words, self.places = nn.Embedding(WORDS, WIDTH, padding_idx=0), nn.Embedding(LENGTH, WIDTH)
        self.others = nn.Embedding(WORDS, WIDTH)
        is_first = how != "token first"
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 12, batch_first=is_first, activation="gelu", norm_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(WIDTH, 3)

    def embed(self, ids: Tensor) -> Tensor:
        match self.how:
            case "token first":
                return self.words(ids.t()).transpose(0, 1)
            case "flat":
                return self.words(ids.reshape(-1)).view(*ids.shape, -1)
            case "functional":
                return F.embedding(ids, self.words.weight) * 2
            case "twice":
                return self.words(ids) + self.words(ids) * 0.5
            case "several":
                return self.words(ids) + self.others(ids)
            case "shifted":
                return self.words(ids) + self.words((ids + 1) % WORDS)
            case "bag":
                return F.embedding_bag(ids, self.words.weight)[:, None]
        return self.words(ids)

    def forward(self, ids: Tensor) -> Tensor:
        return self.from_embedding(self.embed(ids), ids != 0)

    def from_embedding(self, x: Tensor, is_word: Tensor) -> Tensor:
        x = x + self.places(torch.arange(x.shape[1]))
        x = x.transpose(0, 1) if self.how == "token first" else x
        mask = None if self.how == "bag" else ~is_word
        x = self.encoder(x, src_key_padding_mask=mask)
        x = x.transpose(0, 1) if self.how == "token first" else x
        if self.how == "bag":
            return self.head(x.mean(1))
        return self.head((x * is_word[..., None]).sum(1) / is_word.sum(1, keepdim=True))


def reader(how: str = "plain") -> Reader:
    torch.manual_seed(0)
    return Reader(how).double().eval()


def ready(name: str, model: nn.Module, **options: Any) -> Analyzer:
    known = METHODS[name].__dataclass_fields__
    few = {option: value for option, value in FEW.items() if option in known}
    if {"low", "high"} <= set(known):
        few |= {"low": -4, "high": 4}
    analyzer = create_analyzer(name, model, **few, **options)
    return analyzer if analyzer.method.is_ready else analyzer.fit([(IDS, torch.zeros(3))])


class After(nn.Module):
    """The same network after its embedding, written by hand for one padding mask."""

    def __init__(self, model: Reader, is_word: Tensor) -> None:
        super().__init__()
        self.model, self.is_word = model, is_word

    def forward(self, x: Tensor) -> Tensor:
        return self.model.from_embedding(x, self.is_word.expand(len(x), -1))


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_explains_token_ids_like_embeddings(name) -> None:
    if name == "sobel":
        with pytest.raises(ShapeError, match="sobel needs images"):
            create_analyzer(name, reader()).analyze(IDS)
        return
    if METHODS[name].family == "class_activation" or not METHODS[name].takes_tokens:
        with pytest.raises(UnsupportedOperation, match=f"{name} explains regions of an image"):
            create_analyzer(name, reader()).analyze(IDS)
        return
    if name.startswith("pattern."):
        with pytest.raises(UnsupportedOperation, match="cannot be fitted on token ids"):
            ready(name, reader())
        return
    model = reader()
    ids = IDS[:2]
    explanation = ready(name, model).explain(ids)
    assert explanation.relevance.shape == (2, LENGTH, WIDTH)
    torch.testing.assert_close(explanation.logits, model(ids).detach())
    assert torch.equal(explanation.target, model(ids).argmax(1))
    if explanation.residual is not None and name not in ("integrated_gradients", "conductance"):
        assert (explanation.residual.abs() < 1e-9 * explanation.relevance.flatten(1).abs().sum(1).clamp(min=1)).all()
    # Fitted methods are fitted on ids, and attention rollout reads a single input of floats as an image.
    if not METHODS[name].needs_fit and name != "attention_rollout":
        tokens = {"patch": (1, WIDTH)} if "segments" in METHODS[name].__dataclass_fields__ else {}
        alone = ready(name, After(model, ids[:1] != 0), **tokens).analyze(model.words(ids[:1]).detach())
        torch.testing.assert_close(explanation.relevance[:1], alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("how", ["token first", "flat", "functional", "twice"])
def test_ids_may_be_looked_up_in_any_layout(how) -> None:
    model = reader(how)
    for ids in (IDS[:2].to(torch.int32), IDS[:2, :1], torch.arange(1, 10).view(3, 3)):
        slope = create_analyzer("gradient", model).analyze(ids, 1)
        weight = model.words.weight.detach()
        step = torch.zeros_like(weight)
        step[int(ids[0, 0])] = 1e-6
        moved = reader(how)
        with torch.no_grad():
            moved.words.weight.add_(step)
            change = (moved(ids) - model(ids))[0, 1] / 1e-6
        is_it = ids[0] == ids[0, 0]
        torch.testing.assert_close(slope[0, is_it].sum(), change, rtol=1e-4, atol=1e-8)
        explanation = create_analyzer("lrp.epsilon", model).explain(ids[:1], strict=True)
        assert explanation.relevance.shape == (1, ids.shape[1], WIDTH)


def test_embedding_must_be_named_if_several_are_applied() -> None:
    model = reader("several")
    with pytest.raises(ConfigError, match=r"others, words; choose one with embedding='others'"):
        create_analyzer("gradient", model).analyze(IDS)
    with pytest.raises(ConfigError, match=r"'places' is not applied to the token ids; these are: others, words"):
        create_analyzer("gradient", model, embedding="places").analyze(IDS)
    maps = [create_analyzer("input_x_gradient", model, embedding=name).analyze(IDS, 1) for name in ("words", "others")]
    assert not torch.allclose(*maps)
    assert create_analyzer("lrp.epsilon", reader(), embedding="words").analyze(IDS).shape == (3, LENGTH, WIDTH)


def test_unsupported_token_models_are_refused() -> None:
    with pytest.raises(UnsupportedOperation, match="applied to ids other than the input ids"):
        create_analyzer("gradient", reader("shifted")).analyze(IDS)
    with pytest.raises(ConfigError, match="no embedding is applied to the unchanged token ids"):
        create_analyzer("gradient", reader("bag")).analyze(IDS)
    with pytest.raises(ShapeError, match=r"\(3,\) torch.int64; expected .* token ids as integers, \(batch, token\)"):
        create_analyzer("gradient", reader()).analyze(IDS[:, 0])
    with pytest.raises(ShapeError, match="from 20 to 25"):
        create_analyzer("gradient", reader()).analyze(IDS.clamp(5, 5) + torch.arange(15, 21))
    with pytest.raises(ShapeError, match=r"expected ids .* a batch of floats in \[0, 1\]"):
        create_analyzer("gradient", nn.Linear(6, 2)).analyze(IDS)
    with pytest.raises(ConfigError, match="'words' is for token ids"):
        create_analyzer("gradient", reader(), embedding="words").analyze(torch.rand(2, 3))
    with pytest.raises(ConfigError, match="lie between .* pass low= and high="):
        create_analyzer("lrp.z_box", reader()).analyze(IDS)
    for target in (7, torch.tensor([0, 1])):
        with pytest.raises(ShapeError):
            create_analyzer("gradient", reader()).analyze(IDS, target)


def test_baseline_is_the_zero_embedding_or_a_token_embedding() -> None:
    model = reader()
    pad, promised = model.words.weight[7].detach(), model(IDS)[:, 1].detach()
    for name in ("deeplift", "integrated_gradients"):
        options = {"steps": 16} if name == "integrated_gradients" else {}
        explanation = create_analyzer(name, model, baseline=pad, **options).explain(IDS, 1)
        for n in range(3):
            empty = After(model, IDS[n : n + 1] != 0)(pad.expand(1, LENGTH, -1))[0, 1].detach()
            total = explanation.relevance[n].sum()
            torch.testing.assert_close(total, promised[n] - empty, rtol=1e-3, atol=1e-3)


def test_padding_has_no_relevance_and_targets_are_one_per_sequence() -> None:
    model, targets = reader(), torch.tensor([2, 0, 1])
    for name in ("lrp.epsilon", "deeplift", "gradient"):
        many = create_analyzer(name, model).explain(IDS, targets)
        assert torch.equal(many.target, targets)
        assert not many.relevance[IDS == 0].any()
        alone = create_analyzer(name, model).analyze(IDS[1:2], 0)
        torch.testing.assert_close(many.relevance[1:2], alone)


def test_scores_see_one_sequence_at_a_time() -> None:
    model = reader()
    contrast = create_analyzer("gradient", model).analyze(IDS, lambda logits: logits[:, 1] - logits[:, 0])
    parts = [create_analyzer("gradient", model).analyze(IDS, target) for target in (1, 0)]
    torch.testing.assert_close(contrast, parts[0] - parts[1])
    with pytest.raises((PellucidError, IndexError)):
        create_analyzer("gradient", model).analyze(IDS, lambda logits: logits[:, torch.tensor([0, 1, 2])].diagonal())


def test_model_and_module_names_are_unchanged() -> None:
    model = reader().train()
    before = (sorted(vars(model)), [name for name, _ in model.named_modules()], model.training)
    held = [parameter.clone() for parameter in model.parameters()]
    create_analyzer("lrp.epsilon", model).analyze(IDS)
    assert before == (sorted(vars(model)), [name for name, _ in model.named_modules()], model.training)
    assert all(torch.equal(now, then) for now, then in zip(model.parameters(), held, strict=True))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    seen: list[str] = []

    def rule(node: Any, relevance: Tensor, account: Any) -> list[Tensor]:
        seen.append(node.path)
        return list(node.pullback(relevance))

    create_analyzer("lrp.epsilon", model, rules={"head*": rule}).analyze(IDS)
    assert set(seen) == {"head"}


def test_references_are_fitted_as_embeddings() -> None:
    model = reader()
    analyzer = create_analyzer("expected_gradients", model, samples=4).fit(iter([IDS, IDS]))
    assert torch.equal(analyzer.method.references, model.words(torch.cat([IDS, IDS])).detach())
