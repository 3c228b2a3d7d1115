"""Step directories: written in the background, committed by a manifest, verified before they are read.

WORKDIR/checkpoints/00001000/
    state/         Orbax: params, ema, opt, step, hyper, extra, guard as a nested dict of arrays
    arrays.json    name → [shape, type] of each array
    run.json       step, examples consumed, the open metrics window, held-out score
    config.json    the run's config
    manifest.json  size and hash of every file above, written last: without it the directory is ignored
"""

import contextlib
import functools
import itertools
import json
import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
from etils import epath

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.parallel import processes
from dreamjax.parallel.collective_tasks import CollectiveTask, first_line
from dreamjax.parallel.tree_paths import like, named_leaves, nested
from dreamjax.storage import atomic, manifest, presence
from dreamjax.training.task import PyTree, State, replace

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

Shapes = Mapping[str, list]  # name → [shape, type] of each array
SWEEPS = 5
DISK = ("No space left on device", "File too large", "Permission denied", "Disk quota exceeded")
SMALLEST_SLICE = 1 << 20  # bytes of an array that one of its replicas writes
SAVE_S = 1200.0  # for all processes to have written, as Orbax has it
# groups of a state that are saved; `frozen` is referred to by its source, not copied
GROUPS = ("step", "params", "ema", "opt", "hyper", "extra", "guard")
_saves = itertools.count()  # saves begun by this process; the same number in every process


@dataclass(frozen=True)
class CheckpointConfig:
    """The settings of saving: when to save, and which steps to keep."""

    every: int = 1000  # steps
    keep_last: int = 2
    keep_every: int = 0  # also keep each step that is a multiple of this; 0: none
    best_metric: str = "loss"  # a held-out metric; the step with the best value is kept
    best_mode: Literal["min", "max"] = "min"

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep_last < 1 or self.keep_every < 0:
            raise ValueError("checkpoint.every and keep_last must be at least 1, keep_every at least 0")


# ------------------------------------------------------------------------------------------------------ what is on disk
def step_folder(folder: epath.PathLike, step: int) -> epath.Path:
    """Return the directory of a step, as an absolute path."""
    path = epath.Path(folder) / f"{step:08d}"
    return path if "://" in str(folder) else epath.Path(os.path.abspath(path))  # Orbax refuses relative paths


def committed_steps(folder: epath.PathLike) -> list[int]:
    """Return the steps whose save finished, oldest first (not yet verified). Raise CannotRead, as all below."""
    return sorted(int(entry.name) for entry in _steps(folder) if presence.exists(entry / manifest.NAME))


def _steps(folder: epath.PathLike) -> list[epath.Path]:
    return [entry for entry in presence.entries(folder) if entry.name.isdigit()]


def _unfinished(folder: epath.PathLike) -> list[epath.Path]:
    return [entry for entry in _steps(folder) if not presence.exists(entry / manifest.NAME)]


def problems(folder: epath.PathLike, step: int) -> list[str]:
    """Return what is wrong with the files of a step, a phrase each; empty when it can be trusted."""
    return manifest.problems(step_folder(folder, step))


def newest_intact(folder: epath.PathLike) -> int | None:
    """Return the newest step whose files match its manifest; log which newer ones do not."""
    unfinished = sorted(entry.name for entry in _unfinished(folder))
    for step in reversed(committed_steps(folder)):
        damage = problems(folder, step)
        if not damage:
            if newer := [name for name in unfinished if int(name) > step]:
                log.info("%s: the save of step %s did not finish; step %d is used", folder, ", ".join(newer), step)
            return step
        log.info("%s: step %d is damaged (%s); the step before it is used", folder, step, damage[0])
    if unfinished:
        log.info("%s: the save of step %s did not finish, and there is none before it", folder, ", ".join(unfinished))
    return None


def read_json(folder: epath.PathLike, step: int, name: str) -> dict[str, Any]:
    """Return `run`, `config` or `arrays` of a step directory."""
    return json.loads((step_folder(folder, step) / f"{name}.json").read_text())


