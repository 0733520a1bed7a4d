from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import indexes

NOTEBOOK = Path(indexes.__file__).with_name("explore.ipynb")


def html(cell: nbformat.NotebookNode) -> str:
    return "".join(output.get("data", {}).get("text/html", "") for output in cell.outputs)


def test_the_committed_notebook_has_no_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.slow
def test_the_notebook_runs(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_STORE", store)
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parent.parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, 4)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=300, resources=resources).execute()
    cells = {cell.source: cell for cell in notebook.cells if cell.cell_type == "code"}
    grids = [html(cell) for cell in cells.values() if "sluice-hits" in html(cell)]
    assert len(grids) == 5  # text, picture, example, condition, vector
    assert all(grid.count("data:image/webp;base64,") == 12 for grid in grids)
    assert all("<script" not in grid for grid in grids)
    (table,) = [html(cell) for source, cell in cells.items() if source.startswith("frame = ")]
    assert "clip_similarity" in table
    assert "a handwritten" in table
    outputs = [output for cell in cells.values() for output in cell.outputs]
    assert [output.text for output in outputs if output.output_type == "stream"] == []
