"""The jobs of a comparison: a system on a fold of people, with all its seeds, which are trained as one program."""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from dreamjax import config as configs
from dreamjax.comparison.protocols import Checkpoint, People, Protocol
from dreamjax.errors import UserError, nearest
from dreamjax.storage import presence
from dreamjax.systems import registry
from dreamjax.systems.base import Retrieves, capabilities
from dreamjax.targets.banks import BankConfig
from dreamjax.targets.catalogue import catalogue
from dreamjax.targets.responses import ResponseConfig

GROUPS = ("data", "target", "train", "optim", "sizes")  # of a setting's key: for all systems that have the key
RIDGE = "ridge"  # of the controls
GIVEN = {  # settings that the comparison makes itself → how they are chosen
    "data.path": "--data",
    "data.people": "--people",
    "data.test_people": "--people",
    "target.path": "--target",
    "target.layer": "--layer",
    "target.pooling": "--pooling",
    "target.images": "--images",
}


@dataclass(frozen=True)
class Scoring:
    """What is scored in addition to the gallery of the tested images."""

    transductive: bool = False  # CSLS and whitening, which know all test trials of a person
    distractors: str = ""  # a split of the dataset or a folder, whose images are appended to the gallery


@dataclass(frozen=True)
class Request:
    """What is compared, as the user asks for it."""

    systems: tuple[str, ...]  # NAME or NAME:PRESET
    data: ResponseConfig
    target: BankConfig
    protocol: Protocol
    people: People
    seeds: int = 3
    epochs: int | None = None  # None: each system's own
    settings: tuple[tuple[str, str], ...] = ()  # (key, value): GROUP.KEY for all systems, SYSTEM.KEY for one
    scoring: Scoring = Scoring()

    def identity(self) -> dict[str, Any]:
        """Return what makes this comparison: a folder that holds another one is refused."""
        values = dataclasses.asdict(self)
        values["protocol"] = self.protocol.name
        values.pop("systems")  # more systems may join a comparison
        if self.scoring == Scoring():
            values.pop("scoring")  # as comparisons from before there was a choice
        values["settings"] = [list(one) for one in self.settings]
        return json.loads(json.dumps(values))


@dataclass(frozen=True)
class Job:
    """A system, trained on one fold with several seeds. `tested`: people; () means all."""

    system: str
    fold: str
    configs: tuple[Any, ...]  # one for each seed
    checkpoints: tuple[Checkpoint, ...]  # that are scored, the one that counts first
    scoring: Scoring = Scoring()

    @property
    def name(self) -> str:
        """Return the name of the job's folder."""
        plain = self.system.replace(":", "-")
        return f"{plain}-{self.fold}"

    @property
    def fingerprint(self) -> str:
        """Return a hash of everything that determines the job's result."""
        text = "".join(configs.to_json(one) for one in self.configs)
        text += "" if self.scoring == Scoring() else json.dumps(dataclasses.asdict(self.scoring))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def jobs(request: Request) -> list[Job]:
    """Return the jobs of a comparison. Raise UserError for systems, settings or people that do not exist."""
    if not request.systems:
        raise UserError("--systems is empty; name at least one, such as ridge")
    _check_settings(request)
    known = catalogue(request.data.path)
    source, splits = request.scoring.distractors, sorted(set(known.split.tolist()))
    if source and source not in splits and not presence.is_folder(source):  # before anything is trained
        raise UserError(f"--distractors {source}: neither a split of the dataset ({', '.join(splits)}) nor a folder")
    people = request.data.people or known.subjects
    bases = {system: _base(system, request) for system in request.systems}
    made = []
    for fold, trained, tested in _folds(request.people, people):  # all systems of a person after one another
        for system, base in bases.items():
            data = dataclasses.replace(base.data, people=trained, test_people=tested)
            seeds = range(request.seeds) if hasattr(base, "optim") else range(1)  # a closed form has no random part
            each = tuple(dataclasses.replace(base, data=data, seed=base.seed + seed) for seed in seeds)
            checkpoints = _checkpoints(system, request.protocol, data)
            made.append(Job(system, fold, each, checkpoints, request.scoring))
    return made


def of_ridge(name: str, request: Request) -> list[Job]:
    """Return jobs of ridge regression on the folds of a comparison, under another name."""
    keys = {key for key in configs.keys_of(registry.find(RIDGE).Config) if key.partition(".")[0] in GROUPS}
    settings = tuple(one for one in request.settings if one[0] in keys)
    alone = dataclasses.replace(request, systems=(RIDGE,), settings=settings, scoring=Scoring())
    return [dataclasses.replace(job, system=name, checkpoints=()) for job in jobs(alone)]


