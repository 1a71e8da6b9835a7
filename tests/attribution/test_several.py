"""Models with several inputs: maps in their structure, and one sum over all of them."""

from dataclasses import fields

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import create_analyzer, load_fitted, save_fitted
from pellucid.attribution import METHODS
from pellucid.core.errors import ConfigError, DataError, PellucidError, ShapeError, UnsupportedOperation
from pellucid.core.seeding import generator
from pellucid.engine import Epsilon, Flat
from unsupported import UNSUPPORTED

pytestmark = [
    pytest.mark.filterwarnings("ignore::pellucid.attribution._explanation.AmplificationWarning"),
    pytest.mark.filterwarnings("ignore:integrated_gradients.*:pellucid.attribution.CompletenessWarning"),
    pytest.mark.filterwarnings("ignore:conductance.*:pellucid.attribution.CompletenessWarning"),
]
FEW = {"samples": 3, "steps": 4, "places": 3, "halvings": 3, "permutations": 2}
FEW_POINTS = ("integrated_gradients", "conductance")
"""Methods whose sums need more points than FEW gives them."""
ONE_IMAGE = {name for name in METHODS if not METHODS[name].takes_several_inputs}


class Two(nn.Module):
    """A network of an image and a table, with an optional mask of the hidden features of the table."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.table, self.head = nn.Conv2d(1, 4, 3), nn.Linear(5, 4), nn.Linear(8, 3)

    def forward(self, image: Tensor, table: Tensor, mask: Tensor | None = None) -> Tensor:
        hidden = self.table(table).relu()
        if mask is not None:
            hidden = hidden * mask
        return self.head(torch.cat([self.image(image).relu().mean((2, 3)), hidden], 1))


@pytest.fixture
def two() -> Two:
    torch.manual_seed(0)
    return Two().double().eval()


IMAGE = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TABLE = torch.rand(3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
MASK = torch.tensor([[True, False, True, True], [False, True, True, True], [True, True, True, False]])


def analyzer_of(name: str, model: nn.Module, **options: object):
    known = {option.name for option in fields(METHODS[name])}
    few = {option: value for option, value in FEW.items() if option in known}
    return create_analyzer(name, model, **{**few, **options})


def gradients(model: nn.Module, *inputs: Tensor, target: int = 1) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    return list(torch.autograd.grad(model(*leaves)[:, target].sum(), leaves))


def close(maps: object, *expected: Tensor) -> None:
    for own, other in zip(maps.values() if isinstance(maps, dict) else maps, expected, strict=True):
        torch.testing.assert_close(own, other)


def test_gradients_have_the_structure_of_the_inputs(two) -> None:
    image, table = gradients(two, IMAGE, TABLE)
    analyzer = create_analyzer("gradient", two)
    maps = analyzer.analyze((IMAGE, TABLE), 1)
    assert isinstance(maps, tuple)
    close(maps, image, table)
    assert isinstance(analyzer.analyze([IMAGE, TABLE], 1), list)
    by_name = analyzer.analyze({"table": TABLE, "image": IMAGE}, 1)
    assert list(by_name) == ["table", "image"]
    close(by_name, table, image)
    close(analyzer.analyze((IMAGE.numpy(), TABLE.tolist()), 1), image, table)
    every = analyzer.analyze((IMAGE, TABLE), "all")
    close([maps[:, 1] for maps in every], image, table)
    assert every[0].shape == (3, 3, 1, 6, 6)


def test_nested_inputs_and_a_single_argument() -> None:
    class Nested(nn.Module):
        def forward(self, batch: dict[str, object]) -> Tensor:
            (a, b), scale = batch["pair"], batch["scale"]
            return torch.stack([(a * b).sum(1) * scale, a.sum(1)], 1)

    a, b, scale = torch.rand(2, 3), torch.rand(2, 3), torch.rand(2)
    maps = create_analyzer("input_x_gradient", Nested()).analyze({"pair": (a, b), "scale": scale, "flag": True}, 0)
    torch.testing.assert_close(maps["pair"][0], a * b * scale[:, None])
    torch.testing.assert_close(maps["scale"], scale * (a * b).sum(1))
    assert maps["flag"] is None


@pytest.mark.parametrize("name", sorted(set(METHODS.names()) - ONE_IMAGE))
@pytest.mark.parametrize("has_mask", [False, True], ids=["floats", "mask"])
def test_one_sum_covers_all_inputs(two, name, has_mask) -> None:
    inputs = {"image": IMAGE, "table": TABLE, **({"mask": MASK} if has_mask else {})}
    analyzer = analyzer_of(name, two)
    if analyzer.method.needs_fit:
        if has_mask and name.startswith("pattern"):
            with pytest.raises(UnsupportedOperation, match="cannot be fitted on examples with integer or boolean"):
                analyzer.fit([inputs])
            return
        analyzer.fit([inputs])
    explanation = analyzer.explain(inputs, "all")
    maps = explanation.relevance
    assert maps["image"].shape == (3, 3, 1, 6, 6)
    assert maps["table"].shape == (3, 3, 5)
    assert maps.get("mask") is None
    torch.testing.assert_close(explanation.logits, two(**inputs).detach())
    if explanation.expected is not None:
        total = maps["image"].flatten(2).sum(2) + maps["table"].sum(2)
        torch.testing.assert_close(explanation.residual, total - explanation.expected)
        assert bool((explanation.residual.abs() <= explanation.allowed).all()) or name in FEW_POINTS
    # each example alone has the same maps, whatever the others are
    if analyzer.method.promises >= {"deterministic"}:
        alone = analyzer.analyze({key: value[1:2] for key, value in inputs.items()}, "all")
        torch.testing.assert_close(alone["image"], maps["image"][1:2])
        torch.testing.assert_close(alone["table"], maps["table"][1:2])


@pytest.mark.parametrize("name", sorted(ONE_IMAGE))
def test_methods_that_explain_regions_of_one_image_are_refused(two, name) -> None:
    with pytest.raises(UnsupportedOperation, match=f"^{name} explains regions of one image"):
        create_analyzer(name, two).analyze((IMAGE, TABLE), 1)


def test_integrated_gradients_with_a_baseline_for_each_input(two) -> None:
    base = torch.full((1, 6, 6), 0.5, dtype=torch.float64)
    analyzer = create_analyzer("integrated_gradients", two, steps=7, baseline=(base, 0.25))
    places, weights = np.polynomial.legendre.leggauss(7)
    sums = [torch.zeros_like(IMAGE), torch.zeros_like(TABLE)]
    for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
        slopes = gradients(two, base + place * (IMAGE - base), 0.25 + place * (TABLE - 0.25))
        sums = [own + weight * slope for own, slope in zip(sums, slopes, strict=True)]
    close(analyzer.analyze((IMAGE, TABLE), 1), sums[0] * (IMAGE - base), sums[1] * (TABLE - 0.25))
    # one baseline per example, of one input
    bases = torch.rand(3, 5, dtype=torch.float64)
    by_example = create_analyzer("integrated_gradients", two, steps=7, baseline={"image": 0.0, "table": bases})
    maps = by_example.analyze({"image": IMAGE, "table": TABLE}, 1)
    for number in range(3):
        single = create_analyzer("integrated_gradients", two, steps=7, baseline=(0.0, bases[number]))
        close(
            [maps["image"][[number]], maps["table"][[number]]], *single.analyze((IMAGE[[number]], TABLE[[number]]), 1)
        )


class Branches(nn.Module):
    """Two dense branches; `joined` is the same network with one dense layer on the joined inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 3), nn.Linear(5, 6), nn.Linear(9, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.cat([self.a(a), self.b(b)], 1).relu())

    def joined(self) -> nn.Module:
        first = nn.Linear(9, 9).to(self.head.weight)
        with torch.no_grad():
            first.weight.copy_(torch.block_diag(self.a.weight, self.b.weight))
            first.bias.copy_(torch.cat([self.a.bias, self.b.bias]))
        return nn.Sequential(first, nn.ReLU(), self.head).eval()


