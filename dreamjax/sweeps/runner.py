"""Points one after another in this process: train, score, next. Killed and started again, it goes on where it was.

A finished point is never run again; what a killed one had saved is continued; a failed one is tried again as often as
the sweep says, and the others go on meanwhile.
"""

import contextlib
import errno
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from etils import epath

from dreamjax.console import counted, log, progress
from dreamjax.errors import TryAgain, UserError
from dreamjax.storage import locks
from dreamjax.sweeps import batched_runs, crash_markers, image_score, pretrained_encoders, scoring
from dreamjax.sweeps import runs as points_
from dreamjax.sweeps.runs import Place, Point
from dreamjax.sweeps.sweep_config import Sweep
from dreamjax.systems import opening
from dreamjax.systems.masked_pretraining import MaskedPretrainingConfig
from dreamjax.training import compile_cache, preemption

FULL = (errno.ENOSPC, errno.EDQUOT)
FAILS = (UserError, MemoryError, jax.errors.JaxRuntimeError, FloatingPointError, OSError)


class Preempted(Exception):
    """A run was stopped by a signal: so is the sweep."""


def run(sweep: Sweep, workdir: str, found: Iterable[Point]) -> dict[str, Any]:
    """Every point that is not done, until the hours are over; a JSON-able summary.

    `exit_code` is 75 where it was stopped, or left points to other processes that were at them. The folder is the
    sweep's already (`prepare`).
    """
    started, todo, stopped, busy = time.monotonic(), list(found), False, list[Point]()
    compile_cache.keep_all()
    before = count_done(workdir, todo)
    until = math.inf if sweep.settings.hours is None else started + 3600 * sweep.settings.hours
    with preemption.Watch() as watch, progress("sweep", len(todo)) as bar:
        bar.advance(before)
        for pack in batched_runs.deal(workdir, todo, sweep.settings.together):
            left = [point for point in pack if Place.of(workdir, point).open(sweep.settings.retries)]
            if time.monotonic() > until or stopped:
                break
            try:
                attempt(sweep, workdir, pack, left)
            except Preempted:
                stopped = True
            except locks.Busy as problem:
                log.warning("%s", problem)
                busy += left
            bar.advance(len(left), pack[0].name)
            stopped = stopped or watch.requested()
    found_now = standing(sweep, workdir, todo, before, time.monotonic() - started)
    again = stopped or any(Place.of(workdir, point).open(sweep.settings.retries) for point in busy)
    return found_now | {"exit_code": preemption.EXIT_CODE if again else int(found_now["failed"] > 0)}


def prepare(sweep: Sweep, workdir: str, found: Sequence[Point]) -> None:
    """Claim the folder; `found`: the points, or some of those that may come.

    Raises UserError, before anything is written, where the points could not run or be scored alike.
    """
    check(sweep, found)
    points_.claim(workdir, sweep, found)


def obstacle(sweep: Sweep, found: Callable[[], Sequence[Point]]) -> str | None:
    """Why a sweep would not start as it stands, if so; `found` gives points as for `prepare`."""
    try:
        check(sweep, found())
        points_.identity(sweep)
    except UserError as problem:
        return str(problem)
    return None


def check(sweep: Sweep, found: Sequence[Point]) -> None:
    """Raises UserError where the points could not run, or not be scored alike."""
    scored = image_score if sweep.settings.score.rank == "images" else scoring
    for config in {_looks_alike(point.config): point.config for point in found}.values():
        scored.check(config, sweep.settings.score)
        if sweep.settings.together > 1 and not isinstance(config, MaskedPretrainingConfig):
            raise UserError(f"together is for masked_pretraining; runs of {config.system} go one after another: set 1")
    if any(point.encoder is not None and not point.encoder.data.path for point in found):
        raise UserError("the pretraining before the sweep has no data: give --config.pretrain.data.path=SHARDS")
    if len({scored.seen_alike(point.config) for point in found}) > 1:
        raise UserError(f"{sweep.source}: an axis changes the windows that points are scored on (data.*)")


def count_done(workdir: str, found: Iterable[Point]) -> int:
    return sum(Place.of(workdir, point).score() is not None for point in found)


def standing(sweep: Sweep, workdir: str, found: Sequence[Point], before: int, seconds: float) -> dict[str, Any]:
    """How far a sweep is; `before`: points that were done before this call, which took so many `seconds`."""
    places = [Place.of(workdir, point) for point in found]
    done = sum(place.score() is not None for place in places)
    left = sum(place.open(sweep.settings.retries) for place in places)
    return {
        "workdir": workdir,
        "name": sweep.settings.name,
        "points": len(found),
        "done": done,
        "done_before": before,
        "failed": len(found) - done - left,
        "left": left,
        "seconds": round(seconds, 1),
        "failures": failures(workdir, found),
    }


