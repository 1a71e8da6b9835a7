"""Methods declared outside of pellucid: the examples in the docstrings, word by word."""

import pickle
import re
from dataclasses import dataclass, fields
from inspect import get_annotations
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import pellucid.attribution
from pellucid import create_analyzer
from pellucid.attribution import METHODS, lrp
from pellucid.core.errors import ConfigError


@pytest.fixture
def declare(monkeypatch):
    """Run the example of a module's docstring; the registry forgets its method after the test."""
    monkeypatch.setattr(METHODS, "_entries", {**METHODS._entries})

    def run(module: Any) -> None:
        (example,) = re.findall(r"```python\n(.*?)```", module.__doc__, re.DOTALL)
        names = {name: getattr(pellucid.attribution, name) for name in pellucid.attribution.__all__}
        names |= {"torch": torch, "Tensor": Tensor, "dataclass": dataclass, "ClassVar": ClassVar, "__name__": __name__}
        exec(example, names)

    return run


def test_a_variant_takes_part_like_any_method(declare, network, images) -> None:
    declare(lrp)
    rules = {"first": lrp.Flat(), "convolution": lrp.Gamma(0.5)}
    theirs = create_analyzer("lrp.epsilon_plus_flat", network, rules=rules)
    ours = create_analyzer("lrp.mine", network, gamma=0.5)
    torch.testing.assert_close(ours.analyze(images), theirs.analyze(images), rtol=0, atol=0)
    assert repr(ours.method) == "LrpMine(rules={}, gamma=0.5)"
    assert ours.explain(images, strict=True).seed is None
    with pytest.raises(ConfigError, match="no option 'alpha'; its options are: rules, gamma"):
        create_analyzer("lrp.mine", network, alpha=1)
    with pytest.raises(ConfigError, match="the option gamma of LrpMine is 'high'; expected a finite number"):
        create_analyzer("lrp.mine", network, gamma="high")


def test_a_method_for_one_target_explains_all_of_them(declare, network, images) -> None:
    declare(pellucid.attribution)
    ours = create_analyzer("gradient_norm", network).analyze(images, "all")
    slopes = create_analyzer("gradient", network).analyze(images, "all")
    torch.testing.assert_close(ours, torch.nn.functional.normalize(slopes.flatten(2), dim=2).view_as(slopes))


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].family in ("relevance", "backward")])
def test_methods_survive_pickling(name) -> None:
    method = METHODS[name]()
    assert pickle.loads(pickle.dumps(method)) == method


@pytest.mark.parametrize("name", [name for name in METHODS if name.startswith(("lrp", "deep_taylor", "excitation"))])
def test_options_of_variants_are_described(name) -> None:
    described = {option for base in METHODS[name].__mro__[1:] for option in get_annotations(base)}
    assert all(option.metadata.get("doc") or option.name in described for option in fields(METHODS[name]))
