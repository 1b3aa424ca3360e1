"""Games of pairs whose truth is known, in numpy alone, and a driver for them: a search of 60 units
takes some hundredths of a second, so that claims about searches can be checked by repetition.

``f(S) = f0 + sum of m_i over ablated i + sum of J_ij over ablated pairs``; the slopes are those of
the parts of J that slopes can see, times a factor for each unit where they are off.
"""

from dataclasses import dataclass

import numpy as np

from spex_mech.search.contract import Findings, Search

SLOPES = ("exact", "off", "none")
OFF = 0.5  # standard deviation of the logarithm of each unit's factor, where slopes are off


@dataclass(frozen=True, eq=False)
class PairGame:
    """A game of pairs.

    Args:
        pairs: J, symmetric, 0 on the diagonal.
        main: m.
        seen: the part of J that slopes see.
        slopes: "exact", "off" or "none".
        factors: what each unit's slope is multiplied by.
    """

    pairs: np.ndarray
    main: np.ndarray
    seen: np.ndarray
    slopes: str
    factors: np.ndarray

    def values(self, ablated: np.ndarray) -> np.ndarray:
        """Of masks, each the units that it ablates, padded with -1: ``[mask 1]``."""
        n, width = len(self.main), ablated.shape[1]
        if width <= 2:
            main = np.append(self.main, 0.0)
            values = 3.0 + main[ablated].sum(axis=1)
            if width == 2:
                both = (ablated >= 0).all(axis=1)
                values[both] += self.pairs[ablated[both, 0], ablated[both, 1]]
            return values[:, None]
        lost = _lost(ablated, n)
        return (3.0 + lost @ self.main + ((lost @ self.pairs) * lost).sum(axis=1) / 2)[:, None]

    def gradients(self, ablated: np.ndarray) -> np.ndarray:
        """With respect to the gates (1 = kept): ``[mask 1 unit]``."""
        if ablated.shape[1] == 1:  # quick, as a game of simulated workers must be
            partners = np.where(ablated < 0, 0.0, self.seen[ablated[:, 0]])
        else:
            partners = _lost(ablated, len(self.main)) @ self.seen
        return (-(self.main + partners) * self.factors)[:, None]


def _lost(ablated: np.ndarray, n: int) -> np.ndarray:
    lost = np.zeros((len(ablated), n + 1))
    lost[np.arange(len(ablated))[:, None], ablated] = 1.0  # -1 hits the spare column
    return lost[:, :n]


def drive(search: Search, game: PairGame) -> Findings:
    """Carry a search to its end."""
    while (question := search.ask()) is not None:
        gradients = game.gradients(question.masks.ablated) if question.gradient else None
        search.tell(game.values(question.masks.ablated), gradients)
    return search.findings()


def truth_of(game: PairGame, found: Findings, k: int) -> tuple[float, float]:
    """The share of the true top k that was measured, and the energy of what was not. Pairs of
    nothing belong to no top; of ties that reach beyond k, as large a share counts as was measured.
    """
    n = len(game.main)
    i, j = np.triu_indices(n, 1)
    sizes = abs(game.pairs[i, j])
    measured = np.isin(i * n + j, found.units[:, 0].astype(int) * n + found.units[:, 1])
    k = min(k, int((sizes > 0).sum()))
    last = np.sort(sizes)[-k]
    above, ties = sizes > last, sizes == last
    top = measured[above].sum() + (k - above.sum()) * measured[ties].mean()
    return float(top / k), float((sizes[~measured] ** 2).sum())


# -- kinds of games -------------------------------------------------------------------------------


def _tail(rng: np.random.Generator, n: int, spread: float) -> np.ndarray:
    return np.triu(rng.standard_normal((n, n)) * spread, 1)


def _planted(
    rng: np.random.Generator, rest: np.ndarray, count: int, low: float, high: float
) -> tuple[np.ndarray, np.ndarray]:
    """So many pairs beside the rest, and their units: they share none, as far as there are
    enough."""
    n = len(rest)
    units = np.concatenate([rng.permutation(n) for _ in range(1 + 2 * count // n)])[: 2 * count]
    pairs = np.sort(units.reshape(-1, 2), axis=1)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    made = rest.copy()
    made[tuple(pairs.T)] = rng.uniform(low, high, len(pairs)) * rng.choice([-1, 1], len(pairs))
    return made, pairs


def _visible(kind: str, rng: np.random.Generator, n: int) -> np.ndarray:
    """The pairs that slopes see."""
    if kind == "flat":
        return _tail(rng, n, 1.0)
    if kind == "dense":
        return _planted(rng, _tail(rng, n, 0.2), n // 3, 1.0, 1.0)[0]
    if kind == "sparse":
        return _planted(rng, np.zeros((n, n)), n // 3, 0.5, 2.0)[0]
    if kind == "hubs":
        pairs = _tail(rng, n, 0.02)
        pairs[:3] = np.triu(rng.standard_normal((n, n)), 1)[:3]
        return pairs
    if kind == "backups alone":
        return np.zeros((n, n))
    if kind == "backups in a tail":
        return _tail(rng, n, 0.2)
    if kind == "backups beside visible pairs":
        return _planted(rng, _tail(rng, n, 0.05), n // 2, 0.5, 1.5)[0]
    raise ValueError(f"{kind!r} is none of {KINDS}")


KINDS = (
    "sparse", "dense", "flat", "low rank", "low rank, main effects", "hubs", "backups alone",
    "backups in a tail", "backups beside visible pairs",
)  # fmt: skip


def pair_game(kind: str, n: int, seed: int, slopes: str = "exact") -> PairGame:
    """A game of one of the kinds; its units are in random order."""
    rng = np.random.default_rng([seed, n])
    if kind.startswith("low rank"):
        factors = rng.standard_normal((n, 3)) * np.exp(0.7 * rng.standard_normal((n, 1)))
        pairs = seen = np.triu(factors @ factors.T, 1)
        main = factors[:, 0] if kind.endswith("main effects") else np.zeros(n)
    else:
        pairs = seen = _visible(kind, rng, n)
        hidden = np.zeros(0, dtype=int)
        if kind.startswith("backups"):  # beside the rest, without slope or main effect
            pairs, hidden = _planted(rng, seen, max(4, n // 8), 1.0, 2.0)
        main = rng.standard_normal(n)
        main[hidden.ravel()] = 0.0
    order = rng.permutation(n)
    pairs, seen = ((x + x.T)[np.ix_(order, order)] for x in (pairs, seen))
    factors = np.exp(OFF * rng.standard_normal(n)) if slopes == "off" else np.ones(n)
    return PairGame(pairs, main[order], seen, slopes, factors)
