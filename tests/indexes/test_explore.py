"""The notebooks of this package, executed as a reader would."""

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import indexes
from indexes.settings import IndexSettings
from infra import artifacts
from infra.artifacts import Artifact
from infra.dataset import open_dataset

FOLDER = Path(indexes.__file__).parent
NOTEBOOKS = ["explore.ipynb", "query_to_training.ipynb"]

Cells = dict[str, nbformat.NotebookNode]


def html(cell: nbformat.NotebookNode) -> str:
    return "".join(output.get("data", {}).get("text/html", "") for output in cell.outputs)


def run(name: str, store: str, monkeypatch: pytest.MonkeyPatch) -> Cells:
    """The code cells of a notebook by source, executed; none of them wrote to a stream."""
    monkeypatch.setenv("SLUICE_STORE", store)
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(FOLDER / name, 4)
    resources = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, timeout=300, resources=resources).execute()
    cells = {cell.source: cell for cell in notebook.cells if cell.cell_type == "code"}
    outputs = [output for cell in cells.values() for output in cell.outputs]
    assert [output.text for output in outputs if output.output_type == "stream"] == []
    return cells


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_committed_notebook_has_no_outputs(name: str) -> None:
    notebook = nbformat.read(FOLDER / name, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.slow
def test_an_index_is_explored(
    fresh_store: str, build: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    build(fresh_store, "curated", IndexSettings())
    cells = run("explore.ipynb", fresh_store, monkeypatch)
    grids = [html(cell) for cell in cells.values() if "sluice-hits" in html(cell)]
    assert len(grids) == 6  # text, picture, one of many, example, condition, vector
    assert all(grid.count("data:image/webp;base64,") == 12 for grid in grids)
    assert all("<script" not in grid for grid in grids)
    (table,) = [html(cell) for source, cell in cells.items() if source.startswith("frame = ")]
    assert "clip_similarity" in table
    assert "a handwritten" in table
    (drawn,) = [html(cell) for source, cell in cells.items() if "map2d" in source]
    assert "<svg" in drawn and "too dark" in drawn and drawn.count("<title>") == 59


@pytest.mark.slow
def test_a_query_becomes_a_training_run(
    fresh_store: str, build: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    build(fresh_store, "curated", IndexSettings())
    cells = run("query_to_training.ipynb", fresh_store, monkeypatch)
    subset = open_dataset(fresh_store, "sevens")
    assert 0 < subset.artifact.totals["kept"] <= 40
    assert "a handwritten seven" in subset.artifact.manifest["extra"]["asked"]
    (folder,) = Path(fresh_store, "runs", "sevens").iterdir()
    made = artifacts.load(str(folder))
    assert made is not None and made.manifest["spec"]["parents"] == [subset.artifact.digest]
    assert made.parts[0].extra["samples"] == 40 * 16
    (losses,) = [html(cell) for source, cell in cells.items() if source.startswith("metrics")]
    assert "<td>640</td>" in losses and "NaN" not in losses
