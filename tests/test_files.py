"""Files of results: whole or refused in one sentence, and nothing that was there is lost."""

import json
import pickle
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

import spex_mech as sm
from spex_mech.game import as_game
from spex_mech.results.files import write_whole
from spex_mech.results.interactions import to_bytes
from spex_mech.runs.contents import export


def result(n: int = 4) -> sm.Interactions:
    weights = np.arange(1.0, n + 1)
    return sm.discover(
        lambda m: np.asarray(m, dtype=float).prod(1) + m.double().numpy() @ weights,
        "exhaustive", n=n, progress=False,
    )  # fmt: skip


def fields(found: sm.Interactions) -> list[Any]:
    arrays = (found.units, found.values, found.main_effects_by_prompt, found.intact_by_prompt)
    return [found.labels, found.noise_floor, found.about, *(array.tolist() for array in arrays)]


def test_a_changed_byte_or_a_missing_end_is_seen(tmp_path: Path) -> None:
    """What reads at all reads as it was."""
    found = result()
    data, rng = to_bytes(found), np.random.default_rng(0)
    path, want = tmp_path / "found.npz", fields(found)
    seen = 0
    for at in range(0, len(data), 5):
        changed = bytearray(data)
        changed[at] ^= 1 << int(rng.integers(8))
        for content in (bytes(changed), data[:at]):
            path.write_bytes(content)
            try:
                assert fields(sm.Interactions.load(path)) == want
            except ValueError as error:
                assert str(error).startswith(f"{path} is not a spex_mech result (npz)")
                assert "trust" not in str(error)
                seen += 1
    assert seen > len(data) / 5


