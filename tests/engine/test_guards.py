"""Guards against silent errors, each with a network that only it catches, and constructs that must be allowed."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.core.errors import ConfigError, ShapeError, UnknownName, UnsupportedOperation
from pellucid.engine.operations.elementwise import register_elementwise
from pellucid.engine.recorder import Recorder
from pellucid.engine.tape import Move, Tape
from unsupported import UNSUPPORTED, unsupported_function


class Block(nn.Module):
    """A function as a module, so that it has a path."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def model(function: Callable[[Tensor], Any]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), Block(function), nn.Linear(8, 4)).double()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 1, 3, 4, generator=torch.Generator().manual_seed(0)).double()


def refuses(network: nn.Module, images: Tensor, *words: str, name: str = "lrp.epsilon", **options: Any) -> None:
    with pytest.raises(UnsupportedOperation) as caught:
        create_analyzer(name, network, **options).analyze(images)
    for word in words:
        assert word in str(caught.value)


def changed(x: Tensor, change: Callable[[Tensor], Any]) -> Tensor:
    x = x * 1
    change(x)
    return x


def doubled(x: Tensor) -> Tensor:
    return torch.relu(x) * 2


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # scripting is deprecated but still in use
    scripted = torch.jit.script(doubled)


WITHOUT_RULE: dict[str, Callable[[Tensor], Any]] = {
    **UNSUPPORTED,
    "logcumsumexp": lambda x: torch.logcumsumexp(x, 1),
    "floor": lambda x: x + torch.floor(x * 3),
    "rand_like": lambda x: x + torch.rand_like(x),
}


@pytest.mark.parametrize("operation", WITHOUT_RULE)
@pytest.mark.parametrize("name", ["lrp.epsilon", "deeplift"])
def test_an_operation_without_a_rule_is_named_with_its_module_and_a_fix(images, operation, name) -> None:
    refuses(model(WITHOUT_RULE[operation]), images, operation.split()[0], "'2", "gradient method", name=name)


@pytest.mark.parametrize(
    "leave",
    [
        lambda x: x.data,
        lambda x: x.detach(),
        lambda x: torch.from_numpy(x.numpy()),
        lambda x: torch.tensor(x.tolist()).double(),
        lambda x: x * x.sum().item(),
        lambda x: x * float(x.sum()),
    ],
)
def test_values_that_leave_the_graph_are_refused(images, leave) -> None:
    refuses(model(leave), images, "module '2'", "gradient method")
    refuses(model(lambda x: x + leave(x * 1)), images, "module '2'", "gradient method")


@pytest.mark.parametrize("name", ["guided_backprop", "deconvnet"])
@pytest.mark.parametrize("operation", [*UNSUPPORTED, "logcumsumexp", "floor"])
def test_methods_for_rectifiers_take_the_derivative_of_any_operation(images, operation, name) -> None:
    """Without rectifiers, both equal the gradient, whatever operations the network uses."""
    network = model(lambda x: torch.tanh(WITHOUT_RULE[operation](x)))
    maps = [create_analyzer(method, network).analyze(images, 1) for method in (name, "gradient")]
    torch.testing.assert_close(*maps, rtol=1e-9, atol=1e-12)


def test_random_numbers_are_refused_by_methods_for_rectifiers(images) -> None:
    refuses(model(WITHOUT_RULE["rand_like"]), images, "rand_like", "gradient method", name="guided_backprop")


@pytest.mark.parametrize("leave", [lambda x: x.detach(), torch.floor, lambda x: F.one_hot(x.argmax(1), 8).double()])
def test_values_without_a_rule_may_be_computed_if_no_logit_depends_on_them(images, leave) -> None:
    def unused(x: Tensor) -> Tensor:
        kept = leave(x * 2) * 3 + x  # as for a cache of states, or boxes beside scores
        return torch.relu(x) * (kept > -100)

    plain = create_analyzer("lrp.epsilon", model(torch.relu)).analyze(images, 1)
    torch.testing.assert_close(create_analyzer("lrp.epsilon", model(unused)).analyze(images, 1), plain)


SIDE_BRANCHES = {
    "scripted": lambda x: x + scripted(x),
    "vmapped": lambda x: x + torch.vmap(lambda row: row * 3)(x),
    "one-hot": lambda x: x + F.one_hot(x.argmax(1), 8).double(),
    "bucket": lambda x: x + torch.bucketize(x, torch.zeros(1).double()).double(),
}


@pytest.mark.parametrize("branch", SIDE_BRANCHES)
def test_side_branches_below_the_recorded_functions_are_caught(images, branch) -> None:
    refuses(model(SIDE_BRANCHES[branch]), images, "gradient method")


