"""The contract of attribution methods, for every registered name; `tests/engine` covers more network architectures."""

import copy
from collections import Counter
from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pellucid
from pellucid import Contrast, create_analyzer
from pellucid.attribution import METHODS, Analyzer, _subject, check_method, methods
from pellucid.attribution._aliases import ALIASES
from pellucid.core.errors import ConfigError, PellucidError, ShapeError, UnknownName

pytestmark = [
    pytest.mark.filterwarnings("ignore::pellucid.attribution._explanation.AmplificationWarning"),
    # FEW gives integrated gradients four points, which are too few for its sum
    pytest.mark.filterwarnings("ignore:integrated_gradients.*:pellucid.attribution.CompletenessWarning"),
    pytest.mark.filterwarnings("ignore:conductance.*:pellucid.attribution.CompletenessWarning"),
]
FEW = {"samples": 3, "steps": 4, "places": 3, "halvings": 3, "masks": 6, "permutations": 2, "coalitions": 150}
KINDS = ("gradient", "backward", "relevance", "class_activation", "attention", "perturbation", "control")
CONTROLS = ("constant", "input", "random", "sobel")
every_method = pytest.mark.parametrize("name", METHODS.names())
each_path = pytest.mark.parametrize("name", ["gradient", "lrp.epsilon", "occlusion", "input"])
"""One method per way through the shared code: autograd, a recorded pass, perturbed copies, and no pass at all."""


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A network with state that a careless method would change: dropout, batch statistics, frozen weights and hooks.

    It ends in global average pooling and a linear layer, for cam.
    """
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(), nn.Dropout()]
    layers += [nn.Conv2d(4, 6, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(6, 3))
    model(torch.rand(16, 1, 6, 6))
    with torch.no_grad():
        model[-1].bias.copy_(torch.tensor([0.5, 0.8, 1.1]))  # positive logits, for deep_taylor
    return model.to(dtype).eval()


class WithClassToken(nn.Module):
    """Feature maps as tokens, after a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.rand(1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.start.expand(len(x), -1, -1), x.flatten(2).mT], 1)


class ClassToken(nn.Module):
    """The first token."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


def suiting(name: str, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A network that the method explains: for attention rollout, a transformer over four patches."""
    if name != "attention_rollout":
        return network(dtype)
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3, stride=3), nn.Identity(), WithClassToken()]
    layers += [nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), nn.Identity(), ClassToken()]
    return nn.Sequential(*layers, nn.Linear(8, 3), nn.Identity()).to(dtype).eval()


def some(count: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(1)).to(dtype)


def ready(name: str, model: nn.Module, **options: object) -> Analyzer:
    known = {option.name for option in fields(METHODS[name])}
    few = {option: value for option, value in FEW.items() if option in known}
    analyzer = create_analyzer(name, model, **{**few, **options})
    return analyzer.fit([some(5)]) if analyzer.method.needs_fit else analyzer


def fingerprint(model: nn.Module) -> list[object]:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    return [
        [
            (
                list(vars(module)),
                module.training,
                [list(getattr(module, kind).items()) for kind in hooks],
                [(key, id(value)) for key, value in (*module._parameters.items(), *module._buffers.items())],
            )
            for module in model.modules()
        ],
        [
            (parameter.requires_grad, id(parameter.grad), parameter._version, parameter.is_leaf)
            for parameter in model.parameters()
        ],
    ]


def contents(model: nn.Module) -> list[Tensor]:
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [tensor.detach().clone() for tensor in (*model.parameters(), *model.buffers(), *grads)]


@every_method
def test_map_has_the_shape_and_dtype_of_the_images(name) -> None:
    dtype = torch.float32  # the other tests run in float64
    model, images = suiting(name, dtype), some(dtype=dtype)
    analyzer = ready(name, model)
    explanation = analyzer.explain(images)
    relevance = explanation.relevance
    assert relevance.shape == images.shape
    assert relevance.dtype == dtype
    assert bool(relevance.isfinite().all())
    assert not relevance.requires_grad
    assert relevance.data_ptr() != images.data_ptr()
    assert torch.equal(explanation.target, model(images).argmax(1))
    torch.testing.assert_close(explanation.logits, model(images).detach())
    assert not explanation.logits.requires_grad
    assert explanation.evaluations.shape == explanation.amplification.shape == (3,)
    assert explanation.method == name


