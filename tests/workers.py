"""Games that other processes make."""

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spex_mech.discover import CallableGame
from spex_mech.masks import MaskBatch


class Planted:
    """Pairs among 30 units; in the last bits of a value is what shared its batch. Told to, a worker
    dies once in the middle of a batch."""

    masks_per_batch = 8

    def __init__(self, dies: Path | None = None, pause: float = 0.0) -> None:
        self.dies, self.pause = dies, pause
        self.labels = [f"u{i}" for i in range(30)]
        rng = np.random.default_rng(3)
        self.main, self.pairs = rng.normal(size=30), rng.normal(size=(30, 30)) ** 3

    def __len__(self) -> int:
        return 30

    def __call__(self, masks: Tensor) -> Tensor:
        time.sleep(self.pause)
        if self.dies is not None and not self.dies.exists():
            self.dies.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        lost = (~masks).numpy().astype(float)
        exact = lost @ self.main + np.einsum("mi,ij,mj->m", lost, self.pairs, lost)
        place = np.sin(exact * 7919 + len(lost) * 100 + np.arange(len(lost)))
        return torch.from_numpy(exact + 1e-9 * place)

    def identity(self) -> dict[str, Any]:
        return {"planted": 3}


def fails(masks: Tensor) -> Tensor:
    if (~masks).sum(dim=1).max() > 1:
        raise ValueError("two are too many")
    return masks.sum(dim=1).double()


def failing_game() -> CallableGame:
    return CallableGame(fails, ["a", "b", "c", "d"])


def pid(_: Any) -> int:
    return os.getpid()


class Refused(Exception):
    """It cannot be pickled back: two arguments, of which one is kept."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class Locked(Exception):
    """It cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


def refuses(error: Exception, masks: Tensor) -> Tensor:
    raise error


def two_arguments() -> CallableGame:
    return CallableGame(partial(refuses, Refused("prompt 7 is too long", 413)), list("abcd"))


def holding_a_lock() -> CallableGame:
    return CallableGame(partial(refuses, Locked("the server is gone")), list("abcd"))


def impossible() -> CallableGame:
    raise ValueError("no such data set: faces")


def _are_both_ablated(masks: Tensor) -> bool:
    return bool(((~masks[:, 3]) & (~masks[:, 5]) & ((~masks).sum(dim=1) == 2)).any())


def _deadly(masks: Tensor) -> Tensor:
    if _are_both_ablated(masks):
        os._exit(7)
    return masks.double().sum(dim=1)


def _hangs(masks: Tensor) -> Tensor:
    if _are_both_ablated(masks):
        time.sleep(1000)
    return masks.double().sum(dim=1)


def deadly() -> CallableGame:
    return CallableGame(_deadly, list("abcdefgh"))


def hanging() -> CallableGame:
    return CallableGame(_hangs, list("abcdefgh"))


def _half_is_deadly(how: Any, masks: Tensor) -> Tensor:
    if bool(((~masks)[..., ::2].all(dim=-1) & (~masks).any(dim=-1)).any()):
        how()
    return masks.double().sum(dim=-1)


def deadly_at_half() -> CallableGame:
    """It cannot bear the mask that ablates every other unit, which a search of pairs never asks."""
    return CallableGame(partial(_half_is_deadly, partial(os._exit, 7)), list("abcdefgh"))


def hanging_at_half() -> CallableGame:
    return CallableGame(partial(_half_is_deadly, partial(time.sleep, 1000)), list("abcdefgh"))


def _slow_one(mask: Any) -> float:
    if mask.ndim != 1:
        raise TypeError("one mask at a time")
    time.sleep(0.15)
    return float(mask[0] and mask[1])


def slow_of_one_mask() -> CallableGame:
    """Its trial takes longer than a mask may, as it asks several."""
    return CallableGame(_slow_one, ["a", "b", "c"])


def _hangs_with_some(masks: Tensor) -> Tensor:
    if not masks.all():
        time.sleep(1000)
    return masks.double() @ torch.arange(1.0, 11, dtype=torch.float64)[:, None]


def hangs_at_some() -> CallableGame:
    """It answers of the intact model alone."""
    return CallableGame(_hangs_with_some, [f"u{unit}" for unit in range(10)], vectorized=True)


class SlopesEnd:
    """Ten units, and gradients that hang or kill."""

    def __init__(self, kills: bool) -> None:
        self.labels, self.kills = [f"u{unit}" for unit in range(10)], kills

    def __len__(self) -> int:
        return 10

    def __call__(self, masks: Tensor) -> Tensor:
        return masks.double().sum(dim=1)

    def gradient(self, gates: Tensor) -> Tensor:
        if self.kills:
            os._exit(7)
        time.sleep(1000)
        return gates

    def identity(self) -> dict[str, Any]:
        return {"slopes end": self.kills}


class Hanging(Planted):
    def __init__(self, hung: Path) -> None:
        super().__init__()
        self.hung = hung

    def __call__(self, masks: Tensor) -> Tensor:
        if not self.hung.exists():
            self.hung.touch()
            time.sleep(1000)
        return super().__call__(masks)


def hangs_once(hung: Path) -> Hanging:
    return Hanging(hung)


def _computes(pids: Path, masks: Tensor) -> Tensor:
    if len(masks) > 1 or (~masks).sum() == 1:
        (pids / str(os.getpid())).touch()
        time.sleep(1000)
    return masks.double().sum(dim=1)


def busy(pids: Path) -> CallableGame:
    """It answers of the intact model, and then computes for ever."""
    return CallableGame(partial(_computes, pids), [str(i) for i in range(600)], vectorized=True)


def _one_at_a_time(mask: Any) -> float:
    if mask.ndim != 1:
        raise TimeoutError("the server takes one mask at a time")
    return 1.0 * bool(mask[0] and mask[1])


def one_at_a_time() -> CallableGame:
    return CallableGame(_one_at_a_time, list("abcdef"))


class SlowSlopes:
    """Six units, a pair, and gradients that take as long as three evaluations may."""

    labels, masks_per_batch = tuple("abcdef"), 4

    def __len__(self) -> int:
        return 6

    def __call__(self, masks: Tensor) -> Tensor:
        return (masks[:, 0] & masks[:, 1]).double()

    def gradient(self, gates: Tensor) -> Tensor:
        time.sleep(0.5 * len(gates))
        return torch.zeros(gates.shape, dtype=torch.float64)

    def identity(self) -> dict[str, Any]:
        return {"slow": "slopes"}


def values_of(game: Any, masks: MaskBatch) -> Any:
    return game.evaluate(masks).values


def slopes_of(game: Any, masks: MaskBatch, slopes: bool) -> int:
    return len(game.evaluate(masks, slopes).values)
