"""Train and score the runs of a study in this process, resuming after an interruption.

A finished run is never trained again; a killed one continues from its last saved step; a failed one is tried again as
often as the sweep has retries, while the others continue.
"""

import contextlib
import errno
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

import jax
from etils import epath

from dreamjax.console import counted, log, progress
from dreamjax.errors import TryAgain, UserError
from dreamjax.storage import locks, presence
from dreamjax.sweeps import batched_runs, crash_markers, scorers
from dreamjax.sweeps import runs as runs_
from dreamjax.sweeps.batched_runs import Pack
from dreamjax.sweeps.run_folder import JsonObject, write_json
from dreamjax.sweeps.runs import SweepRun
from dreamjax.sweeps.samplers import Sampler
from dreamjax.sweeps.study import Study, SweepCounts
from dreamjax.sweeps.sweep_config import RunConfig
from dreamjax.systems import opening
from dreamjax.training import compile_cache, preemption

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
FAILURES = (UserError, MemoryError, jax.errors.JaxRuntimeError, FloatingPointError, OSError)


class Preempted(Exception):
    """A run was stopped by a signal, and with it the sweep."""


@dataclass(frozen=True)
class SweepProgress:
    """The progress of a sweep after a call, which took `seconds`."""

    workdir: str
    name: str
    counts: SweepCounts
    done_before: int
    seconds: float
    failures: dict[str, str]
    exit_code: int

    def as_json(self) -> dict[str, object]:
        values = asdict(self)
        counts = {name: count for name, count in values.pop("counts").items() if count is not None}
        about = {"workdir": self.workdir, "name": self.name} | counts
        return about | values | {"seconds": round(self.seconds, 1)}

    def text(self) -> str:
        counts, early = self.counts, self.counts.stopped_early
        unit = "run" if early is None else "trial"
        before = f" ({self.done_before} by an earlier call)" if self.done_before else ""
        stopped = f", {early} of them stopped early" if early else ""
        done = f"{counts.done} of {counted(counts.points, unit)} done{before}{stopped}"
        lines = [f"{self.workdir}: {done} in {round(self.seconds, 1):g} s"]
        lines += [f"! {name}: {sentence}" for name, sentence in self.failures.items()]
        if self.failures:
            lines.append(f"a run is tried again once its failed.json is deleted ({self.workdir}/points/…)")
        if counts.left:
            lines.append(f"{counted(counts.left, unit)} left; the same command continues")
        return "\n".join(lines)


def called(sampler: Sampler, work: Callable[[], int | None]) -> SweepProgress:
    """Do the `work` of a call, which returns its exit code (None: by failed runs); return the sweep's progress."""
    began, done_before = time.monotonic(), sampler.counts().done
    code = work()
    counts, seconds = sampler.counts(), time.monotonic() - began
    code = int(counts.failed > 0) if code is None else code
    name, failures = sampler.study.sweep.settings.name, sampler.failures()
    return SweepProgress(sampler.study.workdir, name, counts, done_before, seconds, failures, code)


def run(sampler: Sampler) -> SweepProgress:
    """Train and score what the sampler proposes until nothing is left or the hours are over.

    The exit code is 75 where the sweep was stopped, or where other processes train some of its runs. The folder already
    belongs to the sweep (`Study.prepare`).
    """
    return called(sampler, lambda: _run(sampler))


def _run(sampler: Sampler) -> int | None:
    study, stopped, busy = sampler.study, False, list[SweepRun]()
    hours = study.sweep.settings.hours
    until = math.inf if hours is None else time.monotonic() + 3600 * hours
    compile_cache.keep_all()
    counts = sampler.counts()
    with preemption.Watch() as watch, progress("sweep", counts.points) as bar:
        bar.advance(counts.done)
        while not stopped and time.monotonic() <= until and (proposal := sampler.propose()) is not None:
            try:
                for pack in proposal.packs:
                    attempt(study, pack, proposal.until)
                bar.advance(sampler.observe(proposal), proposal.runs[0].name)
            except Preempted:
                stopped = True
            except locks.Busy as problem:
                log.warning("%s", problem)
                busy += proposal.runs
            stopped = stopped or watch.requested()
    return preemption.EXIT_CODE if stopped or any(map(study.is_open, busy)) else None