def best_step(folder: epath.PathLike, mode: str) -> int | None:
    """Return the step of the best held-out score among those on disk, or None where none was scored."""
    return next(iter(ranked_steps(folder, mode)), None)


def ranked_steps(folder: epath.PathLike, mode: str) -> list[int]:
    """Return the scored steps on disk, the best first; of equal scores the later step first.

    A step whose run.json is damaged has no score.
    """
    scored = {}
    for step in committed_steps(folder):
        try:
            score = read_json(folder, step, "run")["score"]
        except (ValueError, KeyError, TypeError, FileNotFoundError):
            log.info("%s: step %d is damaged (run.json); its score is ignored", folder, step)
            continue
        if isinstance(score, int | float):
            scored[step] = score
    sign = 1 if mode == "min" else -1
    return sorted(scored, key=lambda step: (sign * scored[step], -step))


# -------------------------------------------------------------------------------------------------------- state ⇄ dict
def to_dict(state: State) -> dict[str, PyTree]:
    """Return the saved part of a state as a nested dict of arrays."""
    leaves = {}
    for group in GROUPS:
        for name, leaf in named_leaves(getattr(state, group)).items():
            leaves[f"{group}/{name}" if name else group] = leaf
    return nested(leaves)


def from_dict(state: State, values: Mapping[str, PyTree]) -> State:
    """Return `state` with the saved groups taken from a nested dict (the inverse of `to_dict`)."""
    return replace(state, **{g: like(getattr(state, g), named_leaves(values.get(g, {}))) for g in GROUPS})


def check_arrays(where: str, wanted: Shapes, stored: Shapes) -> None:
    """Raise UserError with all missing, extra and misshapen names where two tables of arrays differ."""
    both = sorted(set(wanted) & set(stored))
    names = {
        "missing": sorted(set(wanted) - set(stored)),
        "extra": sorted(set(stored) - set(wanted)),
        "misshapen": [f"{n} {stored[n]} instead of {wanted[n]}" for n in both if wanted[n] != stored[n]],
    }
    if parts := [f"{title}: {', '.join(each)}" for title, each in names.items() if each]:
        raise UserError(f"{where} does not fit this model; {'; '.join(parts)}")


def table_of(tree: PyTree) -> dict[str, list]:
    """Return name → [shape, type] of the arrays of a tree."""
    return {name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in named_leaves(tree).items()}


def restore(
    folder: epath.PathLike, step: int, abstract: Mapping[str, PyTree], groups: tuple[str, ...] = GROUPS
) -> dict[str, PyTree]:
    """Return the arrays of a step, of the shapes and shardings of the nested dict `abstract` (only `groups` are read).

    Raise UserError naming every missing, extra and misshapen array.
    """
    import orbax.checkpoint as ocp

    path = step_folder(folder, step)
    stored = {n: v for n, v in read_json(folder, step, "arrays").items() if n.split("/")[0] in groups}
    check_arrays(str(path), table_of(abstract), stored)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        arguments = ocp.checkpoint_utils.construct_restore_args(abstract)
        return checkpointer.restore(
            path / "state", args=ocp.args.PyTreeRestore(item=abstract, restore_args=arguments, partial_restore=True)
        )


# ------------------------------------------------------------------------------------------------------------- saving
class SaveFailed(UserError):
    """A step could not be saved; the steps saved before are untouched."""


