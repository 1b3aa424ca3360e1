"""Short hashes of what fixes a game's values: tensors, prompts, functions and what they hold.

They tell two games apart before their values are mixed in one store. Equal hashes mean equal
values as far as a program can be read: a function's code, the numbers, texts, arrays and functions
that it closes over or reads from its module. What it does to lists and files is not seen.
"""

import dis
import hashlib
import os
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache, cached_property, partial
from importlib.metadata import version
from inspect import unwrap
from itertools import chain
from pathlib import Path
from types import CellType, CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

_LENGTH = 16  # hexadecimal digits
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_PACKAGE = "spex_mech."
# Of whose code a version tells; all other is the user's own.
_SCRIPT = ("__main__", "__mp_main__")  # the second in workers
_INSTALLED = ("site-packages", "dist-packages")
_STANDARD = tuple({os.path.realpath(sysconfig.get_path(of)) for of in ("stdlib", "platstdlib")})
_HERE = str(Path(__file__).resolve().parent)
# Where these hold the function that they are made of.
_MADE_OF: dict[type, str] = {
    property: "fget",
    staticmethod: "__func__",
    classmethod: "__func__",
    cached_property: "func",
}
_OF_CLASS = (*_PLAIN, tuple, Tensor, np.ndarray)  # what no call fills

_CONTENT = (
    *(*_PLAIN, Tensor, np.ndarray, np.generic, tuple, list, dict, frozenset, set),
    *(FunctionType, MethodType, partial, nn.Module),
)


def sha256_of(tensors: Sequence[Tensor | None]) -> str:
    """Of tensors: their types, shapes and bytes. None, where an optional one is missing, counts."""
    digest = hashlib.sha256()
    for tensor in tensors:
        if tensor is None:
            digest.update(b"None")
            continue
        tensor = tensor if tensor.layout == torch.strided else tensor.to_dense()
        flat = tensor.detach().cpu().contiguous()
        digest.update(str((flat.dtype, tuple(flat.shape))).encode())
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:_LENGTH]


def weights_sha256(model: nn.Module) -> str:
    """Of a model's parameters and buffers, wherever they are: those that accelerate has put on the
    disk, and the parts of quantised ones, too."""
    waiting: dict[int, Tensor] = {}
    for module in model.modules():
        away = getattr(getattr(module, "_hf_hook", None), "weights_map", None)
        if away is not None:
            own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
            waiting |= {id(t): away[name] for name, t in own if t.device.type == "meta"}
    every: list[Tensor] = [*model.parameters(), *model.buffers()]
    found = [part for tensor in every for part in _parts_of(waiting.get(id(tensor), tensor))]
    return sha256_of(found)


def _parts_of(tensor: Tensor) -> list[Tensor]:
    """A tensor, or those that a quantised one is made of."""
    if tensor.device.type == "meta":
        return [torch.tensor(tensor.shape)]  # nothing is loaded that could be read
    flatten: Any = getattr(tensor, "__tensor_flatten__", None)
    if flatten is not None:
        names, _ = flatten()
        return [part for name in names for part in _parts_of(getattr(tensor, name))]
    return [tensor]


def config_sha256(model: Any) -> str | None:
    """Of a model's configuration, but for where it was loaded from; None where it has none."""
    config = getattr(model, "config", None) or getattr(model, "cfg", None)
    if config is None or not hasattr(config, "to_dict"):
        return None
    values = config.to_dict()
    kept = {str(k): v for k, v in values.items() if k not in ("_name_or_path", "name_or_path")}
    return _short(repr(sorted((k, str(v)) for k, v in kept.items())).encode())


def metric_sha256(metric: Any) -> str | None:
    """Of a metric that is a function; one of this package is told by its name."""
    return None if isinstance(metric, str) else function_sha256(metric)


def metric_recorded(metric: Any) -> dict[str, str]:
    """What a result says of a metric that is a function, so that another one of the same name is
    known as such, or the same one where what it reads has changed: a hash, and the Python whose
    code it is hashed in."""
    return {"metric_sha256": _sha256_of(metric, _weights_once), "metric_python": _python()}


