"""Points of equal shapes, trained as one (`vectorised`), then taken apart into runs like any other."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel import processes
from dreamjax.runs import provenance
from dreamjax.storage import atomic
from dreamjax.sweeps import runs, vectorised
from dreamjax.sweeps.runs import Place, Point
from dreamjax.sweeps.vectorised import Vectorised
from dreamjax.systems import registry
from dreamjax.training import checkpoints, loop, program
from dreamjax.training.task import State


def deal(workdir: str, found: Sequence[Point], together: int) -> list[list[Point]]:
    """Points that are not done, in the order of the sweep, as `chunks`.

    A pack that was begun by an earlier call comes first, as it was, with those of its points that are done by now.
    """
    if together == 1:
        return [[point] for point in found if Place.of(workdir, point).score() is None]
    by_name = {point.name: point for point in found}
    packs: list[list[Point]] = []
    for path in sorted((epath.Path(workdir) / "together").glob("*.json")):
        names = (runs.read_json(path, "points") or {"points": []})["points"]
        if names and all(name in by_name for name in names) and len(names) <= together:
            packs.append([by_name.pop(name) for name in names])
    packs = [pack for pack in packs if any(Place.of(workdir, point).score() is None for point in pack)]
    left = [point for point in by_name.values() if Place.of(workdir, point).score() is None]
    return packs + chunks(left, together)


def chunks(found: Sequence[Point], together: int) -> list[list[Point]]:
    """Points in their order, at most `together` of equal shapes and lengths at a time."""
    packs: list[list[Point]] = []
    open_: dict[str, list[Point]] = {}
    for point in found:
        key = json.dumps([vectorised.alike(point.config), sorted(point.legs.items()), point.prefix])
        pack = open_.get(key)
        if pack is None or len(pack) >= together:
            pack = open_[key] = []
            packs.append(pack)
        pack.append(point)
    return packs


def folder(workdir: str, pack: Sequence[Point], steps: int) -> epath.Path:
    """Where a pack's run of so many steps lies."""
    return epath.Path(workdir) / "together" / (_mark(pack) if pack[0].prefix else f"{_mark(pack)}-{steps}")


def _mark(pack: Sequence[Point]) -> str:
    return hashlib.sha256(json.dumps([point.name for point in pack]).encode()).hexdigest()[:8]


def train(workdir: str, pack: Sequence[Point], left: Sequence[Point], steps: int) -> dict[str, Any]:
    """The points of a pack until `steps`, those `left` kept as a run in their own folders; the loop's summary of all.

    Points whose steps were refused, as they were not finite, are named in `refused`: name → how many.
    """
    if processes.are_several():
        raise UserError("points are trained as one by a single process, on all its devices: leave out the launcher")
    found = [dataclasses.replace(p.config, train=dataclasses.replace(p.config.train, steps=steps)) for p in pack]
    task = vectorised.make([registry.build(config) for config in found], found)
    where = folder(workdir, pack, steps)
    settings = vectorised.train_config(found[0], len(pack))
    where.parent.mkdir(parents=True, exist_ok=True)
    runs.write_json(where.parent / f"{_mark(pack)}.json", {"points": [point.name for point in pack]})
    result = loop.train(
        task, settings, where, config_json=vectorised.config_json(found, settings), devices=_devices(len(pack))
    )
    if result["preempted"]:
        return result
    state, refused = _last(task, settings, where, steps), {}
    for i, (point, config) in enumerate(zip(pack, found, strict=True)):
        if point not in left:
            continue
        params, lost = task.point(state, i)
        if lost:
            refused[point.name] = lost
            continue
        run = Place.of(workdir, point).run(steps, point)
        run.mkdir(parents=True, exist_ok=True)
        provenance.claim(run, config.data.path, started=False)
        checkpoints.save_params_as_run(run, configs.to_json(config), params, steps, steps * config.train.batch_size)
        atomic.write_text(run / "metrics.jsonl", _curve(where, i))
    return result | {"refused": refused}


def _devices(count: int) -> list[jax.Device]:
    """As many as divide the points and make a rectangle of chips: a power of two."""
    here = jax.devices()
    return here[: max(2**k for k in range(len(here).bit_length()) if count % 2**k == 0 and 2**k <= len(here))]


def alone(run: epath.Path) -> None:
    """Delete a run that a pack left, which has parameters alone and cannot be continued."""
    steps = checkpoints.committed_steps(run / "checkpoints")
    if steps and not any(
        name.startswith("opt/") for name in checkpoints.read_json(run / "checkpoints", steps[-1], "arrays")
    ):
        run.rmtree()


def _last(task: Vectorised, settings: Any, folder: epath.Path, steps: int) -> State:
    """What the pack's run ended with, on the host."""
    mesh = meshes.make(settings.mesh, _devices(len(task.tasks)))
    built = program.build(task, mesh)
    state = program.restored(built, task, folder / "checkpoints", steps, program.run_key(0, b"init"))
    return jax.device_get(state)


def _curve(folder: epath.Path, index: int) -> str:
    """A point's lines of the pack's metrics."""
    lines = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        own = {name.rpartition("/")[0]: v for name, v in record.items() if name.endswith(f"/{index}")}
        lines.append(json.dumps({"step": record["step"], "split": record["split"], **own}))
    return "".join(line + "\n" for line in lines)
