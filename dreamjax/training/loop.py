"""One loop for every Task (docs/guides/train.md).

Resume order: (1) a run of the work directory that has an intact step continues from the newest one; (2) else parameters
are created, sharded, from the seed; (3) then `task.weights()` are streamed over them; (4) the frozen parts, which no
checkpoint copies, are streamed in both cases.
"""

import contextlib
import math
import os
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from etils import epath

from dreamjax.console import Bar, log, progress
from dreamjax.errors import UserError
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel import processes, sharding, threads
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.training import checkpoints, preemption, program, reporting, workdir
from dreamjax.training.checkpoints import CheckpointConfig
from dreamjax.training.feeding import Feeder
from dreamjax.training.metrics import Late, Sums, Window, check_finite, means, read
from dreamjax.training.reporting import Clock, Reporter
from dreamjax.training.task import BatchSpec, State, Task, replace

PICTURE_ROWS = 4
VERIFY_S = 3600.0  # for the first process to verify a large checkpoint


@dataclass(frozen=True)
class TrainConfig:
    """What the loop does, whatever the system. Lengths are in optimiser steps."""

    steps: int = 1000
    batch_size: int = 64  # global
    microbatches: int | None = None  # gradient accumulation: in so many pieces; none: 1, on CPU what fits its cache
    mesh: MeshConfig = field(default_factory=MeshConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log_every: int = 10
    eval_every: int = 0  # 0: never; else also after the last step
    picture_every: int = 0  # 0: never
    profile_start: int = -1  # first step of the profiler's window; -1: no profile
    profile_steps: int = 5
    tensorboard: bool = True
    wandb: str | None = None  # project name; needs the package wandb
    compile_cache: str = "auto"  # a folder, "auto" ($XDG_CACHE_HOME/dreamjax/compiled) or "" (none)

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.microbatches or 1, self.log_every) < 1 or self.microbatches == 0:
            raise ValueError("train.steps, batch_size, microbatches and log_every must be at least 1")
        if self.eval_every < 0 or self.picture_every < 0:
            raise ValueError("train.eval_every and picture_every must be at least 0 (0: never)")
        if self.profile_start < -1 or self.profile_steps < 1:
            raise ValueError("train.profile_start must be at least -1 (no profile), profile_steps at least 1")
        if self.microbatches and self.batch_size % self.microbatches:
            raise ValueError(
                f"train.batch_size is {self.batch_size}, but it must divide by train.microbatches = {self.microbatches}"
            )


