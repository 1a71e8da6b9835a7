"""Save and load what an analyzer learned from data."""

from pathlib import Path

from pellucid.attribution import Analyzer, FittedState
from pellucid.core.errors import SaveError
from pellucid.storage.weights import load_tensors, save_tensors

__all__ = ["load_fitted", "save_fitted"]

KIND = "pellucid_fitted"
"""Header entry that records the kind of method the file belongs to."""


def save_fitted(analyzer: Analyzer, path: str | Path) -> Path:
    """Write what `analyzer.fit` learned to the safetensors file `path`, and return the path.

    The write is atomic. Raises `ConfigError` if the analyzer was not fitted, and `WriteError` if the file cannot be
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
    """Restore what `save_fitted` wrote, instead of fitting; nothing is unpickled.

    Raises `ConfigError` if the file belongs to another kind of method, to other weights (their fingerprints differ) or
    to other options, and `SaveError` if it is missing, damaged or not such a file.
    """
    tensors, facts = load_tensors(Path(path))
    if KIND not in facts:
        raise SaveError(f"{path} holds no fitted analyzer; give a file written by save_fitted.")
    return analyzer.restore(FittedState(facts[KIND], tensors, facts))
