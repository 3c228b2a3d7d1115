"""Shared parts of the side-by-side benchmarks: interleaved rounds, contestants in separate processes, ratios, facts.

A contestant runs steps and reports their times. It runs in this process (`timed`), or in a child (`Child`) that runs
the same script again with `--only NAME`: then its peak memory is its own.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamjax.parallel import environment

CORES = environment.cores()
Step = Callable[[int], None]  # run this many steps and wait
Timed = Callable[[int], tuple[float, float]]  # the same; wall and CPU seconds of all of them
Times = dict[str, list[tuple[float, float]]]  # contestant → (wall, CPU) seconds per step of every round


# -------------------------------------------------------------------------------------------------------------- rounds
def timed(step: Step) -> Timed:
    def run(steps: int) -> tuple[float, float]:
        wall, busy = time.perf_counter(), time.process_time()
        step(steps)
        return time.perf_counter() - wall, time.process_time() - busy

    return run


def interleaved(contestants: Mapping[str, Timed], rounds: int, steps: int, warm: int = 3) -> Times:
    """Run every contestant's turns, one after another in every round: a busy machine slows all alike."""
    times: Times = {name: [] for name in contestants}
    for name, run in contestants.items():
        say(f"warming up {name} …")
        run(warm)
    for i in range(rounds):
        for name, run in contestants.items():
            wall, busy = run(steps)
            times[name].append((wall / steps, busy / steps))
        say(f"round {i + 1} of {rounds}")
    return times


def summary(
    times: Times, flops: float | None = None, ceiling: float = 1.0, peak: float | None = None
) -> dict[str, Any]:
    """Return the contestants' part of the JSON. `flops`: of one step; `ceiling` and `peak`: in FLOP/s."""
    result: dict[str, Any] = {}
    for name, pairs in times.items():
        wall = [seconds for seconds, _ in pairs]
        median = statistics.median(wall)
        result[name] = {
            "ms_per_step": round(1e3 * median, 2),
            "ms_range": [round(1e3 * min(wall), 2), round(1e3 * max(wall), 2)],
            "cpu_ms_per_step": round(1e3 * statistics.median(busy for _, busy in pairs), 2),
        }
        if flops is not None:
            result[name] |= {
                "tflop_per_s": round(flops / median / 1e12, 4),
                "share_of_matrix_product": round(flops / median / ceiling, 3),
                "mfu": round(flops / median / peak, 4) if peak else None,
            }
        for ours in (n for n in times if n.startswith("dreamjax") and not name.startswith("dreamjax")):
            for what, which in (("time", 0), ("CPU time", 1)):
                ratios = [a[which] / b[which] for a, b in zip(pairs, times[ours], strict=True) if b[which] > 0]
                if ratios:
                    result[name][f"{what} / {ours}"] = [round(f(ratios), 3) for f in (statistics.median, min, max)]
    return result


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# --------------------------------------------------------------------------------------------- processes of their own
class ChildError(RuntimeError):
    """A child, `name`, could not do what it was asked for; it has ended."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


class Child:
    """This script in a separate process, which answers each line of its input (see `serve`) with one of JSON.

    `command`: another script that serves.
    """

    def __init__(self, name: str, command: Sequence[str] | None = None):
        self.process = subprocess.Popen(
            [*(command or (sys.executable, *sys.argv)), "--only", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.name = name

    def ask(self, **question: Any) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(question), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise ChildError(self.name, f"ended with exit code {self.process.wait()}")
        result = json.loads(answer)
        if "error" in result:
            raise ChildError(self.name, result["error"])
        return result

    def start(self, work: str) -> float:
        """Return the seconds until the first step of `work` was done: compiling, and running once."""
        return self.ask(start=work)["seconds"]

    def of(self, work: str) -> Timed:
        def run(steps: int) -> tuple[float, float]:
            answer = self.ask(run=work, steps=steps)
            return answer["wall"], answer["cpu"]

        return run

    def close(self) -> float:
        """End the process; return its peak memory in MiB, or that of its part of the GPU."""
        peak = self.ask(end=True)["peak_mib"]
        self.process.wait()
        return peak


@contextmanager
def children(names: list[str]) -> Iterator[dict[str, Child]]:
    """Start one process for each contestant; all are ended when the block ends."""
    processes = {name: Child(name) for name in names}
    try:
        yield processes
    finally:
        for child in processes.values():
            if child.process.poll() is None:
                child.process.kill()


def serve(
    work: Mapping[str, Callable[[], Step]],
    peak_bytes: Callable[[], float | None],
    facts: Mapping[str, Callable[[], dict[str, Any]]] | None = None,
) -> None:
    """Serve as the child until it is asked to end; a kind of work is set up when it is first requested.

    `facts`: further questions, by name. A failure is answered with its first line, and ends the child.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")  # libraries may print
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    made: dict[str, Timed] = {}

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        if "start" in question:
            started = time.monotonic()
            made[question["start"]] = timed(work[question["start"]]())
            made[question["start"]](1)
            return {"seconds": time.monotonic() - started}
        if "run" in question:
            wall, busy = made[question["run"]](question["steps"])
            return {"wall": wall, "cpu": busy}
        if "fact" in question:
            return (facts or {})[question["fact"]]()
        bytes_ = peak_bytes() or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"peak_mib": round(bytes_ / 2**20)}

    for line in sys.stdin:
        question = json.loads(line)
        try:
            result = answer(question)
        except Exception as problem:
            traceback.print_exc()
            result = {"error": f"{type(problem).__name__}: {(str(problem).splitlines() or [''])[0][:300]}"}
        print(json.dumps(result), file=answers, flush=True)
        if "end" in question or "error" in result:
            return