def train(
    task: Task,
    config: TrainConfig,
    path: epath.PathLike,
    *,
    seed: int = 0,
    config_json: str = "{}",
    defaults_json: str = "{}",
    devices: Sequence[jax.Device] | None = None,
    claim: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Train `task` in the work directory `path` until `config.steps`, from where the directory's run stands.

    `config_json` is the whole run's config: a directory of another one is refused; with `defaults_json`, the config's
    defaults, also one of an older version is continued that lacks a key. `devices`: all by default. `claim` is called
    when mesh, batch, data and the run that is there have been found fit, before the first file is written.
    Returns a summary with `exit_code` 0, or 75 when a SIGTERM ended it. Raises UserError (exit code 2) also for a
    metric that is not finite.
    """
    use_compile_cache(config.compile_cache)
    reporting.check(config.wandb)
    mesh = meshes.make(config.mesh, devices)
    if config.eval_every:
        task.data("val")  # where there is none, that is said now, not at the first evaluation
    spec = task.data("train")
    sharding.check_batch(spec.batch_size, mesh, config.microbatches or 1)
    with threads.single(), jax.set_mesh(mesh):
        compiled = program.build(task, mesh)
        found = standing(path, config.steps)
        claim()
        changed = workdir.claim(path, config_json, defaults_json)
        run = Run(task, config, epath.Path(path), compiled, spec, seed, config_json)
        run.start(found, fresh_hyper="train.steps" in changed)
        try:
            return run.drive()
        finally:
            run.close()


def standing(path: epath.PathLike, steps: int) -> int | None:
    """The newest intact step of a work directory. Raises UserError where the run is past `steps` already."""
    # one process reads and verifies every byte; a second answer on another host would split the run
    found = checkpoints.newest_intact(epath.Path(path) / "checkpoints") if processes.is_first() else None
    found = processes.agree("resume", found, VERIFY_S)
    if found is not None and found > steps:
        raise UserError(
            f"the run in {path} is at step {found}, past train.steps = {steps}; ask for {found} steps or more, or for "
            "another folder"
        )
    return found


class Run:
    """The loop's own state: how far it is, what it holds back, what it has open."""

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        folder: epath.Path,
        compiled: program.Program,
        spec: BatchSpec,
        seed: int,
        config_json: str,
    ) -> None:
        self.task, self.config, self.folder, self.program, self.spec = task, config, folder, compiled, spec
        self.keys = {name: jax.random.fold_in(jax.random.key(seed), zlib.crc32(name)) for name in (b"init", b"update")}
        self.saver = checkpoints.Saver(folder / "checkpoints", config.checkpoint, config_json)
        self.late = Late(self.on_metrics)
        flops = getattr(task, "flops_per_example", None)  # optional: analytic, forward and backward
        self.clock = Clock(spec.batch_size, compiled.mesh.size, float(flops()) if flops is not None else None)
        self.held_out: BatchSpec | None = None
        self.last: dict[str, dict[str, float]] = {}
        self.best: float | None = None
        self.state: State
        self.step = self.examples = 0
        self.finished = False
        self.profiling = False

    # --------------------------------------------------------------------------------------------------------- start
    def start(self, found: int | None, fresh_hyper: bool) -> None:
        """Restore the step `found` or create the state, in the resume order above; open the logs at that step."""
        self.resumed_from = found
        self.window = Window()
        if found is None:
            self.state = program.stream_in(self.program.init(self.keys[b"init"]), self.task.weights())
        else:
            self.restore(found, fresh_hyper)
        self.reporter = Reporter(self.folder, self.step, tensorboard=self.config.tensorboard, wandb=self.config.wandb)

    def restore(self, step: int, fresh_hyper: bool) -> None:
        shapes = self.program.shapes
        values = checkpoints.restore(self.saver.folder, step, checkpoints.to_dict(shapes))
        frozen = {}
        if jax.tree.leaves(shapes.frozen) or fresh_hyper:
            places = jax.tree.map(lambda x: x.sharding, (shapes.frozen, shapes.hyper))

            def init(key: jax.Array) -> Any:
                state = program.undrawn(self.task.init(key), self.task.weights())
                return state.frozen, state.hyper

            frozen, hyper = jax.jit(init, out_shardings=places)(self.keys[b"init"])
        self.state = checkpoints.from_dict(replace(shapes, frozen=frozen), values)
        if fresh_hyper:  # the schedule's horizon may have moved with train.steps
            self.state = replace(self.state, hyper=hyper)
        sources = {prefix: s for prefix, s in self.task.weights().items() if prefix.split("/")[0] == "frozen"}
        self.state = program.stream_in(self.state, sources)
        run = checkpoints.read_json(self.saver.folder, step, "run")
        self.step, self.examples, self.best = run["step"], run["examples"], run["best"]
        self.window, self.finished = Window(run["window"]), run["finished"]
        processes.barrier("restored")  # everybody has read it before the first process may replace it
        log.info("%s: continued from step %d (%d examples)", self.folder, self.step, self.examples)

    # --------------------------------------------------------------------------------------------------------- drive
    def drive(self) -> dict[str, Any]:
        """Steps until the last one, the end of a finite stream, or a SIGTERM."""
        started, preempted = time.monotonic(), False
        total = self.config.steps
        self.first_step = self.step + 1
        feeder = Feeder(self.spec, self.program.mesh, self.examples)
        with preemption.Watch() as watch, feeder, progress("train", total) as bar:
            self.feeder = feeder
            bar.advance(self.step)
            while self.step < total and not preempted:
                if not self.one_step():
                    break
                preempted = watch.requested(self.step)
                if self.step < total:
                    self.between(save=preempted)
                self.say(bar)
            if not preempted or self.step == total:
                self.end()
        self.saver.wait()
        processes.barrier("end of training")
        leaves = jax.tree.leaves(self.program.shapes.params)
        return {
            "workdir": str(self.folder),
            "step": self.step,
            "examples": self.examples,
            "resumed_from": self.resumed_from,
            "parameters": sum(leaf.size for leaf in leaves),
            "devices": self.program.mesh.size,
            "seconds": round(time.monotonic() - started, 2),
            **self.last,
            "preempted": preempted and not self.finished,
            "exit_code": preemption.EXIT_CODE if preempted and not self.finished else 0,
        }

    def one_step(self) -> bool:
        """Dispatch one update; read the metrics of the one before. False at the end of the stream."""
        self.profile()
        try:
            batch = self.feeder.next()
        except StopIteration:
            return False
        self.state, metrics = self.program.step(self.state, batch, self.keys[b"update"])
        self.step += 1
        self.finished = False  # nor is a run that was, and has been given more steps
        self.examples += self.spec.batch_size
        self.late.push(self.step, metrics)
        self.saver.check()
        return True

    def between(self, save: bool = False) -> None:
        """What is due after this step. Metrics are read first: nothing of a step that failed is shown or saved."""
        config = self.config
        evaluate = config.eval_every > 0 and self.step % config.eval_every == 0
        picture = config.picture_every > 0 and self.step % config.picture_every == 0
        save = save or self.step % config.checkpoint.every == 0
        if not (evaluate or picture or save):
            return
        self.late.flush()
        score, improved = self.evaluate() if evaluate else (None, False)
        if picture:
            self.picture()
        if save or improved:
            self.save(score)
        self.clock.begin(self.step, self.feeder.waited)

    def end(self) -> None:
        """Once, after the last step: `task.finish`, held-out metrics, the last step directory."""
        self.late.flush()
        if self.finished:
            return
        if self.window.sums:
            self.log_window(self.step)
        self.state = self.task.finish(self.state)
        self.finished = True
        score, _ = self.evaluate() if self.config.eval_every else (None, False)
        if self.config.picture_every:
            self.picture()
        self.save(score)

    # ------------------------------------------------------------------------------------------------ what is reported
    def on_metrics(self, step: int, sums: Sums) -> None:
        check_finite(sums, step)
        if step == self.first_step:  # it waited for the compiler
            self.clock.begin(step, self.feeder.waited)
        self.window.add({name: pair for name, pair in sums.items() if name != "finite"})
        if step % self.config.log_every == 0:
            self.log_window(step)

    def log_window(self, step: int) -> None:
        self.last["train"] = self.window.take()
        self.reporter.scalars(step, "train", self.last["train"])
        if step > self.first_step:
            self.reporter.clock(step, self.clock.read(step, self.feeder.waited))

    def evaluate(self) -> tuple[float | None, bool]:
        """(held-out score, whether it is the best so far)."""
        if self.held_out is None:
            self.held_out = self.task.data("val")
        values = means(read(self.task.evaluate(self.state, self.held_out.stream)))
        self.last["val"] = values
        self.reporter.scalars(self.step, "val", values)
        score = values.get(self.config.checkpoint.best_metric)
        if score is None or not math.isfinite(score):
            if score is not None:
                log.warning("step %d: the held-out %s is %s", self.step, self.config.checkpoint.best_metric, score)
            return None, False
        sign = 1 if self.config.checkpoint.best_mode == "min" else -1
        improved = self.best is None or sign * score < sign * self.best
        self.best = score if improved else self.best
        return score, improved

    def picture(self) -> None:
        """What the task draws of a few held-out examples, where it has `picture(state, batch)` → figure."""
        draw = getattr(self.task, "picture", None)
        if draw is None:
            return
        if self.held_out is None:
            self.held_out = self.task.data("val")
        rows = next(iter(self.held_out.stream.batches(start=0, batch_size=PICTURE_ROWS)))
        self.reporter.picture(self.step, draw(self.state, rows))

    def say(self, bar: Bar) -> None:
        loss = self.last.get("train", {}).get("loss")
        bar.advance(1, note="" if loss is None else f"loss {loss:.4g}")

    def profile(self) -> None:
        """The profiler's window: steps profile_start … profile_start + profile_steps - 1."""
        first, last = self.config.profile_start, self.config.profile_start + self.config.profile_steps
        if not self.profiling and first >= 0 and self.step == first:
            jax.profiler.start_trace(os.fspath(self.folder / "profile"))
            self.profiling = True
        elif self.profiling and self.step >= last:
            self.stop_profile()

    def stop_profile(self) -> None:
        jax.block_until_ready(self.state.step)
        jax.profiler.stop_trace()
        self.profiling = False

    # ---------------------------------------------------------------------------------------------------- save, close
    def save(self, score: float | None) -> None:
        run = {
            "examples": self.examples,
            "window": self.window.sums,
            "score": score,
            "best": self.best,
            "finished": self.finished,
        }
        self.reporter.sync()
        self.saver.save(self.step, self.state, run)

    def close(self) -> None:
        if self.profiling:
            self.stop_profile()
        self.saver.close()
        with contextlib.suppress(OSError):  # a full disk was told already, by what was being written
            self.reporter.close()


def use_compile_cache(where: str) -> None:
    """Keep compiled programs across runs; $JAX_COMPILATION_CACHE_DIR, where set, has its way."""
    if not where or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    if where == "auto":
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        where = os.path.join(base, "dreamjax", "compiled")
    jax.config.update("jax_compilation_cache_dir", where)