def _looks_alike(config: Any) -> tuple:
    patch = getattr(getattr(config, "model", None), "patch", None)
    return (config.system, getattr(config, "data", None), getattr(config, "loss", None), patch)


def failures(workdir: str, found: Iterable[Point]) -> dict[str, str]:
    """Point → the last sentence with which it failed, where it is not done."""
    places = {point.name: Place.of(workdir, point) for point in found}
    return {name: p.failures()[-1] for name, p in places.items() if p.failures() and p.score() is None}


def attempt(sweep: Sweep, workdir: str, pack: Sequence[Point], left: Sequence[Point], until: float = math.inf) -> None:
    """Train and score the points `left` of a pack, as one where they are several, at their lengths up to `until` steps.

    What fails together is tried alone, and what fails alone as often as the sweep has retries. Raises locks.Busy, with
    nothing done, where another process is at one of them.
    """
    places = {point.name: Place.of(workdir, point) for point in left}
    with contextlib.ExitStack() as alone:
        for name, place in places.items():
            place.folder.mkdir(parents=True, exist_ok=True)
            if jax.process_count() == 1:  # several are one run, and meet at every step
                alone.enter_context(locks.held(place.folder / "lock", name))
        left = [point for point in left if places[point.name].open(sweep.settings.retries)]
        for point in left:
            places[point.name].begin(point)
        _attempt(sweep, workdir, pack, left, until)


def _attempt(sweep: Sweep, workdir: str, pack: Sequence[Point], left: Sequence[Point], until: float) -> None:
    if len(pack) > 1 and left:
        try:
            _together(sweep, workdir, pack, left, until)
        except FAILS as problem:
            if _is_of_the_disk(problem):
                raise
            log.warning("%d points as one failed (%s): each alone", len(pack), told(problem))
    for point in left:
        _alone(sweep, workdir, point, until)


def _alone(sweep: Sweep, workdir: str, point: Point, until: float) -> None:
    place = Place.of(workdir, point)
    while place.open(sweep.settings.retries):
        try:
            found = Measured.begun(place, point)
            if not found.lacks():  # ended before it was written down
                place.done(found.result())
            if not found.lacks(until):
                return
            with crash_markers.watched([place], _runs(place, point)) as died:
                if died >= crash_markers.LIMIT:
                    raise UserError(crash_markers.SENTENCE)
                whole = _built_on(workdir, point)
                for steps in found.lacks(until):
                    batched_runs.alone(place.run(steps, point))
                    config = replace(whole, train=replace(whole.train, steps=steps))
                    with found.counting():
                        result = opening.train(config, str(place.run(steps, point)))
                    _stop_where_told(result)
                    found.measure(sweep, workdir, steps, result)
                if not found.lacks():
                    place.done(found.result())
        except FAILS as problem:
            if isinstance(problem, TryAgain) or _is_of_the_disk(problem):
                raise  # no point's fault
            place.failed(told(problem))
            log.warning("%s failed: %s", point.name, told(problem))


def _runs(place: Place, point: Point) -> list[epath.Path]:
    """Where steps are saved while a point is trained."""
    own = [place.run(steps, point) for steps in point.steps]
    return own if point.encoder is None else [pretrained_encoders.folder(place.workdir, point.encoder), *own]


def _built_on(workdir: str, point: Point) -> Any:
    """The point's config, its encoder pretrained where nobody has done that yet."""
    if point.encoder is None:
        return point.config
    where = pretrained_encoders.folder(workdir, point.encoder)
    if not pretrained_encoders.is_ready(where, point.encoder):
        with pretrained_encoders.one_at(where):
            if not pretrained_encoders.is_ready(where, point.encoder):  # by who was at it until now
                _pretrain(where, point)
    return pretrained_encoders.placed(workdir, point.config, point.encoder)


def _pretrain(where: epath.Path, point: Point) -> None:
    log.info("pretraining the encoder %s of %s", where.name, point.name)
    result = opening.train(point.encoder, str(where))
    _stop_where_told(result)
    pretrained_encoders.remember(where, _seconds(result))


def _together(sweep: Sweep, workdir: str, pack: Sequence[Point], left: Sequence[Point], until: float) -> None:
    """Those that were refused, as they were not finite, stay open."""
    places = [Place.of(workdir, point) for point in left]
    found = {point.name: Measured.begun(place, point, len(pack)) for place, point in zip(places, left, strict=True)}
    with crash_markers.watched(places, [batched_runs.folder(workdir, pack, steps) for steps in pack[0].steps]) as died:
        if died >= crash_markers.LIMIT:
            raise UserError(crash_markers.SENTENCE)
        refused = _lengths(sweep, workdir, pack, left, found, until)
    for place, point in zip(places, left, strict=True):
        if point.name in refused:
            log.warning("%s: not finite in %d steps of %d as one: alone", point.name, refused[point.name], len(pack))
        elif not found[point.name].lacks():
            place.done(found[point.name].result())


