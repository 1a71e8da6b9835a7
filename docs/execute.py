"""Run the notebooks of the walkthrough: `python docs/execute.py FOLDER [RUN]`.

Writes executed copies to FOLDER. RUN is the folder of a run (default: FOLDER/run). If there is no run, the pipeline
trains a network there on scikit-learn's digits, which need no download. A failing cell is an error.
"""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "docs" / "walkthrough"
SECONDS = 120
"""Timeout per cell."""


def execute(notebook: Path, run: Path, folder: Path) -> None:
    """Write to `folder` a copy executed on the network of `run`; raises `CellExecutionError` if a cell fails."""
    content = nbformat.read(notebook, as_version=4)
    nbformat.validate(content)
    environment = {**os.environ, "PELLUCID_RUN": str(run.resolve())}
    resources = {"metadata": {"path": str(notebook.parent)}}
    client = NotebookClient(content, timeout=SECONDS, resources=resources, coalesce_streams=True)
    nbformat.write(client.execute(env=environment), folder / notebook.name)


def train(run: Path, *flags: str) -> None:
    """Run the pipeline in the folder `run`, without figures."""
    command = [sys.executable, str(ROOT / "runner.py"), "--dataset", "digits", "--hooks", "none", "--save", str(run)]
    subprocess.run([*command, *flags], check=True)  # noqa: S603


def main(folder: Path, run: Path) -> None:
    """Train if there is no run yet, and write all executed notebooks to `folder`."""
    if not (run / "run.json").is_file():
        train(run)
    folder.mkdir(parents=True, exist_ok=True)
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        execute(notebook, run, folder)
        sys.stdout.write(f"{notebook.name}: executed\n")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python docs/execute.py FOLDER [RUN]")
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else Path(sys.argv[1]) / "run"))
