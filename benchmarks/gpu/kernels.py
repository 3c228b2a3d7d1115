"""The largest kernels of a profile of JAX, read from its JSON; TensorBoard is not needed."""

import collections
import gzip
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import common

STEPS, KERNELS = 3, 15
LARGEST_MIB = 12  # of a trace that is kept


def of(step: common.Step, keep: Path) -> list[dict[str, Any]]:
    """Profile some steps; return the largest kernels, and copy the trace to `keep` where it is not too large."""
    import jax

    with tempfile.TemporaryDirectory() as folder:
        jax.profiler.start_trace(folder)
        step(STEPS)
        jax.profiler.stop_trace()
        (trace,) = Path(folder).rglob("*.trace.json.gz")
        if trace.stat().st_size <= LARGEST_MIB << 20:
            shutil.copy(trace, keep)
        return largest(json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"], STEPS)


def largest(events: list[dict[str, Any]], steps: int, count: int = KERNELS) -> list[dict[str, Any]]:
    """Return the kernels that take most time: name, calls and milliseconds a step, share of all kernels' time.

    On a GPU they are the events of its streams; other lines of the device repeat them by layer. On CPU they are the
    events that belong to an operation of the program.
    """
    named = {
        (kind, e["pid"], e.get("tid") if kind == "thread_name" else None): e["args"]["name"]
        for e in events
        if e.get("ph") == "M" and (kind := e["name"]) in ("process_name", "thread_name")
    }
    gpu = {pid for (kind, pid, _), name in named.items() if kind == "process_name" and name.startswith("/device:")}

    def is_kernel(event: dict[str, Any]) -> bool:
        if event.get("ph") != "X":
            return False
        if gpu:
            thread = named.get(("thread_name", event["pid"], event["tid"]), "")
            return event["pid"] in gpu and thread.startswith("Stream")
        return "hlo_op" in event.get("args", {}) and not event["name"].startswith(("while", "conditional", "call"))

    spent: dict[str, list[float]] = collections.defaultdict(list)
    for event in filter(is_kernel, events):
        spent[event["name"]].append(event["dur"] / 1e3)
    total = sum(map(sum, spent.values()))
    ordered = sorted(spent.items(), key=lambda one: -sum(one[1]))[:count]
    return [
        {
            "name": name,
            "calls": round(len(times) / steps, 2),
            "ms": round(sum(times) / steps, 4),
            "share": round(sum(times) / total, 4),
        }
        for name, times in ordered
    ]
