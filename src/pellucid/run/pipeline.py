"""The pipeline of a run: data → model → training epochs → hooks → artifacts and report."""

import shlex
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from torch import Tensor

from pellucid.config import RunConfig
from pellucid.core.contracts import Artifact, to_floats
from pellucid.core.errors import SaveError, WriteError
from pellucid.core.seeding import generator
from pellucid.core.terminal import console, silence
from pellucid.data._loaders import batches, random_shifts
from pellucid.hooks._hook import Hook, Scene
from pellucid.report import write_report
from pellucid.run.console import print_epoch, print_start, print_summary
from pellucid.run.record import finished_record, first_record, metrics_record, timestamp
from pellucid.run.session import Session, prepare
from pellucid.storage.densities import fit_density
from pellucid.storage.films import FILMS
from pellucid.storage.lock import locked
from pellucid.storage.pictures import to_png
from pellucid.storage.store import Packed, Store
from pellucid.storage.tensorboard import Board, PackedEmbedding, pack_embedding
from pellucid.storage.weights import pack_weights, unpack_weights
from pellucid.training.checkpoint import TrainingState, pack_state
from pellucid.training.distributed import joined_world
from pellucid.training.evaluate import evaluate
from pellucid.training.loop import Epoch, train

__all__ = ["run"]

EPOCHS_SHOWN_ALL = 5
"""Maximum number of epochs for which hooks run after every epoch; longer runs show round epoch numbers only."""


def run(config: RunConfig) -> int:
    """Train a network, run the hooks and write the report; returns the exit code.

    0: success. 1: a hook failed and its traceback is in `save/errors/`. Raises a `PellucidError` before any training if
    the settings, the data, the model or the save folder are invalid, and `KeyboardInterrupt` after Ctrl-C, once a
    checkpoint is written.
    """
    with ExitStack() as stack:
        world = stack.enter_context(joined_world())
        if not world.is_first:
            silence()
        world.first(lambda: stack.enter_context(locked(config.save)))
        session = prepare(config, world)
        if session.earlier.get("status") == "finished":
            console().print(f"The run in {config.save} is already finished; there is nothing to resume.", markup=False)
            world.first(lambda: print_summary(session.store))
            return int(bool(session.store.manifest()["failures"]))
        world.first(lambda: _begin(session))
        return _train_and_show(session)


def _begin(session: Session) -> None:
    """Move an earlier run out of the way and write the first run.json; a resumed run keeps its files."""
    store, record = session.store, first_record(session)
    moved = None if session.config.resume else store.move_previous_run()
    store.begin(record)
    print_start(session, moved)


def _train_and_show(session: Session) -> int:
    """Run all epochs with their hooks, then the end hooks, the films and the report; returns the exit code."""
    store, world = session.store, session.world
    start_epoch = session.resumed.progress.epoch if session.resumed else 0
    try:
        with ExitStack() as stack:
            opened = world.first(lambda: stack.enter_context(_board(session, start_epoch)))
            board = cast(Board, opened)  # None in all but the first process, the only one that writes to it
            for epoch in _epochs(session):
                world.first(partial(_keep_epoch, session, board, epoch))
            world.first(lambda: _run_end_hooks(session, board))
            world.first(lambda: _keep_films(store))
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        if world.is_first:
            _record_end(store, "interrupted" if interrupted else "failed")
            _write_final_report(store)
        if interrupted:
            console().print(f"\nInterrupted. Resume with: {_resume_command(session)}", markup=False)
        raise
    world.first(lambda: _finish(store, session.recipe.epochs))
    return int(world.any(world.is_first and bool(store.manifest()["failures"])))


def _keep_films(store: Store) -> None:
    """Write the films; an error is recorded as a failure and doesn't stop the run."""
    failed: dict[str, Exception] = {}
    for name, make in FILMS.items():
        try:
            film = make(store)
            packed = store.pack_film(name, film.epoch, film.artifact, film.content) if film else None
        except Exception as error:  # noqa: BLE001  (a damaged picture can raise almost anything)
            failed[name] = error
            continue
        if packed is not None:
            store.keep(packed)
    if failed:
        message = "; ".join(f"{name}: {type(error).__name__}: {error}" for name, error in failed.items())
        log = "\n".join("".join(traceback.format_exception(error)) for error in failed.values())
        path = store.add_failure("films", store.metrics()[-1]["epoch"], message, log)
        console().print(f"  films failed: {message} (see {path})", markup=False)