def test_only_the_taint_watch_catches_a_scripted_branch(images, monkeypatch) -> None:
    from pellucid.attribution import Subject

    monkeypatch.setattr(Subject, "guard", lambda *_, **__: None)
    network = model(SIDE_BRANCHES["scripted"])
    without = create_analyzer("lrp.epsilon", network).explain(images)
    assert without.residual.abs().max() < 1e-9  # the ledger balances all the same: it does not prove coverage


def test_scripted_modules_are_refused_by_type(images) -> None:
    network = model(torch.relu)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network[1] = torch.jit.script(network[1])
    refuses(network, images, "'1'", "ScriptModule")


def test_a_mask_may_be_converted_to_numbers(images) -> None:
    gated = create_analyzer("lrp.epsilon", model(lambda x: x * (x > 0).double())).analyze(images)
    torch.testing.assert_close(gated, create_analyzer("lrp.epsilon", model(torch.relu)).analyze(images))


@pytest.mark.parametrize(
    ("in_place", "out_of_place"),
    [
        (lambda x: changed(x, lambda y: y.relu_()), torch.relu),
        (lambda x: changed(x, lambda y: F.relu(y, inplace=True).mul_(2)), lambda x: 2 * torch.relu(x)),
        (lambda x: changed(x, lambda y: y.__setitem__((slice(None), 0), 0.0)), lambda x: F.pad(x[:, 1:], (1, 0))),
        (lambda x: (lambda y: (y, y.add_(x))[0])(x * 1), lambda x: x * 1 + x),
        (lambda x: (lambda y: y.contiguous().relu_() + y)(x * 1), lambda x: torch.relu(x * 1) * 2),
    ],
)
def test_in_place_operations_are_visible_through_every_alias(images, in_place, out_of_place) -> None:
    ours, theirs = (create_analyzer("lrp.epsilon", model(f)).explain(images) for f in (in_place, out_of_place))
    torch.testing.assert_close(ours.logits, model(out_of_place)(images).detach())
    torch.testing.assert_close(ours.relevance, theirs.relevance, rtol=1e-4, atol=1e-7)
    assert ours.residual.abs().max() < 1e-9


def test_a_model_with_other_logits_each_time_is_caught_by_the_comparison(images) -> None:
    calls: list[int] = []

    def changing(x: Tensor) -> Tensor:
        calls.append(1)
        return x * len(calls)

    refuses(model(changing), images, "different logits each time it is run in eval mode (image 0, by")


def test_random_numbers_in_eval_mode_are_refused(images) -> None:
    refuses(model(lambda x: F.dropout(x, 0.5, training=True)), images, "dropout", "random")


def test_leftover_relevance_is_an_error() -> None:
    node = Move(
        operation="cut off",
        kind="move",
        inputs=(7,),
        output=1,
        path="",
        is_first=False,
        batch_axis=0,
        pull=lambda r: [r],
    )
    with pytest.raises(UnsupportedOperation, match="did not propagate completely"):
        Tape([node], 0, 1, torch.ones(1, 2)).reverse(torch.ones(1, 2), lambda _: lambda n, r, a: n.pullback(r))


def test_images_that_depend_on_one_another_are_explained_one_by_one(images) -> None:
    network = model(lambda x: x - x.mean(0, keepdim=True) * 0.5)
    many = create_analyzer("lrp.epsilon", network).explain(images, 1)
    alone = torch.cat([create_analyzer("lrp.epsilon", network).analyze(image[None], 1) for image in images])
    torch.testing.assert_close(many.relevance, alone)
    torch.testing.assert_close(many.logits, torch.cat([network(image[None]) for image in images]).detach())


@pytest.mark.parametrize("name", ["lrp.epsilon", "deeplift", "gradient", "guided_backprop"])
@pytest.mark.parametrize("softmax", [nn.Softmax(1), nn.LogSoftmax(1), lambda x: torch.softmax(x, -1)])
def test_a_softmax_at_the_end_is_refused_or_unwrapped(images, name, softmax) -> None:
    bare = model(torch.relu)
    network = nn.Sequential(bare, softmax if isinstance(softmax, nn.Module) else Block(softmax))
    refuses(network, images, "unwrap_softmax=True", name=name)
    unwrapped = create_analyzer(name, network, unwrap_softmax=True).explain(images, 1)
    torch.testing.assert_close(unwrapped.logits, bare(images).detach())
    torch.testing.assert_close(unwrapped.relevance, create_analyzer(name, bare).analyze(images, 1))


