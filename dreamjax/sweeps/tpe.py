"""Choose runs from the scores of earlier ones: Optuna's TPE, with its state in a journal of the work directory.

With `halvings`, poor trials stop early (successive halving, Jamieson & Talwalkar 2016, in its asynchronous form, Li et
al. 2020): after 1/9 and 1/3 of the steps a trial continues only if it is among the best third of those that got so far.
The horizon of its learning-rate schedule is the whole length, so that a stopped trial is the beginning of a whole one.

A killed call continues with its current trial, whose values are in the journal. Several parts share a journal.
"""

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from dreamjax.console import log
from dreamjax.errors import UserError, missing_package
from dreamjax.storage import presence
from dreamjax.sweeps import axes as axes_
from dreamjax.sweeps import batched_runs
from dreamjax.sweeps import runs as runs_
from dreamjax.sweeps.axes import Combination
from dreamjax.sweeps.batched_runs import Proposal
from dreamjax.sweeps.run_folder import write_json
from dreamjax.sweeps.runs import SweepRun
from dreamjax.sweeps.study import Study, SweepCounts

if TYPE_CHECKING:
    import optuna

REDUCTION = 3
JOURNAL = "optuna.journal"
NAME = "sweep"  # of the study in the journal
SAMPLED = 16  # combinations that are checked before anything runs
ASIDE = "aside"  # attribute of a trial that is not part of the sweep: why


@dataclass
class CurrentTrial:
    """A trial that has not ended, and its runs."""

    trial: "optuna.Trial"
    runs: list[SweepRun]
    lengths: list[int]  # still to be scored
    proposed: bool = False


