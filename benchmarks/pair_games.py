"""Games of pairs whose truth is known, in numpy alone, and a driver for them: a search of 60 units
takes some hundredths of a second, so that claims about searches can be checked by repetition.

``f(S) = f0 + sum of m_i over ablated i + sum of J_ij over ablated pairs``; the slopes are those of
the parts of J that slopes can see, times a factor for each unit where they are off.
"""

from collections.abc import Callable
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
        lost = _lost(ablated, len(self.main))
        return (-(self.main + lost @ self.seen) * self.factors)[:, None]


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
    rng: np.random.Generator, n: int, count: int, low: float, high: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of units that share none, as far as there are enough, and their sizes."""
    units = np.concatenate([rng.permutation(n) for _ in range(1 + 2 * count // n)])[: 2 * count]
    pairs = np.sort(units.reshape(-1, 2), axis=1)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    return pairs, rng.uniform(low, high, len(pairs)) * rng.choice([-1, 1], len(pairs))


def _low_rank(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    factors = rng.standard_normal((n, 3)) * np.exp(0.7 * rng.standard_normal((n, 1)))
    return np.triu(factors @ factors.T, 1), factors[:, 0]


Kind = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray, np.ndarray]]


def _with(pairs: np.ndarray, planted: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    made = pairs.copy()
    made[tuple(planted[0].T)] = planted[1]
    return made


def _backups(rng: np.random.Generator, n: int, rest: np.ndarray) -> tuple[np.ndarray, ...]:
    """Pairs without slope or main effect, beside the rest."""
    hidden = _planted(rng, n, max(4, n // 8), 1.0, 2.0)
    main = rng.standard_normal(n)
    main[hidden[0].ravel()] = 0.0
    return _with(rest, hidden), main, rest


def _sparse(rng: np.random.Generator, n: int) -> tuple[np.ndarray, ...]:
    pairs = _with(np.zeros((n, n)), _planted(rng, n, n // 3, 0.5, 2.0))
    return pairs, rng.standard_normal(n), pairs


def _dense(rng: np.random.Generator, n: int) -> tuple[np.ndarray, ...]:
    pairs = _with(_tail(rng, n, 0.2), _planted(rng, n, n // 3, 1.0, 1.0))
    return pairs, rng.standard_normal(n), pairs


def _flat(rng: np.random.Generator, n: int) -> tuple[np.ndarray, ...]:
    pairs = _tail(rng, n, 1.0)
    return pairs, rng.standard_normal(n), pairs


def _low_rank_alone(rng: np.random.Generator, n: int) -> tuple[np.ndarray, ...]:
    pairs, _ = _low_rank(rng, n)
    return pairs, np.zeros(n), pairs


def _low_rank_main(rng: np.random.Generator, n: int) -> tuple[np.ndarray, ...]:
    pairs, main = _low_rank(rng, n)
    return pairs, main, pairs


def _hubs(rng: np.random.Generator, n: int) -> tuple[np.ndarray, ...]:
    pairs = _tail(rng, n, 0.02)
    pairs[:3] = np.triu(rng.standard_normal((n, n)), 1)[:3]
    return pairs, rng.standard_normal(n), pairs


def _visible(rng: np.random.Generator, n: int) -> np.ndarray:
    return _with(_tail(rng, n, 0.05), _planted(rng, n, n // 2, 0.5, 1.5))


KINDS: dict[str, Kind] = {
    "sparse": _sparse,
    "dense": _dense,
    "flat": _flat,
    "low rank": _low_rank_alone,
    "low rank, main effects": _low_rank_main,
    "hubs": _hubs,
    "backups alone": lambda rng, n: _backups(rng, n, np.zeros((n, n))),
    "backups in a tail": lambda rng, n: _backups(rng, n, _tail(rng, n, 0.2)),
    "backups beside visible pairs": lambda rng, n: _backups(rng, n, _visible(rng, n)),
}  # type: ignore[dict-item]


def pair_game(kind: str, n: int, seed: int, slopes: str = "exact") -> PairGame:
    """A game of one of the kinds; its units are in random order."""
    rng = np.random.default_rng([seed, n])
    pairs, main, seen = KINDS[kind](rng, n)
    order = rng.permutation(n)
    pairs, seen = ((x + x.T)[np.ix_(order, order)] for x in (pairs, seen))
    factors = np.exp(OFF * rng.standard_normal(n)) if slopes == "off" else np.ones(n)
    return PairGame(pairs, main[order], seen, slopes, factors)
