"""Settings of runs: which models differ only in their seed, and what else differs."""

import json
from collections.abc import Sequence

from pellucid.report.comparison import Setting
from pellucid.run.compared import Loaded

__all__ = ["group", "names_of", "run_names", "seed_of"]

WITHOUT_EFFECT = {
    *("seed", "save", "data_dir", "mirror", "resume", "serial", "trust", "open", "config", "threads", "device"),
    *("hooks", "methods", "classes", "embedding_layer", "log_to", "budget", "keep_checkpoints", "epochs"),
    "metadata",
}
"""Settings that do not change the trained network, apart from rounding; the number of epochs is compared as planned."""


def seed_of(model: Loaded) -> int | None:
    """Return the seed of a trained network; None for an inspected one, whose seed only draws the sample."""
    seed = model.record.get("seed")
    return seed if model.record.get("kind", "run") == "run" and isinstance(seed, int) else None


def group(models: Sequence[Loaded], names: Sequence[str]) -> tuple[tuple[Setting, ...], list[int]]:
    """Return the settings, each with one model per seed, and the setting of each model."""
    keys = [_key(model) for model in models]
    distinct = list(dict.fromkeys(keys))
    setting_of = [distinct.index(key) for key in keys]
    settings = []
    for number in range(len(distinct)):
        members = [position for position, setting in enumerate(setting_of) if setting == number]
        # a copy of a run is not another seed
        by_seed = {seed_of(models[position]): position for position in reversed(members)}
        own = tuple(sorted(by_seed.values()))
        name = names[own[0]] + (f" ({len(own)} seeds)" if len(own) > 1 else "")
        settings.append(Setting(name, own))
    return tuple(settings), setting_of


def _key(model: Loaded) -> str:
    record = model.record
    if seed_of(model) is None:
        return json.dumps([str(model.folder.resolve()), model.epoch])
    settings = {name: value for name, value in record.get("config", {}).items() if name not in WITHOUT_EFFECT}
    # unset and absent are the same: an older version may not have had the setting
    settings = {name: value for name, value in settings.items() if value not in (None, False, [])}
    network = {name: record.get("model", {}).get(name) for name in ("name", "weights", "options")}
    data = record.get("dataset", {}).get("name")
    planned = [record.get("epochs"), record.get("extensions") or []]
    # the best weights so far of a run that ended early, or still goes on, are those of a shorter training
    is_short = model.epoch is None and record.get("status") != "finished"
    reached = int(model.metrics[-1]["epoch"]) if is_short else None
    return json.dumps([settings, network, data, planned, reached, model.epoch], sort_keys=True, default=str)


def run_names(models: Sequence[Loaded]) -> list[str]:
    """Return a short name for the run of each model: as much of its folder as it takes to tell the runs apart."""
    folders = [model.folder.resolve() for model in models]
    length = 1
    while len({folder.parts[-length:] for folder in folders}) < len(set(folders)):
        length += 1
    return ["/".join(folder.parts[-length:]) for folder in folders]


def names_of(models: Sequence[Loaded]) -> list[str]:
    """Return a unique, short name for each model: that of its run, and its epoch."""
    runs = run_names(models)
    is_one = len(set(runs)) == 1
    names: list[str] = []
    for run, model in zip(runs, models, strict=True):
        epoch = "" if model.epoch is None else f"epoch {model.epoch}"
        name = (epoch or "best epoch") if is_one else ", ".join(filter(None, (run, epoch)))
        number, unique = 2, name
        while unique in names:
            unique, number = f"{name} ({number})", number + 1
        names.append(unique)
    return names
