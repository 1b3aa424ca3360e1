"""Tables whose labels stand in another order: no value is paired with what is not its own."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import spex_mech as sm

pd = pytest.importorskip("pandas")
Tables = dict[str, Any]


def tables(classes: bool = False) -> Tables:
    rng = np.random.default_rng(0)
    frames = [pd.DataFrame(rng.normal(size=(n, 3)), columns=list("abc")) for n in (10, 4)]
    frames[0].index = frames[0].index.map("row{}".format)
    targets = [f.a - f.b + 0.5 * f.c for f in frames]
    if classes:
        targets = [(t > 0).astype(int) for t in targets]
    return {"x": frames[0], "y": targets[0], "x_test": frames[1], "y_test": targets[1]}


def kernels() -> Tables:
    brought = tables()
    x, test = brought["x"], brought["x_test"]
    brought["x"] = x @ x.T
    brought["x_test"] = test @ x.T
    return brought


def of_ridge(t: Tables, **given: Any) -> sm.TrainingGame:
    return sm.TrainingGame.ridge(*t.values(), penalty=0.3, **given)


def of_kernel(t: Tables, **given: Any) -> sm.TrainingGame:
    return sm.TrainingGame.kernel_ridge(*t.values(), penalty=0.3, **given)


def of_logistic(t: Tables, **given: Any) -> sm.TrainingGame:
    return sm.TrainingGame.logistic(*t.values(), penalty=0.3, **given)


def of_network(t: Tables, **given: Any) -> sm.TrainingGame:
    torch.manual_seed(0)
    return sm.TrainingGame.network(nn.Linear(3, 2), *t.values(), steps=3, **given)


LEARNERS: list[tuple[Callable[..., sm.TrainingGame], Callable[[], Tables], str]] = [
    (of_ridge, tables, "x"),
    (of_kernel, kernels, "kernel"),
    (of_logistic, lambda: tables(classes=True), "x"),
    (of_network, lambda: tables(classes=True), "x"),
]


@pytest.mark.parametrize(("learner", "make", "name"), LEARNERS)
def test_learners_refuse_another_order(learner: Any, make: Any, name: str) -> None:
    def turned(key: str, axis: int) -> Tables:
        brought = make()
        table = brought[key]
        brought[key] = (
            table.iloc[::-1] if axis == 0 else table.iloc[:, [2, 0, *range(3, table.shape[1]), 1]]
        )
        return brought

    good = make()
    everything = np.ones((1, 10), bool)
    plain = {key: table.to_numpy() for key, table in good.items()}
    assert torch.equal(learner(good)(everything), learner(plain)(everything))
    with pytest.raises(ValueError, match=rf"{name} has the columns .*{name}_test has .*position"):
        learner(turned("x_test", 1))
    with pytest.raises(ValueError, match=rf"index of {name} .*of y .*y\.loc\[{name}\.index\]"):
        learner(turned("y", 0))
    with pytest.raises(ValueError, match=r"of y_test .*3, 2, 1, 0"):
        learner(turned("y_test", 0))
    weights = pd.Series(1.0, index=good["y"].index[::-1])
    with pytest.raises(ValueError, match=r"of sample_weight"):
        learner(good, sample_weight=weights)
    with pytest.raises(ValueError, match=r"labels=list\(x\.index\)"):
        learner(good, labels=list(good["x"].index[::-1]))
    assert learner(good, labels=list(good["x"].index)).labels == list(good["x"].index)


def test_other_columns_are_refused_and_the_cure_mends_them() -> None:
    good = tables()
    test = good["x_test"]
    with pytest.raises(ValueError, match=r"'a', 'b', 'c'.*'a', 'b', 'other'"):
        of_ridge({**good, "x_test": test.rename(columns={"c": "other"})})
    numbered = {key: good[key].set_axis([0, 1, 2], axis=1) for key in ("x", "x_test")}
    with pytest.raises(ValueError, match=r"\[2, 0, 1\]"):
        of_ridge({**good, "x": numbered["x"], "x_test": numbered["x_test"][[2, 0, 1]]})
    mended = {**good, "x_test": test[list("cab")][good["x"].columns]}
    unnamed = {**good, "x_test": numbered["x_test"]}
    masks = np.random.default_rng(1).random((5, 10)) < 0.5
    for brought in (mended, unnamed):
        assert torch.equal(of_ridge(brought)(masks), of_ridge(good)(masks))


def test_rows_that_share_some_labels_at_other_places() -> None:
    """As of two splits with other seeds; labels that cannot be told to be wrong are taken."""
    good = tables()
    half = good["y"].set_axis([f"row{n}" for n in range(3, 13)])
    with pytest.raises(ValueError, match="row3"):
        of_ridge({**good, "y": half})
    everything = np.ones((1, 10), bool)
    for index in (range(10), range(50, 60), [f"other{n}" for n in range(10)]):
        taken = of_ridge({**good, "y": good["y"].set_axis(list(index))})
        assert torch.equal(taken(everything), of_ridge(good)(everything))
    shuffled = {key: good[key].reset_index(drop=True) for key in ("x", "y")}
    with pytest.raises(ValueError, match=r"y\.loc\[x\.index\]"):  # as after x.sample(frac=1)
        of_ridge({**good, **shuffled, "x": shuffled["x"].sample(frac=1, random_state=0)})


def test_kernels_rows_and_columns() -> None:
    good = kernels()
    kernel = good["x"].iloc[::-1]
    with pytest.raises(ValueError, match=r"kernel\[kernel\.index\]"):
        of_kernel({**good, "x": kernel, "y": good["y"].loc[kernel.index]})


def masks_and_values() -> tuple[Any, Any]:
    masks = pd.DataFrame(np.random.default_rng(0).random((60, 4)) < 0.5, columns=list("wxyz"))
    return masks, (masks.w & masks.x).astype(float)


def test_explain_pairs_rows_and_columns_as_named() -> None:
    masks, values = masks_and_values()
    found = sm.explain(masks, values)
    assert found.labels == list("wxyz")
    assert found.frame(1, kind="banzhaf").units.tolist() == ["w x x"]
    with pytest.raises(ValueError, match=r"values\.loc\[masks\.index\]"):
        sm.explain(masks, values.sort_values())
    again = sm.explain(masks, values.sort_values().loc[masks.index])
    assert again.indices() == found.indices()
    with pytest.raises(ValueError, match=r"'w', 'x', 'y', 'z'.*'x', 'w', 'y', 'z'"):
        sm.explain(masks, values, labels=["x", "w", "y", "z"])
    assert sm.explain(masks, values, labels=["p", "q", "r", "s"]).labels == ["p", "q", "r", "s"]
    assert sm.explain(masks.set_axis([7, 3, 5, 1], axis=1), values).labels == ["7", "3", "5", "1"]


def test_predictions_and_games_of_a_table_of_masks() -> None:
    masks, values = masks_and_values()
    small = sm.explain(masks, values)
    np.testing.assert_array_equal(small.predict(masks), small.predict(masks.to_numpy()))
    with pytest.raises(ValueError, match=r"masks\[labels\]"):
        small.predict(masks[list("zwxy")])
    game = of_ridge({**tables()}, labels=list("abcdefghij"))
    kept = pd.DataFrame(np.eye(10, dtype=bool), columns=list("abcdefghij"))
    assert torch.equal(game(kept), game(kept.to_numpy()))
    for call in (game, game.mean):
        with pytest.raises(ValueError, match="the table of masks has the order"):
            call(kept[list("bacdefghij")])


def test_answers_of_prompts() -> None:
    answers = pd.Series([1, 2, 3], index=list("abc"))
    wrong = pd.Series([4, 5, 6], index=list("cab"))
    tokens = [[7, 8]] * 3
    with pytest.raises(ValueError, match=r"wrong_answers\.loc\[answers\.index\]"):
        sm.Prompts(tokens, answers=answers, wrong_answers=wrong)
    with pytest.raises(ValueError, match="of clusters"):
        sm.Prompts(tokens, answers=answers, clusters=wrong)
    held = sm.Prompts(tokens, answers=answers, wrong_answers=wrong.loc[answers.index])
    assert held.wrong_answers is not None
    assert held.wrong_answers[:, 0].tolist() == [5, 6, 4]
