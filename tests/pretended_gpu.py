"""Two pretended GPUs on a machine that has none, with real numbers.

``cuda:0`` and ``cuda:1`` hold tensors whose numbers the CPU computes. What a real device refuses is
refused: an operation on tensors of two devices, or of a device and the host. Every call for which
the host would wait is counted. So the whole package runs on it unchanged, and its values can be
compared with the CPU's.

:func:`load` must be called before torch is imported, and so this runs in a process of its own.
"""

import ctypes
import importlib.util
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
MEMORY = 80 * 2**30  # bytes of each pretended GPU
COMPILER = "g++"
_LOADED: list[Path] = []


def why_not() -> str:
    """Why there can be no pretended GPU here; empty: there can."""
    if shutil.which(COMPILER) is None:
        return f"there is no {COMPILER}"
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    if (Path(spec.origin).parent / "lib" / "libtorch_cuda.so").exists():
        return "torch is built for CUDA, so that real devices are to be used"
    return ""


def load(folder: Path) -> None:
    """Compile the guard of the devices into a folder, and load it (some three seconds)."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    torch_folder = Path(spec.origin).parent
    made = folder / "pretended_gpu.so"
    command = [COMPILER, "-std=c++20", "-O0", "-shared", "-fPIC", f"-I{torch_folder}/include"]
    command += [str(HERE / "pretended_gpu.cpp"), "-o", str(made), f"-L{torch_folder}/lib"]
    subprocess.run([*command, "-lc10", "-ltorch_cpu"], check=True)
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(torch_folder / "lib" / name), mode=os.RTLD_GLOBAL)
    ctypes.CDLL(str(made), mode=os.RTLD_GLOBAL)
    _LOADED.append(made)


def devices() -> "tuple[type, Counter[str]]":
    """Switch the pretended GPUs on for this process.

    Returns:
        the class of their tensors, and how often the host waited, by operation.
    """
    if not _LOADED:
        raise RuntimeError("the guard of the devices is not loaded, and torch would be broken here")
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

    aten = torch.ops.aten
    waits: Counter[str] = Counter()
    # Operations that take an index or a mask of the host beside a tensor of a device, or copy.
    mixing = {aten.copy_, aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
    waiting = {
        aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero,
        aten._unique2, aten.unique_dim, aten.bincount, aten.unique_consecutive,
    }  # fmt: skip

    class OnCard(torch.Tensor):
        """A tensor of a pretended GPU."""

        inner: torch.Tensor

        @staticmethod
        def __new__(cls, inner, device):
            return torch.Tensor._make_wrapper_subclass(
                cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
                dtype=inner.dtype, device=device, requires_grad=False,
            )  # fmt: skip

        def __init__(self, inner, device):
            self.inner = inner

        def __repr__(self, **_):
            return f"OnCard({self.inner!r}, {self.device})"

        def __getitem__(self, index):
            return super().__getitem__(as_tensors(index, self.device))

        def __setitem__(self, index, value):
            super().__setitem__(as_tensors(index, self.device), value)

        def tolist(self):
            return self.cpu().tolist()

        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            return run(func, args, kwargs or {})

    def as_tensors(index, device):
        """An index whose lists of numbers are tensors, which torch would make out of our sight."""
        if isinstance(index, tuple):
            return tuple(as_tensors(part, device) for part in index)
        return torch.tensor(index, device=device) if isinstance(index, list) else index

    def mapped(change, values):
        """Every tensor in tuples, lists and dicts changed (torch's own function takes longer)."""
        if isinstance(values, torch.Tensor):
            return change(values)
        if isinstance(values, tuple | list):
            return type(values)([mapped(change, value) for value in values])
        if isinstance(values, dict):
            return {key: mapped(change, value) for key, value in values.items()}
        return values

    def inner_of(x):
        return x.inner if isinstance(x, OnCard) else x

    def run(func, args, kwargs):
        packet = func.overloadpacket
        flat: list[torch.Tensor] = []
        plain = mapped(lambda x: flat.append(x) or inner_of(x), (args, kwargs))
        cards = [x for x in flat if isinstance(x, OnCard)]
        host = [x for x in flat if not isinstance(x, OnCard) and x.dim() > 0]
        places = {x.device for x in cards}
        here = next(iter(places), None)
        asked = kwargs.get("device")
        target = torch.device(asked) if asked is not None else here
        if target is not None and target.type == "cuda" and target.index is None:
            target = torch.device("cuda", 0)
        if packet is not aten.copy_ and (len(places) > 1 or (places and host)):
            if packet not in mixing or len(places) > 1 or not isinstance(args[0], OnCard):
                found = sorted({str(x.device) for x in (*cards, *host)})
                raise RuntimeError(f"{func}: expected all tensors on one device, found {found}")
            waits[f"{packet.__name__} by numbers of the host"] += 1
        indices = args[1] if packet in mixing and packet is not aten.copy_ else []
        masks = [x for x in indices if x is not None and x.dtype == torch.bool]
        if here is not None and (packet in waiting or any(isinstance(x, OnCard) for x in masks)):
            waits[packet.__name__] += 1
        count_copies(packet, args, kwargs, here, target)
        if asked is not None:
            plain[1]["device"] = torch.device("cpu")
        plain[1].pop("pin_memory", None)
        out = func(*plain[0], **plain[1])
        if target is None or target.type != "cuda":
            return out
        wrapped = mapped(lambda x: OnCard(x, target), out)
        return return_and_correct_aliasing(func, args, kwargs, wrapped)

    def count_copies(packet, args, kwargs, here, target):
        if packet is aten._to_copy and target is not None:
            source = args[0].device
            if source.type == "cuda" and target.type == "cpu":
                waits["copy to the host"] += 1
            elif source.type == "cpu" and target.type == "cuda" and not pinned(args[0], kwargs):
                waits["copy of unpinned memory"] += 1
        elif packet is aten.copy_ and here is not None:
            if args[0].device.type != args[1].device.type:
                waits["copy_ between host and device"] += 1

    def pinned(x, kwargs):
        return kwargs.get("non_blocking", False) and x.data_ptr() in pinned_places

    class Factories(TorchDispatchMode):
        """What is made on a device from nothing."""

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return run(func, args, kwargs or {})

    def on_host_first(make):
        def made(data, *args, device=None, **kwargs):
            if device is None or torch.device(device).type != "cuda":
                return make(data, *args, device=device, **kwargs)
            return make(data, *args, **kwargs).to(device)

        return made

    pinned_places: set[int] = set()

    def pin_memory(x, device=None):
        pinned_places.add(x.data_ptr())
        return x

    torch.Tensor.pin_memory = pin_memory
    for name in (
        "_lazy_init", "empty_cache", "set_device", "init", "reset_peak_memory_stats", "manual_seed"
    ):  # fmt: skip
        setattr(torch.cuda, name, lambda *_: None)
    torch.cuda.synchronize = lambda *_: waits.update(["synchronize"])
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 2
    torch.cuda.current_device = lambda: 0
    torch.cuda.is_bf16_supported = lambda *_, **__: True
    torch.cuda.mem_get_info = lambda *_: (MEMORY // 2, MEMORY)
    torch.cuda.memory_allocated = lambda *_: 0
    torch.cuda.max_memory_allocated = lambda *_: 2**26
    torch.cuda.get_device_name = lambda *_: "a pretended GPU"
    for name in ("tensor", "as_tensor"):  # of lists: they do not pass through modes
        setattr(torch, name, on_host_first(getattr(torch, name)))
    # Random numbers are drawn on the host, and so the generator is that of the host.
    torch.cuda.get_rng_state = lambda *_: torch.get_rng_state()
    torch.cuda.set_rng_state = lambda state, *_: torch.set_rng_state(state)
    Factories().__enter__()
    return OnCard, waits


def moved(model, place_of):
    """The model's weights on the devices that ``place_of`` gives by a module's name, in place."""
    import torch
    from torch import nn

    done: dict[int, object] = {}
    with torch.no_grad():
        for name, module in model.named_modules():
            for own in (module._parameters, module._buffers):
                for key, value in own.items():
                    if value is None:
                        continue
                    if id(value) not in done:
                        there = value.detach().to(place_of(name))
                        is_weight = isinstance(value, nn.Parameter)
                        done[id(value)] = nn.Parameter(there, False) if is_weight else there
                    own[key] = done[id(value)]
    return model
