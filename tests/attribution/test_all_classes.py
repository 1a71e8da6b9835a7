"""The target "all": the gradients of all classes at once, with the native kernel and without it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pellucid.attribution import create_analyzer
from pellucid.core.errors import PellucidError
from pellucid.core.seeding import generator
from pellucid.jacobians import _classes

# few points on the path
pytestmark = pytest.mark.filterwarnings("ignore::pellucid.attribution._explanation.CompletenessWarning")

CLASSES = 6
METHODS = {
    "gradient": {},
    "gradient(absolute)": {"absolute": True},
    "input_x_gradient": {},
    "sensitivity": {},
    "integrated_gradients": {"steps": 6, "baseline": 0.25},
    "integrated_gradients(trapezoid)": {"steps": 5, "quadrature": "trapezoid"},
    "smoothgrad": {"samples": 4, "seed": 3},
    "smoothgrad.squared": {"samples": 4},
    "smoothgrad.variance": {"samples": 4},
    "expected_gradients": {"samples": 5},
}
"""Options by the name of the method, with a remark in parentheses."""


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, CLASSES),
    )  # fmt: skip
    model(torch.randn(16, 2, 8, 8))  # running averages that are not 0 and 1
    return model.double().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 2, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture(params=["generic", "native"])
def way(request: pytest.FixtureRequest) -> str:
    if request.param == "native":
        request.getfixturevalue("native")
    return request.param


@pytest.fixture
def every_size(monkeypatch) -> None:
    """Let the kernel run networks that are too small for it to pay off."""
    monkeypatch.setattr(_classes, "LEAST_WORK", 0)


@pytest.fixture
def runs(monkeypatch) -> list[int]:
    """Numbers of classes that the kernel has differentiated, one for each time that it ran."""
    counts: list[int] = []

    def run_kernel(*arguments: object, run: Callable[..., None] = _classes.run_kernel) -> None:
        counts.append(len(arguments[4]))
        run(*arguments)

    monkeypatch.setattr(_classes, "run_kernel", run_kernel)
    return counts


def slopes(model: nn.Module, x: Tensor) -> Tensor:
    """Return the Jacobian (batch, class, …) by one backward pass of torch for each class."""
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    return torch.stack([torch.autograd.grad(logits[:, k].sum(), leaf, retain_graph=True)[0] for k in range(CLASSES)], 1)


def by_hand(name: str, model: nn.Module, x: Tensor, options: dict) -> Tensor:
    """Return the maps (batch, class, …) from the formulas of the methods."""
    if name in ("gradient", "gradient(absolute)"):
        return slopes(model, x).abs() if options else slopes(model, x)
    if name == "input_x_gradient":
        return x[:, None] * slopes(model, x)
    if name == "sensitivity":
        return slopes(model, x) ** 2
    if name.startswith("integrated"):
        places, weights = np.polynomial.legendre.leggauss(6)
        places, weights = (places + 1) / 2, weights / 2
        if "quadrature" in options:
            places, weights = np.linspace(0, 1, 5), np.array([1, 2, 2, 2, 1]) / 8
        start = torch.full_like(x, options.get("baseline", 0.0))
        terms = [slopes(model, start + a * (x - start)) * w for a, w in zip(places, weights, strict=True)]
        return (x - start)[:, None] * sum(terms)
    if name == "expected_gradients":
        source, count = generator(0, name), options["samples"]
        chosen = torch.randint(len(x), (count,), generator=source)
        shares = (torch.arange(count) + torch.rand(count, generator=source, dtype=torch.float64)) / count
        pairs = [(x[index], share) for index, share in zip(chosen, shares, strict=True)]
        return sum((x - r)[:, None] * slopes(model, r + share * (x - r)) for r, share in pairs) / count
    source, spread = generator(options.get("seed", 0), "smoothgrad"), x.flatten(1).amax(1) - x.flatten(1).amin(1)
    noise = [torch.randn(x.shape[1:], generator=source, dtype=torch.float64) for _ in range(4)]
    terms = torch.stack([slopes(model, x + 0.15 * spread[:, None, None, None] * each) for each in noise])
    if name == "smoothgrad":
        return terms.mean(0)
    return terms.square().mean(0) if name == "smoothgrad.squared" else terms.var(0, correction=0)


def analyzer_of(name: str, model: nn.Module, images: Tensor):
    analyzer = create_analyzer(name.partition("(")[0], model, **METHODS[name])
    return analyzer.fit([images]) if name == "expected_gradients" else analyzer


@pytest.mark.parametrize("name", METHODS)
def test_maps_of_all_classes_are_those_of_the_formula(name, way, runs, model, images) -> None:
    explanation = analyzer_of(name, model, images).explain(images, "all")
    expected = by_hand(name, model, images, METHODS[name])
    torch.testing.assert_close(explanation.relevance, expected, rtol=1e-9, atol=1e-12)
    assert explanation.target.tolist() == [list(range(CLASSES))] * 5
    torch.testing.assert_close(explanation.logits, model(images).detach())
    # once for each point, for all images and classes
    points = METHODS[name].get("steps", METHODS[name].get("samples", 1))
    assert runs == ([] if way == "generic" else [CLASSES] * points)


@pytest.mark.parametrize("name", ["gradient", "integrated_gradients", "smoothgrad"])
def test_kernel_replaces_the_backward_passes(name, way, model, images, monkeypatch) -> None:
    forwards, backwards = [], []
    model.register_forward_hook(lambda *_: forwards.append(1))
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *rest, **named: backwards.append(1) or grad(*rest, **named))
    explanation = analyzer_of(name, model, images).explain(images, "all")
    points = METHODS[name].get("steps", METHODS[name].get("samples", 1))
    # the kernel's first result is compared with that of one backward pass
    assert len(backwards) == (CLASSES * points if way == "generic" else 1)
    # one image alone, to count the classes and to see that images are independent; a forward pass for each point, and
    # those of the images and of the baseline
    assert len(forwards) == points + 2 + {"gradient": 0, "integrated_gradients": 2, "smoothgrad": 1}[name]
    assert explanation.evaluations.tolist() == [points + {"gradient": 0, "smoothgrad": 1}.get(name, 2)] * 5


@pytest.mark.parametrize("name", METHODS)
def test_certificates_are_the_same(name, model, images, native) -> None:
    fast = analyzer_of(name, model, images).explain(images, "all")
    single = [analyzer_of(name, model, images).explain(images, label) for label in range(CLASSES)]
    for field in ("expected", "residual", "allowed", "amplification"):
        columns = [getattr(one, field) for one in single]
        if columns[0] is None:
            assert getattr(fast, field) is None
        else:
            torch.testing.assert_close(getattr(fast, field), torch.stack(columns, 1), rtol=1e-9, atol=1e-12)


def test_equal_calls_give_equal_bits_and_images_do_not_depend_on_their_batch(native, model, images) -> None:
    analyzer, single = create_analyzer("gradient", model.float()), images.float()
    first, again = (analyzer.analyze(single, "all") for _ in range(2))
    assert torch.equal(first, again)
    torch.testing.assert_close(torch.cat([analyzer.analyze(x[None], "all") for x in single]), first)


def test_few_classes_do_not_use_the_kernel(native, runs, model, images) -> None:
    analyzer = create_analyzer("gradient", model)
    for target in (None, 0, [0, 1, 2, 3, 4], lambda logits: logits.sum(1)):
        analyzer.analyze(images, target)
    assert runs == []


def test_classes_are_grouped_to_bound_memory(native, runs, model, images, monkeypatch) -> None:
    expected = create_analyzer("gradient", model).analyze(images, "all")
    monkeypatch.setattr(_classes, "LARGEST_BYTES", 4 * images.numel() * 8 + 1)
    assert torch.equal(create_analyzer("gradient", model).analyze(images, "all"), expected)
    # groups of fewer are slower than backward passes
    monkeypatch.setattr(_classes, "LARGEST_BYTES", images.numel() * 8)
    torch.testing.assert_close(create_analyzer("gradient", model).analyze(images, "all"), expected)
    assert runs == [6, 4, 2]


def test_model_that_only_reshapes(every_size, way) -> None:
    x = torch.rand(3, 1, 2, 2)
    maps = create_analyzer("gradient", nn.Flatten()).analyze(x, "all")
    assert torch.equal(maps.reshape(3, 4, 4), torch.eye(4).expand(3, 4, 4))


class Hooked(nn.Module):
    """A hook doubles the gradient of a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = nn.Sequential(nn.Flatten(), nn.Linear(128, 7), nn.ReLU()), nn.Linear(7, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.lower(x)
        if hidden.requires_grad:
            hidden.register_hook(lambda gradient: 2 * gradient)
        return self.upper(hidden)


def test_gradients_that_a_hook_changes(every_size, way, runs, images) -> None:
    torch.manual_seed(0)
    model = Hooked().double().eval()
    torch.testing.assert_close(create_analyzer("gradient", model).analyze(images, "all"), slopes(model, images))
    assert runs == []


class HookedNode(Hooked):
    """A hook on a node of the graph, which no tensor shows, doubles the gradient of a hidden layer."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.lower(x)
        if hidden.requires_grad:
            hidden.grad_fn.register_hook(lambda below, above: (2 * below[0],))
        return self.upper(hidden)


@pytest.mark.parametrize("name", ["gradient", "smoothgrad"])
def test_gradients_that_a_hook_on_a_node_changes(name, every_size, way, runs, images) -> None:
    torch.manual_seed(0)
    model = HookedNode().double().eval()
    analyzer = create_analyzer(name, model, **METHODS[name])
    expected = by_hand(name, model, images, METHODS[name])
    # also at a second call, which compares nothing
    for _ in range(2):
        torch.testing.assert_close(analyzer.analyze(images, "all"), expected, rtol=1e-9, atol=1e-12)
    assert runs == ([] if way == "generic" else [CLASSES])


class Detached(nn.Module):
    """Two of four classes have no gradient, although they change with the image."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(128, 4))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.layers(x)
        return torch.cat([logits[:, :2], logits[:, 2:].detach()], 1)


class Mixed(nn.Module):
    """The images of a batch affect each other."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(128, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x - x.mean(0) / 2)


class Root(nn.Module):
    """The derivative is infinite for black images."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :4].sqrt()


def batch_statistics() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(128, track_running_stats=False), nn.Linear(128, 4))


