"""Every notebook runs from its first cell to its last on the committed sample and a small data set."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
SHOWN = {  # words of what the last cells print or draw
    "1_data_atlas": "image/png",
    "2_learning_dynamics": "cold_start=hybrid,seed=1 ",
    "3_ablations": "swept: cold_start.ratio",
    "4_errors": "cold_start=hybrid,seed=2",
    "5_one_card": "steps logged: ",
}


@pytest.mark.parametrize("name", [path.stem for path in sorted(NOTEBOOKS.glob("*.ipynb"))])
def test_notebook_runs(
    name: str, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACTIAL_DATA", str(tiny_set))
    monkeypatch.setenv("ACTIAL_WORK", str(tmp_path))
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), (
        "outputs are stripped before a commit"
    )
    NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert SHOWN[name] in str(outputs)
    assert not any(
        output.get("name") == "stderr" and "Traceback" in output["text"] for output in outputs
    )