@every_method
def test_model_and_global_state_are_unchanged_even_after_an_error(name) -> None:
    model, images = suiting(name), some()
    model.train()
    for place in (0, 1, 7):  # a convolution, the batch-norm and a rectifier are in eval mode, the rest is not
        model[place].eval()
    model[0].bias.requires_grad_(False)
    model[6].weight.grad = torch.full_like(model[6].weight, 7)
    calls = Counter[str]()
    model[2].register_forward_hook(lambda *_: calls.update(["forward"]))
    model[6].register_forward_pre_hook(lambda *_: calls.update(["before"]))
    analyzer = ready(name, model)
    before, held, pixels = fingerprint(model), contents(model), images.clone()
    torch.manual_seed(5)
    random = torch.random.get_rng_state()
    images.requires_grad_()

    analyzer.explain(images)
    for target in (99, torch.tensor([0, 1])):
        with pytest.raises(ShapeError):
            analyzer.analyze(images, target)

    def broken(logits: Tensor) -> Tensor:
        raise OSError("a failing custom score")

    with pytest.raises(OSError, match="failing custom score"):
        analyzer.explain(images, broken)

    assert fingerprint(model) == before
    assert all(torch.equal(now, then) for now, then in zip(contents(model), held, strict=True))
    assert torch.equal(images, pixels)
    assert images.requires_grad
    assert images.grad is None
    assert images._version == 0
    assert torch.equal(torch.random.get_rng_state(), random)


@every_method
def test_repeated_calls_are_bitwise_equal_in_any_context(name) -> None:
    model, images = suiting(name), some()
    expected = ready(name, model).analyze(images, 1)
    assert expected.dtype == torch.float64
    analyzer = ready(name, copy.deepcopy(model).train())
    torch.manual_seed(99)
    assert torch.equal(analyzer.analyze(images, 1), expected)
    with torch.no_grad():
        assert torch.equal(analyzer.analyze(images, 1), expected)
    with torch.inference_mode():
        relevance = analyzer.analyze(some(), 1)
    assert torch.equal(relevance, expected)
    torch.testing.assert_close(analyzer.explain(images, 1).relevance, expected, rtol=1e-12, atol=1e-14)
    strided = images.transpose(2, 3).contiguous().transpose(2, 3)
    torch.testing.assert_close(analyzer.analyze(strided, 1), expected, rtol=1e-9, atol=1e-12)


@every_method
def test_large_batch_equals_its_images_one_by_one(name, monkeypatch) -> None:
    monkeypatch.setattr(METHODS[name], "images_at_once", 2)
    monkeypatch.setattr(_subject, "MOST_PASSES_IN_ONE", 1)
    model, images = suiting(name), some(6)
    targets = torch.arange(len(images)) % 3
    analyzer = ready(name, model)
    many = analyzer.explain(images, targets)
    assert torch.equal(many.target, targets)
    for n in (0, 4, 5):
        alone = analyzer.explain(images[n : n + 1], targets[n : n + 1])
        scale = float(many.relevance[n].abs().max())
        torch.testing.assert_close(alone.relevance[0], many.relevance[n], rtol=1e-6, atol=1e-9 * scale)
        torch.testing.assert_close(alone.logits[0], many.logits[n])
        assert int(alone.evaluations) == int(many.evaluations[n])
        assert set(alone.absorbed) <= set(many.absorbed)
        for key, value in alone.absorbed.items():
            torch.testing.assert_close(value[0], many.absorbed[key][n], rtol=1e-6, atol=1e-9)


@every_method
def test_equivalent_targets_give_equal_maps(name) -> None:
    model, images = suiting(name), some()
    analyzer = ready(name, model)
    predicted = model(images).argmax(1)
    assert torch.equal(analyzer.analyze(images), analyzer.analyze(images, predicted.to(torch.int32)))
    one = analyzer.explain(images, 2)
    assert torch.equal(one.relevance, analyzer.analyze(images, torch.tensor([2, 2, 2])))
    assert one.target.tolist() == [2, 2, 2]
    score = analyzer.explain(images, lambda logits: logits[:, 2])
    assert score.target.tolist() == [-1, -1, -1]
    torch.testing.assert_close(score.relevance, one.relevance, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["gradient", "integrated_gradients", "lrp.epsilon", "pattern.net"])
def test_list_of_classes_equals_the_tensor(name) -> None:
    model, images = network(), some(METHODS[name].images_at_once + 2)
    targets = torch.arange(len(images)) % 3
    analyzer = ready(name, model)
    assert torch.equal(analyzer.analyze(images, targets.tolist()), analyzer.analyze(images, targets))


@every_method
def test_all_classes_equal_the_stack_of_single_classes(name) -> None:
    model, images = suiting(name), some()
    analyzer = ready(name, model)
    together = analyzer.explain(images, "all")
    alone = [analyzer.explain(images, target) for target in range(3)]
    assert torch.equal(analyzer.analyze(images, "all"), together.relevance)
    assert torch.equal(together.target, torch.tensor([[0, 1, 2]] * 3))
    assert torch.equal(together.logits, alone[0].logits)
    assert together.evaluations.shape == (3,)
    assert (together.evaluations <= sum(one.evaluations for one in alone)).all()
    for quantity in ("relevance", "expected", "residual", "amplification", "allowed"):
        expected = [getattr(one, quantity) for one in alone]
        if expected[0] is None:
            assert getattr(together, quantity) is None
        else:
            close(getattr(together, quantity), torch.stack(expected, 1))
    for quantity in ("absorbed", "absorbed_by", "details"):
        for key, values in getattr(together, quantity).items():
            close(values, torch.stack([getattr(one, quantity)[key] for one in alone], 1))


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12 * float(theirs.double().abs().max()) + 1e-13)