def compared(
    names: list[str], work: str, rounds: int, steps: int, *, apart: bool
) -> tuple[Times, dict[str, dict[str, float]]]:
    """Return (times, contestant → seconds to its first step and peak memory), each in a separate process.

    `apart`: one process after another, where two do not fit the memory; then nothing is interleaved.
    """
    times: Times = {}
    facts: dict[str, dict[str, float]] = {}
    for group in [[name] for name in names] if apart else [names]:
        with children(group) as processes:
            for name, child in processes.items():
                say(f"starting {name} …")
                facts[name] = {"first_step_s": round(child.start(work), 1)}
            times |= interleaved({name: child.of(work) for name, child in processes.items()}, rounds, steps, warm=1)
            for name, child in processes.items():
                facts[name]["peak_mib"] = child.close()
    return times, facts


# --------------------------------------------------------------------------------------------------------------- facts
def on_gpu() -> bool:
    """Return whether both JAX and PyTorch compute on a GPU."""
    import jax
    import torch

    return jax.default_backend() == "gpu" and torch.cuda.is_available()


def machine() -> dict[str, Any]:
    import jax
    import torch

    return {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": CORES,
            "load": os.getloadavg()[0],
        },
        "device": jax.devices()[0].device_kind,
        "versions": {"jax": jax.__version__, "torch": torch.__version__},
    }


def matrix_product_rate(dtype: str, size: int) -> float:
    """Return the FLOP/s of `size`³ matrix products, the best of five: an upper bound for the step."""
    import jax
    import jax.numpy as jnp

    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(lambda a: jnp.dot(a, a))
    product(a).block_until_ready()
    repeats, seconds = 10, []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(repeats):
            result = product(a)
        result.block_until_ready()
        seconds.append((time.perf_counter() - started) / repeats)
    return 2 * size**3 / min(seconds)


# ------------------------------------------------------------------------------------------------------------ dreamjax
def random_params(shapes: Any) -> Any:
    """Return random kernels of variance 1 / inputs, norms that change nothing, and small other parameters."""
    import jax

    def one(i: int, path: Any, leaf: Any) -> np.ndarray:
        name = str(path[-1].key)
        if name in ("bias", "scale"):
            return np.full(leaf.shape, float(name == "scale"), np.float32)
        convolution = leaf.ndim == 4  # others have an axis of layers before (inputs, outputs)
        inputs = np.prod(leaf.shape[:-1] if convolution else leaf.shape[-2:-1]) if name == "kernel" else 2500
        values = np.random.Generator(np.random.SFC64(i)).random(leaf.shape, np.float32)
        values -= 0.5
        values *= np.sqrt(12 / inputs)
        return values

    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    with ThreadPoolExecutor(CORES) as threads:
        return tree.unflatten(threads.map(one, range(len(leaves)), *zip(*leaves, strict=True)))


@dataclass
class CompiledStep:
    """A Task's step, compiled as in the loop, with its state and batch on the devices. `metrics`: of the last step."""

    compiled: Any
    state: Any
    batch: Any
    compile_s: float
    metrics: Any = None

    def run(self, steps: int) -> None:
        import jax

        for _ in range(steps):
            self.state, self.metrics = self.compiled(self.state, self.batch)
        jax.block_until_ready(self.state.params)


def compiled_step(
    task: Any, mesh_config: Any, data: Any, devices: Sequence[Any], options: Mapping[str, Any] | None = None
) -> CompiledStep:
    """Return a Task's step over a mesh of the devices; `options`: further ones of the compiler."""
    import jax

    from dreamjax.parallel import mesh as meshes
    from dreamjax.parallel import sharding
    from dreamjax.training import program

    mesh = meshes.make(mesh_config, devices)
    with jax.set_mesh(mesh):
        built = program.build(task, mesh)
        batch = jax.device_put(data, sharding.batch_sharding(mesh))
        state = program.stream_in(built.init(jax.random.key(0)), task.weights())
        started = time.monotonic()
        compiled = built.step.lower(state, batch).compile(dict(options or {}))
        return CompiledStep(compiled, state, batch, time.monotonic() - started)


def training_step(task: Any, mesh_config: Any, data: Any, devices: int = 1) -> tuple[Step, float]:
    """Return (a Task's step over a mesh of that many devices, compiled as in the loop; seconds of compiling)."""
    import jax

    made = compiled_step(task, mesh_config, data, jax.devices()[:devices])
    return made.run, made.compile_s
