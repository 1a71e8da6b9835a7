"""Wrapped models have the maps of the model inside, or are refused with a way out that works, for every method."""

import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import pellucid
from pellucid import create_analyzer
from pellucid.attribution import METHODS
from pellucid.core.errors import PellucidError, UnsupportedOperation

pytestmark = [
    pytest.mark.filterwarnings("ignore::pellucid.attribution._explanation.AmplificationWarning"),
    pytest.mark.filterwarnings("ignore:(integrated_gradients|conductance).*:pellucid.attribution.CompletenessWarning"),
    # torch's own, about its older interfaces
    pytest.mark.filterwarnings("ignore:.*(jit|weight_norm|quantiz|reduce_range).*"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]
FEW_METHODS = ("gradient", "grad_cam", "lrp.epsilon")
"""One method of each way to run a model."""
FEW = {"samples": 3, "steps": 4, "places": 3, "halvings": 3, "masks": 6, "permutations": 2}


def network(*tail: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(), nn.Conv2d(4, 6, 1)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3), *tail)
    model(torch.rand(16, 1, 6, 6))
    with torch.no_grad():
        model[9].bias.copy_(torch.tensor([0.5, 0.8, 1.1]))  # positive logits, for deep_taylor
    return model.double().eval()


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(1)).double()