@every_method
def test_contrast_is_the_difference_of_maps_for_linear_backward_passes(name) -> None:
    model, images = suiting(name), some()
    analyzer, others = ready(name, model), torch.tensor([0, 0, 2])
    if name.startswith("deep_taylor"):
        with pytest.raises(ConfigError, match="deep_taylor only explains evidence for an output"):
            analyzer.analyze(images, Contrast(1, others))
        return
    explanation = analyzer.explain(images, Contrast(1, others))
    assert explanation.target.tolist() == [1, 1, 1]
    assert explanation.details["against"].tolist() == others.tolist()
    if name in NOT_LINEAR:
        assert explanation.relevance.shape == images.shape
        return
    own, other = analyzer.explain(images, 1), analyzer.explain(images, others)
    close(explanation.relevance, own.relevance - other.relevance)
    if explanation.expected is not None:
        close(explanation.expected, own.expected - other.expected)
        close(explanation.residual, own.residual - other.residual)


NOT_LINEAR = {
    *CONTROLS,
    "ablation_cam",
    "attention_rollout",
    "deconvnet",
    "eigen_cam",
    "grad_cam",
    "grad_cam_pp",
    "guided_backprop",
    "guided_grad_cam",
    "layer_cam",
    "score_cam",
    "sensitivity",
    "simple_taylor",
    "smoothgrad.squared",
    "smoothgrad.variance",
}
"""Methods whose map of a difference is not the difference of two maps."""


@each_path
def test_invalid_targets_and_images_are_reported(name) -> None:
    images = some()
    analyzer = ready(name, network())
    for target, message in (
        (3, "indices from 0 to 2"),
        (-1, "indices from 0 to 2"),
        (torch.tensor([0, 1]), "2 entries for 3 images"),
        ([0, 1], "2 entries for 3 images"),
        (torch.tensor([[0], [1], [2]]), "pass an index"),
        (torch.tensor([0.0, 1.0, 2.0]), "torch.float32 for 3 images"),
        (torch.tensor([True, False, True]), "torch.bool for 3 images"),
    ):
        with pytest.raises(ShapeError, match=message):
            analyzer.analyze(images, target)
    with pytest.raises(ConfigError, match="class names are not supported.*Contrast.*classes.index"):
        analyzer.analyze(images, "cat")
    for wrong in (images[:0], images.long(), images[0, 0, 0]):
        with pytest.raises(ShapeError, match="expected a batch of floats"):
            analyzer.analyze(wrong)
    if name not in CONTROLS:
        with pytest.raises(ShapeError, match="one number per image"):
            analyzer.analyze(images, lambda logits: logits)


