"""The notebook that shows what each setting of the fractals does, executed as a reader would."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import curation.synthetic
from curation.synthetic.settings import FractalSettings

FOLDER = Path(curation.synthetic.__file__).parent
SHOWN = 8
UNSEEN = {"systems", "instances", "format", "stored", "seed", "rows_per_shard"}


def notebook() -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / "fractals.ipynb", 4)


def test_it_has_no_outputs_and_shows_every_setting() -> None:
    read = notebook()
    nbformat.validate(read)
    code = [cell for cell in read.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    text = "".join(cell.source for cell in read.cells)
    for name in FractalSettings.model_fields.keys() - UNSEEN:
        assert f'"{name}"' in text and f"`{name}`" in text, name


@pytest.mark.slow
def test_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    read = notebook()
    NotebookClient(read, timeout=300, resources={"metadata": {"path": str(FOLDER)}}).execute()
    outputs = [output for cell in read.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "stream"]
    shown = [output.data["text/html"] for output in outputs if "text/html" in output.data]
    lines = [line for html in shown for line in html.split("<tr>")[1:]]
    assert len(shown) == 14 and len(lines) == 40
    pictures = [line.split('src="')[1:] for line in lines]
    assert all(len(row) == SHOWN and len({*row}) == SHOWN for row in pictures)