def attempt(study: Study, pack: Pack, until: float = math.inf) -> None:
    """Train and score the unfinished runs of a pack, together if there are several, at lengths up to `until` steps.

    Runs that fail together are tried alone, and those that fail alone are retried as the sweep allows. Raise
    locks.Busy, with nothing done, where another process trains one of them.
    """
    left = [run for run in pack.runs if study.is_open(run)]
    with contextlib.ExitStack() as stack:
        for run in left:
            path = study.folder(run).path
            path.mkdir(parents=True, exist_ok=True)
            if jax.process_count() == 1:  # several are one run, and meet at every step
                stack.enter_context(locks.held(path / "lock", run.name))
        left = [run for run in left if study.is_open(run)]  # another process may have ended them until now
        for run in left:
            study.folder(run).begin(run)
        if len(pack.runs) > 1 and left:
            try:
                _train_together(study, pack, left, until)
            except FAILURES as problem:
                if isinstance(problem, TryAgain | presence.CannotRead) or _is_disk_full(problem):
                    raise  # not a failure of the runs
                log.warning("%d runs as one failed (%s): each alone", len(pack.runs), sentence(problem))
        for run in left:
            _train_alone(study, run, until)


def _train_alone(study: Study, run: SweepRun, until: float) -> None:
    folder = study.folder(run)
    while study.is_open(run):
        try:
            scores = RunScores.begun(study, run)
            if not scores.missing(until):
                scores.write_if_done()  # a call that was killed may not have written it
                return
            saved = [] if run.encoder is None else [runs_.encoder_folder(study.workdir, run.encoder)]
            saved += [folder.training(steps, run) for steps in run.steps]
            with crash_markers.marked([folder], saved):
                config = _with_encoder(study, run)
                for steps in scores.missing(until):
                    training = folder.training(steps, run)
                    batched_runs.delete_unresumable(training)
                    with scores.counting():
                        config = replace(config, train=replace(config.train, steps=steps))
                        result = _unless_preempted(opening.train(config, str(training)))
                    scores.measure(steps, result)
                scores.write_if_done()
        except FAILURES as problem:
            if isinstance(problem, TryAgain | presence.CannotRead) or _is_disk_full(problem):
                raise  # not a failure of the run
            folder.write_failure(sentence(problem))
            log.warning("%s failed: %s", run.name, sentence(problem))


def _with_encoder(study: Study, run: SweepRun) -> RunConfig:
    """Return the run's config, after pretraining its encoder if necessary."""
    if run.encoder is None:
        return run.config
    path = runs_.encoder_folder(study.workdir, run.encoder)
    if not runs_.encoder_is_ready(path, run.encoder):
        with runs_.encoder_held(path):
            if not runs_.encoder_is_ready(path, run.encoder):  # the process that held it until now
                log.info("pretraining the encoder %s of %s", path.name, run.name)
                seconds = _seconds(_unless_preempted(opening.train(run.encoder, str(path))))
                write_json(path / "seconds.json", {"seconds": seconds})
    return runs_.with_path(run.config, str(path))


def _train_together(study: Study, pack: Pack, left: Sequence[SweepRun], until: float) -> None:
    """Score a pack at every length that one of its runs lacks. Runs that were not finite stay unfinished."""
    scores = {run.name: RunScores.begun(study, run, len(pack.runs)) for run in left}
    refused: dict[str, int] = {}
    trainings = [pack.folder(study.workdir, steps) for steps in pack.runs[0].steps]
    with crash_markers.marked([study.folder(run) for run in left], trainings):
        for steps in sorted({steps for one in scores.values() for steps in one.missing(until)}):
            with scores[left[0].name].counting():
                result = _unless_preempted(batched_runs.train(study.workdir, pack, left, steps))
            refused |= result["refused"]
            for name, one in scores.items():
                if name not in refused and steps not in one.by_steps:
                    one.measure(steps, result)
    for name, one in scores.items():
        if name in refused:
            log.warning("%s: not finite in %d steps of %d as one: alone", name, refused[name], len(pack.runs))
        else:
            one.write_if_done()