def function_sha256(function: Any) -> str:
    """Of a function, a bound method, a partial, or an object that can be called.

    Seen are its code, defaults, and the numbers, texts, arrays, tensors, functions, and lists and
    dicts of them, that it closes over, reads from its module, or (an object) has as attributes; of
    an object all methods, with what its class has of numbers, texts, arrays and tensors. Names that
    the code itself assigns, such as a count of its calls, are not.

    Of installed packages nothing is seen, as their versions tell them. Of the user's other files,
    and of classes, which have none, it is what code is called, and what that calls in turn, with
    the numbers, texts, arrays and tensors that it reads; the lists and dicts are not, as calls fill
    them.
    """
    return _sha256_of(function, _weights)


class _Seen(dict[int, Any]):
    """The objects that were met already. It holds them: the number of one that is gone is given to
    another.

    Args:
        weights: hashes a module's.
    """

    def __init__(self, weights: Callable[[nn.Module], str]) -> None:
        super().__init__()
        self.weights = weights
        self.waiting: list[FunctionType | type] = []
        self.assigned: dict[int, set[str]] = {}

    def meet(self, values: Iterable[Any]) -> None:
        """Values whose code, where it is the user's own, is read once all else is."""
        self.waiting += [code for value in values if (code := _own_code(value)) is not None]

    def assigned_in(self, names: dict[str, Any]) -> set[str]:
        """What the functions of a module assign, such as a count of their calls."""
        if id(names) not in self.assigned:
            functions = [unwrap(x) for x in [*names.values()] if isinstance(x, FunctionType)]
            inside = [x for x in functions if x.__globals__ is names]
            self.assigned[id(names)] = {name for x in inside for name in _assigned(x.__code__)}
        return self.assigned[id(names)]


def _sha256_of(function: Any, weights: Callable[[nn.Module], str]) -> str:
    digest, seen = hashlib.sha256(), _Seen(weights)
    for piece in chain(_pieces(function, seen), _waiting(seen)):
        digest.update(len(piece).to_bytes(8, "little") + piece)
    return digest.hexdigest()[:_LENGTH]


def function_identity(function: Any) -> dict[str, str]:
    """What tells a function's values from those of others, as far as it can be read."""
    return {
        "function": name_of_function(function),
        "function_sha256": function_sha256(function),
        "python": _python(),  # whose code it is hashed in
    }


def _python() -> str:
    return ".".join(map(str, sys.version_info[:2]))


