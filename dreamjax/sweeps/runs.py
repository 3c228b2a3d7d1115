"""The points of a sweep: values, a seed, the run that they make, how long it is trained, where it is kept.

WORKDIR/sweep.json                    what the sweep is
WORKDIR/planned.json                  which points its last call had, and how a report reads them
WORKDIR/points/NAME/point.json        values, seed, lengths, its config
WORKDIR/points/NAME/config.py         the same config as a file, which trains the point alone
WORKDIR/points/NAME/run[-STEPS]/      as dreamjax train leaves it
WORKDIR/points/NAME/leg-STEPS.json    what it was measured as after so many steps
WORKDIR/points/NAME/score.json        written last: with it the point is done
WORKDIR/points/NAME/failed.json       how often it failed, and with which sentence
WORKDIR/points/NAME/stopped.json      after how many steps a search gave it up
WORKDIR/points/NAME/begun.json        while a process is at it (`deaths`)
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from etils import epath

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.signals.datasets import records
from dreamjax.storage import atomic, sniffing
from dreamjax.sweeps import pretrained_encoders
from dreamjax.sweeps.sweep_config import Sweep
from dreamjax.systems import registry
from dreamjax.training.workdir import changes


@dataclass(frozen=True)
class Point:
    """`chosen`: axis → label. `legs`: what points have in common → the steps that this one takes for it."""

    chosen: Mapping[str, Any]
    seed: int
    config: Any
    legs: Mapping[str, int]
    flop: float | None  # of an example, forward and backward
    budget: float | None = None  # FLOP that every point is given, where points have them in common
    encoder: Any | None = None  # config of the pretraining that it builds on (`encoders`)

    @property
    def name(self) -> str:
        """Readable, and no other point's: values, seed, and the start of a hash of the whole config."""
        told = "-".join([*(f"{axis.rpartition('.')[2]}={label}" for axis, label in self.chosen.items())])
        safe = re.sub(r"[^A-Za-z0-9.=+-]", "_", told)[:80]
        whole = configs.to_json(self.config) + ("" if self.encoder is None else configs.to_json(self.encoder))
        mark = hashlib.sha256(whole.encode()).hexdigest()[:8]
        return f"{safe}-seed={self.seed}-{mark}" if safe else f"seed={self.seed}-{mark}"

    @property
    def steps(self) -> list[int]:
        """After which it is scored, ascending."""
        return sorted(set(self.legs.values()))

    @property
    def prefix(self) -> bool:
        """Whether a shorter run is the beginning of a longer one: only where its rate does not know the end."""
        optim = getattr(self.config, "optim", None)
        return optim is not None and (optim.schedule == "constant" or optim.decay_steps is not None)

    def cost(self) -> float | None:
        """FLOP of all that is trained of it."""
        if self.flop is None:
            return None
        steps = max(self.steps) if self.prefix else sum(self.steps)
        return self.flop * self.config.train.batch_size * steps


def make(sweep: Sweep, chosen: Iterable[Mapping[str, Any]], budget: float | None = None) -> list[Point]:
    """Every combination with every seed. Raises UserError where one is no run, or where FLOP cannot be compared.

    `budget`: FLOP that all are given, where an earlier call has decided it; None: those of the cheapest.
    """
    found = [of(sweep, one, seed) for one in chosen for seed in sweep.settings.seeds]
    if not found:
        raise UserError(f"{sweep.source}: the axes make no point")
    return with_legs(sweep, found, budget)


def of(sweep: Sweep, chosen: Mapping[str, Any], seed: int) -> Point:
    """A point without its lengths. Raises UserError where the values make no run."""
    config, encoder = sweep.config_of(chosen, seed), sweep.pretrain_of(chosen, seed)
    if encoder is not None:
        config, encoder = pretrained_encoders.split(config, encoder)
    return Point(chosen, seed, config, {}, registry.build(config).flops(), encoder=encoder)


def with_legs(sweep: Sweep, found: list[Point], budget: float | None) -> list[Point]:
    """Equal examples: the base's. Equal FLOP: what the cheapest point takes for these; others take fewer steps."""
    each = [None if point.flop is None else point.flop * point.config.train.batch_size for point in found]
    wanted, legs = sweep.settings.compare, []
    base = configs.to_dataclass(sweep.schema, sweep.base, sweep.source).train
    examples = base.steps * base.batch_size
    if "flops" in wanted and None in each:
        raise UserError(
            f"{sweep.source}: how many FLOP a step of {found[0].config.system} takes is not known; set compare=examples"
        )
    if budget is None and "flops" in wanted:
        budget = examples * min(point.flop for point in found if point.flop is not None)
    for point, flop in zip(found, each, strict=True):
        own: dict[str, int] = {}
        whole = max(1, round(examples / point.config.train.batch_size))
        if "examples" in wanted:
            own["examples"] = whole
        if flop is not None and budget is not None:
            if budget < flop / 2:
                raise UserError(
                    f"{sweep.source}: one step of {point.name.rpartition('-seed')[0]} takes {flop / budget:.3g} times "
                    "the FLOP that every point is given: leave it out, train the base for more steps, or set "
                    "compare=examples"
                )
            own["flops"] = max(1, round(budget / flop))
        legs.append(own)
    return [replace(point, legs=own, budget=budget) for point, own in zip(found, legs, strict=True)]