def _check_settings(request: Request) -> None:
    """Raise UserError for a setting that no system of the comparison has, or that the comparison makes itself."""
    schemas = {name: registry.find(name, "--systems").Config for name in (s.partition(":")[0] for s in request.systems)}
    keys = {key for schema in schemas.values() for key in configs.keys_of(schema)}
    for key, _ in request.settings:
        first, _, rest = key.partition(".")
        if (instead := GIVEN.get(rest if first in schemas else key)) is not None:
            raise UserError(f"--set {key}: a comparison chooses it by {instead}; use that in its place")
        if first in GROUPS and key not in keys:
            guess = nearest(key, sorted(keys))
            hint = f"; did you mean {guess}?" if guess else f"; {first} has {_fields(first, keys)}"
            raise UserError(f"--set {key}: none of {', '.join(schemas)} has this setting{hint}")


def _fields(group: str, keys: Collection[str]) -> str:
    return ", ".join(sorted(key for key in keys if key.startswith(f"{group}."))) or "no settings here"


def _checkpoints(system: str, protocol: Protocol, data: ResponseConfig) -> tuple[Checkpoint, ...]:
    """Return the checkpoints that are scored: the protocol's, or what the publication chose and the last epoch."""
    chosen = protocol.checkpoints
    if protocol.published:
        published = getattr(registry.find(system.partition(":")[0]), "published", {})
        chosen = tuple(dict.fromkeys((published.get("choice", "last"), "last")))
    return tuple(one for one in chosen if one != "held_out" or data.validation != "none")


def _folds(people: People, names: Sequence[str]) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Return (name, people trained on, people tested) of each fold."""
    if people == "joint":
        return [("all", tuple(names), ())]
    if people == "in_subject":
        return [(_short(name), (name,), ()) for name in names]
    if len(names) < 2:
        raise UserError("leave_one_out needs two people or more; the data have one: use --people in_subject")
    return [(f"without-{_short(name)}", tuple(n for n in names if n != name), (name,)) for name in names]


def _short(person: str) -> str:
    return person.removeprefix("recording ")[:12]


def _base(system: str, request: Request) -> Any:
    """Return the config of a system for this comparison, without its people and seed."""
    name, _, preset = system.partition(":")
    kind = registry.find(name, "--systems")
    if Retrieves not in capabilities(kind):
        can = [n for n in registry.names() if Retrieves in capabilities(registry.find(n))]
        raise UserError(f"--systems: {name} retrieves no images; choose from {', '.join(can)}")
    schema = kind.Config
    config = configs.to_config_dict(_preset(kind, preset) if preset else schema())
    protocol = request.protocol
    published = getattr(kind, "published", {}) if protocol.published else {}
    plain = ResponseConfig()
    usual: ResponseConfig = configs.to_dataclass(schema, config, system).data
    names = [field.name for field in dataclasses.fields(plain)]
    of_system = {name: value for name in names if (value := getattr(usual, name)) != getattr(plain, name)}
    changes = of_system | dict(protocol.data) | _given(published, "data")  # such as single trials for ATM-S
    data = dataclasses.replace(request.data, **changes)
    for key, value in (("data", data), ("target", request.target)):
        config[key] = configs.to_config_dict(value)
    if request.epochs is not None and "epochs" in config:
        configs.put(schema, config, "epochs", request.epochs, "--epochs")
    for key, text in request.settings:
        _apply(schema, config, name, key, text, request.systems)
    return configs.to_dataclass(schema, config, system)


def _preset(kind: Any, preset: str) -> Any:
    presets = getattr(kind, "presets", {})
    if preset not in presets:
        raise UserError(f"--systems: {kind.name} has no preset {preset!r}; it has {', '.join(presets) or 'none'}")
    return presets[preset]


def _given(settings: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Return the settings of a group, such as `data.validation`, without its name."""
    return {key.removeprefix(f"{group}."): value for key, value in settings.items() if key.startswith(f"{group}.")}


def _apply(schema: Any, config: ConfigDict, system: str, key: str, text: str, systems: Sequence[str]) -> None:
    """Change one setting of a system, where it is meant."""
    first, _, rest = key.partition(".")
    names = {one.partition(":")[0] for one in systems}
    if first in GROUPS:
        if key in configs.keys_of(schema):
            configs.override(schema, config, key, text, "--set")
    elif first not in names:
        guess = nearest(first, [*GROUPS, *names])
        hint = f"did you mean {guess}?" if guess else f"begin it with one of {', '.join([*GROUPS, *sorted(names)])}"
        raise UserError(
            f"--set {key}: {first!r} is neither a system of this comparison nor a group of settings; {hint}"
        )
    elif first == system:
        configs.override(schema, config, rest, text, "--set")