class TPESampler:
    """The sampler of a search. Raise UserError where Optuna is not installed."""

    def __init__(self, study: Study):
        self.study, self.settings, self.optuna = study, study.sweep.settings, _package()
        self.states = self.optuna.trial.TrialState
        self.path = epath.Path(study.workdir) / JOURNAL
        self.label = "all" if study.part is None else str(study.part)
        self.current: CurrentTrial | None = None

    # --------------------------------------------------------------------------------------------------- the journal
    @cached_property
    def storage(self) -> "optuna.storages.JournalStorage":
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        lock = JournalFileOpenLock(str(self.path))
        if presence.exists(self.path):  # cut off a line that a killed process had half written, before the next joins
            lock.acquire()
            try:
                os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)
            finally:
                lock.release()
        try:
            return self.optuna.storages.JournalStorage(JournalFileBackend(str(self.path), lock_obj=lock))
        except (ValueError, KeyError, TypeError) as problem:  # a line that is cut, or that is not JSON
            raise UserError(
                f"{self.path} is damaged; delete it: the search starts again, and scores that are there stay"
            ) from problem

    @cached_property
    def journal(self) -> "optuna.Study":
        """Return the journal's study, created if missing. Raise UserError where it searched other axes."""
        pruner = self.optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION)
        study = self.optuna.create_study(
            storage=self.storage, study_name=NAME, direction="maximize", load_if_exists=True, pruner=pruner
        )
        axes = [asdict(axis) for axis in self.study.sweep.axes]
        whole = {"axes": axes, "halvings": self.settings.halvings, "seeds": self.settings.seeds}
        now = json.loads(json.dumps(whole, default=str))
        if other := [name for name, value in now.items() if study.user_attrs.get("asked", now)[name] != value]:
            raise UserError(
                f"{self.study.workdir} searched with other {' and '.join(other)}, whose scores cannot be used for "
                "these: choose another --workdir"
            )
        if "asked" not in study.user_attrs:
            study.set_user_attr("asked", now)
        return study

    @property
    def trials(self) -> "list[optuna.trial.FrozenTrial]":
        """Return the trials that are part of the sweep, no values twice (`ASIDE`)."""
        return [trial for trial in self.journal.trials if ASIDE not in trial.user_attrs]

    # ------------------------------------------------------------------------------------------------------ the runs
    @cached_property
    def budget(self) -> float | None:
        """Return the FLOP of every run at equal FLOP: the base's, as the cheapest run is not known in advance."""
        if "flops" not in self.settings.compare:
            return None
        return self.study.budget() or runs_.make(self.study.sweep, [{}])[0].budget

    def runs(self) -> list[SweepRun]:
        runs: list[SweepRun] = []
        for trial in self.trials if presence.exists(self.path) else ():
            if trial.params and (self.study.part is None or trial.user_attrs.get("part") == self.label):
                with contextlib.suppress(UserError):  # values that do not go together
                    runs += self.runs_of(trial.params)
        return runs

    def runs_of(self, params: Mapping[str, object]) -> list[SweepRun]:
        """Return the runs of a trial's values, one for each seed, with the lengths after which they may be stopped."""
        values = {axis.name: _short(params[axis.name]) for axis in self.study.sweep.axes if axis.name in params}
        runs = runs_.make(self.study.sweep, [values], self.budget)
        return self.study.named([with_rungs(run, self.settings.halvings) for run in runs])

    def sample(self) -> list[SweepRun]:
        drawn = axes_.random(self.study.sweep.axes, SAMPLED, self.settings.draw_seed)
        return [runs_.of(self.study.sweep, values, self.settings.seeds[0]) for values in drawn]

    def coming(self) -> int:
        return max(0, self.settings.trials - (len(self.trials) if presence.exists(self.path) else 0))

    # ------------------------------------------------------------------------------------------- proposing, observing
    def propose(self) -> Proposal | None:
        while self.current is None:
            if (following := self.next()) is None:
                return None
            trial, values = following
            try:
                runs = self.runs_of(values)
                self.current = CurrentTrial(trial, runs, runs[0].steps)
            except UserError as problem:  # values that do not go together
                log.warning("%s: %s", _text(values), problem)
                trial.set_user_attr("sentence", str(problem))
                self.journal.tell(trial, state=self.states.FAIL)
        if self.current.proposed:  # nothing was scored: another process has it
            return None
        self.current.proposed = True
        packs = batched_runs.packs(self.current.runs, self.settings.together)
        return Proposal(packs, until=self.current.lengths[0])

    def observe(self, proposal: Proposal) -> int:
        """Tell the study the mean score of the trial's seeds, and whether it failed or stops early."""
        current = self.current
        assert current is not None
        steps, *left = current.lengths
        value, whole = self.study.mean_score(current.runs, steps), current.runs[0].steps
        if value is None:
            self.journal.tell(current.trial, state=self.states.FAIL)
        elif not left:
            self.journal.tell(current.trial, value)
        else:
            rung = REDUCTION ** whole.index(steps)
            if rung not in self.journal.trials[current.trial.number].intermediate_values:  # by a call that was killed
                current.trial.report(value, rung)
            if not current.trial.should_prune():
                current.lengths, current.proposed = left, False
                return 0
            log.info("%s: stopped after %d of %d steps", current.runs[0].name, steps, whole[-1])
            for run in current.runs:
                write_json(self.study.folder(run).path / "stopped.json", {"steps": steps})
            self.journal.tell(current.trial, state=self.states.PRUNED)
        self.current = None
        return 1

    def next(self) -> "tuple[optuna.Trial, Combination] | None":
        """Return (trial, its values): that of a killed call, else a new one; None where there are no more.

        Values that were tried before, or that another part tries, are set aside and sampled again.
        """
        begun = [trial for trial in self.trials if not trial.state.is_finished() and self._mine(trial)]
        if begun:
            trial = self.open_trial(begun[0].number)
            return trial, self._suggest(trial)
        for _ in range(axes_.TRIES):
            if len(self.trials) >= self.settings.trials:
                return None
            # a trial has its part from the start, so that no other part takes it for a killed one's; `Study.ask` cannot
            template = self.optuna.trial.create_trial(state=self.states.RUNNING, user_attrs={"part": self.label})
            known = self.storage.create_new_trial(self._study_id, template_trial=template)
            trial = self.open_trial(self.storage.get_trial(known).number)
            values = self._suggest(trial)
            earlier = [one for one in self.trials if one.number < trial.number]
            too_many = len(earlier) >= self.settings.trials
            if not too_many and not any(one.params == trial.params for one in earlier):
                return trial, values
            trial.set_user_attr(ASIDE, "one too many" if too_many else "drawn before")
            self.journal.tell(trial, state=self.states.FAIL)
        log.info("the axes have hardly any values left that were not tried: the search ends")
        return None

    @property
    def _study_id(self) -> int:
        return self.storage.get_study_id_from_name(NAME)

    def open_trial(self, number: int) -> "optuna.Trial":
        """Return a trial with its own stream of random numbers, so that a killed search samples the same values."""
        seed = int(np.random.SeedSequence([self.settings.draw_seed, number]).generate_state(1)[0])
        self.journal.sampler = self.optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        known = self.storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        return self.optuna.trial.Trial(self.journal, known)

    def _mine(self, trial: "optuna.trial.FrozenTrial") -> bool:
        """Return whether an unended trial was left by this part, or by a call with another number of parts."""
        part, label = self.study.part, trial.user_attrs["part"]
        other_count = label.partition("/")[2] != self.label.partition("/")[2]
        return label == self.label or (other_count and (part is None or trial.number % part.count == part.index))

    def _suggest(self, trial: "optuna.Trial") -> Combination:
        values: dict[str, object] = {}
        for axis in self.study.sweep.axes:
            if not axis.applies(values):
                continue
            if axis.between is None:
                values[axis.name] = trial.suggest_categorical(axis.name, list(axis.choices))
            elif axis.whole:
                values[axis.name] = trial.suggest_int(axis.name, *map(int, axis.between), log=axis.log)
            else:
                values[axis.name] = _short(trial.suggest_float(axis.name, *axis.between, log=axis.log))
        return values

    # ------------------------------------------------------------------------------------------------------- progress
    def counts(self) -> SweepCounts:
        states = [trial.state for trial in self.trials if trial.state.is_finished()]
        pruned, most = states.count(self.states.PRUNED), self.settings.trials
        done, failed = states.count(self.states.COMPLETE) + pruned, states.count(self.states.FAIL)
        return SweepCounts(max(most, len(states)), done, failed, max(0, most - len(states)), stopped_early=pruned)

    def failures(self) -> dict[str, str]:
        """Return values or run → why they cannot be trained, or failed."""
        refused = {_text(one.params): one.user_attrs["sentence"] for one in self.trials if "sentence" in one.user_attrs}
        return refused | self.study.failures(self.runs())


def _package() -> ModuleType:
    try:
        import optuna
    except ImportError as e:
        raise missing_package("optuna", "sweep", "search=tpe") from e
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("optuna").setLevel(logging.WARNING)
    return optuna


def with_rungs(run: SweepRun, halvings: int) -> SweepRun:
    """Return a run with the lengths after which it may be stopped: 1/3, 1/9, … of its own, the horizon of its rate."""
    if not halvings:
        return run
    whole = max(run.steps)
    if not run.prefix:
        optim = replace(getattr(run.config, "optim"), decay_steps=whole)  # noqa: B009
        run = replace(run, config=replace(run.config, **{"optim": optim}))
    rungs = {f"1/{REDUCTION**k}": whole // REDUCTION**k for k in range(halvings, 0, -1) if whole // REDUCTION**k > 0}
    return replace(run, legs=rungs | run.legs)


def _short(value: object) -> object:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _text(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={_short(value)}" for name, value in values.items())