# ------------------------------------------------------------------------------------------------------------- on disk
@dataclass(frozen=True)
class Place:
    """A point's folder."""

    folder: epath.Path

    @classmethod
    def of(cls, workdir: epath.PathLike, point: Point) -> "Place":
        return cls(epath.Path(workdir) / "points" / point.name)

    @property
    def workdir(self) -> epath.Path:
        return self.folder.parent.parent

    def run(self, steps: int, point: Point) -> epath.Path:
        """Of a schedule that knows its end every length is a run of its own."""
        return self.folder / ("run" if point.prefix else f"run-{steps}")

    def score(self) -> dict[str, Any] | None:
        """What the point was measured as; None while it is not done."""
        return read_json(self.folder / "score.json", "legs", "cost")

    def leg(self, steps: int) -> dict[str, Any] | None:
        """What the point was measured as after so many steps; None where it was not yet."""
        return read_json(self.folder / f"leg-{steps}.json", "measured", "cost", "seconds")

    def measured(self, steps: int, leg: Mapping[str, Any]) -> None:
        write_json(self.folder / f"leg-{steps}.json", leg)

    def failures(self) -> list[str]:
        return (read_json(self.folder / "failed.json") or {}).get("sentences", [])

    def open(self, retries: int) -> bool:
        """Whether the point is still to be measured."""
        gone = (self.folder / "stopped.json").exists() or len(self.failures()) > retries
        return not gone and self.score() is None

    def begin(self, point: Point) -> None:
        about = {
            "name": point.name,
            "values": dict(point.chosen),
            "seed": point.seed,
            "legs": dict(point.legs),
            "flop_per_example": point.flop,
            "batch_size": point.config.train.batch_size,
            "config": json.loads(
                configs.to_json(pretrained_encoders.placed(self.workdir, point.config, point.encoder))
            ),
        }
        told = f"The point {point.name} of a sweep, alone."
        file = self.folder / "config.py"
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic.write_text(file, configs.as_file(about["config"], told, str(file)))
        write_json(self.folder / "point.json", about)

    def done(self, score: Mapping[str, Any]) -> None:
        write_json(self.folder / "score.json", score)

    def stopped(self, steps: int) -> None:
        write_json(self.folder / "stopped.json", {"steps": steps})

    def failed(self, sentence: str) -> None:
        write_json(self.folder / "failed.json", {"sentences": [*self.failures(), sentence]})


def read_json(path: epath.Path, *needed: str) -> dict[str, Any] | None:
    """What a file of a sweep says; None where it is not there. Raises UserError for a damaged or incomplete one."""
    if not path.exists():
        return None
    alone = path.name == "sweep.json"  # what the folder is, which no other file says
    advice = "choose another --workdir" if alone else "delete it, and dreamjax sweep makes it again"
    found = sniffing.read_json(path, advice)
    if lacking := [name for name in needed if name not in found]:
        raise UserError(f"{path} does not say {lacking[0]}; {advice}")
    return found


def write_json(path: epath.Path, found: Mapping[str, Any]) -> None:
    atomic.write_text(path, json.dumps(found, indent=1))


def budget(workdir: epath.PathLike) -> float | None:
    """FLOP that the points of a folder's sweep are given: they stay the same when axes grow."""
    there = read_json(epath.Path(workdir) / "sweep.json")
    return None if there is None else there.get("budget")


def is_claimed(workdir: epath.PathLike, sweep: Sweep) -> bool:
    """Whether a folder is this sweep's. Raises UserError for one of another sweep or of other data: what differs."""
    folder = epath.Path(workdir)
    if not folder.exists():
        return False
    holds = any(not one.name.startswith(".") for one in folder.iterdir())
    there = read_json(folder / "sweep.json")  # after looking: another part of the same sweep may be writing it
    if there is None and holds:
        raise UserError(f"{workdir} holds something else than a sweep (no sweep.json): choose another --workdir")
    if there is None:
        return False
    there.pop("budget", None)
    if different := changes(json.dumps(there), json.dumps(identity(sweep))):
        said = [f"{key} was {before!r} and is now {now!r}" for key, (before, now) in different.items()]
        raise UserError(f"{workdir} holds another sweep ({'; '.join(said[:4])}): choose another --workdir")
    return True


def claim(workdir: epath.PathLike, sweep: Sweep, found: Sequence[Point] = ()) -> None:
    """Make a folder this sweep's. Raises UserError as `is_claimed`."""
    folder = epath.Path(workdir)
    if not is_claimed(workdir, sweep):
        folder.mkdir(parents=True, exist_ok=True)
        given = next((point.budget for point in found), None)
        write_json(folder / "sweep.json", identity(sweep) | {"budget": given})
    names = [] if sweep.settings.search == "tpe" else [point.name for point in found]
    write_json(folder / "planned.json", {"points": names, "scaling": sweep.settings.scaling})
    for point in found:  # what a report reads of a finished point, where somebody has deleted it
        place = Place.of(workdir, point)
        if (place.folder / "score.json").exists() and not (place.folder / "point.json").exists():
            place.begin(point)


def identity(sweep: Sweep) -> dict[str, Any]:
    """What makes two sweeps the same. Raises UserError where a dataset cannot be read."""
    return json.loads(json.dumps(sweep.identity() | _of_data(sweep)))


def _of_data(sweep: Sweep) -> dict[str, Any]:
    """A hash of what each dataset of the base holds."""
    both = [one for one in (sweep.base, sweep.pretrain) if one is not None]
    paths = [path for one in both for path in getattr(getattr(one, "data", None), "path", ())]
    shards = {path: json.dumps(records.load_dataset(path)["shards"], sort_keys=True) for path in paths}
    return {"shards": {path: hashlib.sha256(text.encode()).hexdigest()[:16] for path, text in shards.items()}}