class Delegating(nn.Module):
    """A module like those of training frameworks: its forward delegates, and a property fails without a trainer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.network.register_forward_hook(lambda *_: None)

    @property
    def trainer(self) -> object:
        raise RuntimeError("not attached to a trainer")

    def training_step(self, batch: Tensor, number: int) -> Tensor:
        return self(batch).sum() * number

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        return self.network(*args, **kwargs)


def compiled_in_place() -> nn.Module:
    model = network()
    model.compile(backend="eager")
    return model


def with_compiled_part() -> nn.Module:
    model = network()
    model[5] = torch.compile(model[5], backend="eager")
    return model


def exported() -> object:
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(network(), (images(),), dynamic_shapes=({0: batch},))


def normalized_in_the_old_way() -> nn.Module:
    model = network()
    for place in (0, 5, 9):
        nn.utils.weight_norm(model[place])
    return model


def parametrized(parametrization: Callable[[nn.Module], nn.Module]) -> nn.Module:
    model = network()
    for place in (0, 5, 9):
        parametrization(model[place])
    return model.eval()


def created_in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return network()


def loaded_in_inference_mode() -> nn.Module:
    model = network()
    with torch.inference_mode():
        model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
    return model


SAME: dict[str, Callable[[], object]] = {
    "compiled": lambda: torch.compile(network(), backend="eager"),
    "compiled in place": compiled_in_place,
    "compiled part": with_compiled_part,
    "data parallel": lambda: nn.DataParallel(network()),
    "traced by torch.fx": lambda: torch.fx.symbolic_trace(network()),
    "exported": exported,
    "exported module": lambda: exported().module(),
    "delegating": lambda: Delegating(network()),
    "compiled inside": lambda: Delegating(torch.compile(network(), backend="eager")),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(network()),
    "weight norm": lambda: parametrized(parametrizations.weight_norm),
    "weight norm by hooks": normalized_in_the_old_way,
    "created in inference mode": created_in_inference_mode,
    "loaded in inference mode": loaded_in_inference_mode,
}
SCRIPTED: dict[str, Callable[[], nn.Module]] = {
    "traced": lambda: torch.jit.trace(network(), images()),
    "scripted": lambda: torch.jit.script(network()),
    "frozen script": lambda: torch.jit.freeze(torch.jit.script(network())),
    "scripted part": lambda: nn.Sequential(torch.jit.script(network()[:4]), *network()[4:]),
}


def slow(name: str) -> object:
    return pytest.param(name, marks=pytest.mark.slow)


def quick(*names: str) -> list[object]:
    """Mark the tests of all other wrappings as slow."""
    return [name if name in names else slow(name) for name in SAME]


def explained(name: str, model: object) -> Tensor:
    known = {option.name for option in fields(METHODS[name])}
    options = {option: value for option, value in FEW.items() if option in known}
    analyzer = create_analyzer(name, model, **options)
    if analyzer.method.needs_fit:
        analyzer.fit([images(5)])
    return analyzer.analyze(images(), 1)


@cache
def expected(name: str) -> Tensor:
    return explained(name, network())


@pytest.mark.parametrize("wrapping", quick("compiled", "exported", "delegating", "created in inference mode"))
def test_maps_are_those_of_the_model_inside(wrapping) -> None:
    model = SAME[wrapping]()
    for name in FEW_METHODS:
        torch.testing.assert_close(explained(name, model), expected(name), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("wrapping", ["compiled", "exported", "created in inference mode"])
def test_maps_of_every_method_are_those_of_the_model_inside(wrapping) -> None:
    model = SAME[wrapping]()
    for name in METHODS.names():
        if name == "attention_rollout":  # the model has no attention
            continue
        torch.testing.assert_close(explained(name, model), expected(name), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("wrapping", [name if name == "traced" else slow(name) for name in SCRIPTED])
def test_scripted_models_have_the_same_maps_or_a_way_out_that_works(wrapping) -> None:
    answered = check_script(wrapping, [*FEW_METHODS, "integrated_gradients", "occlusion"])
    assert answered == {"gradient", "integrated_gradients", "occlusion"}


@pytest.mark.slow
@pytest.mark.parametrize("wrapping", ["traced", "scripted part"])
def test_every_method_has_the_same_map_of_a_script_or_a_way_out_that_works(wrapping) -> None:
    answered = check_script(wrapping, METHODS.names())
    families = {"gradient", "perturbation", "control"}
    assert answered >= {name for name in METHODS.names() if METHODS[name].family in families}


def check_script(wrapping: str, names: Sequence[str]) -> set[str]:
    """Return the methods that explain a scripted model; the errors of the others name only such methods."""
    model, answered, offered = SCRIPTED[wrapping](), set(), set()
    for name in names:
        try:
            relevance = explained(name, model)
        except PellucidError as error:
            offers = {word for word in re.findall(r"'([a-z_.]+)'", str(error)) if word in METHODS}
            assert offers, str(error)  # noqa: PT017  (some methods raise, others do not)
            offered |= offers
        else:
            answered.add(name)
            torch.testing.assert_close(relevance, expected(name), rtol=1e-9, atol=1e-12)
    assert offered
    assert offered <= answered
    return answered


@pytest.mark.parametrize("wrapping", ["exported", "traced", slow("compiled"), slow("loaded in inference mode")])
def test_jacobian_evaluation_and_prototypes_of_wrapped_models(wrapping) -> None:
    model = {**SAME, **SCRIPTED}[wrapping]()
    torch.testing.assert_close(pellucid.jacobian(model, images()), pellucid.jacobian(network(), images()))
    assert float(pellucid.check_jacobian(model, images()).error.max()) < 1e-6
    names, metrics = ["gradient", "occlusion"], ["completeness", "infidelity"]
    for row, other in zip(
        pellucid.evaluate(model, images(), methods=names, metrics=metrics).rows,
        pellucid.evaluate(network(), images(), methods=names, metrics=metrics).rows,
        strict=True,
    ):
        assert row.method == other.method
        assert row.value == pytest.approx(other.value, rel=1e-6)
    options = {"image_shape": (1, 6, 6), "steps": 3}
    torch.testing.assert_close(
        pellucid.prototypes(model, [1], **options).images, pellucid.prototypes(network(), [1], **options).images
    )


def test_a_frozen_script_has_no_weights_that_tell_its_dtype() -> None:
    model = SCRIPTED["frozen script"]()
    torch.testing.assert_close(pellucid.jacobian(model, images()), pellucid.jacobian(network(), images()))
    value = pellucid.evaluate(model, images(), methods=["input_x_gradient"], metrics=["completeness"]).rows[0].value
    plain = pellucid.evaluate(network(), images(), methods=["input_x_gradient"], metrics=["completeness"])
    assert value == pytest.approx(plain.rows[0].value)


def test_weights_of_a_spectral_norm_are_explained() -> None:
    model, plain = parametrized(parametrizations.spectral_norm), network()
    with torch.no_grad():
        for place in (0, 5, 9):
            plain[place].weight.copy_(model[place].weight)
    for name in FEW_METHODS:
        torch.testing.assert_close(explained(name, model), explained(name, plain))
    assert parametrize.is_parametrized(model[0])


def test_a_model_from_inference_mode_is_left_as_it_was() -> None:
    model = created_in_inference_mode()
    weights = [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
    explained("gradient", model)
    assert weights == [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
    assert all(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers()))


def test_tied_weights_from_inference_mode_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head, self.tail = nn.RNN(4, 4, batch_first=True), nn.Linear(4, 4), nn.Linear(4, 4)
            self.tail.weight = self.head.weight

        def forward(self, x: Tensor) -> Tensor:
            assert self.tail.weight is self.head.weight
            return self.tail(self.head(self.rnn(x)[0][:, -1]).relu())

    torch.manual_seed(0)
    with torch.inference_mode():
        model = Tied()
    plain, x = Tied(), torch.rand(2, 3, 4)
    plain.load_state_dict(model.state_dict())
    relevance = create_analyzer("gradient", model).analyze(x, 1)
    torch.testing.assert_close(relevance, create_analyzer("gradient", plain).analyze(x, 1))


@pytest.mark.parametrize("tail", [nn.Softmax(1), nn.LogSoftmax(1)])
@pytest.mark.parametrize("unwrap_softmax", [False, True])
def test_a_softmax_inside_a_script_is_refused(tail, unwrap_softmax) -> None:
    model = torch.jit.trace(network(tail), images())
    with pytest.raises(UnsupportedOperation, match="softmax inside TorchScript"):
        create_analyzer("gradient", model, unwrap_softmax=unwrap_softmax).analyze(images())


@pytest.mark.parametrize("run", [
    lambda model, x: create_analyzer("gradient", model).analyze(x),
    pellucid.jacobian,
    lambda model, x: pellucid.jacobian(model, x, method="finite_difference"),
    pellucid.check_jacobian,
    lambda model, x: pellucid.prototypes(model, image_shape=tuple(x.shape[1:]), steps=2),
])  # fmt: skip
def test_batch_statistics_inside_a_script_are_refused(run) -> None:
    traced = torch.jit.trace(network().train(), images(), check_trace=False)
    with pytest.raises(UnsupportedOperation, match="batch norm inside TorchScript"):
        run(traced, images())


@pytest.mark.parametrize("run", [
    lambda model, x: create_analyzer("gradient", model).analyze(x),
    lambda model, x: create_analyzer("lrp.epsilon", model).analyze(x),
    pellucid.jacobian,
    lambda model, x: pellucid.prototypes(model, image_shape=tuple(x.shape[1:]), steps=2),
])  # fmt: skip
def test_an_exported_program_of_one_batch_size_is_refused_with_a_recipe(run) -> None:
    program = torch.export.export(network(), (images(2),))
    with pytest.raises(PellucidError, match="export it with a batch axis of any size") as refused:
        run(program, images())
    # the recipe of the message, as it is printed there
    recipe = re.search(r"torch\.export\.export\(.*\),?\)", str(refused.value))[0]
    again = eval(recipe, {"torch": torch, "model": network(), "x": images(2)})
    run(again, images())


def test_the_wrappers_of_exported_operators_do_not_hide_a_softmax() -> None:
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(network(nn.Softmax(1)), (images(),), dynamic_shapes=({0: batch},))
    with pytest.raises(UnsupportedOperation, match="ends in a softmax"):
        create_analyzer("gradient", program).analyze(images())
    for name in ("gradient", "lrp.epsilon"):
        relevance = create_analyzer(name, program, unwrap_softmax=True).analyze(images(), 1)
        torch.testing.assert_close(relevance, expected(name))


def test_a_layer_outside_a_scripted_part_can_be_read() -> None:
    model = nn.Sequential(torch.jit.script(network()[:4]), *network()[4:])
    relevance = create_analyzer("grad_cam", model, layer="2", channels="first").analyze(images(), 1)
    torch.testing.assert_close(relevance, create_analyzer("grad_cam", network(), layer="5").analyze(images(), 1))


def test_quantized_models_are_refused_by_name_except_by_forward_passes() -> None:
    model = torch.ao.quantization.quantize_dynamic(network().float(), {nn.Linear})
    for name in ("gradient", "lrp.epsilon", "grad_cam", "deeplift", "integrated_gradients"):
        with pytest.raises(UnsupportedOperation, match=r"quantiz.*'occlusion'"):
            create_analyzer(name, model).analyze(images().float(), 1)
    x = images().float()
    relevance = create_analyzer("occlusion", model, window=6, stride=6).analyze(x, 1)
    drop = (model(x) - model(torch.zeros_like(x)))[:, 1]
    torch.testing.assert_close(relevance[:, 0, 0, 0], drop)


def test_a_model_that_is_still_being_calibrated_is_refused() -> None:
    model = network().float().train()
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
    prepared = torch.ao.quantization.prepare_qat(model)
    prepared(images().float())
    with pytest.raises(UnsupportedOperation, match="disable_observer"):
        create_analyzer("gradient", prepared).analyze(images().float(), 1)
    prepared.apply(torch.ao.quantization.disable_observer)
    x = images().float().requires_grad_()
    slope = torch.autograd.grad(prepared.eval()(x)[:, 1].sum(), x)[0]
    torch.testing.assert_close(create_analyzer("gradient", prepared).analyze(x.detach(), 1), slope)


class Halves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :2] + x.flatten(1).detach()[:, 2:4]


def test_a_detached_part_inside_a_script_is_refused_by_the_jacobian_with_a_way_out_that_works() -> None:
    model = nn.Sequential(torch.jit.trace(Halves(), images()))
    with pytest.raises(UnsupportedOperation, match=r'detach inside TorchScript.*method="finite_difference"'):
        pellucid.jacobian(model, images())
    found = pellucid.jacobian(model, images(), method="finite_difference").flatten(2)[:, :, :4]
    torch.testing.assert_close(found, torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1]]).double().expand(2, 2, 4))
