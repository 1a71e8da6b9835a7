"""The work of `pellucid serve`: load a run, and send its report and live explanations to browsers on this computer."""

import shlex
from pathlib import Path

from pellucid.config import ServeConfig
from pellucid.core.errors import DataError, SaveError
from pellucid.core.opening import opens_in_browser
from pellucid.core.terminal import console, print_line
from pellucid.report._page import render_report
from pellucid.run.serving_http import LiveServer
from pellucid.run.serving_maps import LiveRun
from pellucid.run.session import choose_device, set_threads
from pellucid.storage.runs import load_data_of, load_run
from pellucid.storage.store import Store
from pellucid.training.distributed import World

__all__ = ["ServedPage", "load_live_run", "serve_run"]


def serve_run(config: ServeConfig) -> int:
    """Serve a run until interrupted, which raises `KeyboardInterrupt`.

    Raises `SaveError` if the folder holds no run with weights, and `ConfigError` for a port that cannot be used. The
    run may still be training: its best weights so far are loaded once, and its report is read again for each page.
    """
    live = load_live_run(config)
    page = ServedPage(config.run, live)
    page()  # errors of the report, before anyone connects
    with LiveServer(live, page, config.port) as server:
        if live.missing:
            print_line(f"The data of this run are not available: {live.missing}")
        print_line(f"{server.address} (Ctrl-C stops the server)")
        console().file.flush()  # programs wait for this line
        if config.open and not opens_in_browser(server.address):
            print_line("No browser could be started; open the address above yourself.")
        server.serve_forever()
    return 0


def load_live_run(config: ServeConfig) -> LiveRun:
    """Load the run, and its data if they are available."""
    _check_weights(config.run)
    run = load_run(config.run, trust=config.trust)
    run.model.to(choose_device(config.device, World()))
    data, missing = None, ""
    try:
        data = load_data_of(config.run, run, config.data_dir, config.mirror)
    except (DataError, SaveError) as error:
        # pictures can be explained without them
        missing = str(error)
    live = LiveRun(run, data, missing, config.run)
    set_threads(config.threads or Store(config.run).run().get("threads"), live.shape)
    return live


def _check_weights(folder: Path) -> None:
    """Raise `SaveError` for a run before its first checkpoint, and for an inspected or watched model."""
    store = Store(folder)
    store.check_run("run.json")
    record = store.run()
    kind = record.get("kind", "run")
    if kind == "run" and store.read_model("best.safetensors") is None:
        raise SaveError(
            f"the run in {folder} has no weights in models/best.safetensors. They are written after its first epoch: "
            "wait for it, or continue an interrupted run with `pellucid run --resume --save FOLDER`."
        )
    if kind == "run":
        return
    model = str(record.get("model", {}).get("name", ""))
    way = "Open its report.html, or explain images with `pellucid explain` or pellucid.explain(model, images)."
    if model.startswith("run:"):
        way = f"Serve the inspected run instead: pellucid serve {shlex.quote(model.removeprefix('run:'))}"
    raise SaveError(f"{folder} was written by pellucid.{kind}, which stores no weights to explain with. {way}")


class ServedPage:
    """The report of a run with live explanations, rendered again when the records of the run change."""

    def __init__(self, folder: Path, live: LiveRun) -> None:
        self._folder, self._live = folder, live
        self._rendered: tuple[object, bytes] | None = None

    def __call__(self) -> bytes:
        """Return the HTML page."""
        state = [_version(self._folder / name) for name in ("run.json", "manifest.json", "metrics.jsonl")]
        # two threads may render the same page, which is harmless
        if self._rendered is None or self._rendered[0] != state:
            self._rendered = state, render_report(self._folder, self._live.facts())
        return self._rendered[1]


def _version(path: Path) -> tuple[int, int]:
    try:
        state = path.stat()
    except OSError:
        return 0, 0
    return state.st_mtime_ns, state.st_size