def name_of_function(function: Any) -> str:
    """Where it was defined and how it is called."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _weights(module: nn.Module) -> str:
    return sha256_of([*module.parameters(), *module.buffers()])


# A metric may hold a model, whose weights take long to hash.
_HASHED: WeakKeyDictionary[nn.Module, tuple[list[Any], str]] = WeakKeyDictionary()


def _weights_once(module: nn.Module) -> str:
    """The same, once for as long as none of them is exchanged, or changed in place."""
    state = [(id(t), _version(t)) for t in (*module.parameters(), *module.buffers())]
    known = _HASHED.get(module)
    if known is None or known[0] != state:
        known = _HASHED[module] = (state, _weights(module))
    return known[1]


def _version(tensor: Tensor) -> int:
    """How often it was changed in place."""
    return 0 if tensor.is_inference() else tensor._version


def _pieces(value: Any, seen: _Seen) -> Iterator[bytes]:
    if isinstance(value, _PLAIN):
        yield repr(value).encode()
    elif isinstance(value, Tensor):
        yield sha256_of([value]).encode()
    elif isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        yield str((array.dtype, array.shape)).encode()
        yield repr(array).encode() if array.dtype.hasobject else array.tobytes()
    elif id(value) in seen:
        return
    elif isinstance(value, tuple | list | dict):
        seen[id(value)] = value
        for part in value.items() if isinstance(value, dict) else value:
            yield from _pieces(part, seen)
    elif isinstance(value, frozenset | set):
        yield from sorted(b"".join(_pieces(part, seen)) for part in value)
    elif isinstance(value, CodeType):
        yield value.co_code
        yield repr((value.co_names, value.co_varnames, value.co_freevars)).encode()
        yield from _pieces(value.co_consts, seen)
    elif isinstance(value, type):
        yield name_of_function(value).encode()
    else:
        seen[id(value)] = value
        yield from _of_object(value, seen)


def _of_object(value: Any, seen: _Seen) -> Iterator[bytes]:
    if isinstance(value, FunctionType):
        yield from _of_function(unwrap(value), seen)
    elif isinstance(value, MethodType):
        yield from _pieces((value.__func__, value.__self__), seen)
    elif isinstance(value, partial):
        yield from _pieces((value.func, value.args, *sorted(value.keywords.items())), seen)
    elif isinstance(value, nn.Module):
        yield name_of_function(value).encode()
        yield seen.weights(value).encode()
        forward = getattr(type(value), "forward", None)
        yield from _pieces(forward if isinstance(forward, FunctionType) else None, seen)
    else:
        yield name_of_function(value).encode()
        call = getattr(type(value), "__call__", None)  # noqa: B004
        yield from _pieces(call if isinstance(call, FunctionType) else None, seen)
        own = _assigned(call.__code__) if isinstance(call, FunctionType) else set()
        held = {**_slots(value), **getattr(value, "__dict__", {})}
        seen.meet(held[name] for name in sorted(held))
        yield from _named(held, own, seen)
        yield from _of_class(type(value), seen)


def _slots(value: Any) -> dict[str, Any]:
    """The attributes of an object that are not in its ``__dict__``."""
    found: dict[str, Any] = {}
    for part in type(value).__mro__:
        for name, x in vars(part).items():
            if isinstance(x, MemberDescriptorType):
                with suppress(AttributeError):  # it was never assigned
                    found[name] = x.__get__(value)
    return found


def _of_class(kind: type, seen: _Seen) -> Iterator[bytes]:
    """The methods of a class and what it has besides; classes of other modules, and of this
    package, are told by their versions."""
    if kind.__module__.startswith(_PACKAGE):
        return
    for part in kind.__mro__:
        if part.__module__ != kind.__module__:
            seen.meet([part])
            continue
        methods, rest = _parts_of_class(part)
        yield from _named({**methods, **rest}, set(), seen)


def _parts_of_class(part: type) -> tuple[dict[str, FunctionType], dict[str, Any]]:
    """What a class has itself: its methods, and what no call fills."""
    held = {
        name: getattr(x, _MADE_OF[type(x)]) if type(x) in _MADE_OF else x
        for name, x in vars(part).items()
    }
    methods = {name: x for name, x in held.items() if isinstance(x, FunctionType)}
    own = {name for x in methods.values() for name in _assigned(unwrap(x).__code__)}
    rest = {
        name: x
        for name, x in held.items()
        if isinstance(x, _OF_CLASS) and not name.startswith("__") and name not in own
    }
    return methods, rest


def _of_function(function: Callable[..., Any], seen: _Seen) -> Iterator[bytes]:
    assert isinstance(function, FunctionType)
    code, own = function.__code__, function.__globals__
    yield from _pieces(code, seen)
    yield from _pieces(function.__defaults__ or (), seen)
    yield from _pieces(tuple(sorted((function.__kwdefaults__ or {}).items())), seen)
    held = dict(zip(code.co_freevars, map(_content, function.__closure__ or ()), strict=True))
    names = {name for part in _codes(code) for name in part.co_names if name in own}
    # Functions of other modules are told by their versions.
    read = {
        name: own[name]
        for name in names
        if not isinstance(own[name], FunctionType) or own[name].__module__ == function.__module__
    }
    yield from _named({**read, **held}, _assigned(code), seen)
    yield from _beside(function, seen)


def _waiting(seen: _Seen) -> Iterator[bytes]:
    """The user's own code that was met: one piece after the other, however deep calls go."""
    while seen.waiting:
        code = seen.waiting.pop(0)
        if id(code) in seen:
            continue
        seen[id(code)] = code
        yield name_of_function(code).encode()
        if isinstance(code, FunctionType):
            yield from _of_code(unwrap(code), seen)
            continue
        seen.meet(code.__bases__)
        methods, rest = _parts_of_class(code)
        yield from _named(rest, set(), seen)
        for name in sorted(methods):
            yield name.encode()
            yield from _of_code(unwrap(methods[name]), seen)


