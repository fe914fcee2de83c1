"""The notebook runs from its first cell to its last, as a user's kernel would run it."""

import json

import nbformat
import pytest
from nbclient import NotebookClient
from stand_ins import ROOT

PATH = ROOT / "launch" / "digits.ipynb"
SMALL = (
    "--config.train.steps=4", "--config.train.sample_every=0", "--config.evaluate.samples=20",
    "--config.sample.steps=2", "--config.features.epochs=2", "--config.model.width=16",
)  # fmt: skip


def test_it_is_kept_without_outputs():
    cells = json.loads(PATH.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


@pytest.mark.slow
def test_every_cell_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", "")
    text = PATH.read_text(encoding="utf-8")
    flags = [*SMALL, f"--config.data.data_dir={tmp_path / 'data'}"]
    for old, new in (
        ('RUNS = \\"runs\\"', f"RUNS = '{tmp_path}'"),
        ("FLAGS = []", f"FLAGS = {flags}"),
        ("samples=200", "samples=20"),
        ("steps=20", "steps=2"),
    ):
        assert old in text
        text = text.replace(old, new)
    notebook = nbformat.reads(text, as_version=4)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": PATH.parent}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 4
    assert any("GFLOPs" in output.get("text", "") for output in outputs)
    assert (tmp_path / "digits" / "sweep_frechet.png").is_file()