def test_one_of_several_outputs_is_selected(images) -> None:
    bare = model(torch.relu)
    pair = nn.Sequential(bare, Block(lambda x: {"logits": x, "other": x.sum(1)}))
    with pytest.raises(ConfigError, match="output="):
        create_analyzer("lrp.epsilon", pair).analyze(images)
    expected = create_analyzer("lrp.epsilon", bare).analyze(images)
    for output in ("logits", lambda outputs: outputs["logits"]):
        torch.testing.assert_close(create_analyzer("lrp.epsilon", pair, output=output).analyze(images), expected)
    with pytest.raises(ShapeError, match="expected outputs for each image"):
        create_analyzer("lrp.epsilon", pair, output=lambda outputs: outputs["other"].sum()).analyze(images)


def test_a_compiled_submodule_is_recorded(images) -> None:
    network = model(torch.relu)
    expected = create_analyzer("lrp.epsilon", network).analyze(images)
    network[2] = torch.compile(network[2], backend="eager")
    torch.testing.assert_close(create_analyzer("lrp.epsilon", network).analyze(images), expected)


def test_a_package_registers_an_operation_in_one_line(images) -> None:
    cosine = unsupported_function("my_cosine", torch.cos)
    network = model(cosine)
    refuses(network, images, "my_cosine")
    register_elementwise(cosine)
    explanation = create_analyzer("lrp.epsilon", network).explain(images, strict=True)
    assert "my_cosine in '2'" in explanation.absorbed_by  # cos 0 = 1 is absorbed


def test_rules_are_chosen_by_kind_name_and_first_layer(images) -> None:
    from pellucid.engine.rules import Epsilon
    from pellucid.engine.weight_rules import Flat, ZBox

    network = model(torch.relu)
    seen: list[str] = []

    def rule(node, relevance, account):  # any callable is a rule
        seen.append(node.path)
        return Epsilon()(node, relevance, account)

    for rules, places in (({"dense": rule}, ["3", "1"]), ({"3": rule}, ["3"]), ({"first": rule}, ["1"])):
        seen.clear()
        create_analyzer("lrp.z_plus", network, rules=rules).analyze(images)
        assert seen == places
    with pytest.raises(UnsupportedOperation, match="sees the image"):
        create_analyzer("lrp.z", network, rules={"3": ZBox()}).analyze(images)
    with pytest.raises(ConfigError, match="rule for 'dense'"):
        create_analyzer("lrp.z", network, rules={"dense": "flat"}).analyze(images)
    flat = create_analyzer("lrp.z", network, rules={"first": Flat()}).analyze(images).flatten(1)
    torch.testing.assert_close(flat, flat[:, :1].expand_as(flat))


def test_names_options_and_targets_are_checked(images) -> None:
    network = model(torch.relu)
    with pytest.raises(UnknownName, match=r"lrp\.epsilon"):
        create_analyzer("lrp.epsilom", network)
    with pytest.raises(ConfigError, match="rules, epsilon"):
        create_analyzer("lrp.epsilon", network, gamma=1)
    analyzer = create_analyzer("lrp.epsilon", network)
    for target in (torch.tensor([0, 1]), torch.tensor([0.0, 1, 2]), 4, lambda logits: logits, torch.tensor([0, 1, -1])):
        with pytest.raises(ShapeError):
            analyzer.analyze(images, target)
    with pytest.raises(ShapeError, match="floats"):
        analyzer.analyze(torch.zeros(2, 12, dtype=torch.int64))


def test_a_custom_score_is_explained(images) -> None:
    network = model(torch.relu)
    difference = create_analyzer("lrp.epsilon", network).explain(images, lambda logits: logits[:, 1] - logits[:, 2])
    parts = [create_analyzer("lrp.epsilon", network).analyze(images, target) for target in (1, 2)]
    torch.testing.assert_close(difference.relevance, parts[0] - parts[1])
    assert difference.residual.abs().max() < 1e-12
    assert difference.target.tolist() == [-1, -1, -1]


def test_the_callers_gradient_and_inference_modes_do_not_matter(images) -> None:
    network = model(torch.relu)
    for name in ("gradient", "lrp.gamma", "deeplift", "integrated_gradients"):
        analyzer = create_analyzer(name, network)
        expected = analyzer.analyze(images)
        with torch.no_grad():
            torch.testing.assert_close(analyzer.analyze(images), expected)
        with torch.inference_mode():
            torch.testing.assert_close(analyzer.analyze(images * 1).clone(), expected)


def test_memory_does_not_grow_over_calls(images) -> None:
    import gc

    analyzer = create_analyzer("lrp.epsilon", model(torch.relu))

    def alive_tensors() -> int:
        gc.collect()
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    analyzer.explain(images)
    before = alive_tensors()
    for _ in range(100):
        analyzer.explain(images)
    assert alive_tensors() <= before + 2
    assert not any(issubclass(type(thing), Recorder) for thing in gc.get_objects())
