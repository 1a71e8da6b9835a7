"""Run the notebooks of the walkthrough: `python docs/execute.py FOLDER [RUN]`.

Copies with what their cells show go into FOLDER. RUN is the folder of a run (default: FOLDER/run); where there is none,
the pipeline trains a network on scikit-learn's digits there, which needs no download. A cell that fails is an error.
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
"""How long one cell may take."""


def execute(notebook: Path, run: Path) -> nbformat.NotebookNode:
    """The notebook with what its cells show on the network of `run`; `CellExecutionError` where one fails."""
    content = nbformat.read(notebook, as_version=4)
    nbformat.validate(content)
    environment = {**os.environ, "PELLUCID_RUN": str(run.resolve())}
    place = {"metadata": {"path": str(notebook.parent)}}
    client = NotebookClient(content, timeout=SECONDS, resources=place, coalesce_streams=True)
    return client.execute(env=environment)


def train(run: Path, *flags: str) -> None:
    """A run of the pipeline in the folder `run`, without pictures."""
    command = [sys.executable, str(ROOT / "runner.py"), "--dataset", "digits", "--hooks", "none", "--save", str(run)]
    subprocess.run([*command, *flags], check=True)  # noqa: S603


def main(folder: Path, run: Path) -> None:
    """Train if need be, and execute all notebooks into `folder`."""
    if not (run / "run.json").is_file():
        train(run)
    folder.mkdir(parents=True, exist_ok=True)
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        nbformat.write(execute(notebook, run), folder / notebook.name)
        sys.stdout.write(f"{notebook.name}: every cell ran\n")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python docs/execute.py FOLDER [RUN]")
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else Path(sys.argv[1]) / "run"))
