"""`pellucid.compare`: several models side by side on the same test images, and the work of `pellucid compare`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from pellucid.attribution import check_method
from pellucid.config import CompareConfig
from pellucid.core.errors import ConfigError
from pellucid.core.isolation import preserved_random_state
from pellucid.core.listing import parse_names
from pellucid.core.opening import opens_in_browser
from pellucid.core.options import check_argument
from pellucid.core.ranges import Range
from pellucid.core.terminal import print_line, track
from pellucid.evaluation._classifiers import image_difference, seed_difference
from pellucid.evaluation._statistics import holm
from pellucid.report.comparison import Comparison, Disagreements, Model, Pair
from pellucid.run.alignment import align, common_classes
from pellucid.run.compared import Loaded, Reader, parse_place
from pellucid.run.compared_images import disagreements, embedded, pictures
from pellucid.run.compared_layers import compare_layers
from pellucid.run.comparison_maps import Explainer, default_images
from pellucid.run.reopening import Access
from pellucid.run.session import choose_device
from pellucid.run.settings import group, names_of, run_names, seed_of
from pellucid.storage.store import Store
from pellucid.training.distributed import World

__all__ = ["compare", "compare_from"]


def compare(
    runs: Sequence[str | Path],
    *,
    images: int | None = None,
    methods: str | Sequence[str] | None = None,
    trust: bool = False,
    data_dir: str | Path | None = None,
    mirror: Sequence[str] = (),
    device: str = "auto",
    seed: int = 0,
) -> Comparison:
    """Compare the models of saved runs on the same test images.

    Args:
        runs: two or more save folders of runs or inspections, the first of which is the reference. `save@2` is epoch 2
            of a run; without an epoch, the best weights are compared.
        images: number of test images whose explanations and layers are compared, by default 200 (50 for images larger
            than 64×64). Predictions are compared on all test images.
        methods: attribution methods, the first of which explains the images that the models disagree about; by default,
            the method that the leaderboard of the first run recommends, then four common ones.
        trust: import the functions that the runs name as their model or data, which runs their code.
        data_dir: folder of the data sets, if not that of each run.
        mirror: addresses or folders to try first for downloads.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        seed: seed of the bootstrap intervals.

    Returns a `Comparison`, with `verdict()`, `to_dict()` and `save("compare.html")`. Raises `SaveError` for a folder
    without a run or an epoch whose weights were not kept, and `ConfigError` for models with different classes or test
    images.
    """
    if isinstance(runs, str | Path) or len(runs) < 2:
        raise ConfigError(f"got {runs!r} to compare; pass a list of at least two runs, such as ['save@1', 'save@2'].")
    check_argument("compare", "images", images, Annotated[int | None, Range(4)])
    listed = methods if isinstance(methods, str) or methods is None else ",".join(methods)
    names = parse_names(listed or "default", check_method, {"default": ()})
    for place in runs:  # before any of them is loaded
        Store(parse_place(str(place))[0]).check_run("run.json")
    access = Access(Path(), trust, None if data_dir is None else Path(data_dir).expanduser(), tuple(mirror))
    reader = Reader(choose_device(device, World()), access)
    with preserved_random_state():  # opening a model may draw random numbers
        loaded = []
        with track("reading runs", len(runs)) as bar:
            for number, place in enumerate(runs):
                loaded.append(reader.read(str(place)))
                bar.update(number + 1)
        return _compared(loaded, names, images, seed)


def compare_from(config: CompareConfig) -> int:
    """Do the work of `pellucid compare` and return the exit code."""
    torch.set_num_threads(config.threads)
    comparison = compare(
        config.runs,
        images=config.images,
        methods=None if config.methods == "default" else config.methods,
        trust=config.trust,
        data_dir=config.data_dir,
        mirror=config.mirror,
        device=config.device,
        seed=config.seed,
    )
    for sentence in comparison.verdict():
        print_line(sentence)
    for note in comparison.notes:
        print_line(f"Note: {note}")
    path = comparison.save(config.out)
    print_line(f"Open {path.resolve().as_uri()}")
    if config.open and not opens_in_browser(path.resolve().as_uri()):
        print_line("No browser could be started; open the address above yourself.")
    return 0


def _compared(loaded: Sequence[Loaded], methods: Sequence[str], images: int | None, seed: int) -> Comparison:
    classes = common_classes(loaded)
    rows, notes = align(loaded)
    names = names_of(loaded)
    settings, setting_of = group(loaded, names)
    labels = loaded[0].outcome.labels[rows[0]].astype(np.int64)
    models = tuple(
        _model(one, own, (name, run), setting)
        for one, own, name, run, setting in zip(loaded, rows, names, run_names(loaded), setting_of, strict=True)
    )
    comparison = Comparison(
        models=models,
        settings=settings,
        pairs=(),
        classes=classes,
        title=str(loaded[0].record["dataset"].get("title", loaded[0].record["dataset"].get("name", "unknown data"))),
        labels=labels,
        indices=rows[0],
        notes=(*notes, *dict.fromkeys(note for one in loaded for note in one.notes)),
    )
    pairs = _pairs(comparison)
    explainer = Explainer(loaded, rows, methods, seed)
    pairs = [replace(pair, disagreements=disagreements(comparison, pair, len(pairs))) for pair in pairs]
    comparison = replace(comparison, pairs=tuple(pairs))
    count = min(len(labels), images or default_images(loaded))
    comparison = compare_layers(comparison, loaded, rows, count)
    comparison = explainer.add(comparison, count)
    return replace(comparison, pictures=pictures(comparison, loaded, rows))


def _model(loaded: Loaded, rows: np.ndarray, names: tuple[str, str], setting: int) -> Model:
    outcome = loaded.outcome[rows]
    return Model(
        name=names[0],
        run=names[1],
        folder=loaded.folder,
        epoch=loaded.weights_epoch,
        seed=seed_of(loaded),
        setting=setting,
        record=loaded.record,
        metrics=loaded.metrics,
        predictions=outcome.predictions.astype(np.int64),
        confidences=outcome.confidences.astype(float),
        losses=outcome.losses.astype(float),
        points=embedded(loaded, rows),
    )


def _pairs(comparison: Comparison) -> list[Pair]:
    """Return the first model with each of the others, other settings first, with adjusted p-values."""
    others = range(1, len(comparison.models))
    first = comparison.correct(0)
    differences = [image_difference(first, comparison.correct(other)) for other in others]
    adjusted = holm([one.p for one in differences])
    seeds = [_seed_difference(comparison, other) for other in others]
    known = [number for number, one in enumerate(seeds) if one is not None and np.isfinite(one.p)]
    # several seeds of one setting give the same test, which counts once
    tests = {comparison.models[number + 1].setting: seeds[number] for number in known}
    seeds_p = dict(zip(tests, holm([float(one.p) for one in tests.values() if one]), strict=True))
    nothing = Disagreements(np.zeros(0, int), np.zeros((0, 2), int), None, None, None)
    pairs = [
        Pair(
            first=0,
            second=other,
            accuracy=differences[other - 1],
            p=adjusted[other - 1],
            seeds=seeds[other - 1],
            seeds_p=seeds_p.get(comparison.models[other].setting, float("nan")),
            disagreements=nothing,
        )
        for other in others
    ]
    # other settings before other seeds, whose differences are only noise
    return sorted(pairs, key=lambda pair: comparison.models[pair.second].setting == comparison.models[0].setting)


def _seed_difference(comparison: Comparison, other: int) -> Any:
    settings, models = comparison.settings, comparison.models
    if models[0].setting == models[other].setting:
        return None
    one, two = (
        [comparison.accuracy(number) for number in settings[models[position].setting].models] for position in (0, other)
    )
    return seed_difference(one, two)
