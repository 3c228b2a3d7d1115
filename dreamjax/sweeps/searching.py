"""Points that follow from the scores of earlier ones: Optuna's TPE, its state in a journal of the work directory.

With `halvings`, poor points stop early (successive halving, Jamieson & Talwalkar 2016, in its asynchronous form, Li et
al. 2020): after 1/9 and 1/3 of the steps a point goes on only where it is among the best third of those that came so
far. Its rate must then not know its end, so the horizon of its schedule is set to the whole length.

A call that is killed goes on with the point that it was at: the journal has its values. Several parts share a journal.
"""

import contextlib
import dataclasses
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from dreamjax.console import log, progress
from dreamjax.errors import UserError, missing_package
from dreamjax.sweeps import axes as axes_
from dreamjax.sweeps import batched_runs, expanding, ranking, runner
from dreamjax.sweeps import runs as points
from dreamjax.sweeps.runner import Preempted
from dreamjax.sweeps.runs import Place, Point
from dreamjax.sweeps.sweep_config import Sweep
from dreamjax.training import compile_cache, preemption

REDUCTION = 3
JOURNAL = "optuna.journal"
SAMPLED = 16  # points that are looked at before anything runs
ASIDE = "aside"  # of a trial that is no point: why


@dataclass(frozen=True)
class Search:
    """A sweep's study, as one part of several sees it (`part`; None: all)."""

    sweep: Sweep
    workdir: str
    study: Any
    budget: float | None
    part: tuple[int, int] | None = None

    @property
    def trials(self) -> list[Any]:
        """Those that are points of the sweep, none twice (`ASIDE`)."""
        return [trial for trial in self.study.trials if ASIDE not in trial.user_attrs]

    @property
    def ended(self) -> list[Any]:
        return [trial for trial in self.trials if trial.state.is_finished()]

    def points(self) -> list[Point]:
        """Of all values that were asked for so far, or by this part; not of those that are half chosen."""
        found: list[Point] = []
        for trial in self.trials:
            if trial.params and (self.part is None or trial.user_attrs.get("part") == _label(self.part)):
                with contextlib.suppress(UserError):
                    found += self.of(trial.params)
        return found

    def of(self, chosen: Mapping[str, Any]) -> list[Point]:
        """The points of these values, one a seed, with the lengths after which they may be stopped."""
        known = {axis.name: _short(chosen[axis.name]) for axis in self.sweep.axes if axis.name in chosen}
        made = points.make(self.sweep, [known], self.budget)
        return [with_rungs(point, self.sweep.settings.halvings) for point in made]

    def next(self) -> tuple[Any, dict[str, Any]] | None:
        """(trial, its values): the one that a killed call was at, else a new one; None where there are no more.

        Values that were tried before, or that another part tries, are put aside and drawn again.
        """
        begun = [trial for trial in self.trials if not trial.state.is_finished() and self._mine(trial)]
        if begun:
            trial = self._opened(begun[0]._trial_id)
            return trial, _suggested(trial, self.sweep.axes)
        for _ in range(axes_.TRIES):
            if len(self.trials) >= self.sweep.settings.points:
                return None
            trial = self._opened(self._created())
            chosen = _suggested(trial, self.sweep.axes)
            earlier = [one for one in self.trials if one.number < trial.number]
            if len(earlier) < self.sweep.settings.points and not any(one.params == trial.params for one in earlier):
                return trial, chosen
            trial.set_user_attr(ASIDE, "drawn before" if len(earlier) < self.sweep.settings.points else "one too many")
            self.study.tell(trial, state=_states().FAIL)
        log.info("the axes have hardly any values left that were not tried: the search ends")
        return None

    def _created(self) -> int:
        """A new trial that has its part from the start: no other one takes it for a killed one's."""
        import optuna

        template = optuna.trial.create_trial(state=_states().RUNNING, user_attrs={"part": _label(self.part)})
        return self.study._storage.create_new_trial(self.study._study_id, template_trial=template)

    def _opened(self, known: int) -> Any:
        """A trial with a stream of its own, so that a killed search draws as an undisturbed one."""
        import optuna

        number = self.study._storage.get_trial_number_from_id(known)
        seed = int(np.random.SeedSequence([self.sweep.settings.draw_seed, number]).generate_state(1)[0])
        self.study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        return optuna.trial.Trial(self.study, known)

    def _mine(self, trial: Any) -> bool:
        """Whether a trial that is not ended was left by this part, or by parts that are dealt otherwise now."""
        label, own = trial.user_attrs["part"], _label(self.part)
        dealt = self.part is None or trial.number % self.part[1] == self.part[0]
        return label == own or (label.partition("/")[2] != own.partition("/")[2] and dealt)


