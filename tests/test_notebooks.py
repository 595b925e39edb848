"""The notebooks run from top to bottom with small settings, and carry no outputs in git."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


def test_there_are_some() -> None:
    assert [path.stem[0] for path in NOTEBOOKS] == ["1", "2", "3"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path: Path) -> None:
    cells: list[dict[str, Any]] = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[] if path.stem.startswith("1") else pytest.mark.slow) for path in NOTEBOOKS],
    ids=lambda path: path.stem,
)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed")
    client = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    monkeypatch.setenv("REFLECTZOO_STEPS", "2")
    monkeypatch.delenv("REFLECTZOO_CHECKPOINT", raising=False)
    notebook = nbformat.read(path, as_version=4)
    # In a folder of its own: it must find the package, and no file beside it.
    client.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [each for cell in notebook.cells if cell.cell_type == "code" for each in cell.outputs]
    assert any("image/png" in each.get("data", {}) for each in shown), "no picture was shown"
    assert not any(each.output_type == "error" for each in shown)
    assert not list(tmp_path.iterdir())
