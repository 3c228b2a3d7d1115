"""A sweep as a config: what is varied, on top of which run, how each point is scored.

    def get_config(…) -> ConfigDict:
        return description.config(name, base, [axes.values("mask.ratio", 0.25, 0.75)], seeds=(0, 1, 2), …)

`base` is the ConfigDict of a run, as its own config file makes it. On the command line `--config.base.KEY=…` changes
it, `--config.KEY=…` the settings below.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ml_collections import ConfigDict

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.sweeps import axes as axes_
from dreamjax.sweeps.axes import Axis
from dreamjax.systems import registry

PRETRAIN = "pretrain."  # what keys of the pretraining before a base of dreamdiffusion begin with


@dataclass(frozen=True)
class ScoreConfig:
    """What a point is measured by, on windows of people whom no run has trained on."""

    split: Literal["val", "test"] = "val"  # points are chosen by it, so test is for what is chosen
    windows: int | None = 400  # an even choice; of images, trials drawn at random
    rank: Literal["reconstruction", "probe", "images"] = "reconstruction"
    labels: tuple[str, ...] = ()  # two, for a linear probe; none: no probe
    patch: int | None = None  # samples that the masks hide at once; none: the model's patch
    baselines: bool = True  # interpolation and conditional mean too, once for all points of equal windows
    classifier: str = ""  # of rank images: a folder, ViTForImageClassification
    ways: int | None = None  # … N of the N-way accuracy; none: all of its classes
    samples: int = 1  # … images of a trial
    sampler_steps: int = 30  # …
    guidance: float = 7.5  # … 1: none

    def __post_init__(self) -> None:
        if len(self.labels) not in (0, 2):
            raise ValueError(f"score.labels are {', '.join(self.labels)}, but a probe tells two labels apart")
        if self.rank == "probe" and not self.labels:
            raise ValueError("score.rank is probe, which takes two score.labels")
        if self.rank == "images" and self.labels:
            raise ValueError("score.labels are of a linear probe, and score.rank is images; leave them out")
        if self.rank != "images" and self.classifier:
            raise ValueError("score.classifier names images: set score.rank to images, or leave it out")
        if self.ways is not None and self.ways < 2:
            raise ValueError(f"score.ways is {self.ways}, but at least 2 classes are told apart (none: all)")
        if min(self.samples, self.sampler_steps) < 1 or not self.guidance >= 0:
            raise ValueError("score.samples and score.sampler_steps are at least 1, and score.guidance 0 or more")
        if self.patch is not None and self.patch < 1:
            raise ValueError(f"score.patch is {self.patch}, but it must be at least 1 (none: the model's patch)")
        if self.windows is not None and self.windows < 1:
            raise ValueError(f"score.windows is {self.windows}, but it must be at least 1 (none: all)")


@dataclass(frozen=True)
class Settings:
    """Of a sweep, beside its base and its axes."""

    name: str = "sweep"
    search: Literal["grid", "random", "tpe"] = "grid"  # tpe: each point follows from the scores of earlier ones
    points: int = 0  # of random and tpe; a grid has as many as it has
    draw_seed: int = 0  # of random and tpe
    halvings: int = 0  # of tpe: a point may be stopped after so many of …, 1/9, 1/3 of its steps
    seeds: tuple[int, ...] = (0,)  # each point is trained with every one
    compare: tuple[Literal["examples", "flops"], ...] = ("examples", "flops")  # what points have in common
    retries: int = 1  # of a point that failed
    together: int = 1  # so many points of equal shapes are trained as one
    scaling: str = ""  # axis along which a power law is fitted to the errors
    hours: float | None = None  # begin no further point after so many, of this call
    score: ScoreConfig = field(default_factory=ScoreConfig)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name is empty, but a report is of something")
        if self.search == "grid" and self.points:
            raise ValueError(f"points is {self.points}, but a grid has as many as its axes make; leave it 0")
        if self.search != "grid" and self.points < 1:
            raise ValueError(f"search {self.search} takes points, at least 1")
        if self.halvings < 0 or (self.halvings and self.search != "tpe"):
            raise ValueError(f"halvings is {self.halvings}, but it is 0 or more, and of search tpe alone")
        if self.search == "tpe" and len(self.compare) != 1:
            raise ValueError("search tpe seeks the best at one comparison: set compare to examples or to flops")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {self.seeds or 'none'}, but there must be some, each once")
        for seed in self.seeds:
            configs.check_seed("seeds", seed)
        if not self.compare or len(set(self.compare)) < len(self.compare):
            raise ValueError("compare is one or both of examples, flops")
        if self.retries < 0:
            raise ValueError(f"retries is {self.retries}, but it must be 0 or more")
        if self.together < 1:
            raise ValueError(f"together is {self.together}, but it must be at least 1 (one after another)")
        if self.scaling and self.score.rank != "reconstruction":
            raise ValueError(
                f"scaling fits errors of reconstruction, and score.rank is {self.score.rank}; leave it out"
            )
        if self.hours is not None and not self.hours > 0:
            raise ValueError(f"hours is {self.hours}, but it must be positive (none: no end)")


@dataclass(frozen=True)
class Sweep:
    """A description, checked. `base`: a ConfigDict; `schema`: the dataclass that describes it.

    `pretrain`: the config of masked pretraining whose encoders a base of dreamdiffusion builds on (`encoders`).
    """

    settings: Settings
    base: ConfigDict
    schema: Any
    axes: tuple[Axis, ...]
    source: str
    pretrain: ConfigDict | None = None

    def config_of(self, chosen: Mapping[str, Any], seed: int) -> Any:
        """The run's dataclass of a point. Raises UserError naming what does not go together."""
        setting = {key: value for key, value in self._setting(chosen).items() if not key.startswith(PRETRAIN)}
        return self._made(self.schema, self.base, setting | {"seed": seed}, chosen)

    def pretrain_of(self, chosen: Mapping[str, Any], seed: int) -> Any | None:
        """The dataclass of the pretraining before it, where the sweep has one."""
        if self.pretrain is None:
            return None
        setting = self._setting(chosen).items()
        own = {key.removeprefix(PRETRAIN): value for key, value in setting if key.startswith(PRETRAIN)}
        schema = registry.schema_of(self.pretrain, self.source)
        return self._made(schema, self.pretrain, own | {"seed": seed}, chosen)

    def _setting(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for axis in self.axes:
            if axis.name in chosen:
                found |= axis.setting(chosen[axis.name])
        return found

    def _made(self, schema: Any, base: ConfigDict, setting: Mapping[str, Any], chosen: Mapping[str, Any]) -> Any:
        config = base.copy_and_resolve_references()
        for key, value in setting.items():
            configs.put(schema, config, key, value, self.source)
        where = ", ".join(f"{name}={value}" for name, value in chosen.items())
        return configs.to_dataclass(schema, config, f"{self.source}: {where}" if where else self.source)

    def identity(self) -> dict[str, Any]:
        """What makes it this sweep and no other: its points may become more, base and score may not change."""
        before = {} if self.pretrain is None else {"pretrain": json.loads(configs.to_json(self.pretrain_of({}, 0)))}
        return {
            "name": self.settings.name,
            **before,
            "base": json.loads(configs.to_json(configs.to_dataclass(self.schema, self.base, self.source))),
            "score": dataclasses.asdict(self.settings.score),
            "compare": list(self.settings.compare),
        }


def config(
    name: str, base: ConfigDict, axes: Sequence[Mapping[str, Any]], pretrain: ConfigDict | None = None, **settings: Any
) -> ConfigDict:
    """The ConfigDict of a sweep, for its config file to return."""
    score = settings.pop("score", {})
    found = configs.to_config_dict(Settings(name=name, score=ScoreConfig(**score), **settings))
    with found.unlocked():
        found.base = base
        found.axes = tuple(dict(axis) for axis in axes)
        if pretrain is not None:
            found.pretrain = pretrain
    return found


def load(spec: str, overrides: Sequence[tuple[str, str]]) -> Sweep:
    """The sweep of a config file, `--config.…` applied. Raises UserError for every mistake, before anything runs."""
    found = configs.read(spec)
    path = spec.partition(":")[0]
    if not isinstance(found.get("base"), ConfigDict) or not isinstance(found.get("axes"), tuple | list):
        raise UserError(f"{path} describes no sweep, which has a base and axes (sweeps.description.config)")
    with found.unlocked():
        base, entries = found.base, found.axes
        pretrain = found.get("pretrain")
        for key in {"base", "axes", "pretrain"} & set(found):
            del found[key]
    schema = registry.schema_of(base, path)
    for key, text in overrides:
        if key.startswith("base."):
            configs.override(schema, base, key.removeprefix("base."), text, f"{path} (base)")
        elif key.startswith(PRETRAIN) and pretrain is not None:
            before = registry.schema_of(pretrain, path)
            configs.override(before, pretrain, key.removeprefix(PRETRAIN), text, f"{path} (pretrain)")
        else:
            configs.override(Settings, found, key, text, path)
    settings = configs.to_dataclass(Settings, found, path)
    configs.to_dataclass(schema, base, f"{path} (base)")
    sweep = Sweep(settings, base, schema, axes_.read(entries, path), path, pretrain)
    sweep.pretrain_of({}, 0)
    _check_keys(sweep)
    return sweep


# keys that an axis may not set → what to do instead
REFUSED = {
    "seed": "list the sweep's seeds instead",
    "train.steps": "how long a point is trained follows from what is compared; change --config.base.train.steps",
    "data.path": "points would be scored on different people",
    "encoder.path": "encoders are those of pretrain; vary pretrain.KEY",
    "pretrain.seed": "list the sweep's seeds instead",
    "pretrain.data.path": "give --config.pretrain.data.path",
}


def _check_keys(sweep: Sweep) -> None:
    """Raises UserError for a key that is not there, that belongs to two axes, or that would mislabel a score."""
    owner: dict[str, str] = {}
    for axis in sweep.axes:
        for key in axis.keys:
            where = f"{sweep.source}: axis {axis.name}"
            if key.startswith(PRETRAIN) and sweep.pretrain is not None:
                before = registry.schema_of(sweep.pretrain, sweep.source)
                configs.kind_of(before, key.removeprefix(PRETRAIN), where)
            else:
                configs.kind_of(sweep.schema, key, where)
            if key in REFUSED:
                raise UserError(f"{where} sets {key}; {REFUSED[key]}")
            if key in owner:
                raise UserError(f"{where} sets {key}, which axis {owner[key]} sets too; let one of them do it")
            if key == "model.patch" and sweep.settings.score.patch is None:
                raise UserError(
                    f"{where} sets model.patch: masks would hide other samples of each point; set score.patch to a "
                    "length that all of them divide"
                )
            owner[key] = axis.name
    if (name := sweep.settings.scaling) and name not in [axis.name for axis in sweep.axes]:
        raise UserError(f"{sweep.source}: scaling is {name}, which is no axis of this sweep")
