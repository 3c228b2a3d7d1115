"""The process of a job: it starts both sides at once, has them take turns, and writes its result after every part."""

import concurrent.futures
import contextlib
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import common
from common import Child, ChildError

from gpu import jobs, running, sides

ROUNDS, TURN_S, MOST_STEPS = 5, 1.5, 50  # a turn takes about so long, but no more steps
MEMORY = re.compile(r"out ?of ?memory|RESOURCE_EXHAUSTED|ALLOC_FAILED", re.IGNORECASE)
RESERVE_S = 25.0  # kept of a job's time for the turns of the side that is ready, if the other one is not


class Job:
    """A job's result so far; `keep` adds to it and writes the file. Several threads may."""

    def __init__(self, result: Path):
        self.path, self.result, self.lock = result, {"contestants": {}, "failed": ""}, threading.Lock()

    def keep(self, **more: Any) -> None:
        with self.lock:
            self.result |= more
            running.write(self.path, self.result)

    def of(self, side: str, **more: Any) -> None:
        self.result["contestants"].setdefault(side, {}).update(more)
        self.keep()

    def fail(self, reason: str) -> None:
        self.keep(failed="; ".join(filter(None, [self.result["failed"], reason])))


def measure(name: str, result: Path, *, smoke: bool, batch: int | None, out: Path, until: float) -> None:
    """Measure a job, and write what is known of it to `result` after every part."""
    job, spec = Job(result), jobs.JOBS[name]
    if name == jobs.CEILING:
        from gpu import ceiling

        try:
            ceiling.measure(job.keep, smoke=smoke)
        except Exception as problem:
            traceback.print_exc()
            job.fail(f"{type(problem).__name__}: {str(problem).splitlines()[0]}")
        return
    options = [*(["--smoke"] if smoke else []), *(["--batch", str(batch)] if batch else [])]
    command = [sys.executable, "-m", "gpu", "--job", name, *options, "--out", str(out)]
    measure_sides(spec.contestants(smoke=smoke), command, job, smoke=smoke, profiled=spec.profiled, until=until)


def measure_sides(
    names: Sequence[str], command: list[str], job: Job, *, smoke: bool, profiled: bool, until: float
) -> None:
    """Measure the sides that `command --only NAME` serves: in turns, or alone where memory is too small for all."""
    for side in _together(names, command, job, smoke=smoke, profiled=profiled, until=until):
        common.say(f"{side} alone, as memory does not suffice for all at once …")
        job.result["contestants"][side] = {"alone": True}
        _together([side], command, job, smoke=smoke, profiled=profiled, until=until)
    for side, one in job.result["contestants"].items():
        if "error" in one:
            job.fail(f"{side}: {one['error']}")


def _together(
    names: Sequence[str], command: list[str], job: Job, *, smoke: bool, profiled: bool, until: float
) -> list[str]:
    """Start the sides at once and time those that are ready in turns; return those for which memory was too small."""
    with _children(names, command) as processes:
        _started(processes, job, until)
        ready = {name: child for name, child in processes.items() if "error" not in job.result["contestants"][name]}
        while ready:
            try:
                _timed(ready, job, smoke=smoke)
                break
            except ChildError as problem:
                job.of(problem.name, error=problem.reason)
                del ready[problem.name]
        try:
            if profiled and jobs.DREAMJAX in ready:
                profile = ready[jobs.DREAMJAX].ask(fact=sides.PROFILE)
                job.keep(profile=profile["kernels"])
                if profile["problem"]:
                    job.fail(f"the profile: {profile['problem']}")
            for name, child in ready.items():
                job.of(name, peak_mib=child.close())
        except ChildError as problem:
            job.of(problem.name, error=problem.reason)
    errors = {name: job.result["contestants"][name].get("error", "") for name in names}
    return [name for name, error in errors.items() if MEMORY.search(error) and len(names) > 1]


@contextlib.contextmanager
def _children(names: Sequence[str], command: list[str]) -> Iterator[dict[str, Child]]:
    processes = {name: Child(name, command) for name in names}
    try:
        yield processes
    finally:
        for child in processes.values():
            child.process.kill()
            child.process.wait()


def _started(processes: dict[str, Child], job: Job, until: float) -> None:
    """Have all sides compile at once, and keep what they know. One that is not ready in time is ended."""
    with concurrent.futures.ThreadPoolExecutor(len(processes)) as pool:
        waiting = {name: pool.submit(_start, child, job) for name, child in processes.items()}
        for name, future in waiting.items():
            try:
                facts = future.result(timeout=max(until - RESERVE_S - time.time(), 0.0))
                job.keep(**{key: facts.pop(key) for key in ("batch",) if key in facts})
                job.of(name, **facts)
            except TimeoutError:
                processes[name].process.kill()
                job.of(name, error="not ready in time")
            except ChildError as problem:
                job.of(name, error=problem.reason)
    counts = {name: one["parameters"] for name, one in job.result["contestants"].items() if "parameters" in one}
    if len(set(counts.values())) > 1:
        job.fail("the sides have different numbers of parameters: " + ", ".join(f"{n} {c}" for n, c in counts.items()))


def _start(child: Child, job: Job) -> dict[str, Any]:
    """Return the facts of a side that is ready; ours is first checked against the CPU."""
    if child.name == jobs.DREAMJAX and "check" not in job.result:
        check = child.ask(fact=sides.CHECK)
        job.keep(check=check)
        for name, value in check["differences"].items():
            if not value <= (most := check["most"][name]):  # also where it is not a number
                job.fail(f"{name} differs by {value:.2g} from the CPU's, but rounding explains at most {most}")
    return {"first_step_s": round(child.start(sides.STEP), 1)} | child.ask(fact=sides.FACTS)


def _timed(ready: dict[str, Child], job: Job, *, smoke: bool) -> None:
    """Time the sides in turns. The number of steps of a turn is that of the first side, which is ours."""
    timed = {name: child.of(sides.STEP) for name, child in ready.items()}
    first = next(iter(timed.values()))
    steps = 1 if smoke else min(max(round(TURN_S / (first(2)[0] / 2)), 1), MOST_STEPS)
    times = common.interleaved(timed, 2 if smoke else ROUNDS, steps, warm=1 if smoke else 3)
    of_run = {name: job.result["contestants"][name].get("steps", 1) for name in times}
    times = {name: [(wall / of_run[name], busy / of_run[name]) for wall, busy in each] for name, each in times.items()}
    flops = job.result["contestants"].get(jobs.DREAMJAX, {}).get("tflop")
    for name, one in common.summary(times).items():
        seconds, more = one["ms_per_step"] / 1e3, {"steps_a_turn": steps * of_run[name]}
        if flops:
            more |= {"tflop_per_s": flops / seconds, "examples_per_s": round(job.result["batch"] / seconds, 2)}
        job.of(name, **one, **more)