def not_finite() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 4))
    model[1].weight.data[2, 5] = torch.nan
    return model


@pytest.mark.parametrize("name", ["gradient", "integrated_gradients", "smoothgrad"])
@pytest.mark.parametrize("build", [Detached, Root, batch_statistics, not_finite])
def test_errors_are_the_same(every_size, build, name, images, native, monkeypatch) -> None:
    if build is Root and name != "gradient":
        pytest.skip("the points of this method are not black")
    torch.manual_seed(0)
    model, messages = build().double().eval(), []
    for choice in ("0", "1"):
        monkeypatch.setenv("PELLUCID_NATIVE", choice)
        with pytest.raises(PellucidError) as caught:
            create_analyzer(name, model).analyze(images * (build is not Root), "all")
        messages.append((type(caught.value), str(caught.value)))
    assert messages[0] == messages[1]


def test_mixed_images_run_one_by_one(every_size, way, images) -> None:
    torch.manual_seed(0)
    model = Mixed().double().eval()
    maps = create_analyzer("gradient", model).analyze(images, "all")
    torch.testing.assert_close(maps.flatten(2), model.layers[1].weight.detach().expand(5, 4, 128) / 2)


def test_size_of_the_job_counts_all_images_and_points(model, images, monkeypatch) -> None:
    seconds = []
    monkeypatch.setattr(_classes, "library_for", seconds.append)
    monkeypatch.setattr("pellucid.attribution.Subject.images_per_pass", lambda *_: 2)
    for name in ("gradient", "smoothgrad"):
        create_analyzer(name, model).analyze(images.repeat(2, 1, 1, 1), "all")
    assert seconds[:5] == [pytest.approx(seconds[0])] * 5
    assert seconds[5:] == [pytest.approx(32 * seconds[0])] * 5 * 32
