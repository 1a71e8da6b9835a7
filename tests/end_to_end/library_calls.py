"""Call the library with random arguments, most of them unsuitable, and print the errors that are not pellucid's.

Runs as a program, because the type checker of the tests would refuse the arguments before the library sees them:
`python library_calls.py SEED COUNT`.
"""

import collections
import json
import math
import random
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import pellucid
from pellucid.attribution import METHODS
from pellucid.errors import PellucidError
from pellucid.evaluation import METRICS

FEW = {"samples": 2, "steps": 3, "places": 2, "halvings": 2, "masks": 3, "permutations": 1}
GOOD = torch.rand(2, 1, 4, 4)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.table, self.head = nn.Conv2d(1, 4, 3), nn.Linear(5, 4), nn.Linear(8, 2)

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        return self.head(torch.cat([self.image(image).relu().mean((2, 3)), self.table(table).relu()], 1))


CNN = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
TWO = Two().eval()

INPUTS: list[Callable[[], Any]] = [
    lambda: (torch.rand(2, 1, 5, 5), torch.rand(2, 5)),
    lambda: {"image": torch.rand(2, 1, 5, 5), "table": torch.rand(2, 5)},
    lambda: (GOOD, torch.rand(3, 5)),
    lambda: {"a": GOOD},
    lambda: GOOD.numpy(),
    lambda: GOOD.numpy()[:, :, ::-1],
    lambda: GOOD.tolist(),
    lambda: [[1.0, 2.0], [3.0]],
    lambda: [GOOD[0], None],
    lambda: GOOD[0],
    lambda: GOOD[0, 0, 0, 0],
    lambda: torch.rand(2, 3, 4, 4),
    lambda: torch.rand(2, 1, 2, 2),
    lambda: GOOD[:0],
    lambda: torch.rand(2, 1, 0, 4),
    lambda: (GOOD * 255).byte(),
    lambda: GOOD > 0.5,
    lambda: torch.randint(5, (2, 4)),
    lambda: GOOD.half(),
    lambda: GOOD.double(),
    lambda: GOOD + 0j,
    lambda: GOOD.to("meta"),
    lambda: GOOD.to_sparse(),
    lambda: torch.rand(4, 4).to_sparse_csr(),
    lambda: torch.nested.nested_tensor([torch.rand(3, 4), torch.rand(2, 4)], layout=torch.jagged),
    lambda: GOOD * math.nan,
    lambda: GOOD / 0,
    lambda: np.array([None, 1]),
    lambda: np.array(["a"]),
    lambda: np.zeros(2, dtype=[("a", "f4")]),
    lambda: Image.new("RGB", (4, 4)),
    lambda: "image.png",
    lambda: b"bytes",
    lambda: None,
    lambda: 3,
    lambda: set(),
    list,
    dict,
    lambda: CNN,
    lambda: Tensor,
    lambda: (number for number in range(3)),
]
TARGETS = [
    *(
        None,
        "all",
        -1,
        99,
        True,
        1.5,
        "cat",
        [0, 1],
        [0],
        torch.tensor([0, 1]),
        torch.tensor([0.0, 1.0]),
        np.array([0, 1]),
    ),
    *({}, object(), [None, 1], math.nan, 10**30, b"all", int, slice(0, 1), range(2), torch.tensor([1 + 0j, 0])),
    *(lambda z: z, lambda z: z.sum(1), lambda z: 3, lambda z: z[:, 99], lambda z: z.sum(1).detach()),
    *(pellucid.Contrast(0, 1), pellucid.Contrast("a", 0), pellucid.Contrast([0, 1, 1], 0), pellucid.Contrast(None, 1)),
]
VALUES = [
    *(None, "x", "", math.nan, math.inf, -1, 0, 1, 2, True, 1.5, 10**30, 1e300, (), [], (0,), (1, 1), ("a",), (None,)),
    *(
        {},
        {"a": 1},
        torch.rand(3, 3),
        torch.tensor(0.5),
        torch.rand(2, 1, 4, 4),
        torch.rand(7, 1, 4, 4),
        torch.tensor([math.nan]),
    ),
    *(
        torch.tensor([1j]),
        torch.empty(0),
        np.float64(0.5),
        np.int64(2),
        np.zeros(3),
        object(),
        int,
        lambda x: x,
        b"x",
        {1},
        1j,
    ),
    *(nn.ReLU(), slice(1), torch.rand(2).to_sparse(), torch.rand(2).to("meta")),
]


def an_input(draw: random.Random) -> Any:
    return GOOD if draw.random() < 0.5 else draw.choice(INPUTS)()


def a_target(draw: random.Random) -> Any:
    return 1 if draw.random() < 0.5 else draw.choice(TARGETS)