def test_unknown_option_is_reported() -> None:
    model = network()
    for name in METHODS:
        with pytest.raises(ConfigError, match=f"'{name}' has no option 'epsilom'; its options are: ") as caught:
            create_analyzer(name, model, epsilom=1)
        assert all(option.name in str(caught.value) for option in fields(METHODS[name]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [method.name for method in methods() if "complete" in method.promises])
def test_complete_maps_sum_to_the_promised_total(name, dtype) -> None:
    model, images = network(dtype), some(dtype=dtype)
    analyzer = create_analyzer(name, model)
    logit = model(images)[:, 1].detach()
    promised = {
        "deeplift": logit - model(0 * images)[:, 1].detach(),
        "kernel_shap": logit - model(0 * images)[:, 1].detach(),
        "shapley_sampling": logit - model(0 * images)[:, 1].detach(),
        "integrated_gradients": logit - model(0 * images)[:, 1].detach(),
        "deep_taylor": logit.clamp(min=0),
        "deep_taylor.bounded": logit.clamp(min=0),
        "excitation_backprop": torch.ones_like(logit),
    }.get(name, logit)
    explanation = analyzer.explain(images, 1, strict=True)
    total = explanation.relevance.flatten(1).sum(1)
    assert (explanation.residual.abs() <= explanation.allowed).all()
    torch.testing.assert_close(total - explanation.expected, explanation.residual)
    gap = total + sum(explanation.absorbed.values(), torch.zeros_like(total)) - promised
    size = torch.maximum(promised.abs(), explanation.relevance.flatten(1).abs().sum(1) / 10)
    within = 0.05 if name == "integrated_gradients" else 1e-9 if dtype == torch.float64 else 1e-4
    assert (gap.abs() <= within * size).all()


@pytest.mark.parametrize("name", [method.name for method in methods() if "class_specific" in method.promises])
def test_class_specific_maps_differ_between_classes(name) -> None:
    model, images = network(), some()
    assert (model(images) > 0).all()
    assert (class_distance(name, model, images) > 1e-3).all()


@each_path
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(name, dtype) -> None:
    with pytest.raises(ShapeError, match=r"the images are torch\.b?float16.*explain in float32"):
        ready(name, network()).analyze(some().to(dtype), 1)


def class_distance(name: str, model: nn.Module, images: Tensor) -> Tensor:
    """Distance between the maps of two classes, both scaled to length 1."""
    first, second = (F.normalize(ready(name, model).analyze(images, target).flatten(1)) for target in (0, 1))
    return (first - second).norm(dim=1)


def test_flat_maps_of_two_classes_differ_by_a_factor() -> None:
    assert (class_distance("lrp.flat", network(), some()) < 1e-12).all()


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_ignore_the_class_and_the_weights(name) -> None:
    model, images = network(), some()
    expected = ready(name, model).analyze(images, 0)
    assert torch.equal(ready(name, model).analyze(images, 1), expected)
    with torch.no_grad():
        model[0].weight.mul_(2)
    assert torch.equal(ready(name, model).analyze(images, 1), expected)


@every_method
def test_the_seed_matters_unless_the_method_is_deterministic(name) -> None:
    has_seed = "seed" in {option.name for option in fields(METHODS[name])}
    assert has_seed != ("deterministic" in METHODS[name].promises)
    model, images = suiting(name), some()
    explanation = ready(name, model).explain(images, 0)
    assert explanation.seed == (0 if has_seed else None)
    if has_seed:
        assert not torch.allclose(ready(name, model, seed=1).analyze(images, 0), explanation.relevance)


def test_methods_are_frozen_dataclasses() -> None:
    model = network()
    for name in METHODS:
        analyzer = create_analyzer(name, model)
        assert analyzer.method == METHODS[name]()
        assert analyzer.name == name
        assert name in repr(analyzer)
        with pytest.raises(AttributeError):
            analyzer.method.color = "red"


def test_an_alias_is_the_method_with_its_options() -> None:
    model = network()
    for alias, (name, preset) in ALIASES.items():
        assert check_method(alias) == alias
        assert alias not in METHODS
        analyzer = create_analyzer(alias, model)
        assert analyzer.method == create_analyzer(name, model, **preset).method
        assert analyzer.name == name
        for option, value in preset.items():  # explicit options override the preset
            other = not value if isinstance(value, bool) else "ridge" if value == "lasso" else value * 2
            assert getattr(create_analyzer(alias, model, **{option: other}).method, option) == other


def test_unknown_name_suggests_close_matches() -> None:
    for look_up in (check_method, lambda name: create_analyzer(name, network())):
        with pytest.raises(UnknownName, match=r"'lrp\.epsilom'; did you mean 'lrp\.epsilon'"):
            look_up("lrp.epsilom")


def test_methods_are_listed_with_family_and_guarantees() -> None:
    listed = {method.name: method for method in pellucid.methods()}
    assert list(listed) == sorted(METHODS)
    for method in listed.values():
        assert method.family in KINDS
        assert method.answers.strip()
        assert method.promises <= {"complete", "class_specific", "deterministic"}
    assert {name for name, method in listed.items() if method.needs_fit} == {
        "expected_gradients",
        "feature_permutation",
        "gradient_shap",
        "pattern.attribution",
        "pattern.net",
    }
    assert {name for name, method in listed.items() if method.family == "control"} == set(CONTROLS)


@pytest.mark.parametrize("name", ["gradient", "integrated_gradients", "smoothgrad", "lrp.epsilon", "deeplift", "input"])
def test_images_are_unchanged_by_an_in_place_first_layer(name) -> None:
    model, images = nn.Sequential(nn.ReLU(inplace=True), *network()).eval(), some() - 0.5
    pixels = images.clone()
    ready(name, model).analyze(images, 1)
    assert torch.equal(images, pixels)


def test_deeplift_of_a_black_image_is_nearly_zero() -> None:
    for scale in (0, 1e-12):
        relevance = ready("deeplift", network()).analyze(some() * scale, 1)
        assert relevance.abs().max() < 1e-11


@pytest.mark.parametrize("name", ["gradient", "lrp.epsilon", "deeplift"])
def test_dtype_mismatch_of_images_and_model_is_reported(name) -> None:
    with pytest.raises(PellucidError, match="float32"):
        ready(name, network(torch.float64)).analyze(some(dtype=torch.float32))
