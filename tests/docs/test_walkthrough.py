"""Tests of docs/walkthrough: the notebooks run from top to bottom on a freshly trained network."""

import importlib.util
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOKS = sorted((DOCS / "walkthrough").glob("*.ipynb"))


def cells_of(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(notebook: Path) -> None:
    cells = cells_of(notebook)
    assert "".join(cells[0]["source"]).startswith(f"# {notebook.stem.partition('_')[0]}. ")
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert sum("assert" in "".join(cell["source"]) for cell in code) >= 3
    text = "\n".join("".join(cell["source"]) for cell in cells)
    assert re.search(r"^## .*[Pp]itfalls", text, re.MULTILINE)
    assert "*Sources:" in text


@pytest.fixture(scope="module")
def program() -> ModuleType:
    """Import docs/execute.py as a module."""
    for name in ("nbclient", "ipykernel"):
        if importlib.util.find_spec(name) is None:
            if os.environ.get("CI") == "true":
                pytest.fail(f"{name} is not installed")
            pytest.skip(f"{name} is not installed (it comes with the extra `docs`)")
    spec = importlib.util.spec_from_file_location("execute_notebooks", DOCS / "execute.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def executed(program: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Execute a notebook on a run, or return the copy that `nox -s docs` has executed in `$PELLUCID_DOCS/walkthrough`.

    The run is brief, but long enough to classify most digits correctly.
    """
    if built := os.environ.get("PELLUCID_DOCS"):
        return lambda notebook: Path(built, "walkthrough", notebook.name)
    folder = tmp_path_factory.mktemp("walkthrough")
    program.train(folder / "run", "--epochs", "6", "--threads", "1")

    def written(notebook: Path) -> Path:
        program.execute(notebook, folder / "run", folder)
        return folder / notebook.name

    return written


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(executed: Callable[[Path], Path], notebook: Path) -> None:
    cells = cells_of(executed(notebook))
    assert [cell["source"] for cell in cells] == [cell["source"] for cell in cells_of(notebook)]
    assert all(cell["execution_count"] for cell in cells if cell["cell_type"] == "code")
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 2
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
