"""All 630 pairs of the 3M story model's 36 heads on indirect object identification, by mean
ablation: maps of heads and layers, and the network of the strongest pairs.

    python -m benchmarks.ioi_maps --data ../shared/data
"""

from collections.abc import Iterator

import spex_mech as sm
from benchmarks.frame import Options, Row, script
from benchmarks.games import prompts


def maps(options: Options) -> Iterator[Row]:
    model = sm.load_model(options.models / "stories3m")
    task, _ = prompts(options.models, model, "ioi", 64).split(32)
    found = sm.discover(sm.ModelGame(model, task), method="exhaustive", progress=False)
    figures = {by: sm.plot_map(found, by=by) for by in ("unit", "layer")}
    for name, figure in {**figures, "network": sm.plot_network(found, k=20)}.items():
        figure.savefig(options.picture(f"ioi_stories3m_mean_{name}.png"), dpi=110)
    top = found.top(10)
    for pair, value, error in zip(top.names, top.mean, top.stderr, strict=True):
        yield {"pair": " x ".join(pair), "value": value, "stderr": error}


if __name__ == "__main__":
    script(__doc__, "ioi_maps", {"maps": maps})