@pytest.mark.parametrize(
    "name",
    [
        "lrp.epsilon",
        "lrp.z_plus",
        "lrp.gamma",
        "lrp.alpha_2_beta_1",
        "lrp.w_square",
        "lrp.z_box",
        "deeplift",
        "deep_taylor",
    ],
)
def test_relevance_equals_that_of_the_network_of_joined_inputs(name) -> None:
    torch.manual_seed(3)
    model = Branches().double().eval()
    with torch.no_grad():
        model.head.bias.fill_(2.0)  # positive logits, for deep_taylor
    a, b = torch.rand(4, 4, dtype=torch.float64), torch.rand(4, 5, dtype=torch.float64)
    explanation = create_analyzer(name, model).explain((a, b), 1)
    joined = create_analyzer(name, model.joined()).explain(torch.cat([a, b], 1), 1)
    torch.testing.assert_close(torch.cat(explanation.relevance, 1), joined.relevance)
    torch.testing.assert_close(explanation.expected, joined.expected)
    for absorber, amount in joined.absorbed.items():
        torch.testing.assert_close(explanation.absorbed[absorber], amount)


def test_held_inputs_match_a_model_with_the_same_constant(two) -> None:
    analyzer = create_analyzer("lrp.epsilon", two)
    maps = analyzer.analyze((IMAGE, TABLE, MASK), [0, 1, 2])
    assert maps[2] is None
    for number in range(3):
        fixed = Two().double().eval()
        fixed.load_state_dict(two.state_dict())
        with torch.no_grad():
            fixed.head.weight[:, 4:] *= MASK[number]  # a masked feature has no weight
        own = create_analyzer("lrp.epsilon", fixed).analyze((IMAGE[[number]], TABLE[[number]]), number)
        close([maps[0][[number]], maps[1][[number]]], *own)