def _lengths(
    sweep: Sweep,
    workdir: str,
    pack: Sequence[Point],
    left: Sequence[Point],
    found: Mapping[str, "Measured"],
    until: float,
) -> dict[str, int]:
    """Measure a pack at every length that one of its points lacks; names → steps that were refused."""
    refused: dict[str, int] = {}
    for steps in sorted({steps for one in found.values() for steps in one.lacks(until)}):
        with found[left[0].name].counting():
            result = batched_runs.train(workdir, pack, left, steps)
        _stop_where_told(result)
        refused |= result["refused"]
        for point in left:
            if point.name not in refused and steps not in found[point.name].by_steps:
                found[point.name].measure(sweep, workdir, steps, result)
    return refused


def _stop_where_told(result: dict[str, Any]) -> None:
    if result["preempted"]:
        raise Preempted


@dataclass
class Measured:
    """A point's scores at each length, and what it cost; `shared`: as how many it was trained at once."""

    point: Point
    shared: int = 1
    by_steps: dict[int, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # by run folder
    cost: dict[str, float] = field(default_factory=lambda: {"scoring": 0.0, "programs": 0, "from_cache": 0})

    @classmethod
    def begun(cls, place: Place, point: Point, shared: int = 1) -> "Measured":
        """With what an earlier call has measured of it, the shorter lengths first."""
        found = cls(point, shared)
        for steps in point.steps:
            if (leg := place.leg(steps)) is None:
                break
            found.by_steps[steps] = leg["measured"]
            found.cost, found.seconds = leg["cost"], leg["seconds"]
        return found

    def lacks(self, until: float = math.inf) -> list[int]:
        """The lengths that are not measured yet, ascending."""
        return [steps for steps in self.point.steps if steps not in self.by_steps and steps <= until]

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Programs that were compiled meanwhile, and those that came from the cache."""
        before = compile_cache.counts()
        yield
        for name, count in compile_cache.counts().items():
            self.cost[name] += count - before[name]

    def measure(self, sweep: Sweep, workdir: str, steps: int, result: dict[str, Any]) -> None:
        """After `steps`; `result`: of the training that led there."""
        folder, began = str(Place.of(workdir, self.point).run(steps, self.point)), time.monotonic()
        if sweep.settings.score.rank == "images":
            measured = image_score.measure(folder, sweep.settings.score)
        else:
            measured = scoring.measure(folder, sweep.settings.score, epath.Path(workdir) / "shared")
        if measured["step"] != steps:
            raise UserError(f"{folder}: step {steps} is damaged; delete the folder, and it is trained again")
        self.seconds[folder] = _seconds(result) / self.shared
        self.cost["scoring"] += time.monotonic() - began
        self.by_steps[steps] = measured
        Place.of(workdir, self.point).measured(
            steps, {"measured": measured, "cost": self.cost, "seconds": self.seconds}
        )

    def result(self) -> dict[str, Any]:
        """Of score.json."""
        legs = {leg: self.by_steps[steps] for leg, steps in self.point.legs.items()}
        more = {"flop": self.point.cost(), "together": self.shared, "devices": jax.device_count()}
        return {"legs": legs, "cost": self.cost | {"seconds": sum(self.seconds.values())} | more}


def _is_of_the_disk(problem: BaseException) -> bool:
    """Whether no room was left, which ends the sweep: every other point would fail of it too."""
    return getattr(problem, "errno", None) in FULL or any(os.strerror(code) in str(problem) for code in FULL)


def _seconds(result: dict[str, Any]) -> float:
    """Of a run, over all attempts, of which a restart is nobody's work."""
    told = result["time"]["seconds"]
    return sum(told.values()) - told.get("restart", 0.0)


def told(problem: BaseException) -> str:
    """One sentence."""
    text = str(problem).partition("\n")[0]
    if isinstance(problem, MemoryError) or text.startswith("RESOURCE_EXHAUSTED"):
        return f"out of memory ({text[:200] or 'the host had no more'}); a smaller batch or model"
    return text or type(problem).__name__


def summary(result: dict[str, Any]) -> str:
    """For people."""
    lines = [
        f"{result['workdir']}: {result['done']} of {counted(result['points'], 'point')} done"
        + (f" ({result['done_before']} by an earlier call)" if result["done_before"] else "")
        + (f", {result['stopped_early']} of them stopped early" if result.get("stopped_early") else "")
        + f" in {result['seconds']:g} s"
    ]
    lines += [f"! {name}: {sentence}" for name, sentence in result["failures"].items()]
    if result["failures"]:
        lines.append(f"a point is tried again once its failed.json is deleted ({result['workdir']}/points/…)")
    if result["left"]:
        lines.append(f"{counted(result['left'], 'point')} left; the same command goes on")
    return "\n".join(lines)
