"""The figures that README and docs state, from ``benchmarks/results``.

    python -m benchmarks.figures              # write them all anew
    python -m benchmarks.figures --check      # exit 1 and say where a page states another number
    python -m benchmarks.figures --list       # every figure by name

A figure stands in a marked place::

    SPEX finds <!-- figure story.spex -->0.94<!-- /figure --> of them.

and a table between ``<!-- table story -->`` and ``<!-- /table -->``, each on a line of its own.
``benchmarks/stated.py`` says what a name stands for. Only marked places are written: the sentences
around them belong to whoever edits the page, and so does the head of a table. The check compares
numbers (0.9 is 0.90, and 3,600 is 3600), and words where there is no number. It also fails for a
figure of ``stated.py`` that is on no page, so that no mark is lost unnoticed.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path

from benchmarks.stated import Table, stated

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "benchmarks/README.md", "docs/*.md")
FIGURE = re.compile(r"<!-- figure (?P<name>\S+) -->(?P<text>.*?)<!-- /figure -->", re.S)
TABLE = re.compile(
    r"(?P<indent>[ ]*)<!-- table (?P<name>\S+) -->\n(?P<text>.*?)<!-- /table -->", re.S
)
AT_START = re.compile(r"^ *<!-- figure (\S+)", re.M)
OPENED = re.compile(r"<!-- (?:figure|table) \S* ?-->")
NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[+-]?\d+)?")

Known = Mapping[str, "str | Table"]


def pages(root: Path = ROOT) -> list[Path]:
    return [path for name in PAGES for path in sorted(root.glob(name))]


def numbers(text: str) -> list[float]:
    """The numbers of a text in order: "0.46 to 1,030" has two."""
    return [float(found.replace(",", "")) for found in NUMBER.findall(text)]


def agree(written: str, computed: str) -> bool:
    """Whether both have the same numbers; where there are none, the same words."""
    mine, theirs = numbers(written), numbers(computed)
    return mine == theirs if theirs or mine else words(written) == words(computed)


def words(text: str) -> str:
    return " ".join(text.split())


def cells_of(table: str) -> list[list[str]]:
    """The cells of each line of a Markdown table, its head and rule left out."""
    lines = [line.strip() for line in table.splitlines() if line.strip()]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def in_table(written: str, rows: Table) -> Iterator[tuple[str, str]]:
    """What a written table states otherwise, and what it should: cell by cell; in the first column
    words count as well."""
    stands = cells_of(written)
    if len(stands) != len(rows):
        yield f"{len(stands)} rows", f"{len(rows)} rows"
        return
    for mine, theirs in zip(stands, rows, strict=True):
        if len(mine) != len(theirs) or mine[0] != theirs[0]:
            yield " | ".join(mine), " | ".join(theirs)
            continue
        for a, b in zip(mine[1:], theirs[1:], strict=True):
            if not agree(a, b):
                yield f"{a} ({mine[0]})", b


def differences(text: str, known: Known) -> Iterator[tuple[int, str, str, str]]:
    """Line, name, what is written there and what is known, of each place where they disagree."""
    for place in (*FIGURE.finditer(text), *TABLE.finditer(text)):
        line, name, value = text.count("\n", 0, place.start()) + 1, place["name"], None
        value, is_table = known.get(name), place.re is TABLE
        if value is None or isinstance(value, str) is is_table:
            close = ", ".join(get_close_matches(name, known)) or "see --list"
            kind = "table" if is_table else "figure"
            yield line, name, words(place["text"])[:40], f"no {kind} of that name ({close})"
        elif isinstance(value, str):
            if not agree(place["text"], value):
                yield line, name, words(place["text"]), value
        else:
            for written, computed in in_table(place["text"], value):
                yield line, name, written, computed
    for place in AT_START.finditer(text):  # there Markdown takes the line for HTML
        line = text.count("\n", 0, place.start()) + 1
        yield line, place[1], "a mark at the start of a line", "put a word before it"
    closed = sum(1 for mark in (FIGURE, TABLE) for _ in mark.finditer(text))
    opened = len(OPENED.findall(text))
    if opened != closed:
        yield 1, "marks", f"{opened} opened", f"{closed} well closed"


def check(root: Path, known: Known) -> list[str]:
    """Where pages and results disagree, a line for each."""
    found, placed = [], set()
    for path in pages(root):
        text = path.read_text(encoding="utf-8")
        placed |= {place["name"] for mark in (FIGURE, TABLE) for place in mark.finditer(text)}
        for line, name, written, computed in differences(text, known):
            where = f"{path.relative_to(root)}:{line}"
            found.append(f"{where}: {name}: the page has {written}, the results {computed}")
    for name in sorted(set(known) - placed):
        found.append(f"{name}: on no page; mark its place or take it out of benchmarks/stated.py")
    return found


def written(text: str, known: Known) -> str:
    """A page with every marked place as the results have it."""

    def figure(place: re.Match[str]) -> str:
        value = known.get(place["name"])
        if not isinstance(value, str) or agree(place["text"], value):
            return place[0]
        return f"<!-- figure {place['name']} -->{value}<!-- /figure -->"

    def table(place: re.Match[str]) -> str:
        rows, indent = known.get(place["name"]), place["indent"]
        if rows is None or isinstance(rows, str):
            return place[0]
        head = [line for line in place["text"].splitlines() if line.strip()][:2]
        width = len(rows[0]) if rows else 0
        if len(head) < 2 or head[0].strip().strip("|").count("|") != width - 1:
            head = [f"{indent}|{'  |' * width}", f"{indent}|{'---|' * width}"]
        lines = [*head, *(f"{indent}| {' | '.join(row)} |" for row in rows)]
        body = "\n".join(lines)
        opened, closed = f"<!-- table {place['name']} -->", "<!-- /table -->"
        return f"{indent}{opened}\n\n{body}\n\n{indent}{closed}"

    return TABLE.sub(table, FIGURE.sub(figure, text))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare and write nothing")
    parser.add_argument("--list", action="store_true", help="every figure by name")
    parsed, known = parser.parse_args(), stated()
    if parsed.list:
        for name, value in sorted(known.items()):
            print(f"{name}: {value if isinstance(value, str) else f'{len(value)} rows'}")
        return 0
    if not parsed.check:
        for path in pages():
            text = path.read_text(encoding="utf-8")
            path.write_text(written(text, known), encoding="utf-8")
    problems = check(ROOT, known)
    print(*problems, sep="\n", file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    raise SystemExit(main())
