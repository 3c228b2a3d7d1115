"""Points one after another in this process: train, score, next. Killed and started again, it goes on where it was.

A finished point is never run again; what a killed one had saved is continued; a failed one is tried again as often as
the sweep says, and the others go on meanwhile.
"""

import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import jax
from etils import epath

from dreamjax.console import counted, log, progress
from dreamjax.errors import TryAgain, UserError
from dreamjax.sweeps import points as points_
from dreamjax.sweeps import scoring
from dreamjax.sweeps.description import Sweep
from dreamjax.sweeps.points import Place, Point
from dreamjax.systems import runs
from dreamjax.training import compile_cache, preemption


class Preempted(Exception):
    """A run was stopped by a signal: so is the sweep."""


@dataclass
class Tally:
    """What became of the points of one call."""

    done: int = 0
    before: int = 0  # done by an earlier call
    failed: int = 0
    left: int = 0


def run(sweep: Sweep, workdir: str, found: Iterable[Point], command: str) -> dict[str, Any]:
    """Every point that is not done, until the hours are over; a JSON-able summary, `exit_code` 75 where stopped."""
    tally, started, stopped = Tally(), time.monotonic(), False
    todo = list(found)
    for config in {_looks_alike(point.config): point.config for point in todo}.values():
        scoring.check(config, sweep.settings.score)
    points_.claim(workdir, sweep)
    with progress("sweep", len(todo)) as bar:
        for number, point in enumerate(todo):
            place = Place.of(workdir, point)
            if place.score() is not None:
                tally.before += 1
            elif len(place.failures()) > sweep.settings.retries:
                tally.failed += 1
            elif sweep.settings.hours is not None and time.monotonic() - started > 3600 * sweep.settings.hours:
                tally.left = len(todo) - number
                break
            else:
                try:
                    ok = attempt(sweep, workdir, point, command)
                except Preempted:
                    tally.left, stopped = len(todo) - number, True
                    break
                tally.done += ok
                tally.failed += not ok
            bar.advance(1, point.name)
    return {
        "workdir": workdir,
        "name": sweep.settings.name,
        "points": len(todo),
        "done": tally.done + tally.before,
        "done_before": tally.before,
        "failed": tally.failed,
        "left": tally.left,
        "seconds": round(time.monotonic() - started, 1),
        "failures": failures(workdir, todo),
        "exit_code": preemption.EXIT_CODE if stopped else int(tally.failed > 0),
    }


def _looks_alike(config: Any) -> tuple:
    return (config.system, getattr(config, "data", None), getattr(config, "loss", None))


def failures(workdir: str, found: Iterable[Point]) -> dict[str, str]:
    """Point → the last sentence with which it failed, where it is not done."""
    places = {point.name: Place.of(workdir, point) for point in found}
    return {name: p.failures()[-1] for name, p in places.items() if p.failures() and p.score() is None}


def attempt(sweep: Sweep, workdir: str, point: Point, command: str) -> bool:
    """Train and score one point, again where that fails and the sweep has tries left; whether it is done."""
    place = Place.of(workdir, point)
    place.begin(point, command)
    while len(place.failures()) <= sweep.settings.retries:
        try:
            place.done(train_and_score(sweep, workdir, point))
            return True
        except (UserError, MemoryError, jax.errors.JaxRuntimeError, FloatingPointError, OSError) as problem:
            if isinstance(problem, TryAgain):
                raise
            place.failed(told(problem))
            log.warning("%s failed: %s", point.name, told(problem))
    return False


def told(problem: BaseException) -> str:
    """One sentence."""
    text = str(problem).partition("\n")[0]
    if isinstance(problem, MemoryError) or text.startswith("RESOURCE_EXHAUSTED"):
        return f"out of memory ({text[:200] or 'the host had no more'}); a smaller batch or model"
    return text or type(problem).__name__


def train_and_score(sweep: Sweep, workdir: str, point: Point) -> dict[str, Any]:
    """Each leg: trained to its step, scored there."""
    place, by_steps, cost = Place.of(workdir, point), {}, {"seconds": 0.0, "programs": 0, "from_cache": 0}
    for steps in point.steps:
        folder = str(place.run(steps, point))
        config = replace(point.config, train=replace(point.config.train, steps=steps))
        before = compile_cache.counts()
        result = runs.train(config, folder)
        if result["preempted"]:
            raise Preempted
        began = time.monotonic()
        measured = scoring.measure(folder, sweep.settings.score, epath.Path(workdir) / "shared")
        if measured["step"] != steps:
            raise UserError(f"{folder}: step {steps} is damaged; delete the folder, and it is trained again")
        own = {name: value for name, value in result.get("val", {}).items() if math.isfinite(value)}
        by_steps[steps] = measured | {"own": own, "train": result.get("train", {})}
        after = compile_cache.counts()
        cost["seconds"] += result["time"]["wall"]
        cost["scoring"] = cost.get("scoring", 0.0) + time.monotonic() - began
        for name in ("programs", "from_cache"):
            cost[name] += after[name] - before[name]
        cost["parameters"] = result["parameters"]
    legs = {leg: by_steps[steps] for leg, steps in point.legs.items()}
    return {"legs": legs, "cost": cost | {"flop": point.cost(), "devices": jax.device_count()}}


def summary(result: dict[str, Any]) -> str:
    """For people."""
    lines = [
        f"{result['workdir']}: {result['done']} of {counted(result['points'], 'point')} done"
        + (f" ({result['done_before']} by an earlier call)" if result["done_before"] else "")
        + f" in {result['seconds']:g} s"
    ]
    lines += [f"! {name}: {sentence}" for name, sentence in result["failures"].items()]
    if result["left"]:
        lines.append(f"{counted(result['left'], 'point')} left; the same command goes on")
    return "\n".join(lines)


def as_json(found: Iterable[Point]) -> str:
    return json.dumps([{"name": p.name, "values": dict(p.chosen), "seed": p.seed, "legs": dict(p.legs)} for p in found])