class Saver:
    """Save steps in the background; a failure is raised by the next `save`, `check` or `wait`.

    Where one of several processes fails, all fail without waiting for it, so that all continue with the same next save.
    """

    def __init__(self, folder: epath.PathLike, config: CheckpointConfig, config_json: str) -> None:
        self.folder, self.config, self.config_json = epath.Path(folder), config, config_json
        self._orbax: ocp.AsyncCheckpointer | None = None
        self._thread: threading.Thread | None = None
        self._tasks: list[CollectiveTask] = []  # one a save
        self._failure: BaseException | None = None
        self._failed = False  # at least once
        self.step: int | None = None  # of the last save begun

    def save(self, step: int, state: State, run: Mapping[str, object]) -> None:
        """Begin saving; return when `state` may be donated. The caller has read the metrics of all steps before it."""
        import orbax.checkpoint as ocp

        self.wait()
        path, values = step_folder(self.folder, step), to_dict(state)
        files = {
            "arrays": json.dumps(table_of(values), indent=1),
            "run": json.dumps({"step": step, **run}, indent=1),
            "config": self.config_json,
        }
        refused = self._make_room(path, files["run"]) if processes.is_first() else None
        if refused := processes.agree(f"save/{step}", refused, SAVE_S):
            raise self._explained(step, OSError(refused if processes.is_first() else f"process 0: {refused}"))
        processes.barrier(f"begin/{step}", SAVE_S)  # Orbax itself would wait without a limit
        work, problem = self._new_task(), None
        try:
            self._orbax = self._orbax or self._new_orbax()
            self._orbax.save(path / "state", args=ocp.args.PyTreeSave(values))
        except Exception as error:  # raised in the background, as the other processes' threads wait for this one
            problem = error
        self.step = step
        self._thread = threading.Thread(target=self._finish, args=(step, files, work, problem), daemon=True)
        self._thread.start()

    def _make_room(self, path: epath.Path, run: str) -> str | None:
        """Begin a step directory; return the reason where that fails."""
        try:
            self._sweep()
            if presence.exists(path):
                remove(path)  # damaged, or not yet finished by `task.finish`
            atomic.write_text(path / "run.json", run)
        except Exception as problem:  # object stores have their own kinds; the other processes wait for an answer
            return getattr(problem, "strerror", None) or first_line(problem)
        return None

    def _new_task(self) -> CollectiveTask:
        """Return the task of a new save. The save before the last is over in every process: they met at the last."""
        if len(self._tasks) > 1:
            self._tasks.pop(0).clean_up()
        self._tasks.append(CollectiveTask(f"save/{next(_saves)}"))
        return self._tasks[-1]

    def _new_orbax(self) -> "ocp.AsyncCheckpointer":
        """Return a checkpointer whose barriers fail with the save; Orbax's own wait 20 minutes for a failed process.

        Small arrays are written whole: Orbax would cut each into a slice for each device, with a program compiled for
        every shape.
        """
        import orbax.checkpoint as ocp
        from orbax.checkpoint import type_handlers

        def barrier(*, key: str, timeout_ms: int) -> None:
            self._tasks[-1].barrier(key, timeout_ms / 1000)

        options = ocp.options.AsyncOptions(timeout_secs=int(SAVE_S), barrier_sync_fn=barrier)
        arrays = type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SMALLEST_SLICE)
        registry = type_handlers.create_type_handler_registry(
            (jax.Array, arrays), (np.ndarray, type_handlers.NumpyHandler())
        )
        handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
        return ocp.AsyncCheckpointer(handler, async_options=options)

    def _finish(self, step: int, files: Mapping[str, str], work: CollectiveTask, problem: Exception | None) -> None:
        try:
            with work():
                if problem is not None:
                    raise problem
                assert self._orbax is not None  # opened by `save`
                self._orbax.wait_until_finished()
                work.barrier("written", SAVE_S)
                if processes.is_first():
                    path = step_folder(self.folder, step)
                    for name, text in files.items():
                        atomic.write_text(path / f"{name}.json", text)
                    if presence.exists(
                        note := path / "state" / "commit_success.txt"
                    ):  # Orbax writes its absolute path there
                        atomic.write_text(note, "committed\n")
                    manifest.write(path)
                work.barrier("committed", SAVE_S)
        except BaseException as problem:
            work.wait_for_peers(SAVE_S)  # deleting below a process that still writes would block it for ever
            self._failure = self._explained(step, problem)
            return
        if processes.is_first():
            try:
                retain(self.folder, self.config, written=self.step)
            except Exception as problem:  # the new step is complete; only older ones take more space
                log.warning("%s: older steps could not be deleted (%s)", self.folder, problem)

    def _explained(self, step: int, problem: BaseException) -> SaveFailed:
        path = step_folder(self.folder, step)
        self._failed = True
        self._close_orbax()  # it may raise the same error again; the next save opens another
        kept = []
        with contextlib.suppress(Exception):  # a thread that still writes, a store that fails: it is deleted later
            if processes.is_first():
                remove(path)
        with contextlib.suppress(Exception):
            kept = committed_steps(self.folder)
        last = f"step {kept[-1]} is the last one saved" if kept else "no step was saved before"
        return SaveFailed(f"{path}: could not be saved ({_reason(problem)}); {last}")

    def check(self) -> None:
        """Raise the failure of a background save, if there was one."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def wait(self) -> None:
        """Wait until the save in progress is committed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def close(self) -> None:
        """Wait for the save in progress and close Orbax."""
        if self._thread is not None:
            self._thread.join()
        self._close_orbax()
        for _ in range(SWEEPS if self._failed and processes.is_first() else 0):
            self._sweep()
            time.sleep(0.1)

    def _sweep(self) -> None:
        """Delete unfinished step directories: a thread of Orbax may have written after its save failed."""
        for entry in _unfinished(self.folder):
            with contextlib.suppress(OSError):
                entry.rmtree()

    def _close_orbax(self) -> None:
        orbax, self._orbax = self._orbax, None
        if orbax is not None:
            with contextlib.suppress(Exception):  # of a failed save, which was reported already
                orbax.close()


