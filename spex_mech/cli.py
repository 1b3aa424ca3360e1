"""The command line: ``spex-mech demo | discover | confirm | circuit | report | sweep | store |
status | models | tasks``.

Bad input ends with exit code 2 and one line that names the value and the cure. Nothing heavy is
imported before a command runs, so that ``--help`` answers at once.
"""

import argparse
import atexit
import gc
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from spex_mech.runs.errors import Interruption, WorkerError

# The functions' own defaults, repeated here because importing them would load torch; a test holds
# the two together.
DEFAULTS: dict[str, Any] = {
    "method": "spex",
    "budget": None,
    "order": 2,
    "seed": 0,
    "n_prompts": None,
    "ablation": "mean",
    "precision": "float32",
    "batch_size": None,
}


def say(text: object = "") -> None:
    """Print, whatever becomes of it: a closed pipe, a full disk under the output or a terminal that
    lacks a character must not cost a result."""
    try:
        print(text, flush=True)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "ascii"
        print(str(text).encode(encoding, "replace").decode(encoding), flush=True)
    except BrokenPipeError:  # whoever read has read enough
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    except OSError as error:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
        print(f"spex-mech: nothing more can be printed: {error}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    words = sys.argv[1:] if arguments is None else [*arguments]
    if arguments is None:  # the process ends with it: torch's objects are not searched for cycles
        atexit.register(gc.freeze)
    parser = _parser()
    if words == ["discover"]:  # it needs no argument, and whoever gives none asks what there is
        words = ["discover", "--help"]
    options = parser.parse_args(words, argparse.Namespace(words=words))
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        with _terminated(), _warnings_in_a_line():
            command(options)
    except (ValueError, OSError, ImportError, WorkerError) as error:
        print(f"spex-mech: {' '.join(_told(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        _say_interrupted(Interruption.of(stop), options)
        return 130
    except _Terminated as stop:
        for note in getattr(stop, "__notes__", ()):
            print(f"spex-mech: {note}", file=sys.stderr)
        print("spex-mech: terminated", file=sys.stderr)
        return 143
    return 0


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """Warnings as the errors are: without a file and a line of code."""

    def show(message: Any, category: type, *_: Any, **__: Any) -> None:
        print(f"spex-mech: warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _told(error: Exception) -> str:
    """An error's text; of the system's own errors without their number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _say_interrupted(left: Interruption | None, options: argparse.Namespace) -> None:
    """What an interrupted search has left, and the command that goes on."""
    told = "interrupted" if left is None else f"{left.count}; {left.kept}"
    print(f"spex-mech: {told}", file=sys.stderr)
    if left is None or left.path is None:
        return
    words = ["spex-mech", *options.words]
    if options.command is _discover and options.store is None:
        words += ["--store", str(left.path)]
    if options.command in (_discover, _sweep):
        print(f"go on with: {shlex.join(words)}", file=sys.stderr)


class _Terminated(BaseException):
    """SIGTERM came: what Slurm, Docker and timeout send."""


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM ends a command as an interrupt does: workers are ended and files closed."""

    def terminate(*_: object) -> NoReturn:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Parser(argparse.ArgumentParser):
    def __init__(self, *arguments: Any, **given: Any) -> None:
        # Whole names only: --te would be --text for one lens, and unknown to what checks lenses.
        super().__init__(*arguments, **(given | {"allow_abbrev": False}))

    def error(self, message: str) -> NoReturn:
        """One line, without the usage: --help has it."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _path(text: str) -> Path:
    """A path of the command line, with ``~`` as the home folder also in ``--out=~/results``."""
    from spex_mech.arguments import path_of

    try:
        return path_of("the path", text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="spex-mech", description="Find which parts of a neural network interact.")
    parser.add_argument("--version", action="version", version=f"spex-mech {version('spex_mech')}")
    commands = parser.add_subparsers(required=True, metavar="command")
    adders = (_add_demo, _add_discover, _add_confirm, _add_circuit, _add_sweep, _add_status)
    for add in (*adders, _add_report):
        add(commands)
    models = commands.add_parser("models", help="what --model takes")
    models.add_argument(
        "--check",
        metavar="MODEL",
        help="what is found in this one: heads, neurons, where and how it is known",
    )
    models.set_defaults(command=_models)
    commands.add_parser("tasks", help="what --task takes").set_defaults(command=_tasks)
    return parser


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo", help="find the pair of heads that makes induction, or search a real language model"
    )
    demo.add_argument(
        "--model",
        default="demo",
        choices=["demo", "smollm2"],
        help="smollm2: all heads and neurons of SmolLM2-135M, some minutes on a CPU",
    )
    demo.add_argument("--out", type=_path, help="folder for the results; default: out/MODEL")
    demo.set_defaults(command=_demo, title=None)


_BRIDGE = "load it as a TransformerBridge"
_PRECISION = "float32 (the model's own types; the default), tf32 or bfloat16, for GPUs"
_METRIC = (
    "instead of the task's: logit_diff, prob_diff, log_prob, loss, kl, or module:function, such as "
    "folder/mine.py:margin"
)


def _add_discover(commands: Any) -> None:
    discover = commands.add_parser("discover", help="measure the interactions of a model on a task")
    discover.add_argument("--model", default="demo", help="bundled name, local folder or hub name")
    discover.add_argument("--bridge", action="store_true", help=_BRIDGE)
    discover.add_argument("--lens", default="model", choices=["model", "tokens", "data"])
    _add_lenses(discover)
    discover.add_argument("--task", default="induction", help="a task, or a .csv/.json prompt file")
    discover.add_argument("--file", help="the text file of the task 'text'")
    discover.add_argument("--metric", help=_METRIC)
    discover.add_argument(
        "--n-prompts",
        type=int,
        default=DEFAULTS["n_prompts"],
        help="default: 64, and of a file all rows",
    )
    discover.add_argument(
        "--units",
        default="heads",
        help="heads, neurons, heads+neurons, kv_groups, experts, or labels and patterns: L1H*,"
        "L0N17; of --lens tokens: tokens, words or sentences",
    )
    discover.add_argument("--layers", help="of the units only those of these layers: 0-3 or 0,5,7")
    discover.add_argument(
        "--ablation",
        default=DEFAULTS["ablation"],
        help="mean, zero, mean_per_position or resample",
    )
    discover.add_argument(
        "--method", default=DEFAULTS["method"], help="spex, proxyspex or exhaustive"
    )
    discover.add_argument("--proxy", help="of proxyspex: distilled (default) or trees")
    discover.add_argument(
        "--gradients",
        action=argparse.BooleanOptionalAction,
        help="use the model's gradients, or do without; default: use them where there are any",
    )
    discover.add_argument("--budget", type=int, default=DEFAULTS["budget"], help="evaluations")
    discover.add_argument("--order", type=int, default=DEFAULTS["order"])
    discover.add_argument("--seed", type=int, default=DEFAULTS["seed"])
    discover.add_argument("--precision", default=DEFAULTS["precision"], help=_PRECISION)
    discover.add_argument("--batch-size", type=int, default=DEFAULTS["batch_size"], help="rows")
    discover.add_argument("--store", type=_path, help="keep every evaluation, and go on from there")
    discover.add_argument(
        "--masks-per-batch",
        type=int,
        help="masks that are asked, and kept, at a time; default: with --store from one upwards",
    )
    discover.add_argument("--workers", type=int, help="processes, one per GPU or CPU core")
    discover.add_argument("--address", help="of a Ray cluster ('auto': this machine's)")
    discover.add_argument("--timeout", type=float, help="seconds that a worker's evaluation takes")
    discover.add_argument("--out", type=_path, default=Path("out/discover"))
    discover.add_argument("--title", help="of the report; default: model and task")
    dry = "say what the search would ask, its time and memory, and stop: a few masks are timed"
    discover.add_argument("--dry-run", action="store_true", help=dry)
    discover.set_defaults(command=_discover)


def _add_confirm(commands: Any) -> None:
    confirm = commands.add_parser(
        "confirm", help="measure the strongest pairs of a result again on other prompts"
    )
    _add_result(confirm, "out/confirm")
    confirm.add_argument("-k", type=int, default=20, help="how many of the strongest; default: 20")
    confirm.set_defaults(command=_confirm, title=None)


def _add_circuit(commands: Any) -> None:
    circuit = commands.add_parser(
        "circuit", help="the units that do a task alone, scored on other prompts"
    )
    _add_result(circuit, "out/circuit")
    circuit.add_argument(
        "--held-out", help="a file of other prompts to score on; default: others of the task"
    )
    circuit.add_argument("--faithfulness", type=float, help="of the smallest circuit; default: 0.9")
    circuit.add_argument("--size", type=int, help="instead: the best circuit of so many units")
    circuit.add_argument("--budget", type=int, help="evaluations; default: some 20 per unit")
    circuit.set_defaults(command=_circuit)


def _add_result(parser: argparse.ArgumentParser, out: str) -> None:
    """A saved result, and the game of other prompts that goes with it."""
    parser.add_argument("result", type=_path, help="an interactions.npz")
    parser.add_argument("--model", help="default: that of the result")
    parser.add_argument("--bridge", action="store_true", help=_BRIDGE)
    parser.add_argument("--task", help="default: that of the result; or a file of prompts")
    parser.add_argument("--file", help="the text file of the task 'text'")
    parser.add_argument("--metric", help=_METRIC)
    parser.add_argument("--n-prompts", type=int, help="default: as many as the result has")
    parser.add_argument("--seed", type=int, help="of the other prompts; default: another one")
    parser.add_argument("--ablation", help="default: that of the result")
    parser.add_argument("--batch-size", type=int, help="rows")
    parser.add_argument("--store", type=_path, help="keep every evaluation, and go on from there")
    parser.add_argument("--out", type=_path, default=Path(out))


def _add_lenses(discover: argparse.ArgumentParser) -> None:
    """What only one lens reads."""
    discover.add_argument("--text", help="of --lens tokens: the text whose tokens are the units")
    discover.add_argument("--answer", help="of --lens tokens: the word that follows, or the class")
    discover.add_argument("--continuation", help="of --lens tokens: all that follows, scored")
    discover.add_argument(
        "--masking", help="of --lens tokens: token, attention, delete, mean or zero"
    )
    discover.add_argument("--student", help="of --lens tokens: a smaller model, to screen pairs on")
    discover.add_argument(
        "--examples",
        type=_path,
        help="of --lens data: an .npz with x, y, x_test, y_test (and texts), or masks and values",
    )
    discover.add_argument(
        "--learner", default="ridge", help="of --lens data: ridge or logistic (y of 0 and 1)"
    )
    discover.add_argument("--penalty", type=float, default=1.0, help="of --learner")


def _add_sweep(commands: Any) -> None:
    sweep = commands.add_parser("sweep", help="models x tasks x units x ablations x methods")
    sweep.add_argument("config", nargs="?", type=_path, help="a TOML file; or give the lists here")
    for axis in ("models", "tasks", "units", "ablations", "methods"):
        sweep.add_argument(f"--{axis}", nargs="+", help="a list")
    for name in ("n-prompts", "seed", "budget", "order", "batch-size"):
        sweep.add_argument(f"--{name}", type=int, help="of every cell")
    sweep.add_argument("--file", help="the text file of the task 'text'")
    sweep.add_argument("--metric", help=_METRIC)
    sweep.add_argument("--precision", help=_PRECISION)
    sweep.add_argument("--bridge", action="store_true", default=None, help=_BRIDGE)
    sweep.add_argument("--workers", type=int, help="processes, one per GPU or CPU core")
    sweep.add_argument("--address", help="of a Ray cluster ('auto': this machine's)")
    sweep.add_argument("--masks-per-batch", type=int, help="masks that are kept at a time")
    sweep.add_argument("--timeout", type=float, help="seconds that a worker's evaluation takes")
    sweep.add_argument("--fresh", action="store_true", help="all anew; default: go on")
    sweep.add_argument("--out", type=_path, default=Path("out/sweep"))
    sweep.set_defaults(command=_sweep)


def _add_status(commands: Any) -> None:
    store = commands.add_parser("store", help="what the file of discover --store holds")
    store.add_argument("file", type=_path)
    store.add_argument("--export", type=_path, help="write its masks and values to this .npz")
    store.set_defaults(command=_store)

    status = commands.add_parser("status", help="what of a sweep is done, running and failed")
    status.add_argument("folder", type=_path)
    status.set_defaults(command=_status)


def _add_report(commands: Any) -> None:
    report = commands.add_parser("report", help="write a saved result as a web page")
    report.add_argument("result", type=_path, help="an interactions.npz")
    report.add_argument(
        "beside", nargs="?", type=_path, help="another one, to show beside it: a model, an ablation"
    )
    report.add_argument(
        "--out",
        type=_path,
        help="the page; default: report.html beside it, or report-2.html where there is another",
    )
    report.add_argument("--circuit", type=_path, help="a circuit.json to show in it")
    report.add_argument("--title", help="default: model and task")
    report.set_defaults(command=_report)


def _demo(options: argparse.Namespace) -> None:
    import spex_mech as sm
    from spex_mech.report.folder import check_folder

    options.out = options.out or Path("out") / options.model
    check_folder(options.out)
    if options.model == "smollm2":
        _demo_smollm2(options)
        return
    model = sm.load_model("demo")
    task = sm.load_task("induction", model)
    game = sm.ModelGame(model, task)
    found = sm.discover(game)
    again = sm.confirm(found, sm.ModelGame(model, sm.load_task("induction", model, seed=1)), k=1)
    files = _write(found, options, task)
    a, b = (found.labels[u] for u in found.top(1).units[0])
    say(found)
    say(
        f"\n{a} and {b} make induction: each alone costs "
        f"{found.main_effect(a):+.2f} and {found.main_effect(b):+.2f} nats, "
        f"and the damage overlaps by {found.value(a, b):+.2f}: they work in series."
    )
    say(f"On 64 other prompts: {again.mean[0]:+.2f} +- {again.stderr[0]:.2f}.\n\n{files}")


# Of the demo on SmolLM2: what takes a few minutes on two CPU cores.
_SMOLLM2_PROMPTS, _SMOLLM2_BUDGET, _SMOLLM2_CONFIRMED = 8, 1200, 20


def _demo_smollm2(options: argparse.Namespace) -> None:
    """Indirect object identification: all heads and neurons are searched on some prompts, and the
    strongest pairs are measured again on others."""
    import spex_mech as sm

    model = sm.load_model("smollm2")
    task = sm.load_task("ioi", model, 3 * _SMOLLM2_PROMPTS)
    searched, fresh = task.split(_SMOLLM2_PROMPTS)
    units = sm.Components.heads(model) + sm.Components.neurons(model)
    n_pairs = len(units) * (len(units) - 1) // 2
    say(f"SmolLM2-135M: {len(units):,} heads and neurons, {n_pairs:,} pairs")
    game = sm.ModelGame(model, searched, units)
    say(f"Indirect object identification. {game.accuracy}")
    found = sm.discover(game, budget=_SMOLLM2_BUDGET)
    _write(found, options, searched)  # what comes next must not cost what was measured
    best = found.top(_SMOLLM2_CONFIRMED)
    names = dict.fromkeys(name for pair in best.names for name in pair)
    again = sm.confirm(best, sm.ModelGame(model, fresh, units[tuple(names)]), k=len(best))
    files = _write(found.confirmed_by(again), options, searched)
    again.save(options.out / "confirmed.npz")
    sm.plot_network(again).savefig(options.out / "network.png", dpi=160)
    say(
        f"\n{found.cost['evaluations']:,} evaluations chose and measured {len(found):,} pairs. "
        f"The strongest, measured again on other prompts:\n\n{again}\n\n{files}, and of the pairs "
        "that were measured again: confirmed.npz, network.png"
    )


# Options that only one lens reads.
_OF_LENS: dict[str, tuple[str, ...]] = {
    "tokens": ("text", "answer", "continuation", "masking", "student"),
    "data": ("examples", "learner", "penalty"),
    "model": ("task", "file", "metric", "n_prompts", "ablation", "precision", "layers"),
    "model or tokens": ("model", "bridge", "units", "batch_size"),
}
# Options about what is asked: of known masks and values nothing is.
_OF_ASKING = (
    "method", "budget", "store", "masks_per_batch", "workers", "address", "timeout", "dry_run",
    "learner", "penalty", "gradients", "no_gradients",
)  # fmt: skip


def _check_lens(options: argparse.Namespace) -> None:
    """Raises:
    ValueError: an option is given that this lens does not read.
    """
    for lens, names in _OF_LENS.items():
        if options.lens not in lens.split(" or ") and (option := _first_given(options, names)):
            raise ValueError(
                f"{option} goes with --lens {lens}, and this is --lens {options.lens}; leave it "
                "out, or give the other lens"
            )


def _first_given(options: argparse.Namespace, names: Sequence[str]) -> str | None:
    """The first of some options that stands on the command line."""
    given = {word.split("=")[0] for word in options.words if word.startswith("--")}
    return next((o for name in names if (o := f"--{name.replace('_', '-')}") in given), None)


def _discover(options: argparse.Namespace) -> None:
    import spex_mech as sm
    from spex_mech.report.folder import check_folder

    _check_lens(options)
    check_folder(options.out)
    if options.lens == "data":
        _discover_data(options)
        return
    if options.lens == "tokens":
        _discover_tokens(sm.load_model(options.model, bridge=options.bridge), options)
        return
    names = ("model", "task", "units", "n_prompts", "seed", "file", "metric", "ablation")
    names += ("precision", "batch_size", "bridge")
    given = {name: getattr(options, name) for name in names}
    if options.layers is not None:
        given["units"] = _in_layers(options.units, options.layers)
    factory = sm.GameFactory(**given)
    far = bool(options.workers or options.address)  # then workers make the game, and no one here
    game = factory if far else factory()
    if (found := _found(game, options)) is None:
        return
    files = _write(found, options, None if far else game.task)
    accuracy = found.about.get("accuracy", {}).get("words", "")
    say(f"{accuracy}\n{found}\n\n{files}".lstrip())


_LETTERS = {"heads": "H", "neurons": "N", "kv_groups": "G", "experts": "E"}


def _in_layers(units: str, layers: str) -> str:
    """Kinds of units in some layers only, as patterns: ``L0H*,L1H*``.

    Raises:
        ValueError: what are no kinds of units, or no layers.
    """
    numbers: list[int] = []
    for part in layers.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"--layers {layers}: give numbers of layers, such as 0-3 or 0,5,7")
        numbers += range(int(first), int(last if dash else first) + 1)
    kinds = [word.strip() for word in units.replace("+", ",").split(",")]
    if strange := [kind for kind in kinds if kind not in _LETTERS]:
        raise ValueError(
            f"--layers goes with kinds of units ({', '.join(_LETTERS)}), and {strange[0]!r} is none"
        )
    if not numbers:
        raise ValueError(f"--layers {layers} names no layer: the first number is over the last")
    return ",".join(
        f"L{layer}{_LETTERS[kind]}*" for kind in kinds for layer in dict.fromkeys(numbers)
    )


def _discover_tokens(model: Any, options: argparse.Namespace) -> None:
    import spex_mech as sm

    if options.text is None:
        raise ValueError("--lens tokens needs --text, and --answer or --continuation")
    task = sm.text_task(model, options.text, options.answer, continuation=options.continuation)
    given = {"masking": options.masking, "tokenizer": sm.load_tokenizer(model)}
    given["spans"] = None if options.units in ("heads", "tokens") else options.units
    given["batch_size"] = options.batch_size
    game = sm.TokenGame(model, task, **given)
    student = None
    if options.student is not None:
        student = sm.TokenGame(sm.load_model(options.student), task, **given)
    if (found := _found(game, options, student)) is None:
        return
    files = _write(found, options, task)
    sm.plot_text(found).save(options.out / "text.html")
    say(f"{found}\n\n{files}\nand text.html, the text with its strongest pairs")


def _confirm(options: argparse.Namespace) -> None:
    import spex_mech as sm
    from spex_mech.arguments import whole
    from spex_mech.report.folder import check_folder

    check_folder(options.out)
    found = _result_of(options)
    best = found.top(whole("k", options.k, 1))
    names = list(dict.fromkeys(name for pair in best.names for name in pair))
    game = _game_of(found, options, names, _other_seed(found, options))
    again = sm.confirm(best, game, k=options.k, store=options.store)
    files = _write(found.confirmed_by(again), options, None)
    again.save(options.out / "confirmed.npz")
    say(f"{again}\n\n{files}, and what was measured again: confirmed.npz")


def _circuit(options: argparse.Namespace) -> None:
    import spex_mech as sm
    from spex_mech.report.folder import check_folder, write_circuit

    check_folder(options.out)
    found = _result_of(options)
    searched = _game_of(found, options, found.labels, int(found.about.get("seed", 0)))
    if options.held_out is not None:
        options.task = options.held_out
    held_out = _game_of(found, options, found.labels, _other_seed(found, options))
    share = 0.9 if options.faithfulness is None and options.size is None else options.faithfulness
    given = {"faithfulness": share, "size": options.size, "budget": options.budget}
    circuit = sm.find_circuit(searched, found, held_out=held_out, store=options.store, **given)
    files, remarks = write_circuit(circuit, options.out)
    for remark in remarks:
        print(remark, file=sys.stderr)
    say(f"{circuit}\n\nwritten to {options.out}: {', '.join(files)}")


def _result_of(options: argparse.Namespace) -> Any:
    """The result of a search, in a file.

    Raises:
        ValueError: the file holds something else, such as a circuit.
    """
    import spex_mech as sm

    found = sm.load(options.result)
    if isinstance(found, sm.Circuit):
        raise ValueError(
            f"{options.result} is a circuit of {len(found)} units, and this command takes the "
            "result of a search, an interactions.npz. `spex-mech circuit RESULT --held-out FILE` "
            "scores a circuit on other prompts, and `spex-mech report RESULT --circuit "
            f"{options.result}` shows it"
        )
    return found


def _other_seed(found: Any, options: argparse.Namespace) -> int:
    """Of prompts that the search did not have: ``discover`` draws them by the search's seed."""
    return int(found.about.get("seed", 0)) + 1 if options.seed is None else options.seed


def _game_of(found: Any, options: argparse.Namespace, units: Sequence[str], seed: int) -> Any:
    """The game of a result, on prompts of this seed.

    Raises:
        ValueError: as of :func:`_factory_of`; or no model was named, and the one that has the name
            of the result's is not to be had or is another one: of a folder a result has the last
            part, which may be the name of a model on the hub.
    """
    from spex_mech.models import check_model
    from spex_mech.results.cautions import differ_in

    factory = _factory_of(found, options, units, seed)
    if options.model is not None:
        return factory()
    told = f"{options.result} is of a model called {factory.model!r}"
    try:
        check_model(factory.model)
    except ValueError as error:
        raise ValueError(f"{told}, and that name is not enough: give --model ({error})") from error
    game = factory()
    if differ_in("weights_sha256", found.about, game.provenance()):
        raise ValueError(
            f"{told}, and what has that name now has other weights; give --model, the folder or "
            "name of the model that was searched (or of another one that you mean)"
        )
    return game


def _factory_of(found: Any, options: argparse.Namespace, units: Sequence[str], seed: int) -> Any:
    """What makes the game of a result, on prompts of this seed.

    Raises:
        ValueError: the result does not say which model or task it is of, and no option does.
    """
    import spex_mech as sm
    from spex_mech.engine.metrics import METRICS
    from spex_mech.tasks import TASKS

    if (lens := found.about.get("lens")) is not None:
        raise ValueError(
            f"{options.result} is a result of --lens {lens}; this command goes on from units of a "
            "model. Search other texts or examples by themselves, and compare the two results"
        )
    given: dict[str, Any] = {}
    for name in ("model", "task", "ablation", "n_prompts", "metric"):
        asked = getattr(options, name)
        given[name] = found.about.get(name) if asked is None else asked
        if given[name] is None and name != "metric":
            raise ValueError(f"{options.result} does not say its {name}; give --{name}")
    if options.task is None and given["task"] not in TASKS:
        raise ValueError(
            f"{options.result} is of prompts of one's own, called {given['task']!r}; give --task, "
            "a file of prompts"
        )
    known = given["metric"] in (None, "kl", *METRICS) and "own_metric" not in found.about
    if options.metric is None and not known:
        raise ValueError(
            f"the metric of {options.result} is a function called {given['metric']!r}; give "
            f"--metric module:{given['metric']}, where module is the file that has it"
        )
    if options.task is not None and options.n_prompts is None:
        given["n_prompts"] = None  # of another task: its own default
    names = ("file", "batch_size", "bridge")
    rest = {name: getattr(options, name) for name in names}
    return sm.GameFactory(**given, **rest, units=",".join(units), seed=seed)


def _report(options: argparse.Namespace) -> None:
    import spex_mech as sm
    from spex_mech.report.folder import free_name
    from spex_mech.report.page import page_of
    from spex_mech.results.files import write_whole

    found = _result_of(options)
    circuit = None if options.circuit is None else sm.Circuit.load(options.circuit)
    other = None if options.beside is None else sm.Interactions.load(options.beside)
    page = page_of(found, circuit=circuit, title=options.title, beside=other)
    out = options.out or free_name(options.result.with_name("report.html"), page)
    say(f"written to {write_whole(out, lambda file: file.write(page))}")


def _discover_data(options: argparse.Namespace) -> None:
    import spex_mech as sm

    if options.examples is None:
        raise ValueError("--lens data needs --examples FILE.npz")
    held = _arrays(options.examples)
    texts = [str(text) for text in held["texts"]] if "texts" in held else None
    if {"masks", "values"} <= set(held):
        _explain(held["masks"], held["values"], texts, options)
        return
    if lacking := [name for name in ("x", "y", "x_test", "y_test") if name not in held]:
        raise ValueError(f"{options.examples} has no {lacking[0]!r}; it holds {', '.join(held)}")
    learners = {"ridge": sm.TrainingGame.ridge, "logistic": sm.TrainingGame.logistic}
    if options.learner not in learners:
        raise ValueError(f"--learner {options.learner}; choose one of {', '.join(learners)}")
    x, y, x_test, y_test = (held[name] for name in ("x", "y", "x_test", "y_test"))
    game = learners[options.learner](x, y, x_test, y_test, penalty=options.penalty)
    if (found := _found(game, options)) is None:
        return
    files = _write(found, options, None)
    said = "and examples.html, the examples that pull together or against one another"
    try:
        sm.plot_examples(found, texts).save(options.out / "examples.html")
    except ValueError as error:  # there is nothing to draw, and the result is none the worse
        said = f"no examples.html: {error}"
    say(f"{found}\n\n{files}\n{said}")


def _explain(masks: Any, values: Any, texts: list[str] | None, options: argparse.Namespace) -> None:
    """What known masks and values tell; nothing is asked."""
    import spex_mech as sm
    from spex_mech.results.files import write_text

    if (option := _first_given(options, _OF_ASKING)) is not None:
        raise ValueError(
            f"{option} is about what is asked, and {options.examples} holds masks with their "
            "values, so that nothing is; leave it out, or give x, y, x_test and y_test"
        )
    # Numbered, as the tokens of a text are: two examples may have the same text.
    labels = None if texts is None else [f"{i}:{text}" for i, text in enumerate(texts)]
    known = sm.explain(
        masks, values, options.proxy or "distilled", labels=labels, seed=options.seed
    )
    kind, about = "banzhaf", "the mean effect over all masks"
    try:
        table = known.frame(20, options.order, kind=kind)
    except ValueError:  # the masks are near the intact one
        kind, about = "intact", "the effect of ablating them"
        table = known.frame(20, options.order, kind=kind)
    told = "not known" if known.r2 is None else f"{known.r2:.2f} on held-out masks"
    write_text(options.out / "estimates.csv", table.to_csv(index=False))
    say(f"estimates ({kind}: {about}) from {known.n_masks:,} known masks, R² {told}")
    say(table.to_string(index=False))
    say(f"\nwritten to {options.out}: estimates.csv")


def _arrays(path: Path) -> dict[str, Any]:
    """The arrays of an .npz; nothing in it is unpickled.

    Raises:
        ValueError: it is no .npz, or holds objects.
    """
    import numpy as np

    from spex_mech.results.files import opened

    with opened(path) as raw:
        try:
            with np.load(raw, allow_pickle=False) as file:
                held = dict(file)
        except Exception as error:  # whatever zipfile, zlib or numpy raise of some other file
            raise ValueError(
                f"{path} is no .npz of numbers, as numpy.savez(path, x=..., y=...) writes it"
            ) from error
    for name, array in held.items():
        if name != "texts" and array.dtype.kind not in "biuf":
            raise ValueError(f"{path}: {name} is of {array.dtype}; it must hold real numbers")
    return held


def _found(game: Any, options: argparse.Namespace, student: Any = None) -> Any:
    """The result of the search; None: it was only planned."""
    import spex_mech as sm

    if student is not None:
        if options.method != "proxyspex" or options.proxy is not None:
            raise ValueError("--student goes with --method proxyspex, and without --proxy")
        options.proxy = student
    if options.proxy is not None and options.method != "proxyspex":
        raise ValueError(f"--proxy {options.proxy} goes with --method proxyspex")
    asked = {"proxy": options.proxy, "gradients": options.gradients}
    proxy = {name: value for name, value in asked.items() if value is not None}
    search = (options.method, options.budget, options.order, options.seed)
    if options.dry_run:
        method, budget, order, seed = search
        made = game() if options.workers or options.address else game
        say(str(sm.plan(made, budget, method, order, seed, **proxy)))
        return None
    names = ("store", "workers", "address", "masks_per_batch", "timeout")
    given = {name: getattr(options, name) for name in names}
    return sm.discover(game, *search, **given, **proxy)


def _sweep(options: argparse.Namespace) -> None:
    from spex_mech.report.folder import check_folder
    from spex_mech.sweep import AXES, cells_from_toml, cells_of, sweep

    check_folder(options.out)
    axes = {name: getattr(options, name) for name in AXES if getattr(options, name) is not None}
    names = ("n_prompts", "seed", "budget", "order", "batch_size", "file", "metric", "precision")
    names += ("bridge",)
    common = {n: getattr(options, n) for n in names if getattr(options, n) is not None}
    if options.config is not None:
        if axes or common:
            raise ValueError(f"give {options.config} or the lists, not both")
        cells = cells_from_toml(options.config)
    else:
        cells = cells_of(axes, **common)
    names = ("workers", "address", "masks_per_batch", "timeout")
    given = {name: getattr(options, name) for name in names}
    table = sweep(cells, options.out, resume=not options.fresh, **given)
    _print_status(table)
    say(f"\nwritten to {options.out}: summary.csv")
    own = {cell.name for cell in cells}
    failed = [row for row in table.to_dict("records") if row["state"] == "failed"]
    failed = [row for row in failed if row["folder"] in own]
    for row in failed:
        print(f"{row['folder']}: {row['error']}", file=sys.stderr)
    if failed:
        raise ValueError(f"{len(failed)} of {len(own)} cells failed")


def _store(options: argparse.Namespace) -> None:
    from spex_mech.runs.contents import contents, export

    say(contents(options.file))
    if options.export is not None:
        count = export(options.file, options.export)
        say(f"written to {options.export}: masks and values of {count:,} evaluations")


def _status(options: argparse.Namespace) -> None:
    from spex_mech.sweep import status

    _print_status(status(options.folder))


# What else tells one cell of a sweep from another, beside the lists.
_OF_A_CELL = (
    "n_prompts", "seed", "file", "metric", "precision", "batch_size", "bridge", "budget", "order",
)  # fmt: skip


def _print_status(table: Any) -> None:
    names = ("model", "task", "units", "ablation", "method")
    # Two sweeps in one folder may be of other seeds, prompts or budgets.
    odd = [n for n in _OF_A_CELL if n in table and table[n].nunique(dropna=False) > 1]
    shown = [*names, *odd, "state", "evaluations", "strongest", "value", "error"]
    shown = [n for n in shown if n in table]
    words = table[shown].astype(object).where(table[shown].notna(), "")
    say(words.to_string(index=False, max_colwidth=60))


def _models(options: argparse.Namespace) -> None:
    from spex_mech.models import NAMED

    if options.check is not None:
        import spex_mech as sm

        say(sm.inspect_model(sm.load_model(options.check)))
        return

    for name, what in NAMED.items():
        say(f"{name:<14}{what}")
    say(f"{'a folder':<14}that transformers' save_pretrained wrote, or a .gguf file")
    say(f"{'a hub name':<14}such as gpt2 or EleutherAI/pythia-70m, where there is a network")


def _tasks(options: argparse.Namespace) -> None:
    from spex_mech.tasks import TASKS

    for name, what in TASKS.items():
        say(f"{name:<14}{what}")
    say(f"{'a file':<14}of prompts: EAP-IG's .csv, auto-circuit's .json, or rows of your own")


def _write(found: Any, options: argparse.Namespace, task: Any) -> str:
    """Write a result's files; what was written where, in words."""
    from spex_mech.report.folder import write_all

    command = shlex.join(["spex-mech", *options.words])
    given = {"task": task, "command": command, "title": options.title}
    written, remarks = write_all(found, options.out, **given, keep_others=True)
    for remark in remarks:
        print(remark, file=sys.stderr)
    return f"written to {options.out}: {', '.join(written)}"
