"""The types and shapes of the package's functions and classes are checked in every test.

The import hook of jaxtyping decorates functions inside of functions as well, each time that they
are made. That took three quarters of the time of the tests, and so here it leaves them as they are.
"""

import ast

import beartype
from jaxtyping import _import_hook, install_import_hook

# Named here, so that bytecode which the hook kept otherwise is not taken for ours.
check = beartype.beartype


class Outermost(_import_hook.JaxtypingTransformer):
    """Decorates no function that stands in another one."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        if any(isinstance(parent, ast.FunctionDef) for parent in self._parents):
            return node
        return super().visit_FunctionDef(node)


def install() -> None:
    """To be called before the package is imported."""
    _import_hook.JaxtypingTransformer = Outermost
    install_import_hook("spex_mech", "tests.checked.check")