def _finish(store: Store, epochs: int) -> None:
    store.write_run(finished_record(store))
    _report(store, epochs)
    print_summary(store)


def _report(store: Store, epoch: int) -> None:
    """Update the report; an error is recorded with its traceback and doesn't stop the run.

    Raises `WriteError` if the file cannot be written, for example because the disk is full.
    """
    try:
        write_report(store.folder)
    except WriteError:
        raise
    except Exception as error:  # noqa: BLE001  (a broken report must not end the training)
        _keep_failure(store, "report", epoch, error)


def _write_final_report(store: Store) -> None:
    """Write the report of a run that did not finish, if the cause of the failure still allows it."""
    with suppress(Exception):
        write_report(store.folder)


def _board(session: Session, start_epoch: int) -> Board:
    """Open the TensorBoard log: a new one starts with the model's graph, a resumed one continues at `start_epoch`."""
    board = Board(session.store.folder / "logs", start_epoch if session.config.resume else None)
    if start_epoch == 0:
        board.graph(session.model, session.data.test.floats([0]).to(session.device))
    return board


def _epochs(session: Session) -> Iterator[Epoch]:
    """Train the model and yield each finished epoch; the first process writes the checkpoints."""
    first, store = session.world.is_first, session.store

    def keep(state: TrainingState) -> None:
        if first:
            store.write_model("last.ckpt", pack_state(state))

    return train(
        session.model,
        session.data,
        lambda epoch, first_step: _batches(session, epoch, first_step),
        session.recipe,
        device=session.device,
        world=session.world,
        start=session.resumed,
        keep=keep,
    )


