"""The greater-than task: which end years are later than the start year (Hanna et al. 2023)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from spex_mech.tasks.rows import Row

_EVENTS = "war siege trip journey contract plan project treaty study quest".split()
_NO_YEARS = (
    "greater_than needs a tokenizer that writes a year as two tokens of two digits (as GPT-2's "
    "does) or as four tokens of one digit (as SmolLM2's does); this one does not"
)


@dataclass(frozen=True)
class YearTokens:
    """How a tokenizer writes the last two digits of a year, and which next tokens are later ones.

    Args:
        ids: the token of each number 00 to 99, or of each digit 0 to 9.
    """

    ids: tuple[int, ...]

    @staticmethod
    def of(tokenizer: Any) -> "YearTokens":
        """The tokens are taken by themselves: behind a century some would merge with it, though the
        model still answers with them.

        Raises:
            ValueError: the tokenizer writes numbers in another way.
        """
        encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
        two = [encode(f"{number:02d}") for number in range(100)]
        if all(len(ids) == 1 for ids in two):
            return YearTokens(tuple(ids[0] for ids in two))
        one = [encode(str(digit)) for digit in range(10)]
        if all(len(ids) == 1 for ids in one) and two[42] == [*one[4], *one[2]]:
            return YearTokens(tuple(ids[0] for ids in one))
        split = next(number for number in range(100) if len(two[number]) != 1)
        raise ValueError(f"{_NO_YEARS}: {split:02d} is {len(two[split])} tokens")

    @property
    def by_digit(self) -> bool:
        """A token is one digit: the model says the tens, and equal tens are neither right nor
        wrong."""
        return len(self.ids) == 10

    def written(self, year: int) -> list[int]:
        """The tokens of a year's last two digits."""
        return [self.ids[d] for d in divmod(year, 10)] if self.by_digit else [self.ids[year]]

    def row(self, clean: str, corrupted: str, year: int, place: str = "") -> Row | None:
        """A prompt that ends with the century, for the start year ``year``; None where no next
        token is later, or none is earlier."""
        if self.by_digit:
            right, wrong = self.ids[year // 10 + 1 :], self.ids[: year // 10]
        else:
            right, wrong = self.ids[year + 1 :], self.ids[: year + 1]
        if not right or not wrong:
            return None
        return Row(clean, corrupted, right, wrong, "prob_diff", place)


def greater_than_rows(tokenizer: Any, rng: np.random.Generator) -> Iterator[Row]:
    """Prompts without end (Hanna et al. 2023, section 2); the corrupted start year is 01."""
    tokens = YearTokens.of(tokenizer)
    encode: Callable[[str], list[int]] = lambda text: tokenizer(text)["input_ids"]  # noqa: E731
    # Years that are one token (" 1700" in GPT-2) are left out, as in the paper.
    years = [
        (century, year)
        for century, year in product(range(11, 18), range(2, 99))
        if encode(f"year {century}{year:02d}")
        == [*encode(f"year {century}"), *tokens.written(year)]
        and tokens.row("", "", year) is not None
    ]
    if not years:
        raise ValueError(f"{_NO_YEARS}: it writes 1732 as {tokenizer.tokenize('year 1732')[1:]}")
    while True:
        century, year = years[int(rng.integers(len(years)))]
        start = f"The {rng.choice(_EVENTS)} lasted from the year"
        clean = f"{start} {century}{year:02d} to the year {century}"
        row = tokens.row(clean, f"{start} {century}01 to the year {century}", year)
        assert row is not None
        yield row
