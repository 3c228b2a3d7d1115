"""Train a run directory, and open what it holds."""

import json
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.parallel import cpu_devices, processes
from dreamjax.parallel.tree_paths import nested
from dreamjax.runs import location, provenance
from dreamjax.storage import manifest, presence
from dreamjax.storage import paths as places
from dreamjax.systems import registry
from dreamjax.systems.base import Run, Signals, offered
from dreamjax.training import checkpoints, loop
from dreamjax.training import workdir as workdirs
from dreamjax.training.task import PyTree
from dreamjax.typing import JsonDict


def train(config: Any, workdir: epath.PathLike, devices: Sequence[jax.Device] | None = None) -> JsonDict:
    """Train the system that `config` describes in `workdir`, continuing an existing run. See `loop.train`.

    `devices`: the devices to use (default: all).
    What it is trained on is kept in data.json. Raise UserError where that has changed since the run began.
    """
    processes.initialize()
    places.reachable(workdir)
    given = json.loads(configs.to_json(config))
    now, begun = location.continued(location.absolute(given), workdir)
    config = configs.from_json(type(config), json.dumps(now))
    config_json, defaults_json = json.dumps(begun, indent=1, sort_keys=True), configs.to_json(type(config)())
    location.check(config, workdir, ("encoder.path", *location.DATA))
    task = registry.build(config)
    task.check()
    workdirs.check(workdir, config_json, defaults_json)
    if devices is None:
        cpu_devices.make_one_per_core(
            task.init, config.train.mesh, config.train.batch_size, config.train.microbatches or 1
        )
    signals = offered(task, Signals)
    paths = signals.signal.path if signals is not None else ()

    def claim() -> None:
        if paths:
            started = bool(checkpoints.committed_steps(epath.Path(workdir) / "checkpoints"))
            provenance.claim(workdir, paths, processes.agree("started", started))
        if processes.is_first():
            location.keep(begun, now, workdir)
        task.keep(workdir)

    jsons = {"config_json": config_json, "defaults_json": defaults_json}
    return dict(loop.train(task, config.train, workdir, seed=config.seed, devices=devices, claim=claim, **jsons))


def config_of(workdir: epath.PathLike) -> Any:
    """Return the config dataclass of a run directory. Raise UserError when there is no run."""
    path = places.reachable(workdir) / "config.json"
    if not presence.exists(path):
        raise UserError(f"{workdir} holds no run (no config.json): give the --workdir of dreamjax train")
    try:
        content = manifest.unsealed(json.loads(path.read_text()), path)
        stored = ConfigDict(content)
    except (ValueError, TypeError, AttributeError) as problem:
        raise UserError(f"{path} is damaged; copy it from a folder of {path.parent / 'checkpoints'}") from problem
    if "system" not in stored:
        raise UserError(f"{workdir} holds no run, but another config.json: give the --workdir of dreamjax train")
    schema = registry.schema_of(stored, str(path))
    return configs.from_json(schema, json.dumps(location.present(content, workdir)), str(path))


def open_run(workdir: epath.PathLike, step: int | None = None, best: bool = False, averaged: bool = True) -> Run:
    """Return the newest intact step of a run, or `step`, or the `best` by held-out score, on one device.

    Every file of the step is verified first. Raise UserError for a missing or damaged step, naming the existing ones.
    """
    config = config_of(workdir)
    folder = epath.Path(workdir) / "checkpoints"
    chosen = _choose(folder, step, best, config)
    group = "ema" if averaged and _stored(folder, chosen, "ema") else "params"
    stored, task = nested(_stored(folder, chosen, group)), registry.build(config)
    expected = checkpoints.table_of({group: jax.eval_shape(task.init, jax.random.key(0)).params})
    checkpoints.check_arrays(str(checkpoints.step_folder(folder, chosen)), expected, checkpoints.table_of(stored))
    params = checkpoints.restore(folder, chosen, stored, groups=(group,))[group]
    record = checkpoints.read_json(folder, chosen, "run")
    return Run(str(workdir), config, task, params, chosen, record["examples"], group == "ema")


def extra(run: Run) -> PyTree:
    """Return `state.extra` of an opened run's step: the system's own state in addition to parameters."""
    folder = epath.Path(run.workdir) / "checkpoints"
    stored = nested(_stored(folder, run.step, "extra"))
    return checkpoints.restore(folder, run.step, stored, groups=("extra",))["extra"] if stored else {}


def _stored(folder: epath.Path, step: int, group: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Return name → shape, type and place (one device) of the arrays of a group of a step."""
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    stored = checkpoints.read_json(folder, step, "arrays")
    return {
        name: jax.ShapeDtypeStruct(tuple(shape), kind, sharding=place)
        for name, (shape, kind) in stored.items()
        if name.split("/")[0] == group
    }


def _choose(folder: epath.Path, step: int | None, best: bool, config: Any) -> int:
    steps = checkpoints.committed_steps(folder)
    there = f"it has {', '.join(map(str, steps))}" if steps else "it has none"
    if step is None and best:
        step = checkpoints.best_step(folder, config.train.checkpoint.best_mode)
        if step is None:
            raise UserError(f"{folder}: no saved step has a held-out score; train with train.eval_every > 0")
    if step is None:
        if (step := checkpoints.newest_intact(folder)) is None:
            raise UserError(f"{folder}: there is no intact step to open; {there} in all")
        return step
    if step not in steps:
        raise UserError(f"{folder}: step {step} is not there; {there}")
    if problems := checkpoints.problems(folder, step):
        raise UserError(f"{checkpoints.step_folder(folder, step)}: {problems[0]}; choose another --step ({there})")
    return step


def parameter_count(params: PyTree) -> int:
    """Return how many numbers a tree of arrays has."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