def _states() -> Any:
    from optuna.trial import TrialState

    return TrialState


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _label(part: tuple[int, int] | None) -> str:
    return "all" if part is None else f"{part[0]}/{part[1]}"


def package() -> Any:
    """Optuna. Raises UserError where it is not installed."""
    try:
        import optuna
    except ImportError as e:
        raise missing_package("optuna", "sweep", "search=tpe") from e
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("optuna").setLevel(logging.WARNING)
    return optuna


def open_(sweep: Sweep, workdir: str, part: tuple[int, int] | None = None) -> Search:
    """The folder's study, begun where there is none. Raises UserError where it searched other axes."""
    optuna = package()
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    path = str(epath.Path(workdir) / JOURNAL)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION)
    lock = JournalFileOpenLock(path)
    _whole_lines(path, lock)
    try:
        storage = optuna.storages.JournalStorage(JournalFileBackend(path, lock_obj=lock))
        study = optuna.create_study(
            storage=storage, study_name="sweep", direction="maximize", load_if_exists=True, pruner=pruner
        )
    except (ValueError, KeyError, TypeError) as problem:  # a line that is cut, or that is no JSON
        raise UserError(f"{path} is damaged; delete it: the search begins anew, and scores that are there stay") from (
            problem
        )
    settings = sweep.settings
    whole = {
        "axes": [dataclasses.asdict(a) for a in sweep.axes],
        "halvings": settings.halvings,
        "seeds": settings.seeds,
    }
    asked = json.loads(json.dumps(whole, default=str))
    if other := [name for name, value in asked.items() if study.user_attrs.get("asked", asked)[name] != value]:
        raise UserError(
            f"{workdir} searched with other {' and '.join(other)}, whose scores do not tell of these: choose another "
            "--workdir"
        )
    if "asked" not in study.user_attrs:
        study.set_user_attr("asked", asked)
    return Search(sweep, workdir, study, _budget(sweep, workdir), part)


def _whole_lines(path: str, lock: Any) -> None:
    """Cut off a last line that a killed process had half written: the next one would be written onto it."""
    if not os.path.exists(path):
        return
    lock.acquire()
    try:
        with open(path, "rb+") as file:
            text = file.read()
            file.truncate(text.rfind(b"\n") + 1)
    finally:
        lock.release()


def check(sweep: Sweep, workdir: str, parts: int) -> None:
    """Raises UserError for what cannot be searched there, or not by so many parts."""
    if "://" in workdir:
        raise UserError(f"search=tpe keeps a journal, which {workdir} cannot hold: choose a --workdir on a disk")
    if sweep.pretrain is not None and parts > 1:
        raise UserError("parts of a search over pretrain would train one encoder at once: let it be one part")


def _budget(sweep: Sweep, workdir: str) -> float | None:
    """FLOP of every point, where points have them in common: the base's, as which one is cheapest is not known."""
    if "flops" not in sweep.settings.compare:
        return None
    return points.budget(workdir) or points.make(sweep, [{}])[0].budget


def sample(sweep: Sweep) -> list[Point]:
    """Some of the points that may come, to find mistakes before anything runs."""
    package()
    drawn = list(axes_.random(sweep.axes, SAMPLED, sweep.settings.draw_seed))
    return [points.of(sweep, chosen, sweep.settings.seeds[0]) for chosen in drawn]


