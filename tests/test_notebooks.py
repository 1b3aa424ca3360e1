"""The notebooks: run from top to bottom in a fresh kernel, and what they claim holds."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks need nbformat (the extra dev)")
nbclient = pytest.importorskip("nbclient", reason="running notebooks needs nbclient (extra dev)")
pytest.importorskip("ipykernel", reason="running notebooks needs ipykernel (the extra dev)")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"


def stored(name: str) -> Any:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def run(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Any:
    """The notebook with the outputs of a new run; a cell that raises fails the test."""
    notebook = stored(name)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": sys.version.split()[0]}
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    return client.execute()


def printed(notebook: Any) -> str:
    """All text that the code cells gave, in order; errors and warnings included."""
    texts = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            texts.append(output.get("text") or output.get("data", {}).get("text/plain", ""))
    return "\n".join(texts)


def pictures(notebook: Any) -> int:
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def first_pair(text: str) -> str:
    """The first line below the first result that was printed."""
    return re.search(r"interactions among .*\n\s*(\S+ x \S+)", text)[1]  # type: ignore[index]


@pytest.mark.slow
def test_quick_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = run("1_quick_start", monkeypatch, tmp_path)
    text = printed(done)
    assert first_pair(text) == "L0H3 x L1H0"
    assert re.search(r"L0H3 x L1H0 +\+5\.\d+ \+- \S+ +AND-like", text)
    assert re.search(r"L1H0 x L1H1 +-0\.3\d* \+- \S+ +OR-like", text)
    assert pictures(done) == 1
