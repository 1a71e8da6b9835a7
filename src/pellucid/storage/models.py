"""Load the model that `--model` names, including that of a saved run."""

from pathlib import Path
from typing import Any

from torch import nn

from pellucid.core.errors import ConfigError
from pellucid.core.origin import origin_of
from pellucid.core.preprocessing import Preprocessing
from pellucid.models._adapted import Adapted
from pellucid.models._library import LoadedModel, Wanted, build_filled
from pellucid.models._load import load_model as load_by_name
from pellucid.models._preprocessing import remember
from pellucid.models._spec import parse_spec
from pellucid.storage.runs import Architecture, Run, load_run
from pellucid.storage.store import Store

__all__ = ["load_model"]


def load_model(
    spec: str,
    *,
    weights: str | Path | None = None,
    classes: int | None = None,
    trust: bool = False,
    new_head: bool = False,
    **options: Any,
) -> LoadedModel:
    """Load the model that `spec` names: `run:FOLDER`, or anything that `pellucid.models.load_model` takes.

    Args:
        spec: the model. `run:FOLDER` is the best model of a saved run; its weights are verified.
        weights: a file or a name; not for `run:`.
        classes: number of classes of the data, if known.
        trust: import the function that the run names as its model, which runs its code.
        new_head: replace a last layer for another number of classes by a random one; for training.
        options: further arguments of `pellucid.models.load_model`.

    The `name` and `options` of a run's model are those of its architecture, so that it can be rebuilt without the run.
    Raises the errors of `load_run` and of `pellucid.models.load_model`.
    """
    kind, argument = parse_spec(spec)
    if kind != "run":
        return load_by_name(spec, weights=weights, classes=classes, new_head=new_head, **options)
    if weights is not None:
        raise ConfigError(f"--model {spec} has its own weights; omit --weights {weights}.")
    folder = Path(argument).expanduser().resolve()
    run = load_run(folder, trust=trust)
    origin = origin_of(run.model)
    assert origin is not None
    record = Store(folder).run()["model"]
    architecture = Architecture.of(record)
    model: Any = run.model
    names: tuple[str, ...] | None = run.classes
    notice = ""
    if new_head and classes not in (None, len(run.classes)):
        model, notice = _with_new_head(architecture, origin.image_shape, run, classes, f"run:{folder}")
        names = None
    known = Preprocessing()
    if isinstance(model, Adapted):
        model, known = model.model, model.preprocessing
    steps = Preprocessing(known.mean, known.std, resize=origin.image_shape[1:], source=f"run:{folder}")
    remember(model, steps, names)
    return LoadedModel(
        model=model.eval(),
        preprocessing=steps,
        classes=names,
        name=architecture.name,
        weights=f"run:{folder}",
        notice=notice,
        options=dict(architecture.options or {}),
    )


def _with_new_head(
    architecture: Architecture, image_shape: tuple[int, int, int], run: Run, classes: int | None, source: str
) -> tuple[nn.Module, str]:
    """Return the run's model with a random last layer for `classes` classes, and a notice."""
    assert classes is not None

    def build(count: int) -> nn.Module:
        return architecture.build(image_shape, count)

    wanted = Wanted(image_shape=image_shape, classes=classes, new_head=True)
    return build_filled(build, run.model.state_dict(), source, wanted)
