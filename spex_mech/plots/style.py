"""The colours and lines of every picture. Each colour has one meaning, whatever is drawn.

- red, solid: the damage of the units overlaps. The interaction is positive, or negative where less
  of the metric is better;
- blue, dashed: the damage of the units compounds;
- green: a unit that helps the metric, purple: a unit that hurts it;
- pale: a value that is not significant, or that lies under the noise floor;
- grey: what was not measured.

The signs differ without colour as well, for readers who cannot tell the colours apart.
"""

RED, BLUE = "#b2182b", "#2166ac"
GREEN, PURPLE = "#1b7837", "#762a83"
UNMEASURED = "#cccccc"  # in a map of colours
UNMEASURED_IN_GREYS = "#dce6f2"  # in a map whose own colours are greys
PALE_OPACITY = 0.3  # of what is not significant
MINUS = "\N{MINUS SIGN}"


def colour_of(overlaps: bool) -> str:
    """The colour of an interaction, by whether the damage of its units overlaps or compounds."""
    return RED if overlaps else BLUE


def sign_of(value: float) -> str:
    """The sign that is drawn on an interaction."""
    return "+" if value > 0 else MINUS


def main_colour(helps: bool) -> str:
    """The colour of a unit, by whether it helps the metric or hurts it."""
    return GREEN if helps else PURPLE


def rgb(colour: str) -> tuple[int, int, int]:
    """The three parts of a colour such as ``#b2182b``, each from 0 to 255."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return red, green, blue
