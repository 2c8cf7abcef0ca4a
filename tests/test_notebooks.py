"""The notebooks of the documentation show what their code prints."""

import nbformat
import pytest
from nbclient import NotebookClient

from tests.documents import NOTEBOOKS
from tests.paths import ROOT


def outputs(notebook):
    """Returns the text of each output of each cell; of a picture, that there is one."""
    cells = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    return [[one.get("text") or sorted(one.data) for one in cell] for cell in cells]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_its_code_prints(path, tmp_path, monkeypatch):
    saved = nbformat.read(path, as_version=4)
    shown = outputs(saved)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    NotebookClient(saved, timeout=280, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    assert outputs(saved) == shown
    assert any(shown)
