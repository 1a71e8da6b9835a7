"""Results do not depend on the caller's torch modes, nor on other threads, and both are left alone."""

import ast
import multiprocessing
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

import pellucid
import pellucid.densities
from pellucid import create_analyzer
from pellucid.attribution import METHODS, Analyzer
from pellucid.core.errors import ModelError, PellucidError, UnsupportedOperation
from pellucid.core.isolation import exclusive, isolated, preserved_random_state
from pellucid.engine.model import frozen
from pellucid.engine.tap import find_embedding
from pellucid.evaluation import METRICS

pytestmark = pytest.mark.filterwarnings("ignore::pellucid.attribution._explanation.AmplificationWarning")
FEW = {"samples": 3, "steps": 16, "places": 3, "halvings": 3, "masks": 6, "permutations": 2}
CONTROLS = ("constant", "input", "random", "sobel")


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32, device="cpu")


def network() -> nn.Sequential:
    """Small, with dropout and batch statistics, for all methods: it ends in average pooling and a linear layer."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(), nn.Conv2d(4, 6, 1)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    model(torch.rand(16, 1, 6, 6))
    with torch.no_grad():
        model[-1].bias.copy_(torch.tensor([0.5, 0.8, 1.1]))  # positive logits, for deep_taylor
    return model


WITHOUT_ATTENTION = [name for name in METHODS if name != "attention_rollout"]
"""The methods that explain `network`."""
MODEL, IMAGES, LABELS = network(), random(3, 1, 6, 6), torch.tensor([0, 1, 2])
TRAINING = random(20, 1, 6, 6, seed=2), torch.arange(20) % 3
TOKENS = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 3))
WIDE = nn.Sequential(nn.Linear(4, 30), nn.Tanh(), nn.Linear(30, 20))
ONES, MASKS = torch.ones(3, 3), IMAGES[:, 0] > 0.5


def ready(name: str, model: nn.Module) -> Analyzer:
    known = {option.name for option in fields(METHODS[name])}
    analyzer = create_analyzer(name, model, **{option: value for option, value in FEW.items() if option in known})
    return analyzer.fit([TRAINING[0]]) if analyzer.method.needs_fit else analyzer


def evaluate(model: nn.Module, *metrics: str) -> object:
    methods = ["gradient", "lrp.epsilon"]
    return pellucid.evaluate(model, IMAGES, methods=methods, metrics=metrics, masks=MASKS, training=TRAINING).scores


def work(model: nn.Module = MODEL) -> dict[str, Callable[[], object]]:
    """Everything public that runs a model; each gives equal results wherever it is called."""
    ids, few = torch.tensor([[1, 2], [4, 5]]), ("continuity", "random_logit", "infidelity", "insertion")
    jacobian = pellucid.jacobian(model, IMAGES)
    return {
        **{name: lambda name=name: ready(name, model).explain(IMAGES, 1) for name in WITHOUT_ATTENTION},
        "list": lambda: create_analyzer("gradient", model).analyze(IMAGES, [0, 1, 2]),
        "contrast": lambda: create_analyzer("lrp.epsilon", model).explain(IMAGES, pellucid.Contrast(LABELS, 1)),
        "score": lambda: create_analyzer("gradient", model).explain(IMAGES, lambda logits: logits[:, 0] * logits[:, 1]),
        "all": lambda: create_analyzer("deeplift", model).explain(IMAGES, "all"),
        "tokens": lambda: create_analyzer("lrp.epsilon", TOKENS).explain(ids, 1),
        **{
            f"jacobian, {way}": lambda way=way: pellucid.jacobian(model, IMAGES, method=way)
            for way in ("auto", "loop", "folded", "forward", "cut", "finite_difference")
        },
        "wide": lambda: pellucid.jacobian(WIDE, random(2, 4)),
        "function": lambda: pellucid.jacobian(lambda x: x.square().sum(1), random(2, 4)),
        "augment": lambda: pellucid.augment(model).return_jacobian(IMAGES),
        "product": lambda: pellucid.jacobian_product(model, IMAGES, IMAGES),
        "transposed": lambda: pellucid.transposed_product(model, IMAGES, ONES),
        "spectrum": lambda: pellucid.jacobian_spectrum(model, IMAGES),
        "means": lambda: pellucid.jacobian_class_means(model, [(IMAGES, LABELS), (IMAGES, LABELS)], 3),
        "check": lambda: pellucid.check_jacobian(model, IMAGES, jacobian, samples=4),
        "evaluate": lambda: evaluate(model, *few),
        "l2": lambda: pellucid.prototypes(model, image_shape=(1, 6, 6), steps=3, starts=1),
        "spectra": lambda: pellucid.prototypes(model, image_shape=(1, 6, 6), steps=2, parametrisation="fourier"),
        "layer_statistics": lambda: pellucid.layer_statistics(model, IMAGES, LABELS).to_dict(),
        "embedding": lambda: find_embedding(model, IMAGES).read(IMAGES),
        "layer": lambda: find_embedding(model, IMAGES, "5").read(IMAGES),
    }


def told(result: object) -> list[object]:
    """All tensors and numbers of a result, in order; clock readings and names of ways apart."""
    if isinstance(result, dict):
        return [value for entry in result.values() for value in told(entry)]
    if isinstance(result, tuple | list):
        return [value for entry in result for value in told(entry)]
    if is_dataclass(result):
        return [value for field in fields(result) for value in told(getattr(result, field.name))]
    return [result] if isinstance(result, Tensor | float) else []


def assert_same(found: object, expected: object, what: str, *, is_exact: bool = True) -> None:
    for value, wanted in zip(told(found), told(expected), strict=True):
        if isinstance(wanted, Tensor):
            assert isinstance(value, Tensor), what
            precision = {"rtol": 0, "atol": 0} if is_exact else {"rtol": 1e-5, "atol": 1e-6}
            torch.testing.assert_close(
                value.detach(), wanted, equal_nan=True, msg=lambda m: f"{what}: {m}", **precision
            )
        else:
            assert value == wanted, what


# ── the caller's modes ───────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def switched(turn: Callable[..., object], on: object, off: object, **options: object) -> Iterator[None]:
    turn(on, **options)
    try:
        yield
    finally:
        turn(off)


@contextmanager
def anomaly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it is slow
        detect = torch.autograd.set_detect_anomaly(True, check_nan=True)
    with detect:
        yield


@contextmanager
def poisoned() -> Iterator[None]:
    """Deterministic algorithms; memory that was not written holds NaN."""
    with switched(torch.use_deterministic_algorithms, True, False):
        assert torch.utils.deterministic.fill_uninitialized_memory
        yield


SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast of another device": lambda: switched(
        lambda on: torch.set_autocast_enabled("cuda", on), on=True, off=False
    ),
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
    "float64 by default": lambda: switched(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16 by default": lambda: switched(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "meta by default": lambda: switched(torch.set_default_device, "meta", None),
    "meta device": lambda: torch.device("meta"),
    "deterministic": poisoned,
    "deterministic with warnings": lambda: switched(torch.use_deterministic_algorithms, True, False, warn_only=True),
    "anomaly": anomaly,
    "one backward thread": lambda: torch.autograd.set_multithreading_enabled(False),
    "dual level": forward_ad.dual_level,
    "autocast, inference, float64 and meta": lambda: _several(),
}
QUICK = ("autocast", "inference", "meta by default")
ROUNDED = ("anomaly", "dual level")
"""Where torch offers no folded backward pass or no forward one, the Jacobian's rows are computed one by one."""


