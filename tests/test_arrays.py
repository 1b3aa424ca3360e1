"""What a user brings: one door for numbers and masks, which says by name what it cannot take."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spex_mech.arrays import mask_array, numbers, own_array, same_length

pd = pytest.importorskip("pandas")
sparse = pytest.importorskip("scipy.sparse")
X = np.array([[1.0, 2.0], [0.0, -3.5], [7.0, 0.0]])


def containers(folder: Path) -> dict[str, Any]:
    frame = pd.DataFrame(X)
    kept = np.memmap(folder / "x.bin", dtype="f8", mode="w+", shape=X.shape)
    kept[:] = X
    return {
        "list": X.tolist(),
        "tuple of arrays": tuple(X),
        "list of tensors": [torch.tensor(row) for row in X],
        "tensor with a gradient": torch.tensor(X, requires_grad=True),
        "bfloat16": torch.tensor(X).bfloat16(),
        "sparse tensor": torch.tensor(X).to_sparse(),
        "float16": X.astype(np.float16),
        "objects": X.astype(object),
        "memory map": kept,
        "masked array": np.ma.masked_array(X, mask=np.zeros_like(X)),
        "matrix": sparse.csr_matrix(X),
        "sparse array": sparse.coo_array(X),
        "frame": frame,
        "frame with an index": frame.set_index(pd.Index([7, 8, 9])),
        "nullable frame": frame.astype("Float64"),
        "frame of objects": frame.astype(object),
        "frame of sparse columns": frame.astype(pd.SparseDtype("float", 0.0)),
        "decimals": [[Decimal(str(v)) for v in row] for row in X.tolist()],
    }


def test_numbers_of_any_container(tmp_path: Path) -> None:
    for name, held in containers(tmp_path).items():
        found = numbers("x", held, ["example", "feature"])
        assert found.dtype == np.float64, name
        np.testing.assert_array_equal(found, X, err_msg=name)
    series = pd.Series([True, False], index=[5, 6], dtype="boolean")
    np.testing.assert_array_equal(numbers("y", series), [1, 0])


def test_whole_numbers_stay_whole() -> None:
    large = [2**53, 2**53 + 1]
    assert own_array("id", large).tolist() == own_array("id", pd.Series(large)).tolist() == large
    assert own_array("id", [2**70, 1]).tolist() == [2**70, 1]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([["1", "2"]], "x holds '1', a str; it must hold real numbers"),
        (pd.Series(["a", "b"]), "x holds 'a', a str"),
        (pd.Series([1.5, "b"]), "x holds 'b', a str"),
        (pd.DataFrame({"a": [1.0], "when": pd.to_datetime(["2020-01-01"])}), "Timestamp"),
        (np.array([1 + 2j]), r"x holds \(1\+2j\), a complex"),
        (torch.tensor([1j]), "a complex"),
        ({"a": [1.0]}, "x is a dict; give a numpy array, a torch tensor"),
        ({1.0, 2.0}, "x is a set"),
        ((v for v in [1.0]), "x is a generator"),
        ("12", "x is a str"),
        (None, "x is a NoneType"),
    ],
)
def test_what_is_no_number_is_refused_by_name(value: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        numbers("x", value)


def test_a_missing_number_is_named() -> None:
    table = X.copy()
    table[1, 0] = np.nan
    frame = pd.DataFrame(table).astype("Float64")
    frame.iloc[1, 0] = pd.NA
    masked = np.ma.masked_array(X, mask=[[0, 0], [1, 0], [0, 0]])
    for value in (table, frame, masked, [[1.0, 2.0], [None, -3.5], [7, 0]], torch.tensor(table)):
        with pytest.raises(ValueError, match="x is nan at example 1, feature 0; leave it out"):
            numbers("x", value, ["example", "feature"])
        assert np.isnan(numbers("x", value, finite=False)[1, 0])
    with pytest.raises(ValueError, match="y is inf at row 1"):
        numbers("y", [0.0, np.inf])
    with pytest.raises(ValueError, match=r"x has shape \(3, 2\); it must be \[example\]"):
        numbers("x", X, ["example"])
    with pytest.raises(ValueError, match="x has rows of unequal length"):
        numbers("x", [[1, 2], [3]])
    with pytest.raises(ValueError, match="x has 3 rows and y has 2"):
        same_length(x=X, y=X[:2])


@pytest.mark.parametrize(
    "value",
    [
        [[True, False]],
        [[1, 0]],
        [[1.0, 0.0]],
        torch.tensor([[1, 0]]),
        pd.DataFrame([[True, False]]),
        pd.DataFrame([[True, False]], dtype="boolean"),
        pd.DataFrame([[1, 0]]).astype(object),
        sparse.csr_matrix([[1, 0]]),
    ],
)
def test_masks_of_true_and_false_or_one_and_zero(value: Any) -> None:
    found = mask_array("masks", value, 2)
    assert found.dtype == bool and found.tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ([[1, -1]], ValueError, "masks hold -1 at mask 0, unit 1; they must be True and False"),
        ([[1, 2]], ValueError, "masks hold 2 at"),
        ([[0.5, 1]], ValueError, r"masks hold 0\.5 at"),
        ([[1.0, np.nan]], ValueError, "masks hold nan at"),
        ([["True", "False"]], TypeError, "masks holds 'True', a str"),
        (pd.DataFrame([[True, None]], dtype="boolean"), ValueError, "masks hold nan at"),
        ([1, 0], ValueError, r"masks have shape \(2,\); they need \[mask unit\] with 2 units"),
        ([[1, 0, 1]], ValueError, r"masks have shape \(1, 3\)"),
    ],
)
def test_what_is_no_mask_is_refused(value: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mask_array("masks", value, 2)
