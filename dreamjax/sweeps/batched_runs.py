"""Train runs of equal shapes as one program (`vectorised`), then split it into ordinary runs."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
from etils import epath

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.parallel import environment, processes
from dreamjax.parallel import mesh as meshes
from dreamjax.runs import provenance
from dreamjax.storage import atomic, presence
from dreamjax.sweeps import vectorised
from dreamjax.sweeps.run_folder import JsonObject, RunFolder, read_json, write_json
from dreamjax.sweeps.runs import SweepRun
from dreamjax.systems import registry
from dreamjax.training import checkpoints, loop, program


@dataclass(frozen=True)
class Pack:
    """Runs that are trained as one program, or a single run."""

    runs: tuple[SweepRun, ...]

    def folder(self, workdir: str, steps: int) -> epath.Path:
        """Return the folder of the program of this many steps."""
        mark = self.mark if self.runs[0].prefix else f"{self.mark}-{steps}"
        return epath.Path(workdir) / "together" / mark

    @property
    def mark(self) -> str:
        return hashlib.sha256(json.dumps([run.name for run in self.runs]).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Proposal:
    """Packs that a sampler wants trained and scored next, at every length up to `until` steps."""

    packs: Sequence[Pack]
    until: float = math.inf

    @property
    def runs(self) -> list[SweepRun]:
        return [run for pack in self.packs for run in pack.runs]


def unfinished(workdir: str, runs: Sequence[SweepRun], together: int) -> list[Pack]:
    """Return the packs with unfinished runs, in the order of the sweep.

    A pack that an earlier call began comes first and unchanged, including those of its runs that are finished now.
    """

    def done(run: SweepRun) -> bool:
        return RunFolder.of(workdir, run).score() is not None

    by_name = {run.name: run for run in runs}
    begun: list[Pack] = []
    for path in presence.entries(epath.Path(workdir) / "together") if together > 1 else ():
        if path.suffix != ".json":
            continue
        names = (read_json(path, "points") or {"points": []})["points"]
        if names and all(name in by_name for name in names) and len(names) <= together:
            begun.append(Pack(tuple(by_name.pop(name) for name in names)))
    begun = [pack for pack in begun if not all(map(done, pack.runs))]
    return begun + packs([run for run in by_name.values() if not done(run)], together)


def packs(runs: Sequence[SweepRun], together: int) -> list[Pack]:
    """Return runs in their order, at most `together` of equal shapes and lengths at a time."""
    if together == 1:
        return [Pack((run,)) for run in runs]
    groups: list[list[SweepRun]] = []
    open_: dict[str, list[SweepRun]] = {}
    for run in runs:
        key = json.dumps([vectorised.alike(run.config), sorted(run.legs.items()), run.prefix])
        group = open_.get(key)
        if group is None or len(group) >= together:
            group = open_[key] = []
            groups.append(group)
        group.append(run)
    return [Pack(tuple(group)) for group in groups]


def _without_fused_attention(config: Any) -> Any:
    """Return the config, on GPUs with xla for `attention=auto`: JAX cannot batch the lengths for cuDNN's kernel."""
    if environment.target_platform() != "gpu" or getattr(getattr(config, "model", None), "attention", "") != "auto":
        return config
    return replace(config, model=replace(config.model, attention="xla"))


def train(workdir: str, pack: Pack, left: Sequence[SweepRun], steps: int) -> JsonObject:
    """Train a pack until `steps` and keep those `left` as runs in their own folders; return the loop's summary.

    Runs whose steps were refused, as they were not finite, are named in `refused`: name → how many.
    """
    if processes.are_several():
        raise UserError(
            "runs are trained as one by a single process, on all its devices: start dreamjax sweep without a launcher"
        )
    runs = [replace(run.config, train=replace(run.config.train, steps=steps)) for run in pack.runs]
    task = vectorised.Vectorised(tuple(registry.build(_without_fused_attention(run)) for run in runs), tuple(runs))
    folder = pack.folder(workdir, steps)
    train_config = vectorised.train_config(runs[0], len(runs))
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_json(folder.parent / f"{pack.mark}.json", {"points": [run.name for run in pack.runs]})
    text = vectorised.config_json(runs, train_config)
    result = loop.train(task, train_config, folder, config_json=text, devices=_devices(len(runs)))
    if result["preempted"]:
        return dict(result)
    built = program.build(task, meshes.make(train_config.mesh, _devices(len(runs))))
    last = program.restored(built, task, folder / "checkpoints", steps, program.run_key(0, b"init"))
    state, refused = jax.device_get(last), {}
    for i, (run, config) in enumerate(zip(pack.runs, runs, strict=True)):
        if run not in left:
            continue
        params, lost = task.take(state, i)
        if lost:
            refused[run.name] = lost
            continue
        path = RunFolder.of(workdir, run).training(steps, run)
        path.mkdir(parents=True, exist_ok=True)
        if paths := getattr(getattr(config, "data", None), "path", ()):
            provenance.claim(path, paths, started=False)
        checkpoints.save_params_as_run(path, configs.to_json(config), params, steps, steps * config.train.batch_size)
        atomic.write_text(path / "metrics.jsonl", _metrics(folder, i))
    return result | {"refused": refused}


def _devices(count: int) -> list[jax.Device]:
    """Return as many devices as divide the runs and form a rectangle of chips: a power of two."""
    devices = jax.devices()
    return devices[: math.gcd(count, 2 ** (len(devices).bit_length() - 1))]


def delete_unresumable(training: epath.Path) -> None:
    """Delete a run of a pack, which has only parameters and cannot be continued."""
    folder = training / "checkpoints"
    if steps := checkpoints.committed_steps(folder):
        arrays = checkpoints.read_json(folder, steps[-1], "arrays")
        if not any(name.startswith("opt/") for name in arrays):
            training.rmtree()


def _metrics(folder: epath.Path, index: int) -> str:
    """Return a run's lines of the pack's metrics."""
    lines = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        values = {name.rpartition("/")[0]: v for name, v in record.items() if name.endswith(f"/{index}")}
        lines.append(json.dumps({"step": record["step"], "split": record["split"], **values}))
    return "".join(line + "\n" for line in lines)
