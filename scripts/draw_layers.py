"""Draw the layers of the package, and the way of a mask through them, for docs/contributing.md.

python scripts/draw_layers.py          # writes docs/layers.svg
"""

from html import escape
from pathlib import Path

FILE = Path(__file__).parents[1] / "docs" / "layers.svg"

# From top to bottom, as tests/test_hygiene.py has them: names, what they are for, and which steps
# of the way of a mask are theirs.
ROWS: tuple[tuple[str, str, str], ...] = (
    ("cli", "commands", ""),
    ("sweep", "many models, tasks and ablations", ""),
    ("report", "a page of a result", ""),
    ("plots saved", "the numbers of a picture, then a thin drawing", ""),
    (
        "backups circuits distill planning testing",
        "backups; circuits; small models; what it will take; checks",
        "",
    ),
    ("discover", "the verbs: discover, measure, confirm", ""),
    ("runs", "store, workers, factories", "3"),
    ("driver", "the only loop: batches, cost, progress", "2 8"),
    ("games tasks", "a model, a text, training examples as games; prompts", "5"),
    ("models", "loading", ""),
    ("engine", "how a model answers: places, passes, replay, metrics", "6 7"),
    ("results proxies search", "what was measured; learners; which masks to ask for", "1 9 10"),
    ("game proxy", "the types Game and Proxy, from which one's own derive", "4"),
    ("calls", "how a user's function of masks is called", ""),
    ("fingerprints pairs setfunctions units", "hashes; largest pairs; Moebius; columns", ""),
    ("masks", "MaskBatch", ""),
    ("arrays", "numbers that users bring", ""),
    ("arguments notebook notices", "numbers, words, labels, paths; what notebooks show", ""),
)
WIDTH, HEIGHT, GAP, LEFT, TOP = 700, 30, 6, 12, 40
APART = {"search", "proxies", "results"}  # they know almost nothing of what stands below them


def drawing() -> str:
    height = TOP + len(ROWS) * (HEIGHT + GAP) + 44
    width = LEFT + WIDTH + 100
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        text(LEFT, 16, "Imports run downwards only.", bold=True),
        text(LEFT, 31, "Numbers: the way of a mask, as the page tells it.", colour="#555"),
    ]
    for row, (names, purpose, steps) in enumerate(ROWS):
        y = TOP + row * (HEIGHT + GAP)
        apart = bool(APART & {*names.split()})
        fill, edge = ("#fdf1e3", "#c8842e") if apart else ("#eaf1f8", "#5b7fa6")
        parts.append(
            f'<rect x="{LEFT}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="4" fill="{fill}" '
            f'stroke="{edge}"/>'
        )
        parts.append(text(LEFT + 10, y + 19, names.replace(" ", ", "), bold=True))
        parts.append(text(LEFT + 312, y + 19, purpose, colour="#333"))
        for place, step in enumerate(steps.split()):
            x = LEFT + WIDTH + 20 + 27 * place
            parts.append(f'<circle cx="{x}" cy="{y + 15}" r="11" fill="#b4451f"/>')
            parts.append(text(x, y + 19, step, colour="white", bold=True, middle=True))
    below = TOP + len(ROWS) * (HEIGHT + GAP) + 14
    known = (
        "search and proxies know proxy, pairs, masks, setfunctions, arguments; results units too:"
    )
    parts.append(text(LEFT, below, known, colour="#8a5a1c"))
    parts.append(text(LEFT, below + 16, "they can be tested, and replaced, without a model.",
                      colour="#8a5a1c"))  # fmt: skip
    return "\n".join([*parts, "</svg>"]) + "\n"


def text(
    x: int, y: int, words: str, colour: str = "black", bold: bool = False, middle: bool = False
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    anchor = ' text-anchor="middle"' if middle else ""
    return f'<text x="{x}" y="{y}" fill="{colour}"{weight}{anchor}>{escape(words)}</text>'


if __name__ == "__main__":
    FILE.write_text(drawing(), encoding="utf-8")
