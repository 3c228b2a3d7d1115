"""A sweep and its work directory: whether the folder belongs to the sweep, and the progress of its runs."""

import contextlib
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from etils import epath

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.signals.datasets import records
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.storage import presence, replacing
from dreamjax.sweeps import ranking, scorers
from dreamjax.sweeps import runs as runs_
from dreamjax.sweeps.axes import Combination
from dreamjax.sweeps.partition import Part
from dreamjax.sweeps.run_folder import JsonObject, RunFolder, every, read_json, write_json
from dreamjax.sweeps.runs import SweepRun
from dreamjax.sweeps.sweep_config import RunConfig, ScoreConfig, Sweep
from dreamjax.systems import registry
from dreamjax.systems.base import Vectorises, capabilities
from dreamjax.training.workdir import changes, effective

PLACES_OF_DATA = r"shards\.|(base|pretrain)\.data\.path$"


@dataclass(frozen=True)
class SweepCounts:
    """The numbers of runs of a sweep, or trials of a search: total, finished, failed, remaining."""

    points: int
    done: int
    failed: int
    left: int
    stopped_early: int | None = None  # of a search


@dataclass(frozen=True)
class Study:
    """A sweep in a work directory, as one part of several sees it (`part`; None: all)."""

    sweep: Sweep
    workdir: str
    part: Part | None = None

    # ---------------------------------------------------------------------------------------------------------- runs
    def expand(self) -> list[SweepRun]:
        """Return all runs of a grid, a list or a random sweep."""
        return self.named(runs_.expand(self.sweep, self.budget()))

    def budget(self) -> float | None:
        """Return the FLOP of each run in the folder, which stay the same when axes grow."""
        stored = read_json(epath.Path(self.workdir) / "sweep.json")
        return None if stored is None else stored.get("budget")

    def folder(self, run: SweepRun) -> RunFolder:
        return RunFolder.of(self.workdir, run)

    def is_open(self, run: SweepRun) -> bool:
        """Return whether the run is still to be scored."""
        return self.folder(run).is_open(self.sweep.settings.retries)

    def is_done(self, run: SweepRun) -> bool:
        return self.folder(run).score() is not None

    def failures(self, runs: Iterable[SweepRun]) -> dict[str, str]:
        """Return run → the last sentence with which it failed, of those that are not done."""
        folders = {run.name: self.folder(run) for run in runs}
        return {name: f.failures()[-1] for name, f in folders.items() if f.failures() and f.score() is None}

    def mean_score(self, runs: Sequence[SweepRun], steps: int) -> float | None:
        """Return the mean score of runs after this many steps; None where one of them has no score."""
        legs = [leg for run in runs if (leg := self.folder(run).leg(steps)) is not None]
        if len(legs) < len(runs):
            return None
        scores = [ranking.by_subject(leg["measured"], self.sweep.settings.score.rank) for leg in legs]
        return float(np.mean([np.mean(list(by_subject.values())) for by_subject in scores]))

    def named(self, runs: Sequence[SweepRun]) -> list[SweepRun]:
        """Return runs with their folders' names, which differ where an earlier version's config had other keys."""
        return [replace(run, stored_name=self._stored_name(run)) for run in runs]

    def _stored_name(self, run: SweepRun) -> str:
        if presence.exists(self.folder(run).path):
            return ""
        config = runs_.with_encoder(self.workdir, run.config, run.encoder)
        now, defaults = configs.to_json(config), configs.to_json(type(config)())
        for name, stored in self._stored.get(_label(run.values, run.seed), ()):
            different = effective(changes(json.dumps(stored), now, defaults))
            different.pop("data.path", None)  # where the data are now: `is_claimed` knows whether they are the same
            if all(epath.Path(str(one)).name == epath.Path(str(other)).name for one, other in different.values()):
                return name  # an encoder's run is known by its last part
        return ""

    @functools.cached_property
    def _stored(self) -> dict[str, list[tuple[str, JsonObject]]]:
        """Return values and seed → (name, config) of the existing folders."""
        stored: dict[str, list[tuple[str, JsonObject]]] = {}
        for path in every(epath.Path(self.workdir) / "points", "point.json"):
            with contextlib.suppress(UserError):  # a damaged one is written again when its run goes on
                point = read_json(path, "values", "seed", "config") or {}
                label = _label(point["values"], point["seed"])
                stored.setdefault(label, []).append((path.parent.name, point["config"]))
        return stored

    # -------------------------------------------------------------------------------------------------------- folder
    def prepare(self, runs: Sequence[SweepRun]) -> None:
        """Claim the folder; `runs`: all of them, or some of those that may come.

        Raise UserError, before anything is written, where they could not be trained or be scored alike.
        """
        self.check(runs)
        self.claim(runs)

    def check(self, runs: Sequence[SweepRun]) -> None:
        """Raise UserError where the runs could not be trained, or not be scored alike."""
        score, source = self.sweep.settings.score, self.sweep.source
        for key, path in self._data():
            replacing.recover(path)
            if not presence.exists(path):
                raise UserError(f"{path}: no such dataset folder; say where it is with --config.{key}=FOLDER")
        for config in {_alike(run.config): run.config for run in runs}.values():
            scorers.check(config, score)
            if self.sweep.settings.together > 1 and Vectorises not in capabilities(registry.find(config.system)):
                raise UserError(
                    f"together is {self.sweep.settings.together}, but runs of {config.system} cannot be trained as one "
                    "program; set together=1"
                )
        if any(run.encoder is not None and scorers.lacks_data(run.encoder) for run in runs):
            raise UserError("the pretraining before the sweep has no data: give --config.pretrain.data.path=SHARDS")
        if len({scorers.seen_alike(run.config, score) for run in runs}) > 1:
            raise UserError(f"{source}: an axis changes the windows that runs are scored on (data.*)")

    def obstacle(self, runs: Sequence[SweepRun]) -> str | None:
        """Return why the sweep would not start, None if it would; `runs` as for `prepare`."""
        try:
            self.check(runs)
            self.identity()
        except UserError as problem:
            return str(problem)
        return None

    def is_claimed(self) -> bool:
        """Return whether the folder belongs to this sweep. Raise UserError for another sweep's or other data."""
        folder = epath.Path(self.workdir)
        if not presence.exists(folder):
            return False
        in_use = any(not one.name.startswith(".") for one in presence.entries(folder))
        stored = read_json(folder / "sweep.json")  # after looking: another part of the same sweep may be writing it
        if stored is None and in_use:
            raise UserError(f"{folder} holds something else than a sweep (no sweep.json): choose another --workdir")
        if stored is None:
            return False
        stored.pop("budget", None)
        now = self.identity()
        defaults = {"base": asdict(self.sweep.schema()), "score": asdict(ScoreConfig())}  # of keys that are new
        if self.sweep.pretrain is not None:
            defaults["pretrain"] = asdict(self.sweep.pretrain_schema())
        different = effective(changes(json.dumps(stored), json.dumps(now), json.dumps(defaults)))
        different |= dict.fromkeys(stored.keys() - now.keys(), ("set", None))
        if list(stored.get("shards", {}).values()) == list(now["shards"].values()):  # the same data at another place
            different = {key: both for key, both in different.items() if not re.match(PLACES_OF_DATA, key)}
        if different:
            each = [f"{key} was {before!r} and is now {after!r}" for key, (before, after) in different.items()]
            raise UserError(f"{folder} holds another sweep ({'; '.join(each[:4])}): choose another --workdir")
        return True

    def claim(self, runs: Sequence[SweepRun] = ()) -> None:
        """Claim the folder for this sweep. Raise UserError as `is_claimed` does."""
        folder = epath.Path(self.workdir)
        if not self.is_claimed():
            folder.mkdir(parents=True, exist_ok=True)
            budget = next((run.budget for run in runs), None)
            write_json(folder / "sweep.json", self.identity() | {"budget": budget})
        names = [] if self.sweep.settings.search == "tpe" else [run.name for run in runs]
        write_json(folder / "planned.json", {"points": names, "scaling": self.sweep.settings.scaling})
        for run, path in ((run, self.folder(run).path) for run in runs):
            if presence.exists(path / "score.json") and not presence.exists(path / "point.json"):
                self.folder(run).begin(run)  # what a report reads of a finished run, where somebody has deleted it

    def identity(self) -> JsonObject:
        """Return the identity of the sweep. Raise UserError where a dataset cannot be read."""
        shards = {path: json.dumps(records.load_dataset(path)["shards"], sort_keys=True) for _, path in self._data()}
        marks = {path: hashlib.sha256(text.encode()).hexdigest()[:16] for path, text in shards.items()}
        return json.loads(json.dumps(self.sweep.identity() | {"shards": marks}))

    def _data(self) -> list[tuple[str, str]]:
        """Return (key of the sweep's config, path) of each dataset folder."""
        both = {"base": self.sweep.base_config(), "pretrain": self.sweep.pretrain_of({}, 0)}
        data = {f"{name}.data.path": getattr(config, "data", None) for name, config in both.items()}
        return [(key, path) for key, one in data.items() if isinstance(one, DataConfig) for path in one.path]


def _label(values: Combination, seed: int) -> str:
    return json.dumps([list(values.items()), seed])


def _alike(config: RunConfig) -> tuple[str, str]:
    """Return a key that is equal for runs of which only one has to be checked."""
    patch = getattr(getattr(config, "model", None), "patch", None)
    return config.system, repr([getattr(config, "data", None), getattr(config, "loss", None), patch])
