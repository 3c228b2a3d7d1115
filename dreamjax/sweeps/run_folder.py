"""The folder of a run, and the JSON files of a sweep.

WORKDIR/sweep.json                    the identity of the sweep
WORKDIR/planned.json                  the runs of its last call, and how a report reads them
WORKDIR/points/NAME/point.json        values, seed, lengths, its config
WORKDIR/points/NAME/config.py         the same config as a file, which trains the run alone
WORKDIR/points/NAME/run[-STEPS]/      as dreamjax train leaves it
WORKDIR/points/NAME/leg-STEPS.json    its score after STEPS steps
WORKDIR/points/NAME/score.json        written last: the run is finished
WORKDIR/points/NAME/failed.json       how often it failed, and the last message
WORKDIR/points/NAME/stopped.json      the number of steps after which a search stopped it
WORKDIR/points/NAME/begun.json        while a process trains it (`crash_markers`)
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from etils import epath

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.storage import atomic, manifest, presence, sniffing
from dreamjax.sweeps import runs
from dreamjax.sweeps.runs import SweepRun

JsonObject = dict[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run."""

    path: epath.Path

    @classmethod
    def of(cls, workdir: epath.PathLike, run: SweepRun) -> "RunFolder":
        return cls(epath.Path(workdir) / "points" / run.name)

    def training(self, steps: int, run: SweepRun) -> epath.Path:
        """Return where it is trained; with a schedule that depends on the length, each length is trained separately."""
        return self.path / ("run" if run.prefix else f"run-{steps}")

    def score(self) -> JsonObject | None:
        """Return its scores; None while it is unfinished."""
        return read_json(self.path / "score.json", "legs", "cost")

    def leg(self, steps: int) -> JsonObject | None:
        """Return its score after this many steps; None where it has none yet."""
        return read_json(self.path / f"leg-{steps}.json", "measured", "cost", "seconds")

    def failures(self) -> list[str]:
        return (read_json(self.path / "failed.json") or {}).get("sentences", [])

    def is_open(self, retries: int) -> bool:
        """Return whether the run is still to be scored."""
        given_up = presence.exists(self.path / "stopped.json") or len(self.failures()) > retries
        return not given_up and self.score() is None

    def begin(self, run: SweepRun) -> None:
        config = runs.with_encoder(self.path.parents[1], run.config, run.encoder)
        point = {
            "name": run.name,
            "values": dict(run.values),
            "seed": run.seed,
            "legs": run.legs,
            "flop_per_example": run.flop,
            "batch_size": run.config.train.batch_size,
            "config": json.loads(configs.to_json(config)),
        }
        file = self.path / "config.py"
        self.path.mkdir(parents=True, exist_ok=True)
        atomic.write_text(file, configs.as_file(point["config"], f"The run {run.name} of a sweep, alone.", str(file)))
        write_json(self.path / "point.json", point)

    def write_failure(self, sentence: str) -> None:
        write_json(self.path / "failed.json", {"sentences": [*self.failures(), sentence]})


def every(folder: epath.Path, name: str) -> list[epath.Path]:
    """Return the files FOLDER/*/NAME. Raise CannotRead for a folder that cannot be read."""
    return [file for entry in presence.entries(folder) if presence.exists(file := entry / name)]


def read_json(path: epath.Path, *needed: str) -> JsonObject | None:
    """Return a file of a sweep, or None where it is missing. Raise UserError for a damaged or incomplete one."""
    if not presence.exists(path):
        return None
    only_copy = path.name == "sweep.json"  # no other file identifies the sweep
    advice = "choose another --workdir" if only_copy else "delete it, and dreamjax sweep makes it again"
    values = sniffing.read_json(path, advice)
    if missing := [name for name in needed if name not in values]:
        raise UserError(f"{path} does not say {missing[0]}; {advice}")
    return _migrated(values)


def _migrated(values: JsonObject) -> JsonObject:
    """Return a file's content with today's keys and values, whichever version wrote it."""
    for key in {"config", "base", "pretrain"} & values.keys():
        values[key] = configs.migrated(values[key])
    if values.get("score", {}).get("rank") == "pictures":
        values["score"]["rank"] = "images"
    for leg in (*values.get("legs", {}).values(), values.get("measured", {})):
        if isinstance(leg, dict) and "pictures" in leg:
            leg["images"] = json.loads(json.dumps(leg.pop("pictures")).replace("picture", "image"))
    return values


def write_json(path: epath.Path, values: Mapping[str, object]) -> None:
    manifest.write_json(path, values)