def _batches(session: Session, epoch: int, first_step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate over an epoch's training batches, with random shifts if the data set asks for them."""
    world, seed, data = session.world, session.recipe.seed, session.data
    source = batches(
        data.train,
        session.config.training.batch_size,
        seed=seed,
        epoch=epoch,
        rank=world.rank,
        world_size=world.size,
        first_step=first_step,
    )
    for step, (pixels, labels) in enumerate(source, start=first_step):
        images = to_floats(pixels)
        if data.shift_share:
            # Seeded by epoch, step and rank, so that a resumed run draws the same shifts as an uninterrupted one.
            draws = generator(seed, "shift", epoch, step, world.rank)
            images = random_shifts(images, data.shift_share, draws)
        yield images, labels


def _keep_epoch(session: Session, board: Board, epoch: Epoch) -> None:
    """Process a finished epoch in the first process: best weights, hooks, metrics, report and terminal."""
    store, recipe = session.store, session.recipe
    if epoch.is_best:
        store.write_model("best.safetensors", pack_weights(session.model))
    if is_shown(epoch.number, recipe.epochs):
        scene = _scene(session, epoch.number, epoch.test_logits)
        for name, hook in session.hooks.items():
            if hook.when == "epoch":
                _run_hook(session, board, name, hook, scene)
    record = metrics_record(epoch)
    store.add_metrics(record)
    numbers = {key: value for key, value in record.items() if isinstance(value, float)}
    board.scalars({_tag(key): value for key, value in numbers.items()}, epoch.number)
    _report(store, epoch.number)
    print_epoch(epoch, recipe.epochs)


def _tag(name: str) -> str:
    """Return the TensorBoard tag of a metric, grouped by quantity: `test_loss` becomes `loss/test`."""
    part, _, quantity = name.rpartition("_")
    return f"{quantity}/{part}" if quantity in ("loss", "accuracy") else f"training/{name}"


def _run_end_hooks(session: Session, board: Board) -> None:
    """Run the hooks of the end of training, with the best weights loaded into the model."""
    hooks = {name: hook for name, hook in session.hooks.items() if hook.when == "end"}
    if not hooks:
        return
    content = session.store.read_model("best.safetensors")
    if content is None:
        raise SaveError(f"best.safetensors is missing from {session.store.folder / 'models'}; run the training again.")
    session.model.load_state_dict(unpack_weights(content))
    logits = evaluate(session.model, session.data.test, session.device)
    best = max((line["epoch"] for line in session.store.metrics() if line["best"]), default=None)
    scene = replace(_scene(session, session.recipe.epochs, logits), weights_epoch=best)
    for name, hook in hooks.items():
        _run_hook(session, board, name, hook, scene)


def _scene(session: Session, epoch: int, logits: Tensor) -> Scene:
    methods = session.config.show.methods
    return Scene(
        epoch=epoch,
        model=session.model,
        device=session.device,
        test=session.data.test,
        logits=logits,
        classes=session.data.classes,
        data_title=session.data.title,
        seed=session.recipe.seed,
        chosen_classes=session.classes,
        methods=tuple(name.strip() for name in methods.split(",")) if methods else None,
        embedding_layer=session.embedding_layer,
        train=session.data.train,
        fitted=partial(
            fit_density,
            images=session.data.train,
            seed=session.recipe.seed,
            save=session.store.folder,
            device=session.device,
        ),
    )


def _run_hook(session: Session, board: Board, name: str, hook: Hook, scene: Scene) -> None:
    """Run one hook and store its artifacts; an error is recorded with its traceback and doesn't stop the run."""
    store = session.store
    try:
        scene = replace(scene, previous=store.previous_arrays(name, scene.epoch))
        # Pack everything before writing anything: a hook that fails halfway leaves no files behind.
        artifacts = [_pack(store, name, scene.epoch, artifact) for artifact in hook.run(scene)]
    except Exception as error:  # noqa: BLE001  (hooks can be third-party code)
        _keep_failure(store, name, scene.epoch, error)
        return
    for artifact, picture, packed, points in artifacts:
        tag = f"{name}/{artifact.name}" if artifact.name else name
        store.keep(packed)
        if picture is not None:
            board.picture(tag, picture, scene.epoch)
        if points is not None:
            path = board.embedding(scene.epoch, points)
            store.keep_file(name, scene.epoch, artifact, path, "embedding")
        if hook.when == "epoch":  # an end hook has a single value, which makes no curve
            board.scalars({f"{name}/{key}": float(value) for key, value in artifact.scalars.items()}, scene.epoch)


def _keep_failure(store: Store, name: str, epoch: int, error: Exception) -> None:
    """Record a failure with its traceback and report it in the terminal."""
    message = f"{type(error).__name__}: {error}"
    log = store.add_failure(name, epoch, message, "".join(traceback.format_exception(error)))
    what = "the report" if name == "report" else f"hook {name}"
    console().print(f"  {what} failed at epoch {epoch}: {message} (see {log})", markup=False)


def _pack(
    store: Store, hook: str, epoch: int, artifact: Artifact
) -> tuple[Artifact, bytes | None, Packed, PackedEmbedding | None]:
    """Encode an artifact as it will be on disk, so that an invalid one raises before anything is written."""
    picture = None if artifact.figure is None else to_png(artifact.figure)
    points = None if artifact.embedding is None else pack_embedding(artifact.embedding)
    return artifact, picture, store.pack(hook, epoch, artifact, picture), points


def is_shown(epoch: int, epochs: int) -> bool:
    """Return True if hooks run at `epoch`: every epoch of a short run, else 0, 1, 2, 5, 10, 20, 50… and the last.

    >>> [epoch for epoch in range(26) if is_shown(epoch, 25)]
    [0, 1, 2, 5, 10, 20, 25]
    """
    leading = int(str(epoch).rstrip("0") or "0")
    return epochs <= EPOCHS_SHOWN_ALL or epoch == epochs or leading in (0, 1, 2, 5)


def _record_end(store: Store, status: str) -> None:
    """Write the status of a run that did not finish, if the cause of the failure still allows it."""
    try:
        record = store.run()
        store.write_run(record | {"status": status, "timing": record["timing"] | {"finished": timestamp()}})
    except (SaveError, OSError, KeyError):
        return


def _resume_command(session: Session) -> str:
    script = Path(sys.argv[0])
    program = ["pellucid", "run"]
    if script.suffix == ".py":
        program = ["python", "-m", "pellucid", "run"] if script.name == "__main__.py" else ["python", str(script)]
    save = str(session.store.folder)
    return shlex.join([*program, "--resume", *([] if save == "save" else ["--save", save])])
