"""The pictures of a run in README and docs: `python docs/run_pictures.py [RUN] [FLAGS OF pellucid run]`.

RUN is the folder of a run with its pictures (default: save/gallery); where there is none, the pipeline makes it. Taken
from it are the last picture of each hook, the film of the embedding, and a screenshot of its report.
"""

import io
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from pellucid.artifacts.store import Store
from pellucid.report import write_report

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "pictures"
HOOKS = (
    "confusion_matrix",
    "saliency",
    "jacobian_maps",
    "explanations",
    "hardest",
    "prototypes",
    "leaderboard",
)
"""Whose last picture is shown."""
FILMS = ("tsne",)
WINDOW = {"width": 1280, "height": 1600}
"""Pixels of the report that are shown."""
CHROMIUM_ARGUMENTS = ("--no-sandbox", "--no-first-run", "--disable-background-networking", "--disable-gpu")


def draw(run: Path) -> list[Path]:
    """Write the pictures of a run; returns what was written."""
    entries = Store(run).manifest()["artifacts"]
    written = []
    for hook in HOOKS:
        paths = {
            entry["epoch"]: entry["path"] for entry in entries if (entry["name"], entry["kind"]) == (hook, "figure")
        }
        if not paths:
            raise SystemExit(f"{run} has no picture of {hook}; make the run with the hooks of `--hooks default`.")
        written.append(FOLDER / f"{hook}.png")
        written[-1].write_bytes(smaller((run / paths[max(paths)]).read_bytes()))
    for hook in FILMS:
        written.append(FOLDER / f"{hook}.webp")
        shutil.copyfile(run / "films" / f"{hook}.webp", written[-1])
    write_report(run)
    shot = screenshot(run / "report.html")
    if shot is not None:
        written.append(FOLDER / "report.png")
        written[-1].write_bytes(smaller(shot))
    return written


def smaller(png: bytes) -> bytes:
    """The same pixels in fewer bytes: without transparency, and packed as tightly as can be."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def screenshot(page: Path) -> bytes | None:
    """The top of the report as a PNG, light; None, with a message, where there is no browser to draw it."""
    program = shutil.which("chromium")
    if program is None:
        sys.stdout.write("no picture of the report: there is no chromium on the path.\n")
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=CHROMIUM_ARGUMENTS)
        shown = browser.new_page(viewport=WINDOW, color_scheme="light")  # type: ignore[arg-type]
        shown.goto(page.resolve().as_uri())
        shown.wait_for_timeout(1000)
        shot = shown.screenshot()
        browser.close()
    return shot


def main(arguments: list[str]) -> None:
    """Train if need be, and take the pictures."""
    has_folder = bool(arguments) and not arguments[0].startswith("-")
    run = Path(arguments[0]) if has_folder else ROOT / "save" / "gallery"
    if not (run / "run.json").is_file():
        command = [sys.executable, str(ROOT / "runner.py"), "--save", str(run), *arguments[has_folder:]]
        subprocess.run(command, check=True)  # noqa: S603
    for path in draw(run):
        sys.stdout.write(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main(sys.argv[1:])
