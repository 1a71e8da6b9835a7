"""Run hooks, encode what they return, and store it; a failure is recorded and doesn't stop the run."""

import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from time import perf_counter

from pellucid.core.contracts import Artifact
from pellucid.core.terminal import print_line
from pellucid.hooks import Hook, Scene
from pellucid.report._page import render_report
from pellucid.report._pictures import Picture, pack_picture, remember_picture
from pellucid.report._summary import write_summary
from pellucid.report.sections import DRAWN
from pellucid.storage.atomic import write_bytes
from pellucid.storage.films import FILMS
from pellucid.storage.pictures import SHARP, to_png
from pellucid.storage.store import Packed, Store
from pellucid.storage.tensorboard import Board, PackedEmbedding, pack_embedding

__all__ = ["Failure", "HookRunner", "Output", "is_shown", "make_films", "make_report"]

EPOCHS_SHOWN_ALL = 5
"""Maximum number of epochs for which hooks run after every epoch; longer runs show round epoch numbers only."""


def is_shown(epoch: int, epochs: int | None) -> bool:
    """Return True if hooks run at `epoch`: every epoch of a short run, else 0, 1, 2, 5, 10, 20, 50… and the last.

    If the number of epochs is unknown (None), epochs 3 and 4 are shown as well.

    >>> [epoch for epoch in range(26) if is_shown(epoch, 25)]
    [0, 1, 2, 5, 10, 20, 25]
    >>> [epoch for epoch in range(26) if is_shown(epoch, None)]
    [0, 1, 2, 3, 4, 5, 10, 20]
    """
    # 1, 2 or 5 for 10, 200 or 5000
    leading = int(str(epoch).rstrip("0") or "0")
    is_short = (epoch if epochs is None else epochs) <= EPOCHS_SHOWN_ALL
    return is_short or epoch == epochs or leading in (0, 1, 2, 5)


@dataclass(frozen=True)
class Failure:
    """An error in a hook, a film or the report."""

    name: str
    epoch: int
    message: str
    log: str
    """The traceback."""

    @classmethod
    def of(cls, name: str, epoch: int, error: BaseException) -> "Failure":
        """Describe an exception."""
        message, log = f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))
        return cls(name, epoch, message, log)


@dataclass(frozen=True)
class Encoded:
    """An artifact as it will be on disk."""

    artifact: Artifact
    """Name, caption, numbers and scalars; the rest is encoded."""
    picture: bytes | None
    on_page: Picture | None
    """The picture as the report shows it, if it does: encoding it takes longest, and every report would do it again."""
    packed: Packed
    points: PackedEmbedding | None


@dataclass(frozen=True)
class Output:
    """Everything that a hook returned at an epoch, encoded, so that it can cross from one process to another."""

    name: str
    """Name of the hook."""
    epoch: int
    is_repeated: bool
    """True for a hook that runs at every epoch, whose scalars make a curve."""
    artifacts: tuple[Encoded, ...]
    seconds: float

    def pictures(self) -> list[str]:
        """Return the paths of its figures below the save folder."""
        files = [file for encoded in self.artifacts for file in encoded.packed.files]
        return [path for path, _ in files if path.endswith(".png")]


