"""What importing loads, who may import whom, the public names, and the size of classes."""

import ast
import io
import json
import subprocess
import sys
import textwrap
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import spex_mech as sm

PACKAGE = Path(sm.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {
    "transformer_lens", "transformers", "matplotlib", "plotly", "networkx", "ray", "pandas",
}  # fmt: skip
MOST_LINES = 300


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after running the code."""
    code = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in json.loads(run.stdout.splitlines()[-1])}


def imports_of(file: Path) -> Iterator[str]:
    """Every module that a file imports anywhere in it, also inside functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_importing_the_package_loads_nothing() -> None:
    assert not loaded_by("import spex_mech") & {*HEAVY, "torch", "numpy", "scipy"}


@pytest.mark.parametrize(
    "code", ["import spex_mech.discover", "import spex_mech as sm; sm.ModelGame, sm.plot_map"]
)
def test_the_core_loads_nothing_heavy(code: str) -> None:
    loaded = loaded_by(code)
    assert "torch" in loaded  # or the code did not do what it should
    assert not loaded & HEAVY


def test_a_report_needs_no_torch() -> None:
    """A page is made of a result file; the command should not wait for a second for it."""
    assert "torch" not in loaded_by("import spex_mech.report.page")


def test_importing_sets_no_seed_and_no_hook() -> None:
    code = (
        "import random, sys\nimport numpy as np, torch\n"
        "before = (random.getstate(), np.random.get_state()[1].tolist(),"
        " torch.get_rng_state().tolist(), sys.excepthook, torch.is_grad_enabled())\n"
        "import spex_mech.cli, spex_mech.discover, spex_mech.tasks, spex_mech.plots.pictures\n"
        "after = (random.getstate(), np.random.get_state()[1].tolist(),"
        " torch.get_rng_state().tolist(), sys.excepthook, torch.is_grad_enabled())\n"
        "assert before == after"
    )
    loaded_by(code)


def test_public_names() -> None:
    assert list(sm.__all__) == sorted(sm.__all__) == sorted(sm._HOMES)
    assert {*dir(sm)} == {*sm.__all__, "__version__"}
    for name in sm.__all__:
        value = getattr(sm, name)
        assert value.__name__ == name
        assert (value.__doc__ or "").strip(), f"{name} has no docstring"
        assert not value.__doc__.startswith(f"{name}("), f"{name} has only dataclass's docstring"
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        sm.nosuch  # noqa: B018


@pytest.mark.parametrize(
    "first",
    ["sm.measure", "from spex_mech.discover import measure", "import spex_mech.discover", "pass"],
)
def test_discover_is_the_function_whatever_was_imported_first(first: str) -> None:
    loaded_by(f"import spex_mech as sm\n{first}\nassert sm.discover.__name__ == 'discover'")


@pytest.mark.parametrize(
    ("folder", "never"),
    [
        (
            "search",
            "circuits discover distill engine games models plots proxies report results runs tasks",
        ),
        (
            "proxies",
            "circuits discover distill engine games models plots report results runs tasks",
        ),
        (
            "engine",
            "circuits discover distill games models plots proxies report results runs search",
        ),
        (
            "games",
            "circuits discover distill models plots proxies report results runs search tasks",
        ),
        ("results", "circuits discover distill engine games models plots report runs search tasks"),
        ("plots", "circuits discover distill engine games models report runs search tasks"),
        ("runs", "circuits distill plots report sweep cli"),
    ],
)
def test_who_may_import_whom(folder: str, never: str) -> None:
    files = sorted((PACKAGE / folder).rglob("*.py"))
    assert len(files) > 1
    for file in files:
        for name in imports_of(file):
            assert not any(name.startswith(f"spex_mech.{other}") for other in never.split()), (
                f"{file.relative_to(PACKAGE)} imports {name}"
            )
            assert name not in {f"spex_mech.{name}" for name in sm.__all__}, file


def test_a_search_knows_no_torch() -> None:
    for file in (PACKAGE / "search").rglob("*.py"):
        assert "torch" not in {name.split(".")[0] for name in imports_of(file)}, file.name


def test_only_models_imports_the_model_libraries() -> None:
    importers = {
        str(file.relative_to(PACKAGE))
        for file in FILES
        for name in imports_of(file)
        if name.split(".")[0] in ("transformers", "transformer_lens")
    }
    assert importers == {"models.py"}


def code_lines(text: str) -> int:
    """Lines that are code: no docstring, no comment, no blank."""
    layout = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (*layout, tokenize.ENDMARKER):
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= {*range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    return len(lines)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_class_is_too_long(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            own = textwrap.dedent(ast.get_source_segment(text, node, padded=True) or "")
            assert code_lines(own) <= MOST_LINES, f"{node.name} in {file.name}"


def test_code_lines_counts_code() -> None:
    text = '''
class A:
    """Not this.

    Nor this."""

    # Nor this.
    x = 1

    def f(
        self,
    ) -> int:
        """Nor this."""
        if self.x:
            return 1

        return 2
'''
    assert code_lines(text) == 8


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_every_file_says_what_it_is(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))), file.name
