"""Load the model that `--model` names, including that of a saved run."""

from pathlib import Path
from typing import Any

from pellucid.core.errors import ConfigError
from pellucid.core.origin import origin_of
from pellucid.core.preprocessing import Preprocessing
from pellucid.models._adapted import Adapted
from pellucid.models._load import LoadedModel
from pellucid.models._load import load_model as load_by_name
from pellucid.models._preprocessing import remember
from pellucid.models._spec import parse_spec
from pellucid.storage.runs import load_run

__all__ = ["load_model"]


def load_model(spec: str, *, weights: str | Path | None = None, trust: bool = False, **options: Any) -> LoadedModel:
    """Load the model that `spec` names: `run:FOLDER`, or anything that `pellucid.models.load_model` takes.

    Args:
        spec: the model. `run:FOLDER` is the best model of a saved run; its weights are verified.
        weights: a file or a name; not for `run:`.
        trust: import the function that the run names as its model, which runs its code.
        options: further arguments of `pellucid.models.load_model`.

    Raises the errors of `load_run` and of `pellucid.models.load_model`.
    """
    kind, argument = parse_spec(spec)
    if kind != "run":
        return load_by_name(spec, weights=weights, **options)
    if weights is not None:
        raise ConfigError(f"--model {spec} has its own weights; omit --weights {weights}.")
    folder = Path(argument).expanduser().resolve()
    run = load_run(folder, trust=trust)
    model: Any = run.model
    known = Preprocessing()
    if isinstance(model, Adapted):
        model, known = model.model, model.preprocessing
    origin = origin_of(run.model)
    assert origin is not None
    steps = Preprocessing(known.mean, known.std, resize=origin.image_shape[1:], source=f"run:{folder}")
    remember(model, steps, run.classes)
    return LoadedModel(model.eval(), steps, run.classes, name=f"run:{folder}", weights=f"run:{folder}")