@contextmanager
def _several() -> Iterator[None]:
    wide = switched(torch.set_default_dtype, torch.float64, torch.float32)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode(), torch.device("meta"), wide:
        yield


def ambient() -> list[object]:
    return [
        [(device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in ("cpu", "cuda")],
        (torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch._C._is_multithreading_enabled()),
        (torch.get_default_dtype(), torch.get_default_device()),
        (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        torch.random.get_rng_state().tolist(),
        list(warnings.filters),
        torch._C._len_torch_function_stack(),
        [(module.training, [p.requires_grad for p in module.parameters()]) for module in MODEL.modules()],
    ]


@pytest.fixture(scope="module")
def plain() -> dict[str, object]:
    return {name: call() for name, call in work().items()}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SURROUNDINGS]
)
def test_results_and_surroundings_stay_the_same(name: str, plain: dict[str, object]) -> None:
    for what, call in work().items():
        with SURROUNDINGS[name]():
            before = ambient()
            found = call()
            assert ambient() == before, what
        assert_same(found, plain[what], what, is_exact=name not in ROUNDED)


@pytest.fixture(scope="module")
def mixture() -> pellucid.densities.Density:
    return pellucid.fit_density("gaussian_mixture", TRAINING[0])


def measured(mixture: pellucid.densities.Density) -> dict[str, object]:
    return {
        **{metric: evaluate(MODEL, metric) for metric in METRICS},
        "density": pellucid.fit_density("gaussian_mixture", TRAINING[0]).state(),
        "log density": mixture.log_density(IMAGES),
        "expert": pellucid.prototypes(MODEL, prior="expert", density=mixture, steps=3),
    }


