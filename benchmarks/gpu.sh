#!/usr/bin/env bash
# dreamjax and PyTorch side by side on one GPU, in at most 8 minutes: docs/benchmarks.md, "On a GPU".
#
#     bash benchmarks/gpu.sh --out "$OUT"      # results.json, table.md and a trace into the folder OUT
#     bash benchmarks/gpu.sh --smoke           # the same on CPU at the smallest sizes, in two minutes
#
# Needs Python 3.11 or newer with jax, flax, optax, numpy and torch, and no network. PYTHON: the interpreter.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 1
export PYTHONPATH="$here:$here/..${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -m gpu "$@"