def analyzer(draw: random.Random, model: Any, **options: Any) -> Any:
    name = draw.choice(list(METHODS))
    known = {option.name for option in fields(METHODS[name])}
    few = {option: value for option, value in FEW.items() if option in known}
    made = pellucid.create_analyzer(name, model, **{**few, **options})
    return made.fit([GOOD]) if made.method.needs_fit and model is CNN else made


def explain(draw: random.Random) -> Any:
    if draw.random() < 0.3:
        pair = (torch.rand(2, 1, 5, 5), torch.rand(2, 5)) if draw.random() < 0.5 else an_input(draw)
        return analyzer(draw, TWO).explain(pair, a_target(draw))
    return analyzer(draw, CNN).explain(an_input(draw), a_target(draw))


def configure(draw: random.Random) -> Any:
    name = draw.choice([name for name in METHODS if fields(METHODS[name])])
    option = draw.choice([option.name for option in fields(METHODS[name])])
    made = pellucid.create_analyzer(
        name,
        CNN,
        **{
            **{o: v for o, v in FEW.items() if o in {f.name for f in fields(METHODS[name])}},
            option: draw.choice(VALUES),
        },
    )
    return (made if made.method.is_ready else made.fit([GOOD])).analyze(GOOD, 1)


def create(draw: random.Random) -> Any:
    odd = draw.choice(VALUES)
    place = draw.choice(["name", "model", "output", "embedding", "unwrap_softmax", "bogus"])
    arguments = {"name": "gradient", "model": CNN, place: odd}
    return pellucid.create_analyzer(**arguments).analyze(GOOD, 1)


def differentiate(draw: random.Random) -> Any:
    functions = [pellucid.jacobian, pellucid.jacobian_report, pellucid.jacobian_spectrum, pellucid.check_jacobian]
    x = an_input(draw)
    return draw.choice(
        [
            lambda: draw.choice(functions)(CNN, x),
            lambda: pellucid.jacobian(TWO, x),
            lambda: pellucid.jacobian(CNN, x, method="finite_difference"),
            lambda: pellucid.jacobian(draw.choice(VALUES), GOOD),
            lambda: pellucid.jacobian(lambda v: {"a": v, "b": (v, {"c": v})}, GOOD, draw.choice(VALUES)),
            lambda: pellucid.jacobian(CNN, GOOD, chunk=draw.choice(VALUES)),
            lambda: pellucid.jacobian(CNN, GOOD, method=draw.choice(VALUES)),
            lambda: pellucid.jacobian_spectrum(CNN, GOOD, count=draw.choice(VALUES)),
            lambda: pellucid.jacobian_product(CNN, GOOD, x),
            lambda: pellucid.transposed_product(CNN, x, torch.rand(2, 2)),
            lambda: pellucid.jacobian_class_means(CNN, [(x, torch.tensor([0, 1]))], 2),
            lambda: pellucid.jacobian_class_means(CNN, x, draw.choice([2, "a", -1])),
            lambda: pellucid.check_jacobian(CNN, GOOD, x),
        ]
    )()


def measure(draw: random.Random) -> Any:
    x, odd = an_input(draw), draw.choice(VALUES)
    some = {"methods": ["gradient"], "metrics": ["sparseness"]}
    place = draw.choice(["images", "targets", "masks", "training", "methods", "metrics", "seed", "model", "option"])
    if place == "option":
        name = draw.choice([name for name in METRICS if fields(METRICS[name])])
        return METRICS[name](**{draw.choice([option.name for option in fields(METRICS[name])]): odd})
    value = x if place in ("images", "targets", "masks", "training") else draw.choice([odd, [odd]])
    return pellucid.evaluate(**{"model": CNN, "images": GOOD, **some, place: value})


def synthesize(draw: random.Random) -> Any:
    if draw.random() < 0.3:
        return pellucid.fit_density("gaussian_mixture", an_input(draw))
    names = (
        "model",
        "classes",
        "prior",
        "seed",
        "unit",
        "image_shape",
        "weight",
        "learning_rate",
        "origin",
        "diversity",
        "bogus",
    )
    place, odd = (
        draw.choice(names),
        draw.choice([value for value in VALUES if not (isinstance(value, int) and value > 9)]),
    )
    return pellucid.prototypes(**{"model": CNN, "image_shape": (1, 4, 4), "steps": 1, "starts": 1, place: odd})


def main(seed: int, count: int) -> None:
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    draw, foreign = random.Random(seed), []
    results = collections.Counter[str]()
    calls = [explain, explain, explain, configure, configure, create, differentiate, differentiate, measure, synthesize]
    for number in range(count):
        call = draw.choice(calls)
        try:
            call(draw)
            results["answered"] += 1
        except PellucidError as error:
            results["refused" if str(error) else "refused without a message"] += 1
        except Exception as error:  # noqa: BLE001  (any other error is what this program looks for)
            foreign.append(f"call {number} ({call.__name__}): {type(error).__name__}: {error}")
    print(json.dumps({"results": results, "foreign": foreign}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
