"""Collect the pictures of a run for README and docs: `python docs/run_pictures.py [RUN] [FLAGS OF pellucid run]`.

RUN is the folder of a run (default: save/gallery). If there is no run, the pipeline trains one there. Copies the
last figure of each hook, the animation of the embedding, the summary, and the first screen of the report. The pictures
of hidden layers are drawn by `layer_pictures.py`, with the data of the run.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from layer_pictures import FOLDER, ROOT, recompress
from layer_pictures import draw as draw_layers

from pellucid.data._metadata import read_metadata
from pellucid.hooks import Scene
from pellucid.hooks.slices import SliceErrors
from pellucid.report import write_report
from pellucid.run.explaining import explain
from pellucid.storage.pictures import to_png
from pellucid.storage.runs import load_data_of, load_run
from pellucid.storage.store import Store
from pellucid.training.evaluate import evaluate

HOOKS = (
    "confusion_matrix",
    "saliency",
    "jacobian_maps",
    "explanations",
    "hardest",
    "label_errors",
    "prototypes",
    "leaderboard",
)
"""Hooks whose last figure is copied."""
OPTIONAL = {
    "layer_statistics": "layers",
    "out_of_distribution": "out_of_distribution",
    "robustness": "robustness",
    "robustness_adversarial": "adversarial",
}
"""Pictures with a name of their own, or of hooks that a run can leave out, by file name: the name of the artifact."""
FILMS = ("tsne",)
WINDOW = {"width": 1280, "height": 800}
"""Size of the browser's window for the screenshot."""
PIXELS = 1.5
"""Pixels of the screenshot per pixel of the window, so that it is sharp on fine screens."""
CHROMIUM_ARGUMENTS = ("--no-sandbox", "--no-first-run", "--disable-background-networking", "--disable-gpu")


def draw(run: Path) -> list[Path]:
    """Write the pictures of a run and return their paths."""
    entries = Store(run).manifest()["artifacts"]
    written = []
    for hook in HOOKS:
        paths = {
            entry["epoch"]: entry["path"] for entry in entries if (entry["name"], entry["kind"]) == (hook, "figure")
        }
        if not paths:
            raise SystemExit(f"{run} has no figure of {hook}. Run it with `--hooks default`.")
        written.append(FOLDER / f"{hook}.png")
        written[-1].write_bytes(recompress((run / paths[max(paths)]).read_bytes()))
    for file, name in OPTIONAL.items():
        figures = [entry["path"] for entry in entries if (entry["name"], entry["kind"]) == (name, "figure")]
        if figures:
            written.append(FOLDER / f"{file}.png")
            written[-1].write_bytes(recompress((run / figures[-1]).read_bytes()))
    for hook in FILMS:
        written.append(FOLDER / f"{hook}.webp")
        shutil.copyfile(run / "films" / f"{hook}.webp", written[-1])
    written.append(FOLDER / "slices.png")
    written[-1].write_bytes(recompress(sliced(run)))
    written.append(FOLDER / "explain.png")
    written[-1].write_bytes(recompress(explained(run)))
    write_report(run)
    written.append(FOLDER / "summary.png")
    written[-1].write_bytes(recompress((run / "summary.png").read_bytes()))
    shot = screenshot(run / "report.html")
    if shot is not None:
        written.append(FOLDER / "report.png")
        written[-1].write_bytes(recompress(shot))
    return written + draw_layers(load_data_of(run, load_run(run)))


def explained(run: Path) -> bytes:
    """Return the picture on top of the README: a digit explained for the predicted class and for a similar one."""
    trained = load_run(run)
    data = load_data_of(run, trained)
    threes = (data.test.labels == 3).nonzero().flatten()
    classes = [f"digit {name}" for name in trained.classes]
    image = data.test.floats(threes[:1])
    return to_png(explain(trained.model, image, target=["digit 3", "digit 8"], classes=classes).figure())


def sliced(run: Path) -> bytes:
    """Return the error rates of MNIST by the half of the test set, the amount of ink and the slant."""
    trained = load_run(run)
    test = load_data_of(run, trained).test
    images = test.floats()[:, 0].double()
    rows, columns = torch.meshgrid(*(torch.linspace(0, 1, side) for side in images.shape[1:]), indexing="ij")
    ink = images.mean((1, 2))
    share = images / images.sum((1, 2), keepdim=True)
    y, x = ((share * part).sum((1, 2))[:, None, None] for part in (rows, columns))
    # the slope of the regression line of x on y
    slant = -(share * (rows - y) * (columns - x)).sum((1, 2)) / (share * (rows - y) ** 2).sum((1, 2))
    half = np.where(np.arange(len(test)) < len(test) // 2, "first", "second")
    table = read_metadata({"half": half, "ink": ink, "slant": slant}, range(len(test)), len(test), "test images")
    logits, device = evaluate(trained.model, test, torch.device("cpu")), torch.device("cpu")
    scene = Scene(0, trained.model, device, test, logits, trained.classes, "MNIST", 0, moment="", metadata=table)
    (artifact,) = SliceErrors().run(scene)
    assert artifact.figure is not None
    return to_png(artifact.figure)


def screenshot(page: Path) -> bytes | None:
    """Return a PNG of the report's first screen in light mode, or None, with a message, if there is no browser."""
    program = shutil.which("chromium")
    if program is None:
        sys.stdout.write("Skipping the picture of the report: chromium is not on the PATH.\n")
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=CHROMIUM_ARGUMENTS)
        tab = browser.new_page(viewport=WINDOW, color_scheme="light", device_scale_factor=PIXELS)  # type: ignore[arg-type]
        tab.goto(page.resolve().as_uri())
        tab.wait_for_timeout(1000)  # let the scripts draw the charts
        shot = tab.screenshot()
        browser.close()
    return shot


def main(arguments: list[str]) -> None:
    """Train if there is no run yet, and write the pictures."""
    has_folder = bool(arguments) and not arguments[0].startswith("-")
    run = Path(arguments[0]) if has_folder else ROOT / "save" / "gallery"
    if not (run / "run.json").is_file():
        command = [sys.executable, str(ROOT / "runner.py"), "--save", str(run), *arguments[has_folder:]]
        subprocess.run(command, check=True)  # noqa: S603
    for path in draw(run):
        sys.stdout.write(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main(sys.argv[1:])