@dataclass(frozen=True)
class HookRunner:
    """Runs hooks, and writes their artifacts to the save folder and to TensorBoard."""

    store: Store
    board: Board

    def run(
        self, hooks: Mapping[str, Hook], make_scene: Callable[[], Scene], send: Callable[[Output | Failure], None]
    ) -> None:
        """Run hooks one after the other on one scene, whose computed values they share, and `send` what they return."""
        scene = make_scene()
        for name, hook in hooks.items():
            send(self.run_one(name, hook, scene))

    def run_one(self, name: str, hook: Hook, scene: Scene) -> Output | Failure:
        """Run one hook and encode its artifacts, without writing anything."""
        started = perf_counter()
        try:
            scene = replace(scene, previous=self.store.previous_arrays(name, scene.epoch))
            artifacts = tuple(self._encode(name, scene.epoch, artifact) for artifact in hook.run(scene))
        except (Exception, SystemExit) as error:  # noqa: BLE001  (hooks can be third-party code)
            return Failure.of(name, scene.epoch, error)
        return Output(name, scene.epoch, hook.when == "epoch", artifacts, perf_counter() - started)

    def _encode(self, hook: str, epoch: int, artifact: Artifact) -> Encoded:
        picture = None if artifact.figure is None else to_png(artifact.figure, SHARP)
        on_page = None
        if picture is not None and hook not in DRAWN:
            with suppress(OSError, ValueError):  # larger than a page can show, which the report will say
                on_page = pack_picture(picture)
        points = None if artifact.embedding is None else pack_embedding(artifact.embedding)
        packed = self.store.pack(hook, epoch, artifact, picture)
        return Encoded(replace(artifact, figure=None, arrays={}, embedding=None), picture, on_page, packed, points)

    def keep(self, output: Output) -> None:
        """Write the artifacts of a hook. They are encoded already, so a hook that fails halfway leaves no files."""
        for encoded in output.artifacts:
            artifact = encoded.artifact
            tag = f"{output.name}/{artifact.name}" if artifact.name else output.name
            self.store.keep(encoded.packed)
            if encoded.picture is not None:
                if encoded.on_page is not None:
                    remember_picture(encoded.picture, encoded.on_page)
                self.board.picture(tag, encoded.picture, output.epoch)
            if encoded.points is not None:
                path = self.board.embedding(output.epoch, encoded.points)
                self.store.keep_file(output.name, output.epoch, artifact, path, "embedding")
            if output.is_repeated:  # an end hook has a single value, which makes no curve
                scalars = {f"{output.name}/{key}": float(value) for key, value in artifact.scalars.items()}
                self.board.scalars(scalars, output.epoch)

    def receive(self, result: "Output | Packed | bytes | Failure") -> None:
        """Write a hook's artifacts, a film or a report, or record a failure."""
        self.store.check_present()
        match result:
            case Failure():
                self.keep_failure(result)
            case Output():
                self.keep(result)
            case Packed():
                self.store.keep(result)
            case bytes():
                write_bytes(self.store.folder / "report.html", result)
                self._summarize()

    def _summarize(self) -> None:
        """Draw `summary.png` of a run that has ended; a failure is recorded."""
        try:
            write_summary(self.store.folder)
        except Exception as error:  # noqa: BLE001  (a broken picture must not end the run)
            lines = self.store.metrics()
            self.keep_failure(Failure.of("summary", lines[-1]["epoch"] if lines else 0, error))

    def keep_failure(self, failure: Failure) -> None:
        """Record a failure with its traceback and report it in the terminal."""
        log = self.store.add_failure(failure.name, failure.epoch, failure.message, failure.log)
        at = f" failed at epoch {failure.epoch}"
        others = {"report": f"the report{at}", "films": "films failed"}
        others |= {
            "summary": "the summary picture failed",
            "watch": f"watching{at}",
            "evaluation": f"the evaluation{at}",
        }
        what = others.get(failure.name, f"hook {failure.name}{at}")
        print_line(f"  {what}: {failure.message} (see {log})")


def make_films(store: Store, send: Callable[[Packed | Failure], None]) -> None:
    """Send the films of a run, encoded, and a failure if any cannot be made."""
    failed: dict[str, Exception] = {}
    for name, make in FILMS.items():
        try:
            film = make(store)
            packed = store.pack_film(name, film.epoch, film.artifact, film.content) if film else None
        except Exception as error:  # noqa: BLE001  (a damaged picture can raise almost anything)
            failed[name] = error
            continue
        if packed is not None:
            send(packed)
    if failed:
        message = "; ".join(f"{name}: {type(error).__name__}: {error}" for name, error in failed.items())
        log = "\n".join("".join(traceback.format_exception(error)) for error in failed.values())
        send(Failure("films", store.metrics()[-1]["epoch"], message, log))


def make_report(store: Store, epoch: int, send: Callable[[bytes | Failure], None]) -> None:
    """Send the report, or the failure to make it."""
    try:
        report: bytes | Failure = render_report(store.folder)
    except Exception as error:  # noqa: BLE001  (a broken report must not end the training)
        report = Failure.of("report", epoch, error)
    send(report)