def test_occlusion_hides_windows_of_one_input_at_a_time(two) -> None:
    analyzer = create_analyzer("occlusion", two, window=(3, 1), stride=(3, 1), baseline=(0.5, 0.0))
    image, table = analyzer.analyze((IMAGE, TABLE), 2)
    score = two(IMAGE, TABLE)[:, 2]
    hidden = IMAGE.clone()
    hidden[:, :, 3:, :3] = 0.5
    expected = (score - two(hidden, TABLE)[:, 2]).detach()
    torch.testing.assert_close(image[:, :, 3:, :3], expected[:, None, None, None].expand(-1, 1, 3, 3))
    changed = TABLE.clone()
    changed[:, 4] = 0
    torch.testing.assert_close(table[:, 4], (score - two(IMAGE, changed)[:, 2]).detach())
    with pytest.raises(ConfigError, match="the window is"):
        create_analyzer("occlusion", two, window=6).analyze((IMAGE, TABLE), 1)


def test_shapley_values_of_a_linear_model_are_its_terms() -> None:
    class Linear(nn.Module):
        def forward(self, image: Tensor, age: Tensor) -> Tensor:
            return torch.stack([(image * torch.arange(16.0).view(1, 4, 4)).flatten(1).sum(1) + 7 * age, age], 1)

    image, age = torch.rand(2, 1, 4, 4), torch.rand(2)
    maps = create_analyzer("shapley_sampling", Linear(), patch=(2, 1), permutations=2).analyze((image, age), 0)
    terms = image * torch.arange(16.0).view(1, 4, 4)
    torch.testing.assert_close(maps[0], F.avg_pool2d(terms, 2).repeat_interleave(2, 2).repeat_interleave(2, 3))
    torch.testing.assert_close(maps[1], 7 * age)


def test_noise_is_relative_to_the_range_of_each_input(two) -> None:
    wide = TABLE * 100
    maps = create_analyzer("smoothgrad", two, samples=2, seed=4).analyze((IMAGE, wide), 1)
    source, sums = generator(4, "smoothgrad"), [torch.zeros_like(IMAGE), torch.zeros_like(wide)]
    for _ in range(2):
        noise = torch.randn(41, generator=source, dtype=torch.float64)
        parts = noise[:36].view(1, 1, 6, 6), noise[36:].view(1, 5)
        inputs = []
        for x, part in zip((IMAGE, wide), parts, strict=True):
            flat = x.flatten(1)
            spread = 0.15 * (flat.amax(1) - flat.amin(1)).view(-1, *(1 for _ in x.shape[1:]))
            inputs.append(x + spread * part)
        sums = [own + slope for own, slope in zip(sums, gradients(two, *inputs), strict=True)]
    close(maps, sums[0] / 2, sums[1] / 2)


