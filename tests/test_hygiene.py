"""What importing loads, who may import whom, the public names, and the size of what is written.

Where the code is not there yet, ``exceptions.py`` names it; a test fails when an exception is no
longer needed, so that the list only shrinks.
"""

import ast
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import spex_mech as sm
from tests import exceptions

PACKAGE = Path(sm.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {
    "transformer_lens", "transformers", "matplotlib", "plotly", "networkx", "ray", "pandas",
}  # fmt: skip


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after running the code."""
    code = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in json.loads(run.stdout.splitlines()[-1])}


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imports_of(file: Path) -> Iterator[str]:
    """Every module that a file imports anywhere in it, also inside functions."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_importing_the_package_loads_nothing() -> None:
    assert not loaded_by("import spex_mech") & {*HEAVY, "torch", "numpy", "scipy"}


def test_the_core_loads_nothing_heavy() -> None:
    loaded = loaded_by(
        "import spex_mech.discover\nimport spex_mech as sm; sm.ModelGame, sm.plot_map"
    )
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
    assert list(sm.__all__) == sorted(sm.__all__)
    assert {*dir(sm)} == {*sm.__all__, "__version__"}
    for name in sm.__all__:
        value = getattr(sm, name)
        assert value.__name__ == name
        assert (value.__doc__ or "").strip(), f"{name} has no docstring"
        assert not value.__doc__.startswith(f"{name}("), f"{name} has only dataclass's docstring"
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        sm.nosuch  # noqa: B018


IMPORTED_FIRST = """
for first in (
    "sm.measure", "from spex_mech.discover import measure", "import spex_mech.discover", "pass"
):
    for name in [name for name in sys.modules if name.split(".")[0] == "spex_mech"]:
        del sys.modules[name]  # as in a new process, but for torch, which takes a second
    import spex_mech as sm
    exec(first)
    assert sm.discover.__name__ == "discover", first
"""


def test_discover_is_the_function_whatever_was_imported_first() -> None:
    loaded_by(IMPORTED_FIRST)


# From top to bottom: each may import what stands below it, and nothing else.
LAYERS = (
    ("__main__",), ("cli",), ("sweep",), ("report",), ("plots", "saved"),
    ("backups", "circuits", "distill", "planning", "testing"),
    ("discover",), ("runs",), ("driver",), ("games", "tasks"), ("models",), ("engine",),
    ("results", "proxies", "search"), ("game", "proxy"), ("calls",),
    ("fingerprints", "pairs", "setfunctions", "units"),
    ("masks",), ("arrays",), ("arguments", "notebook", "notices"),
)  # fmt: skip
# These know less than stands below them.
KNOW = {
    "search": {"arguments", "masks", "pairs", "proxy", "setfunctions"},
    "proxies": {"masks", "pairs", "proxy", "setfunctions"},
    "proxy": {"masks", "pairs", "setfunctions"},
    "results": {"arguments", "masks", "notices", "setfunctions", "units"},
    "engine": {"arguments", "fingerprints", "game", "masks", "notebook", "notices", "units"},
    "game": {"arguments", "arrays", "calls", "fingerprints", "masks", "notebook", "units"},
    "calls": {"arrays", "masks"},
}
DRAWN = {"circuits.plots": "plots"}  # a file that belongs to another layer than its folder


def layer(module: str) -> str:
    return DRAWN.get(module, module.split(".")[0])


def module_of(file: Path) -> str:
    """Its name within the package: "" for the package itself."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in FILES}


@cache
def own_imports(file: Path) -> set[str]:
    """The modules of the package that a file imports, also inside functions."""
    found = set()
    for name in imports_of(file):
        if name.split(".")[0] == "spex_mech":
            inside = name.removeprefix("spex_mech").removeprefix(".")
            found.add(inside if inside in MODULES else inside.rpartition(".")[0])
    return found - {module_of(file)}


def below(of: str) -> set[str]:
    """What a layer may import."""
    (at,) = [row for row, names in enumerate(LAYERS) if of in names]
    return KNOW.get(of, {name for names in LAYERS[at + 1 :] for name in names})


def test_every_folder_has_its_place() -> None:
    known = {name for names in LAYERS for name in names}
    assert {layer(module) for module in MODULES if module} <= known
    assert {*KNOW} <= known


@cache
def upward_imports() -> set[str]:
    """``file > module`` of each import that does not run downwards."""
    return {
        f"{module} > {other}"
        for module, file in MODULES.items()
        for other in own_imports(file)
        if module
        and layer(other) not in {layer(module), *below(layer(module))}
        and not (module == "cli" and not other)  # the command line uses the public names
    }


def test_imports_run_downwards_only() -> None:
    assert upward_imports() - exceptions.UPWARD == set()


@cache
def circles() -> set[str]:
    """``file > module`` of each import by which the module comes back to the file."""
    graph = {module: own_imports(file) for module, file in MODULES.items()}

    def reached(start: str) -> set[str]:
        seen, left = set(), [start]
        while left:
            for other in graph.get(left.pop(), set()) - seen:
                seen.add(other)
                left.append(other)
        return seen

    return {
        f"{module} > {other}"
        for module, others in graph.items()
        for other in others
        if module and other and module in reached(other)
    }


def test_no_import_circle() -> None:
    assert circles() - exceptions.CIRCLES == set()


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


@cache
def too_long() -> set[str]:
    """Classes over 300 lines with their docstrings, and functions over 60 without their own."""
    found = set()
    for module, file in MODULES.items():
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                most = 300
                if not isinstance(node, ast.ClassDef):
                    most = 60
                    if ast.get_docstring(node) is not None:
                        text = node.body[0]
                        lines -= (text.end_lineno or 0) - text.lineno + 1
                if lines > most:
                    found.add(f"{module}: {node.name}")
    return found


def test_no_class_over_300_lines_and_no_function_over_60() -> None:
    assert too_long() - exceptions.LONG == set()


# Variables that hold what other libraries made, or anything at all.
FOREIGN = {
    "block", "config", "error", "function", "holder", "loaded", "metric", "model", "module",
    "output", "text", "tokenizer", "transformers", "type",
}  # fmt: skip


@cache
def own_names() -> set[str]:
    """Every method, property, field and attribute that a class of the package has."""
    found: set[str] = set()
    for file in FILES:
        for owner in ast.walk(tree(file)):
            for node in ast.walk(owner) if isinstance(owner, ast.ClassDef) else ():
                if isinstance(node, ast.FunctionDef):
                    found.add(node.name)
                elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    found.add(node.target.id)
                elif isinstance(node, ast.Assign):
                    found |= {name.id for name in node.targets if isinstance(name, ast.Name)}
                elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    found.add(node.attr)
    return {name for name in found if not name.startswith("__")}


@cache
def asked_by_name() -> dict[str, int]:
    """How often a file asks by hasattr, or getattr with a default, about a type of the package: for
    a name that one of its classes has, of something that is not another library's."""
    found, own = Counter[str](), own_names()
    for module, file in MODULES.items():
        for node in ast.walk(tree(file)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if node.func.id == "hasattr" or (node.func.id == "getattr" and len(node.args) == 3):
                of, name = node.args[:2]
                root = ast.unparse(of).split(".")[0].split("(")[0]
                asked = name.value if isinstance(name, ast.Constant) else None
                if root not in FOREIGN and (asked is None or asked in own):
                    found[module] += 1
    for door in ("game", "proxy"):  # there as_game, as_proxy ask what a stranger's object can do
        del found[door]
    return dict(found)


def test_own_types_are_asked_by_what_they_declare() -> None:
    more = {
        module: count
        for module, count in asked_by_name().items()
        if count > exceptions.ASKED.get(module, 0)
    }
    assert not more, f"hasattr or getattr with a default about the package's own types: {more}"


def test_warnings_come_from_one_place() -> None:
    """They point to the user's own line, whatever lies between; deprecated names say their own."""
    counted = {module for module, file in MODULES.items() if "stacklevel=" in file.read_text()}
    assert counted == {"notices", "plots.deprecated"}


def test_every_exception_is_still_needed() -> None:
    kept = {
        "UPWARD": exceptions.UPWARD - upward_imports(),
        "CIRCLES": exceptions.CIRCLES - circles(),
        "LONG": exceptions.LONG - too_long(),
    }
    assert not any(kept.values()), f"take these out of tests/exceptions.py: {kept}"
    asked = {module: asked_by_name().get(module, 0) for module in exceptions.ASKED}
    assert asked == exceptions.ASKED, f"fewer by now; say so in tests/exceptions.py: {asked}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_every_file_says_what_it_is(file: Path) -> None:
    assert ast.get_docstring(tree(file)), file.name


def test_types_and_shapes_are_checked_while_tests_run() -> None:
    from spex_mech.engine.device import first_numbers, on

    with pytest.raises(Exception, match="first_numbers"):
        first_numbers("three")  # type: ignore[arg-type]
    with pytest.raises(Exception, match="on"):
        on("numbers", first_numbers(3))  # type: ignore[arg-type]
