"""All benchmarks, one after the other: tables, JSON with where each figure comes from, pictures.

    pip install 'spex_mech[benchmarks]'                          # the rivals
    python -m benchmarks --quick --data ../shared/data           # some forty minutes on two cores
    python -m benchmarks --data ../shared/data                   # all of it, some four hours
    python -m benchmarks --only recovery --only circuits ...     # some of them

``--data`` is a folder of models that is not part of the project; without it what needs it is left
out, which the summary says. Each benchmark runs in a process of its own, so that one that fails
does not end the others. The quick mode writes to ``out/benchmarks``, the full one over the kept
``benchmarks/results`` and ``benchmarks/pictures``; ``summary.json`` says how each ended.
"""

import json
import subprocess
import sys

from benchmarks.frame import HERE, Options, Row, options_of, provenance, timed

# In order of what one would look at first. What it measures: the module's first lines say.
NAMES = (
    "smollm2", "smollm2_heads", "smollm2_units", "smollm2_more", "smollm2_backups", "smollm2_text",
    "recovery", "recovery_ioi",
    "circuits", "pruning", "robustness", "growth", "lenses", "throughput", "cluster", "store_size",
    "ioi_maps", "families", "statistics", "sensitivity",
)  # fmt: skip


def run_one(name: str, options: Options, time_limit: float) -> Row:
    """One benchmark in a process of its own: how it ended, and how long it took."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--out", str(options.out)]
    command += ["--data", str(options.data)] if options.data else []
    command += ["--quick"] if options.quick else []

    def ended() -> str:
        try:
            code = subprocess.run(command, cwd=HERE.parent, timeout=time_limit).returncode
        except subprocess.TimeoutExpired:
            return f"stopped after {time_limit:.0f} s; what it had measured is kept"
        return "done" if code == 0 else f"failed (exit {code})"

    print(f"\n== {name}", flush=True)
    how, seconds = timed(ended)
    return {"name": name, "ended": how, "seconds": round(seconds, 1)}


def main() -> int:
    options, rows = options_of(__doc__, NAMES), []
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only or NAMES:
        rows.append(run_one(name, options, 900.0 if options.quick else 3 * 3600.0))
        out = {**provenance(), "quick": options.quick, "data": options.data is not None}
        text = json.dumps({**out, "benchmarks": rows}, indent=1)
        (options.out / "summary.json").write_text(text + "\n", encoding="utf-8")
    print("\nbenchmark        seconds  ended")
    for row in rows:
        print(f"{row['name']:<16} {row['seconds']:>7.0f}  {row['ended']}")
    if options.data is None:
        print("without --data, what needs the folder of models was left out")
    print(f"results and pictures: {options.out}")
    return int(any(row["ended"] != "done" for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
