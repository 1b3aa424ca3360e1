#!/usr/bin/env bash
# All that is to be measured on a GPU, in one command of at most eight minutes that needs no network:
#
#     benchmarks/gpu.sh            # on one GPU; figures go to benchmarks/results/gpu.json
#     benchmarks/gpu.sh --small    # the same on a CPU, with tiny models
#
# PYTHON names an interpreter that has torch, transformers, numpy, pandas, scipy and tqdm.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if ! "$python" -c 'import jaxtyping' 2>/dev/null; then
  # The annotations of shapes need jaxtyping, which such a machine may lack. They may say nothing.
  stand_in="$(mktemp -d)"
  trap 'rm -rf "$stand_in"' EXIT
  cat > "$stand_in/jaxtyping.py" <<'PY'
class _Any:
    def __class_getitem__(cls, _):
        return object


Bool = Float = Int = Int8 = Shaped = _Any
PY
  PYTHONPATH="$stand_in:$PYTHONPATH"
fi
timeout 480 "$python" -m benchmarks.gpu "${@/#--small/--quick}"