def _reason(problem: BaseException) -> str:
    text = str(problem)
    reason = next((sign for sign in DISK if sign in text), first_line(problem)[:200])
    process = re.match(r"process \d+: ", text)  # where another process failed
    return reason if process is None or reason.startswith(process[0]) else process[0] + reason


def remove(path: epath.Path) -> None:
    """Delete a step directory; its manifest first, so that a partly deleted one does not count."""
    (path / manifest.NAME).unlink(missing_ok=True)
    if presence.exists(path):
        path.rmtree()


def retain(folder: epath.PathLike, config: CheckpointConfig, written: int | None = None) -> None:
    """Delete steps that are neither among the last, nor a multiple of `keep_every`, nor the best.

    Damaged steps do not count as the last or the best, so that intact ones before them stay. The step `written` just
    now was hashed when it was written, and is not read again.
    """
    steps = committed_steps(folder)
    if len(steps) <= config.keep_last:
        return

    @functools.cache
    def intact(step: int) -> bool:
        return step == written or not problems(folder, step)

    last = itertools.islice(filter(intact, reversed(steps)), config.keep_last)
    best = itertools.islice(filter(intact, ranked_steps(folder, config.best_mode)), 1)
    keep = {*last, *best}
    if config.keep_every:
        keep |= {step for step in steps if step % config.keep_every == 0}
    for step in steps:
        if step not in keep:
            remove(step_folder(folder, step))


def save_params_as_run(
    workdir: epath.PathLike, config_json: str, params: PyTree, step: int = 0, examples: int = 0
) -> epath.Path:
    """Write a run directory that holds parameters only, which opens like any other run; return its step directory."""
    workdir = epath.Path(workdir)
    manifest.write_json(workdir / "config.json", json.loads(config_json))
    saver = Saver(workdir / "checkpoints", CheckpointConfig(), config_json)
    arrays = jax.tree.map(jax.numpy.asarray, params)
    state = State(step=jax.numpy.asarray(np.int32(step)), params=arrays)
    saver.save(step, state, {"examples": examples, "window": {}, "score": None, "best": None, "finished": True})
    saver.wait()
    saver.close()
    return step_folder(workdir / "checkpoints", step)