def with_rungs(point: Point, halvings: int) -> Point:
    """With the lengths after which it may be stopped: 1/3, 1/9, … of its own, the horizon of its rate being that."""
    if not halvings:
        return point
    whole = max(point.steps)
    if not point.prefix:
        optim = dataclasses.replace(point.config.optim, decay_steps=whole)
        point = dataclasses.replace(point, config=dataclasses.replace(point.config, optim=optim))
    rungs = {f"1/{REDUCTION**k}": whole // REDUCTION**k for k in range(halvings, 0, -1) if whole // REDUCTION**k > 0}
    return dataclasses.replace(point, legs=rungs | dict(point.legs))


# ------------------------------------------------------------------------------------------------------------- running
def run(search: Search) -> dict[str, Any]:
    """Points until the sweep has as many as it asked for, or the hours are over; a summary as `driving.run`."""
    started, settings, stopped = time.monotonic(), search.sweep.settings, False
    compile_cache.keep_all()
    before = len(search.ended)
    with preemption.Watch() as watch, progress("sweep", settings.points) as bar:
        bar.advance(before)
        while not stopped and (settings.hours is None or time.monotonic() - started < 3600 * settings.hours):
            if (found := search.next()) is None:
                break
            trial, chosen = found
            try:
                _try(search, trial, chosen)
                bar.advance(1, _told(chosen))
            except Preempted:
                stopped = True
            stopped = stopped or watch.requested()
    told = standing(search, before, time.monotonic() - started)
    return told | {"exit_code": preemption.EXIT_CODE if stopped else int(told["failed"] > 0)}


def standing(search: Search, before: int, seconds: float) -> dict[str, Any]:
    """As `driving.standing`, of values and not of their seeds."""
    states = [trial.state.name for trial in search.ended]
    return {
        "workdir": search.workdir,
        "name": search.sweep.settings.name,
        "points": max(search.sweep.settings.points, len(states)),
        "done": states.count("COMPLETE") + states.count("PRUNED"),
        "stopped_early": states.count("PRUNED"),
        "done_before": before,
        "failed": states.count("FAIL"),
        "left": max(0, search.sweep.settings.points - len(states)),
        "seconds": round(seconds, 1),
        "failures": _without_point(search) | runner.failures(search.workdir, search.points()),
    }


def _without_point(search: Search) -> dict[str, str]:
    """Values → why they make no point."""
    return {_told(one.params): one.user_attrs["sentence"] for one in search.trials if "sentence" in one.user_attrs}


def _told(chosen: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_short(value)}" for name, value in chosen.items())


def _suggested(trial: Any, axes: Sequence[axes_.Axis]) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for axis in axes:
        if not axis.applies(chosen):
            continue
        if axis.between is None:
            chosen[axis.name] = trial.suggest_categorical(axis.name, list(axis.choices))
        elif axis.whole:
            chosen[axis.name] = trial.suggest_int(axis.name, int(axis.between[0]), int(axis.between[1]), log=axis.log)
        else:
            chosen[axis.name] = _short(trial.suggest_float(axis.name, *axis.between, log=axis.log))
    return chosen


def _try(search: Search, trial: Any, chosen: Mapping[str, Any]) -> None:
    """Train and score the point with every seed, length by length; tell the study."""
    try:
        found = search.of(chosen)
    except UserError as problem:  # values that do not go together
        log.warning("%s: %s", _told(chosen), problem)
        trial.set_user_attr("sentence", str(problem))
        search.study.tell(trial, state=_states().FAIL)
        return
    value = None
    for number, steps in enumerate(found[0].steps):
        value = _after(search, found, steps)
        if value is None:
            search.study.tell(trial, state=_states().FAIL)
            return
        if steps == found[0].steps[-1]:
            break
        trial.report(value, REDUCTION**number)
        if trial.should_prune():
            log.info("%s: stopped after %d of %d steps", found[0].name, steps, found[0].steps[-1])
            for point in found:
                Place.of(search.workdir, point).stopped(steps)
            search.study.tell(trial, state=_states().PRUNED)
            return
    search.study.tell(trial, value)


def _after(search: Search, found: Sequence[Point], steps: int) -> float | None:
    """The mean score of a point's seeds after so many steps; None where one of them failed."""
    sweep, workdir = search.sweep, search.workdir
    for pack in batched_runs.chunks(found, sweep.settings.together):
        left = [point for point in pack if Place.of(workdir, point).open(sweep.settings.retries)]
        runner.attempt(sweep, workdir, pack, left, until=steps)
    legs = [Place.of(workdir, point).leg(steps) for point in found]
    each = [None if leg is None else ranking.by_subject(leg["measured"], sweep.settings.score.rank) for leg in legs]
    return None if None in each else float(np.mean([np.mean(list(one.values())) for one in each if one is not None]))


def outlook(sweep: Sweep, workdir: str) -> dict[str, Any]:
    """As `expanding.outlook`: the points so far, and the cost of the base for each that is to come."""
    began = (epath.Path(workdir) / JOURNAL).exists()
    search = open_(sweep, workdir) if began else None
    base = points.make(sweep, [{}], search.budget if search else points.budget(workdir))
    coming = max(0, sweep.settings.points - (len(search.trials) if search else 0))
    return expanding.outlook(sweep, search.points() if search else [], workdir, coming * base)