@dataclass
class RunScores:
    """A run's scores at each length, and their cost; `together`: the number of runs trained as one program."""

    study: Study
    run: SweepRun
    together: int = 1
    by_steps: dict[int, JsonObject] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # by folder of the training
    cost: dict[str, float] = field(default_factory=lambda: {"scoring": 0.0, "programs": 0, "from_cache": 0})

    @classmethod
    def begun(cls, study: Study, run: SweepRun, together: int = 1) -> "RunScores":
        """Return the scores of an earlier call, the shorter lengths first."""
        scores = cls(study, run, together)
        for steps in run.steps:
            if (leg := study.folder(run).leg(steps)) is None:
                break
            scores.by_steps[steps] = leg["measured"]
            scores.cost, scores.seconds = leg["cost"], leg["seconds"]
        return scores

    def missing(self, until: float = math.inf) -> list[int]:
        """Return the lengths that are not scored yet, ascending."""
        return [steps for steps in self.run.steps if steps not in self.by_steps and steps <= until]

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count programs that are compiled meanwhile, and those that come from the cache."""
        before = compile_cache.counts()
        yield
        for name, count in compile_cache.counts().items():
            self.cost[name] += count - before[name]

    def measure(self, steps: int, result: JsonObject) -> None:
        """Score the run after `steps`; `result`: of the training that led there."""
        study, folder = self.study, self.study.folder(self.run)
        training, began = str(folder.training(steps, self.run)), time.monotonic()
        score = scorers.measure(training, study.sweep.settings.score, epath.Path(study.workdir) / "shared")
        if score.step != result.get("step", steps):
            raise UserError(f"{training}: step {steps} is damaged; delete the folder, and it is trained again")
        self.seconds[training] = _seconds(result) / self.together
        self.cost["scoring"] += time.monotonic() - began
        self.by_steps[steps] = score.as_json()
        leg = {"measured": self.by_steps[steps], "cost": self.cost, "seconds": self.seconds}
        write_json(folder.path / f"leg-{steps}.json", leg)

    def write_if_done(self) -> None:
        """Write score.json where all lengths are scored."""
        if self.missing():
            return
        legs = {leg: self.by_steps[steps] for leg, steps in self.run.legs.items()}
        more = {"flop": self.run.cost(), "together": self.together, "devices": jax.device_count()}
        cost = self.cost | {"seconds": sum(self.seconds.values())} | more
        write_json(self.study.folder(self.run).path / "score.json", {"legs": legs, "cost": cost})


def _unless_preempted(result: JsonObject) -> JsonObject:
    if result["preempted"]:
        raise Preempted
    return result


def _is_disk_full(problem: BaseException) -> bool:
    """Return whether no space was left, which ends the sweep, as every other run would fail in the same way."""
    return getattr(problem, "errno", None) in DISK_FULL or any(os.strerror(code) in str(problem) for code in DISK_FULL)


def _seconds(result: JsonObject) -> float:
    """Return the seconds of a training over all attempts, without repeated steps."""
    seconds = result["time"]["seconds"]
    return sum(seconds.values()) - seconds.get("restart", 0.0)


def sentence(problem: BaseException) -> str:
    """Return one sentence for a failure."""
    text = str(problem).partition("\n")[0]
    if isinstance(problem, MemoryError) or text.startswith("RESOURCE_EXHAUSTED"):
        return f"out of memory ({text[:200] or 'of the host'}); a smaller batch or model"
    return text or type(problem).__name__