@pytest.fixture(scope="module")
def plainly_measured(mixture: pellucid.densities.Density) -> dict[str, object]:
    return measured(mixture)


@pytest.mark.slow
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_every_metric_and_density_stays_the_same(name: str, mixture, plainly_measured) -> None:
    with SURROUNDINGS[name]():
        found = measured(mixture)
    for what, result in plainly_measured.items():
        assert_same(found[what], result, what, is_exact=name not in ROUNDED)


def test_tensors_made_in_inference_mode_are_explained(plain: dict[str, object]) -> None:
    with torch.inference_mode():
        images, labels, training = IMAGES.clone(), torch.tensor([1, 1, 1]), TRAINING[0].clone()
    for name in WITHOUT_ATTENTION:
        analyzer = ready(name, MODEL)
        analyzer = analyzer.fit([training]) if analyzer.method.needs_fit else analyzer
        assert_same(analyzer.explain(images, labels), plain[name], name)
    assert_same(pellucid.jacobian(MODEL, images), plain["jacobian, auto"], "jacobian")
    assert_same(pellucid.jacobian_product(MODEL, images, images), plain["product"], "product")
    assert_same(pellucid.jacobian_class_means(MODEL, [(images, LABELS)] * 2, 3), plain["means"], "means")


def test_weights_made_in_inference_mode_are_no_obstacle() -> None:
    with torch.inference_mode():
        model = network().eval()
    for name in ("gradient", "lrp.epsilon"):
        relevance = create_analyzer(name, model).analyze(IMAGES, 1)
        torch.testing.assert_close(relevance, create_analyzer(name, MODEL).analyze(IMAGES, 1))
    torch.testing.assert_close(pellucid.jacobian(model, IMAGES), pellucid.jacobian(MODEL, IMAGES))


def test_other_tensors_made_in_inference_mode_are_refused_where_they_are_in_the_way() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network().eval()
            with torch.inference_mode():
                self.scale = torch.full((3,), 2.0)  # neither a parameter nor a buffer

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x) * self.scale

    for call in (pellucid.jacobian, lambda model, x: create_analyzer("gradient", model).analyze(x)):
        with pytest.raises(ModelError, match="neither a parameter nor a buffer"):
            call(Scaled(), IMAGES)


TRANSFORMS: dict[str, Callable[[Callable[[Tensor], Tensor]], object]] = {
    "vmap": lambda call: torch.func.vmap(call)(IMAGES[:, None]),
    "grad": lambda call: torch.func.grad(lambda x: call(x).sum())(IMAGES),
    "jvp": lambda call: torch.func.jvp(call, (IMAGES,), (IMAGES,)),
}


@pytest.fixture(scope="module", autouse=True)
def jvp_is_loaded() -> None:
    """Load torch's formulas for jvp, which warn once that torch itself uses something deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_module("torch._decomp.decompositions_for_jvp")


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize(
    "call",
    [
        lambda x: create_analyzer("gradient", MODEL).analyze(x),
        lambda x: create_analyzer("lrp.epsilon", MODEL).explain(x).relevance,
        lambda x: pellucid.jacobian(MODEL, x),
        lambda x: pellucid.jacobian_product(MODEL, x, x),
        lambda x: pellucid.check_jacobian(MODEL, x).error,
        lambda x: pellucid.jacobian(MODEL, IMAGES),
    ],
)
def test_transforms_are_refused_by_name(name: str, call: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UnsupportedOperation, match=f"torch.func.{name}"):
        TRANSFORMS[name](call)
    assert exclusive().acquire(blocking=False)  # nothing is left held
    exclusive().release()


def test_tensors_without_values_are_refused_by_name() -> None:
    with FakeTensorMode(), pytest.raises(UnsupportedOperation, match="FakeTensorMode"):
        pellucid.jacobian(MODEL, torch.rand(2, 1, 6, 6))


FACTORIES = {
    *("arange", "as_tensor", "empty", "eye", "full", "linspace", "logspace", "normal", "ones", "rand", "randint"),
    *("randn", "randperm", "scalar_tensor", "tensor", "zeros"),
}
WHOLE = {f"torch.{name}" for name in ("arange", "as_tensor", "full", "randint", "randperm", "tensor")}
"""Their dtype does not follow torch's default where they are given whole numbers, as here."""


