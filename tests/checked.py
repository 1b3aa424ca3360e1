"""The types and shapes of the package's functions and classes are checked in every test.

The import hook of jaxtyping decorates functions inside of functions as well, each time that they
are made. That took three quarters of the time of the tests, and so here it leaves them as they are.
Its own decorator then binds the arguments of each call and checks them twice, to write a longer
message. That took half of what was left, and so here a function is checked by beartype alone.
Functions whose types name axes have a scope for these names, in which an axis has one size.
"""

import ast
import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, get_args, get_type_hints

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, _import_hook, install_import_hook, jaxtyped

check = beartype(conf=BeartypeConf(violation_type=TypeError))


class Outermost(_import_hook.JaxtypingTransformer):
    """Decorates no function that stands in another one, and all else by :func:`checked_2`."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        if any(isinstance(parent, ast.FunctionDef) for parent in self._parents):
            return node
        return super().visit_FunctionDef(node)


class Decorator(_import_hook.Typechecker):
    """What the hook decorates with."""

    def get_ast(self) -> ast.expr:
        name = f"jaxtyping._import_hook.Typechecker.lookup['{self.hash}']"
        return ast.parse(name, mode="eval").body


def checked_2(made: Any) -> Any:
    """A function or class, whose arguments and result are checked at each call.

    Its name is part of the name of the bytecode that is kept: a change of the classes above needs
    another one.
    """
    if not isinstance(made, type):
        return checked_function(made)
    own = vars(made).get("__init__")
    if dataclasses.is_dataclass(made) and own is not None and not hasattr(own, "__wrapped__"):
        made.__init__ = checked_function(own)
    return made


def checked_function(function: Any) -> Any:
    """Types that cannot be resolved while a module is loaded are not checked, as in jaxtyping."""
    written = function.__annotations__
    known = {name: resolved(hint, function.__globals__) for name, hint in written.items()}
    has_axes = any(map(names_axes, known.values()))
    if has_axes and inspect.isgeneratorfunction(function):  # a scope would end before it runs
        return jaxtyped(function, typechecker=check)
    function.__annotations__ = known
    typed = check(function)
    function.__annotations__ = typed.__annotations__ = written
    return in_a_scope(typed) if has_axes else typed


def in_a_scope(typed: Callable[..., Any]) -> Callable[..., Any]:
    """The function, in each call of which an axis of one name has one size."""

    def scoped(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        with jaxtyped("context"):
            return typed(*args, **kwargs)

    # Its frames are the package's own, as warnings name the first line that is not.
    names = {"__name__": typed.__module__, "jaxtyped": jaxtyped}
    made = FunctionType(scoped.__code__, names, closure=scoped.__closure__)
    return functools.wraps(typed)(made)


def resolved(hint: Any, names: Mapping[str, Any]) -> Any:
    """A type as written, which may be text; anything, where it names what is not there yet."""

    def one(value: Any) -> None: ...

    one.__annotations__ = {"value": hint}
    try:
        return get_type_hints(one, dict(names), include_extras=True)["value"]
    except Exception:
        return Any


def names_axes(hint: Any) -> bool:
    """Whether a type is, or is made of, arrays with a shape."""
    if isinstance(hint, list):  # the arguments of a callable
        return any(map(names_axes, hint))
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    return any(map(names_axes, get_args(hint)))


def install() -> None:
    """To be called before the package is imported."""
    _import_hook.JaxtypingTransformer = Outermost
    _import_hook.Typechecker = Decorator
    install_import_hook("spex_mech", "tests.checked.checked_2")