def test_rules_and_messages_use_the_names_of_the_modules(two) -> None:
    plain = create_analyzer("lrp.epsilon", two).analyze((IMAGE, TABLE), 1)
    changed = create_analyzer("lrp.epsilon", two, rules={"image": Epsilon(5.0)}).analyze((IMAGE, TABLE), 1)
    torch.testing.assert_close(changed[1], plain[1])
    assert not torch.allclose(changed[0], plain[0])
    # `first` is the first layer of every branch: flat relevance does not depend on the values of a window
    flat = create_analyzer("lrp.epsilon", two, rules={"first": Flat()}).analyze((IMAGE, TABLE), 1)[1]
    torch.testing.assert_close(flat, flat[:, :1].expand_as(flat))

    class Odd(Two):
        def forward(self, image: Tensor, table: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(image, UNSUPPORTED["unsupported_function"](table))

    with pytest.raises(UnsupportedOperation, match="unsupported_function.*in the model itself"):
        create_analyzer("lrp.epsilon", Odd().double().eval()).analyze((IMAGE, TABLE), 1)


def test_bounds_are_given_for_each_input(two) -> None:
    inputs = {"image": IMAGE, "table": TABLE * 10}
    with pytest.raises(ConfigError, match="values of the input 'table' lie between"):
        create_analyzer("lrp.z_box", two).analyze(inputs, 1)
    low, high = {"image": 0.0, "table": 0}, {"image": 1.0, "table": [10.0] * 5}
    wide = create_analyzer("lrp.z_box", two, low=low, high=high)
    assert wide.method == create_analyzer("lrp.z_box", two, low=low, high=high).method
    explanation = wide.explain(inputs, 1, strict=True)
    # scaling an input, its bounds and its weights does not change the relevance
    with torch.no_grad():
        two.table.weight.mul_(10)
    scaled = create_analyzer("lrp.z_box", two).explain({"image": IMAGE, "table": TABLE}, 1, strict=True)
    close(explanation.relevance, scaled.relevance["image"], scaled.relevance["table"])
    with pytest.raises(ConfigError, match="low has one bound per input"):
        create_analyzer("lrp.z_box", two.image, low=(0.0, (1.0, 2.0)), high=3.0).analyze(
            IMAGE, lambda z: z.flatten(1).sum(1)
        )


def test_methods_are_fitted_on_several_inputs(two, tmp_path) -> None:
    batches = [((IMAGE, TABLE), torch.zeros(3)), ((IMAGE[:2] / 2, TABLE[:2] / 2), torch.zeros(2))]
    fitted = create_analyzer("expected_gradients", two, samples=3).fit(batches)
    given = create_analyzer(
        "expected_gradients",
        two,
        samples=3,
        references=(torch.cat([IMAGE, IMAGE[:2] / 2]), torch.cat([TABLE, TABLE[:2] / 2])),
    )
    close(fitted.analyze((IMAGE, TABLE), 1), *given.analyze((IMAGE, TABLE), 1))
    patterns = create_analyzer("pattern.attribution", two).fit(batches)
    path = save_fitted(patterns, tmp_path / "patterns.safetensors")
    again = load_fitted(create_analyzer("pattern.attribution", two), path)
    close(again.analyze((IMAGE, TABLE), 1), *patterns.analyze((IMAGE, TABLE), 1))
    with pytest.raises(ShapeError, match="the same structure and shapes"):
        create_analyzer("expected_gradients", two).fit([batches[0], ((IMAGE[:, :, :4], TABLE),)])


def test_a_model_that_works_in_place_does_not_change_its_other_inputs(two) -> None:
    class InPlace(Two):
        def forward(self, image: Tensor, table: Tensor) -> Tensor:  # type: ignore[override]
            image.mul_(2)
            return super().forward(image, table)

    model = InPlace().double().eval()
    model.load_state_dict(two.state_dict())
    image, table = IMAGE.clone(), TABLE.clone()
    for name in ("gradient", "lrp.epsilon", "deeplift"):
        maps = create_analyzer(name, model).analyze((image, table), 1)
        slopes = gradients(two, IMAGE * 2, TABLE)
        if name == "gradient":
            close(maps, slopes[0] * 2, slopes[1])
    assert torch.equal(image, IMAGE)
    assert torch.equal(table, TABLE)


def test_maps_have_the_dtype_of_their_input(two) -> None:
    maps = create_analyzer("gradient", two).analyze((IMAGE.float(), TABLE), 1)
    assert (maps[0].dtype, maps[1].dtype) == (torch.float32, torch.float64)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ((IMAGE,), ShapeError, "missing a required argument: 'table'"),
        ({"image": IMAGE, "tables": TABLE}, ShapeError, "the inputs are image, tables, but the model takes"),
        ((IMAGE, TABLE[:2]), ShapeError, "one batch size, got shapes 0: \\(3, 1, 6, 6\\), 1: \\(2, 5\\)"),
        ((IMAGE, TABLE[:, :4]), ShapeError, "Linear 'table' expects 5 features along the last axis"),
        ((IMAGE.repeat(1, 3, 1, 1), TABLE), ShapeError, "Conv2d 'image' expects \\(batch, 1 channel, height, width\\)"),
        ((IMAGE.long(), TABLE.long()), ShapeError, "none of the inputs 0, 1 holds floats or embedded token ids"),
        ((IMAGE.half(), TABLE), ShapeError, "torch.float16"),
        ((IMAGE, TABLE.log() / 0), DataError, "the input '1' of example 0 holds -inf"),
        ((IMAGE, {1, 2}), ShapeError, "the input '1': got set"),
        ((IMAGE, TABLE[:, :0]), ShapeError, "the input '1' is empty"),
        (({}, []), ShapeError, "contains no tensors"),
    ],
    ids=str,
)
def test_unsuitable_inputs_are_refused_by_name(two, inputs, error, message) -> None:
    for name in ("gradient", "lrp.epsilon", "occlusion"):
        with pytest.raises(error, match=message):
            create_analyzer(name, two).analyze(inputs, 1)