def makers(path: Path) -> Iterator[ast.Call]:
    """The calls in a file that make a tensor from nothing."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {f"torch.{name}" for name in FACTORIES}:
            yield node


def test_tensors_are_made_with_a_device_and_a_dtype_of_their_own() -> None:
    root = Path(pellucid.__file__).parent
    for part in ("engine", "attribution", "jacobian", "synthesis", "evaluation", "densities"):
        for path in (root / part).rglob("*.py"):
            for call in makers(path):
                named, place = {keyword.arg for keyword in call.keywords}, f"{path}:{call.lineno}: {ast.unparse(call)}"
                has_defaults = None in named or "device='meta'" in ast.unparse(call)
                assert "device" in named or has_defaults, place
                assert "dtype" in named or has_defaults or ast.unparse(call.func) in WHOLE, place


# ── autocast inside the model ────────────────────────────────────────────────────────────────────────────────────────


class _Product(torch.autograd.Function):
    """A product whose inputs `torch.amp` casts, where autocast is on."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, gradient):
        _, weight = ctx.saved_tensors
        return gradient.to(weight) @ weight, None


class Casting(nn.Module):
    """Its head may run under autocast of some kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.body, self.head = kind, network(), nn.ModuleDict({"last": nn.Linear(3, 3)})
        with torch.no_grad():
            self.head["last"].weight.copy_(torch.eye(3))
            self.head["last"].bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        x, last = self.body(x), self.head["last"]
        if self.kind == "region":
            with torch.autocast("cpu", torch.bfloat16):
                return last(x).float()
        if self.kind == "decorator":
            return torch.autocast("cpu", torch.bfloat16)(lambda: last(x).float())()
        if self.kind == "custom function":
            with torch.autocast("cpu", torch.bfloat16):
                x = _Product.apply(x, last.weight)
            return x.float()
        if self.kind == "custom function alone":
            return _Product.apply(x, last.weight)
        if self.kind == "switched off":
            with torch.autocast("cpu", enabled=False):
                return last(x)
        with switched(lambda on: torch.set_autocast_enabled("cuda", on), on=True, off=False):
            return last(x)


def uses_of(model: nn.Module) -> dict[str, Callable[[], object]]:
    """What shows derivatives or relevance; not finite differences on a control that runs nothing."""
    everything = work(MODEL)
    names = [name for name in WITHOUT_ATTENTION if name not in CONTROLS and name != "cam"]
    assert set(names) < set(everything)
    return {
        **{name: lambda name=name: ready(name, model).analyze(IMAGES, 1) for name in names},
        **{
            f"jacobian, {way}": lambda way=way: pellucid.jacobian(model, IMAGES, method=way)
            for way in ("auto", "loop", "folded", "forward", "cut", "finite_difference")
        },
        "product": lambda: pellucid.jacobian_product(model, IMAGES, IMAGES),
        "transposed": lambda: pellucid.transposed_product(model, IMAGES, ONES),
        "spectrum": lambda: pellucid.jacobian_spectrum(model, IMAGES),
        "check": lambda: pellucid.check_jacobian(model, IMAGES, samples=2),
        "prototypes": lambda: pellucid.prototypes(model, image_shape=(1, 6, 6), steps=2, starts=1),
    }


@pytest.mark.parametrize("kind", ["region", "decorator", "custom function"])
def test_autocast_inside_the_model_is_refused_by_name(kind: str) -> None:
    place = r"the model \(Casting\)" if kind == "custom function" else "module 'head.last'"
    for what, call in uses_of(Casting(kind)).items():
        if kind == "custom function" and what in ("check", "jacobian, finite_difference"):
            continue  # these run in float64, of which torch casts nothing there
        with pytest.raises(UnsupportedOperation, match=rf"{place}.*autocast\('cpu'\).*enabled=False"):
            call()
            pytest.fail(what)


@pytest.mark.parametrize("kind", ["switched off", "custom function alone", "another device"])
def test_autocast_that_changes_nothing_is_let_be(kind: str) -> None:
    plain = uses_of(MODEL)
    for what, call in uses_of(Casting(kind)).items():
        if what in ("prototypes", "jacobian, finite_difference", "check") or what.startswith("grad_cam"):
            call()
        elif not what.startswith(("lrp", "deep", "pattern", "excitation", "layer", "guided", "deconv")):
            assert_same(call(), plain[what](), what, is_exact=False)  # the identity at its end changes no derivative


# ── threads ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def hectic() -> Iterator[None]:
    """Threads that change places as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def side_by_side(calls: list[Callable[[], object]], expected: list[object], rounds: int = 2) -> None:
    """Run the calls in four threads, each in another order, and compare every result bit for bit."""
    errors: list[BaseException] = []

    def loop(first: int) -> None:
        try:
            for number in range(first, first + rounds * len(calls)):
                place = number % len(calls)
                assert_same(calls[place](), expected[place], str(place))
        except BaseException as error:  # noqa: BLE001  (told by the main thread)
            errors.append(error)

    threads = [threading.Thread(target=loop, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors, errors
    assert not any(thread.is_alive() for thread in threads)


def condition(model: nn.Module) -> list[object]:
    return [
        [(module.training, [p.requires_grad for p in module.parameters()]) for module in model.modules()],
        [buffer.tolist() for buffer in model.buffers()],
        torch.random.get_rng_state().tolist(),
    ]


def test_threads_that_share_a_model_get_what_a_serial_run_gets(hectic: None) -> None:
    model = network().train()
    names = ("gradient", "lrp.epsilon", "smoothgrad", "deeplift", "occlusion", "pattern.net")
    calls: list[Callable[[], object]] = [lambda name=name: ready(name, model).explain(IMAGES, 1) for name in names]
    calls += [
        lambda: pellucid.jacobian(model, IMAGES),
        lambda: pellucid.jacobian(model, IMAGES, method="folded"),
        lambda: pellucid.jacobian_product(model, IMAGES, IMAGES),
        lambda: pellucid.jacobian_class_means(model, [(IMAGES, LABELS)], 3),
        lambda: pellucid.check_jacobian(model, IMAGES, samples=2),
        lambda: evaluate(model, "random_logit"),
        lambda: find_embedding(model, IMAGES).read(IMAGES),
    ]
    expected = [call() for call in calls]
    before = condition(model)
    side_by_side(calls, expected)
    assert condition(model) == before


def test_threads_may_explain_models_that_share_a_layer(hectic: None) -> None:
    shared = network().train()
    models = [nn.Sequential(shared, nn.Dropout(), nn.Linear(3, 3)).train() for _ in range(2)]
    calls: list[Callable[[], object]] = []
    for model in models:
        calls.append(lambda model=model: create_analyzer("gradient", model).analyze(IMAGES, 1))
        calls.append(lambda model=model: create_analyzer("lrp.epsilon", model).analyze(IMAGES, 1))
        calls.append(lambda model=model: pellucid.jacobian(model, IMAGES))
    expected, before = [call() for call in calls], [condition(model) for model in models]
    side_by_side(calls, expected)
    assert [condition(model) for model in models] == before


def test_threads_may_share_an_analyzer(hectic: None) -> None:
    model = network().train()
    others = random(2, 1, 8, 8, seed=4)
    fitted, rule = ready("pattern.attribution", model), create_analyzer("lrp.alpha_2_beta_1", model)
    calls: list[Callable[[], object]] = [
        lambda: rule.analyze(IMAGES, 1),
        lambda: rule.explain(others, "all"),
        lambda: fitted.explain(IMAGES, LABELS),
        lambda: fitted.fit([TRAINING[0]]).analyze(IMAGES, 1),
        lambda: fitted.restore(fitted.state()).analyze(IMAGES, 0),
    ]
    side_by_side(calls, [call() for call in calls])


def test_the_lock_is_held_wherever_a_model_or_the_random_state_changes() -> None:
    seen: list[bool] = []

    def look() -> None:
        is_free = exclusive().acquire(blocking=False)
        seen.append(is_free)
        if is_free:
            exclusive().release()

    def elsewhere() -> None:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    for enter in (lambda: frozen(MODEL), preserved_random_state, isolated, lambda: isolated(takes_turns=False)):
        with enter():
            elsewhere()
        elsewhere()
    assert seen == [False, True, False, True, False, True, True, True]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_a_thread_of_its_parent() -> None:
    is_held, is_done = threading.Event(), threading.Event()

    def hold() -> None:
        with exclusive():
            is_held.set()
            is_done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait(60)
    try:
        child = multiprocessing.get_context("fork").Process(target=_enter)
        child.start()
        child.join(60)
        assert child.exitcode == 0
    finally:
        is_done.set()
        thread.join()
        child.kill()


def _enter() -> None:
    with isolated(), nullcontext():
        pass


def test_an_error_gives_the_lock_and_the_modes_back() -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        with pytest.raises(PellucidError):
            create_analyzer("gradient", MODEL).analyze(IMAGES, 99)
        assert torch.is_autocast_enabled("cpu")
        assert not torch.is_grad_enabled()
    assert exclusive().acquire(blocking=False)
    exclusive().release()
