"""Games whose interactions are known because they were planted."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Set = tuple[int, ...]
_SMALL = 2000  # units; the tail of more is kept in float32


@dataclass(frozen=True, eq=False)
class Planted:
    """``f(S) = f0 + sum of m_i over ablated i + sum of I_T over sets T that are ablated whole``,
    with an optional dense tail of pairs, and noise that depends on the mask alone."""

    n: int
    main_effects: np.ndarray
    planted: dict[Set, float]
    tail: np.ndarray | None = None
    noise: float = 0.0
    n_prompts: int = 1

    def __len__(self) -> int:
        return self.n

    @property
    def labels(self) -> list[str]:
        return [str(unit) for unit in range(self.n)]

    def __call__(self, masks: Tensor) -> Tensor:
        lost = ~masks.numpy()
        values = 3.0 + lost @ self.main_effects
        for s, value in self.planted.items():
            values += value * lost[:, list(s)].all(axis=1)
        if self.tail is not None:
            if self.n <= _SMALL:
                x = lost.astype(np.float64)
                values += ((x @ self.tail) * x).sum(1) / 2
            else:  # few units are ablated of many
                for row, mask in enumerate(lost):
                    at = np.flatnonzero(mask)
                    values[row] += self.tail[np.ix_(at, at)].sum(dtype=np.float64) / 2
        if self.noise:
            for row, mask in enumerate(lost):
                rng = np.random.default_rng(np.flatnonzero(mask).tolist() or [0])
                values[row] += self.noise * rng.standard_normal()
        return torch.from_numpy(values)[:, None].expand(-1, self.n_prompts)

    def recall(self, found: dict[Set, float], k: int | None = None) -> float:
        """The share of the k strongest planted sets that were found, with the right value."""
        strongest = sorted(self.planted, key=lambda s: -abs(self.planted[s]))[:k]
        close = [
            s in found and abs(found[s] - self.planted[s]) <= 1e-6 + 6 * self.noise
            for s in strongest
        ]
        return float(np.mean(close))


def planted_game(
    n: int,
    n_pairs: int,
    seed: int,
    *,
    sizes: tuple[float, float] = (0.5, 2.0),
    ratio: float | None = None,
    noise: float = 0.0,
    n_triples: int = 0,
    hierarchical: bool = False,
) -> Planted:
    """Random pairs and triples of random sign; dense main effects; with ``ratio``, every other pair
    is normal with a standard deviation of planted size / ratio, and all planted sets have size 1;
    with ``hierarchical``, each triple holds a planted pair."""
    rng = np.random.default_rng(seed)
    planted: dict[Set, float] = {}
    while len(planted) < n_pairs + n_triples:
        size = 2 if len(planted) < n_pairs else 3
        s = tuple(int(u) for u in np.sort(rng.choice(n, size, replace=False)))
        if size == 3 and hierarchical:
            grown = {*list(planted)[len(planted) % n_pairs], s[0]}
            s = tuple(sorted(grown))
        if len(s) == size:
            planted[s] = float(rng.uniform(*sizes) * rng.choice([-1, 1]))
    tail = None
    if ratio is not None:
        exact = np.float64 if n <= _SMALL else np.float32
        tail = np.triu(rng.standard_normal((n, n), dtype=exact) / exact(ratio), 1)
        planted = {s: float(np.sign(v)) for s, v in planted.items()}
        for s in planted:
            if len(s) == 2:
                tail[s] = 0
        tail = tail + tail.T
    return Planted(n, rng.standard_normal(n), planted, tail, noise)