class Evil:
    """Unpickling it would leave a mark."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return (open, ("/tmp/spex_mech_was_unpickled", "w"))


def rewritten(path: Path, **changed: Any) -> None:
    with np.load(path) as file:
        held = dict(file)
    about = json.loads(held["about"].tobytes())
    about |= {name: value for name, value in changed.items() if name in about}
    held |= {name: value for name, value in changed.items() if name not in about}
    held["about"] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    np.savez(path, **{name: value for name, value in held.items() if value is not None})


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"format": 99}, "was written by a newer spex_mech; upgrade to read it"),
        ({"format": "x"}, "says nothing of its format"),
        ({"labels": ["a", "b", "c"]}, "shapes of 3 units that do not fit"),
        ({"labels": ["a", "a", "b", "c"]}, "two units are called 'a'"),
        ({"units": np.full((6, 2), 7)}, "a unit beyond the 4"),
        ({"units": np.zeros((6, 2))}, "other types than numbers"),
        ({"values": np.zeros((5, 1))}, "shapes of 4 units that do not fit"),
        ({"values": np.zeros((6, 1), dtype="M8[s]")}, "other types than numbers"),
        ({"values": np.array([[Evil()]] * 6)}, "Object arrays cannot be loaded"),
        ({"intact_by_prompt": None}, "intact_by_prompt"),
        ({"unit_table": {}}, "KeyError"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    changed: dict[str, Any], text: str, tmp_path: Path
) -> None:
    path = result().save(tmp_path / "found.npz")
    rewritten(path, **changed)
    with pytest.raises(ValueError, match=f"found.npz (is not|was written).*{text}|{text}"):
        sm.Interactions.load(path)
    assert not Path("/tmp/spex_mech_was_unpickled").exists()


def test_another_kind_of_file_is_named(tmp_path: Path) -> None:
    for name, content in {
        "empty.npz": b"", "page.html": b"<html>", "table.csv": b"a,b\n1,2\n",
        "pickle.npz": pickle.dumps(Evil()), "circuit.json": b'{"kind": "spex_mech circuit"}',
    }.items():  # fmt: skip
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=rf"{name} is not a spex_mech result \(npz\): it (is|b)"
        ):
            sm.Interactions.load(path)
        with pytest.raises(ValueError, match=f"{name} is not a spex_mech circuit"):
            sm.Circuit.load(path)
    np.savez(tmp_path / "x.npz", x=np.zeros(3), y=np.zeros(3))
    with pytest.raises(ValueError, match=r"x.npz is not .* \(it holds x, y, and no result\)"):
        sm.Interactions.load(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as file:
        file.writestr("about.npy", "no array")
    with pytest.raises(ValueError, match=r"z.npz is not a spex_mech result"):
        sm.Interactions.load(tmp_path / "z.npz")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nosuch.npz"):
        sm.Interactions.load(tmp_path / "nosuch.npz")
    with pytest.raises(ValueError, match=r"is a folder; give a file in it"):
        sm.Interactions.load(tmp_path)
    assert not Path("/tmp/spex_mech_was_unpickled").exists()


def test_what_was_there_stays_where_nothing_can_be_written(tmp_path: Path) -> None:
    found = result()
    path = found.save(tmp_path / "found.npz")
    before = path.read_bytes()

    def fails(file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"found.npz cannot be written: No space left.*before stays"):
        write_whole(path, fails)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["found.npz"]
    for place in (path / "inside" / "x.npz", Path("/proc/nothing/x.npz")):
        for write in (
            found.save, lambda place: sm.write_report(found, place), sm.plot_text(found).save,
        ):  # fmt: skip
            with pytest.raises(OSError, match=r"x.npz cannot be written: .*; what was there"):
                write(place)
    assert path.read_bytes() == before


def test_a_file_of_another_kind_is_not_replaced(tmp_path: Path) -> None:
    """A store, a result and a circuit took evaluations; what else is there may be replaced."""
    found = result()
    game = as_game(lambda m: m.double().prod(1), 4)
    circuit = sm.find_circuit(game, sm.discover(game, progress=False), progress=False)
    store = tmp_path / "run.sqlite"
    sm.discover(lambda m: m.double().prod(1), n=4, store=store, progress=False)
    export(store, tmp_path / "masks.npz")
    circuit.save(tmp_path / "circuit.json")
    found.save(tmp_path / "found.npz")
    writers: dict[str, Callable[[Path], object]] = {
        "run.sqlite": lambda path: None, "masks.npz": lambda path: export(store, path),
        "found.npz": found.save, "circuit.json": circuit.save,
        "": lambda path: sm.write_report(found, path), "2": sm.plot_text(found).save,
        "3": sm.plot_examples(found).save, "4": circuit.save_graphml,
    }  # fmt: skip
    kinds = {
        "run.sqlite": "is a store of evaluations", "found.npz": "is a result that was saved",
        "masks.npz": "is an .npz that is no result", "circuit.json": "is a circuit that was saved",
    }  # fmt: skip
    for name, kind in kinds.items():
        path = tmp_path / name
        before = path.read_bytes()
        for own, write in writers.items():
            if own == name:
                write(path)  # of its own kind it is replaced
                before = path.read_bytes()
                continue
            if own == "run.sqlite":
                continue
            with pytest.raises(ValueError, match=f"{name} {kind}, which this would replace"):
                write(path)
            assert path.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == set(kinds)
    (tmp_path / "notes.txt").write_text("mine")
    assert sm.write_report(found, tmp_path / "notes.txt").stat().st_size > 1000


def test_a_link_stays_one(tmp_path: Path) -> None:
    found, link = result(), tmp_path / "link.npz"
    link.symlink_to(tmp_path / "elsewhere" / "found.npz")
    assert found.save(link) == link and link.is_symlink()
    assert sm.Interactions.load(tmp_path / "elsewhere" / "found.npz").labels == found.labels


def test_threads_that_save_one_path_do_not_disturb_one_another(tmp_path: Path) -> None:
    """They once wrote into one file beside it, which the first then took away."""
    path, both = tmp_path / "run.npz", Barrier(2)

    def write(number: int) -> Callable[[Any], None]:
        def begin(file: Any) -> None:
            file.write(bytes([number]) * 1000)
            both.wait(30)  # until the other one has begun too
            file.write(bytes([number]) * 1000)

        return begin

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda number: write_whole(path, write(number)), (1, 2)))
    assert path.read_bytes() in (b"\1" * 2000, b"\2" * 2000)
    assert [*tmp_path.iterdir()] == [path]


def test_a_folder_that_is_gone_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "found.npz"
    result().save(path)
    path.unlink()
    path.parent.rmdir()
    assert sm.Interactions.load(result().save(path)).value("0", "1") == 1


def test_a_result_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """Values in float32, and labels with a line break."""
    found = result()
    path = found.save(tmp_path / "old.npz")
    columns = found.unit_table.as_columns()
    rewritten(
        path, values=found.values.astype(np.float32), labels=["a\nb", "1", "2", "3"],
        unit_table=columns, q_value=None,
    )  # fmt: skip
    old = sm.Interactions.load(path)
    assert old.values.dtype == np.float32 and old.labels[0] == r"a\nb"
    assert old.mean.tolist() == found.mean.tolist()
