"""What masks do not tell: it is in no result, and said."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

import spex_mech as sm
from spex_mech.proxies.seen import Seen
from spex_mech.setfunctions import KINDS, of_table
from tests.test_proxyspex import trees

N, ALL = 4, np.array(list(product([False, True], repeat=4)))


def table(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=2**N)


def of(values: np.ndarray, masks: np.ndarray) -> np.ndarray:
    return values[masks.astype(int) @ (2 ** np.arange(N))]


def drawn(seed: int = 0, count: int = 300) -> np.ndarray:
    return np.random.default_rng(seed).random((count, N)) < 0.5


def exact(values: np.ndarray, kind: str, names: list[str]) -> dict[str, float]:
    found = of_table(values, kind)
    sets = [[u for u in range(N) if number >> u & 1] for number in range(2**N)]
    return {
        " x ".join(names[u] for u in s): float(found[number])
        for number, s in enumerate(sets)
        if 2 <= len(s) <= 3
    }


def printed(found: sm.Distillation, kind: str) -> dict[str, float]:
    frame = found.frame(1000, order=3, kind=kind)
    return dict(zip(frame.units, frame.estimate, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("kept", "how"), [(True, "no mask"), (False, "every mask")])
def test_a_unit_in_one_state_is_in_no_result(kind: str, kept: bool, how: str) -> None:
    masks, values = drawn(), table()
    with pytest.warns(UserWarning, match=f"1 of 5 units, which {how} leaves out.*known of p$"):
        found = sm.explain(np.insert(masks, 1, kept, axis=1), of(values, masks), labels="apbcd")
    assert printed(found, kind) == pytest.approx(exact(values, kind, list("abcd")))
    assert all(1 not in s for s in found.indices(kind, 3))
    asked = np.insert(ALL, 1, kept, axis=1)
    np.testing.assert_allclose(found.predict(asked)[:, 0], of(values, ALL))
    assert np.isnan(found.predict(np.insert(ALL, 1, not kept, axis=1))).all()
    assert found.end(True) == pytest.approx(values[-1])


@pytest.mark.parametrize("proxy", ["distilled", "trees"])
def test_estimates_are_those_without_the_unit(proxy: str) -> None:
    """Also of masks that are not all that there are."""
    masks, values = drawn(1, 40), table(1)
    masks = masks[masks.any(axis=1)]
    alone = sm.explain(masks, of(values, masks), trees() if proxy == "trees" else proxy)
    ends = [np.full((len(masks), 1), kept) for kept in (True, False)]
    with pytest.warns(UserWarning) as said:
        found = sm.explain(
            np.concatenate([ends[0], masks, ends[1]], axis=1),
            of(values, masks),
            trees() if proxy == "trees" else proxy,
        )
    assert [str(w.message).split(" is ")[-1] for w in said] == ["known of 0", "known of 5"]
    want = {tuple(u + 1 for u in s): v for s, v in alone.indices("banzhaf").items()}
    assert found.indices("banzhaf") == pytest.approx(want) and found.r2 == alone.r2


@pytest.mark.parametrize("opposite", [False, True])
def test_units_that_nothing_parts_are_one(opposite: bool) -> None:
    masks, values = drawn(), table()
    twin = masks[:, 1] ^ opposite
    name = "b+not twin" if opposite else "b+twin"
    with pytest.warns(UserWarning, match=f"nothing parts the units {name.replace('+', '.')}, "):
        found = sm.explain(
            np.column_stack([masks, twin]), of(values, masks), labels=[*"abcd", "twin"]
        )
    assert printed(found, "shapley") == pytest.approx(
        exact(values, "shapley", ["a", name, "c", "d"])
    )
    together = np.column_stack([ALL, ALL[:, 1] ^ opposite])
    np.testing.assert_allclose(found.predict(together)[:, 0], of(values, ALL))
    together[:, 4] ^= True
    assert np.isnan(found.predict(together)).all()


def test_three_twins_and_two_constants_are_named_once() -> None:
    masks = drawn()
    wide = np.column_stack([masks, masks[:, 0], masks[:, 0], np.ones((300, 2), bool)])
    with pytest.warns(UserWarning) as said:
        found = sm.explain(wide, of(table(), masks))
    texts = [str(w.message) for w in said]
    assert len(texts) == 2 and "known of 6, 7" in texts[0] and "units 0+4+5," in texts[1]
    assert found.frame(1, order=1).units[0] in {"0+4+5", "1", "2", "3"}
    assert "6" not in " ".join(found.frame(100).units)


def test_pairs_of_which_a_state_is_missing_are_left_out() -> None:
    """Of units that are never both left out the interaction is a guess: nothing is said of it."""
    masks = drawn(2, 400)
    masks = masks[masks[:, 0] | masks[:, 1]]
    values = of(table(2), masks)
    found = sm.explain(masks, values)
    with pytest.warns(UserWarning, match="left out, 0 x 1.* the largest.*more masks"):
        sets = found.indices("banzhaf", 3)
    assert {s for s in sets if len(s) == 2} == {(0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}
    assert {s for s in sets if len(s) == 3} == {(0, 2, 3), (1, 2, 3)}
    with pytest.warns(UserWarning, match="left out"):
        assert "0 x 1" not in found.frame(100).units.tolist()


def test_masks_that_each_leave_out_one_unit_tell_no_pair() -> None:
    masks = np.repeat(~np.eye(6, dtype=bool), 5, axis=0)
    with pytest.warns(UserWarning, match="every mask keeps 5 of the 6 units"):
        found = sm.explain(masks, (~masks) @ np.arange(6.0))
    with pytest.warns(UserWarning, match="15 of 22 interactions are left out"):
        assert all(len(s) < 2 for s in found.indices("intact"))


def test_masks_that_are_all_the_same_are_refused() -> None:
    with pytest.raises(ValueError, match="all 30 masks are the same"):
        sm.explain(np.ones((30, 4), bool), np.arange(30.0))


def test_a_mask_that_alone_tells_of_a_unit_is_never_held_out() -> None:
    masks = np.insert(drawn(3, 120), 1, True, axis=1)
    values = of(table(), masks[:, [0, 2, 3, 4]])
    masks[7, 1], values[7] = False, 100
    sizes = set()
    for seed in range(20):
        found = sm.explain(masks, values, labels="apbcd", seed=seed)
        assert found.seen is not None and found.seen.all_apart
        assert abs(found.predict(masks[7:8])[0, 0] - 100) < 20, seed
        sizes.add(found.n_masks)
    assert max(sizes) < 120  # others are


def test_a_distillation_of_few_masks_says_so() -> None:
    def first(masks: Any) -> Any:
        return masks[:, 0].double()

    with pytest.warns(UserWarning, match="nothing parts the units"):
        small = sm.distill(first, 20, n=200, progress=False)
    assert small.seen is not None and not small.seen.all_apart
    again = Seen(small.seen.masks)
    assert len(again.units) + sum(map(len, again.groups.values())) + len(again.constant) == 200


def test_to_shapiq_of_what_is_known() -> None:
    pytest.importorskip("shapiq")
    masks, values = drawn(), table()
    with pytest.warns(UserWarning, match="known of 4"):
        found = sm.explain(np.column_stack([masks, np.ones(300, bool)]), of(values, masks))
    theirs = sm.to_shapiq(found, "shapley")
    assert theirs.n_players == 5 and not theirs.estimated
    assert theirs.baseline_value == pytest.approx(values[0])
    assert not any(4 in s for s in theirs.interactions)
    assert torch.isfinite(torch.tensor(list(theirs.interactions.values()))).all()
