"""What the page of models states (``stated.py``), from ``families.json``."""

from benchmarks.frame import Row
from benchmarks.stated import Rows, Stated, kept

PARTS = {
    "causal": "causal",
    "masked": "masked",
    "classifiers": "text classifiers",
    "images": "image classifiers",
    "towers": "other image models",
    "sounds": "speech encoders",
    "decoders": "encoder-decoders",
}
_MOST = 160  # letters of a reason


def families() -> Stated:
    rows = kept("families")
    built = Rows(row for row in rows if "not_built" not in row)
    mixtures = built.where(part="experts")
    built = Rows(row for row in built if row["part"] in PARTS)
    return {
        "families.experts": [
            [ended, ", ".join(row["type"] for row in mixtures if _ended(row, "experts") == ended)]
            for ended in ("right", "refused", "unused", "wrong")
            if any(_ended(row, "experts") == ended for row in mixtures)
        ],
        "families.summary": [_summary(part, rows, built) for part in PARTS],
        "families.right": [_right(part, built) for part in PARTS],
        "families.heads_alone": [
            [PARTS[row["part"]], row["type"], _why(row["neurons"]["why"])]
            for row in built
            if _ended(row, "heads") == "right" and _ended(row, "neurons") == "refused"
        ],
        "families.refused": [
            [PARTS[row["part"]], row["type"], _why(row["heads"]["why"])]
            for row in built
            if _ended(row, "heads") in ("refused", "part")
        ],
    }


def _ended(row: Row, of: str) -> str:
    return row.get(of, {}).get("ended", "")


def _summary(part: str, rows: Rows, built: Rows) -> list[str]:
    mine = built.where(part=part)

    def count(of: str, *ended: str) -> str:
        return str(sum(_ended(row, of) in ended for row in mine))

    heads = [count("heads", *ended) for ended in (("right",), ("part",), ("refused",))]
    wrong = [count(of, "wrong", "failed") for of in ("heads", "neurons")]
    tried = [str(len(rows.where(part=part))), str(len(mine))]
    return [PARTS[part], *tried, *heads, count("neurons", "right"), str(sum(map(int, wrong)))]


def _right(part: str, built: Rows) -> list[str]:
    def is_right(row: Row) -> bool:
        return _ended(row, "heads") == _ended(row, "neurons") == "right"

    return [PARTS[part], ", ".join(r["type"] for r in built.where(part=part) if is_right(r))]


def _why(text: str) -> str:
    """A reason without the class of its error and what it is a reason for."""
    own = text.split(": ", 1)[-1] if ": " in text else text
    for opening in ("the model has no heads: ", "the model has no neurons: "):
        own = own.removeprefix(opening)
    own = own.rpartition("that can be told apart: ")[2].replace("|", "/")
    for ending in ("; name the output projections", " (a state-space model"):
        own = own.split(ending, 1)[0]
    return own if len(own) <= _MOST else own[: _MOST - 4].rsplit(" ", 1)[0] + " ..."