class Reader(nn.Module):
    """A model of token ids, the kind of each token, and a mask of padding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds, self.head = nn.Embedding(20, 4), nn.Embedding(3, 4), nn.Linear(4, 2)

    def forward(self, ids: Tensor, mask: Tensor, kinds: Tensor | None = None) -> Tensor:
        return self.of_embeddings(self.words(ids), mask, kinds)

    def of_embeddings(self, x: Tensor, mask: Tensor, kinds: Tensor | None) -> Tensor:
        x = x if kinds is None else x + self.kinds(kinds)
        return self.head((x.tanh() * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True))


@pytest.mark.parametrize("name", ["gradient", "lrp.epsilon", "integrated_gradients", "deeplift"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_token_ids_with_a_mask_are_explained_at_their_embedding(name, dtype) -> None:
    torch.manual_seed(5)
    model = Reader().double().eval()
    ids, kinds = torch.randint(3, 20, (3, 5)), torch.randint(3, (3, 5))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 1, 0, 1]]).to(dtype)
    options = {"steps": 16} if name == "integrated_gradients" else {}
    explanation = create_analyzer(name, model, **options).explain({"ids": ids, "mask": mask, "kinds": kinds}, 1)
    maps = explanation.relevance
    assert maps["mask"] is None
    assert maps["kinds"] is None
    assert maps["ids"].shape == (3, 5, 4)
    torch.testing.assert_close(explanation.logits, model(ids, mask, kinds).detach())
    if name == "gradient":
        x = model.words(ids).detach().requires_grad_()
        expected = torch.autograd.grad(model.of_embeddings(x, mask, kinds)[:, 1].sum(), x)[0]
        torch.testing.assert_close(maps["ids"], expected)
    else:
        torch.testing.assert_close(maps["ids"].sum((1, 2)), explanation.expected, rtol=1e-3, atol=1e-3)
        alone = create_analyzer(name, model, **options).analyze((ids[1:2, :3], mask[1:2, :3], kinds[1:2, :3]), 1)[0]
        torch.testing.assert_close(maps["ids"][1:2, :3], alone)
        assert not maps["ids"][1, 3:].any()


def test_the_embedding_tells_the_tokens_from_other_ids() -> None:
    model = Reader().double().eval()
    ids, kinds, mask = torch.randint(3, 20, (2, 5)), torch.randint(3, (2, 5)), torch.ones(2, 5, dtype=torch.bool)

    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
            return self.model(a, b, c)

    inputs = {"a": ids, "b": mask, "c": kinds}
    with pytest.raises(ConfigError, match="the inputs a, c are all embedded.*embedding='model.words'"):
        create_analyzer("gradient", Renamed()).analyze(inputs, 1)
    for embedding, name in (("model.words", "a"), ("model.kinds", "c")):
        maps = create_analyzer("gradient", Renamed(), embedding=embedding).analyze(inputs, 1)
        assert [key for key, value in maps.items() if value is not None] == [name]


def test_options_in_another_structure_are_refused(two) -> None:
    inputs = {"image": IMAGE, "table": TABLE}
    for options in ({"baseline": (0.0, 1.0)}, {"baseline": {"image": 0.0}}, {"baseline": {"image": 0.0, "tab": 1.0}}):
        with pytest.raises(ShapeError, match="baseline does not have the structure of the inputs, image, table"):
            create_analyzer("integrated_gradients", two, **options).analyze(inputs, 1)
    with pytest.raises(ShapeError, match="the baseline of the input 'table' is"):
        create_analyzer("deeplift", two, baseline={"image": 0, "table": torch.zeros(4)}).analyze(inputs, 1)
    with pytest.raises(PellucidError, match="the baseline is a dict, as for several inputs"):
        create_analyzer("integrated_gradients", nn.Linear(5, 2), baseline={"a": 1}).analyze(TABLE.float(), 1)
