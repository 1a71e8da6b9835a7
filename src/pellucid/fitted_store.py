"""What an analyzer learned from data, on disk: the mathematics of one part, the files of another."""

from pathlib import Path

from pellucid.artifacts.weights import load_tensors, save_tensors
from pellucid.attribution import Analyzer, FittedState
from pellucid.core.errors import SaveError

__all__ = ["load_fitted", "save_fitted"]

KIND = "pellucid_fitted"
"""The entry of the file's header that says what kind of method it is for."""


def save_fitted(analyzer: Analyzer, path: str | Path) -> Path:
    """Write what `analyzer.fit` learned as safetensors to the file `path`, which it returns.

    The file is whole or absent. Raises `ConfigError` where nothing was fitted, and `WriteError` where it cannot be
    written.

    >>> from tempfile import mkdtemp
    >>> import torch
    >>> from pellucid.attribution import create_analyzer
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    >>> analyzer = create_analyzer("pattern.attribution", model).fit([torch.rand(20, 1, 2, 2)])
    >>> path = save_fitted(analyzer, Path(mkdtemp()) / "patterns.safetensors")
    >>> images = torch.rand(2, 1, 2, 2)
    >>> again = load_fitted(create_analyzer("pattern.attribution", model), path)
    >>> torch.equal(again.analyze(images), analyzer.analyze(images))
    True
    """
    state = analyzer.state()
    save_tensors(Path(path), state.tensors, {**state.facts, KIND: state.kind})
    return Path(path)


def load_fitted(analyzer: Analyzer, path: str | Path) -> Analyzer:
    """The analyzer, with what `save_fitted` wrote in place of a fit; nothing is unpickled.

    Raises `ConfigError` where the file belongs to another kind of method, to other weights (their fingerprints differ)
    or to other options, and `SaveError` where it is absent, damaged or something else.
    """
    tensors, facts = load_tensors(Path(path))
    if KIND not in facts:
        raise SaveError(f"{path} holds no fitted analyzer; give a file that save_fitted wrote.")
    return analyzer.restore(FittedState(facts[KIND], tensors, facts))
