"""Run hooks and store what they return; a failure is recorded with its traceback and doesn't stop the run."""

import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from pellucid.core.contracts import Artifact
from pellucid.core.errors import WriteError
from pellucid.core.terminal import print_line
from pellucid.hooks import Hook, Scene
from pellucid.report import write_report
from pellucid.storage.films import FILMS
from pellucid.storage.pictures import to_png
from pellucid.storage.store import Packed, Store
from pellucid.storage.tensorboard import Board, PackedEmbedding, pack_embedding

__all__ = ["HookRunner", "is_shown", "update_report", "write_films", "write_final_report"]

EPOCHS_SHOWN_ALL = 5
"""Maximum number of epochs for which hooks run after every epoch; longer runs show round epoch numbers only."""


def is_shown(epoch: int, epochs: int) -> bool:
    """Return True if hooks run at `epoch`: every epoch of a short run, else 0, 1, 2, 5, 10, 20, 50… and the last.

    >>> [epoch for epoch in range(26) if is_shown(epoch, 25)]
    [0, 1, 2, 5, 10, 20, 25]
    """
    # 1, 2 or 5 for 10, 200 or 5000
    leading = int(str(epoch).rstrip("0") or "0")
    return epochs <= EPOCHS_SHOWN_ALL or epoch == epochs or leading in (0, 1, 2, 5)


@dataclass(frozen=True)
class HookRunner:
    """Runs hooks, writing their artifacts to the save folder and to TensorBoard."""

    store: Store
    board: Board
    hooks: Mapping[str, Hook]

    def has(self, when: Literal["epoch", "end"]) -> bool:
        """True if any hook runs at this time."""
        return any(hook.when == when for hook in self.hooks.values())

    def run(self, when: Literal["epoch", "end"], make_scene: Callable[[], Scene]) -> None:
        """Run the hooks of this time, one after the other, on one scene, whose computed values they share."""
        scene = make_scene()
        for name, hook in self.hooks.items():
            if hook.when == when:
                self.run_one(name, hook, scene)

    def run_one(self, name: str, hook: Hook, scene: Scene) -> None:
        """Run one hook and store its artifacts; an error is recorded with its traceback and doesn't stop the run."""
        try:
            scene = replace(scene, previous=self.store.previous_arrays(name, scene.epoch))
            # Pack everything before writing anything: a hook that fails halfway leaves no files behind.
            artifacts = [self._pack(name, scene.epoch, artifact) for artifact in hook.run(scene)]
        except (Exception, SystemExit) as error:  # noqa: BLE001  (hooks can be third-party code)
            _record_failure(self.store, name, scene.epoch, error)
            return
        for artifact, picture, packed, points in artifacts:
            tag = f"{name}/{artifact.name}" if artifact.name else name
            self.store.keep(packed)
            if picture is not None:
                self.board.picture(tag, picture, scene.epoch)
            if points is not None:
                path = self.board.embedding(scene.epoch, points)
                self.store.keep_file(name, scene.epoch, artifact, path, "embedding")
            if hook.when == "epoch":  # an end hook has a single value, which makes no curve
                scalars = {f"{name}/{key}": float(value) for key, value in artifact.scalars.items()}
                self.board.scalars(scalars, scene.epoch)

    def _pack(
        self, hook: str, epoch: int, artifact: Artifact
    ) -> tuple[Artifact, bytes | None, Packed, PackedEmbedding | None]:
        """Encode an artifact as it will be on disk, so that an invalid one raises before anything is written."""
        picture = None if artifact.figure is None else to_png(artifact.figure)
        points = None if artifact.embedding is None else pack_embedding(artifact.embedding)
        return artifact, picture, self.store.pack(hook, epoch, artifact, picture), points

    def log_metrics(self, record: Mapping[str, Any]) -> None:
        """Add an epoch's metrics to the curves of TensorBoard."""
        # leaves out the epoch, the flag `best`, clock times, and the training scores of epoch 0, which are None
        numbers = {_tag(key): value for key, value in record.items() if isinstance(value, float)}
        self.board.scalars(numbers, record["epoch"])


def _tag(name: str) -> str:
    """Return the TensorBoard tag of a metric, grouped by quantity: `test_loss` becomes `loss/test`."""
    part, _, quantity = name.rpartition("_")
    return f"{quantity}/{part}" if quantity in ("loss", "accuracy") else f"training/{name}"


def write_films(store: Store) -> None:
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
        print_line(f"  films failed: {message} (see {path})")


def update_report(store: Store, epoch: int) -> None:
    """Update the report; an error is recorded with its traceback and doesn't stop the run.

    Raises `WriteError` if the file cannot be written, for example because the disk is full.
    """
    try:
        write_report(store.folder)
    except WriteError:
        raise
    except Exception as error:  # noqa: BLE001  (a broken report must not end the training)
        _record_failure(store, "report", epoch, error)


def write_final_report(store: Store) -> None:
    """Write the report of a run that did not finish, if the cause of the failure still allows it."""
    with suppress(Exception):
        write_report(store.folder)


def _record_failure(store: Store, name: str, epoch: int, error: Exception | SystemExit) -> None:
    """Record a failure with its traceback and report it in the terminal."""
    message = f"{type(error).__name__}: {error}"
    log = store.add_failure(name, epoch, message, "".join(traceback.format_exception(error)))
    what = "the report" if name == "report" else f"hook {name}"
    print_line(f"  {what} failed at epoch {epoch}: {message} (see {log})")