def _of_code(function: Callable[..., Any], seen: _Seen) -> Iterator[bytes]:
    """A function of another file: its code, and what that reads but for what calls may fill."""
    assert isinstance(function, FunctionType)
    code, own = function.__code__, function.__globals__
    yield from _pieces(code, seen)
    defaults = {str(at): value for at, value in enumerate(function.__defaults__ or ())}
    held = dict(zip(code.co_freevars, map(_content, function.__closure__ or ()), strict=True))
    read = {name: own[name] for name in _names(code) if name in own}
    seen.meet([*held.values(), *read.values()])
    for values in (defaults, function.__kwdefaults__ or {}, held):
        yield from _named(_constants(values), _assigned(code), seen)
    yield from _named(_constants(read), seen.assigned_in(own), seen)
    yield from _beside(function, seen)


def _beside(function: FunctionType, seen: _Seen) -> Iterator[bytes]:
    """What a function reads as attributes of the user's own modules (``helpers.score``), and the
    code that it meets among its names."""
    names, own = _names(function.__code__), function.__globals__
    values = [own[name] for name in names if name in own]
    seen.meet([*values, *map(_content, function.__closure__ or ())])
    modules = [value for value in values if _is_own_module(value)]
    known = {id(module) for module in modules}
    while modules:
        of = vars(modules.pop(0))
        read = {name: of[name] for name in names if name in of}
        seen.meet(read.values())
        yield from _named(_constants(read), seen.assigned_in(of), seen)
        deeper = [x for x in read.values() if _is_own_module(x) and id(x) not in known]
        known.update(map(id, deeper))
        modules += deeper


def _names(code: CodeType) -> list[str]:
    return sorted({name for part in _codes(code) for name in part.co_names})


def _constants(values: dict[str, Any]) -> dict[str, Any]:
    """What no call fills."""
    return {name: x for name, x in values.items() if isinstance(x, _OF_CLASS) and _is_plain(x)}


def _is_plain(value: Any) -> bool:
    return not isinstance(value, tuple) or all(
        isinstance(part, _OF_CLASS) and _is_plain(part) for part in value
    )


def _named(values: dict[str, Any], but: set[str], seen: _Seen) -> Iterator[bytes]:
    for name, value in sorted(values.items()):
        if name not in but and isinstance(value, _CONTENT):
            yield name.encode()
            yield from _pieces(value, seen)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _codes(part)


def _assigned(code: CodeType) -> set[str]:
    """Names that outlive a call and that the code assigns."""
    kept = ("STORE_DEREF", "STORE_GLOBAL", "STORE_ATTR")
    steps = (step for part in _codes(code) for step in dis.get_instructions(part))
    return {step.argval for step in steps if step.opname in kept}


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty so far: a function that names itself
        return None


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_LENGTH]


def versions() -> dict[str, str]:
    """The versions that a result records."""
    return {name: version_of(name) for name in ("spex_mech", "torch", "numpy")}


@cache
def version_of(package: str) -> str:
    """Of an installed package; read once, as that takes milliseconds."""
    return version(package)


def _own_code(value: Any) -> FunctionType | type | None:
    """The function or class whose code a value runs, where that is the user's own."""
    while isinstance(value, MethodType | partial):
        value = value.__func__ if isinstance(value, MethodType) else value.func
    if type(value).__name__ == "_lru_cache_wrapper":
        value = value.__wrapped__
    if isinstance(value, FunctionType):
        return value if _is_own(value.__module__, value.__code__.co_filename) else None
    kind = value if isinstance(value, type) else type(value)
    methods = (x for x in vars(kind).values() if isinstance(x, FunctionType))
    is_own = any(_is_own(kind.__module__, method.__code__.co_filename) for method in methods)
    return kind if is_own else None


def _is_own_module(value: Any) -> bool:
    """Whether it is a module, or a package, of the user's own."""
    if not isinstance(value, ModuleType):
        return False
    places = [vars(value).get("__file__"), *(vars(value).get("__path__") or ())]
    place = next((place for place in places if isinstance(place, str)), None)
    return place is not None and _is_own(value.__name__, place)


@cache
def _is_own(module: str | None, file: str) -> bool:
    if module in _SCRIPT:
        return True
    if file.startswith("<"):  # it was made, not written: ``__init__`` of a dataclass
        return False
    place = Path(os.path.realpath(file))
    if any(part in _INSTALLED for part in place.parts):
        return False
    return not any(place.is_relative_to(at) for at in (*_STANDARD, _HERE))
