"""One loop for every Task (docs/guides/train.md).

Resume order: (1) a run of the work directory that has an intact step continues from the newest one; (2) else parameters
are created, sharded, from the seed; (3) then `task.weights()` are streamed over them; (4) the frozen parts, which no
checkpoint copies, are streamed in both cases.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from etils import epath

from dreamjax.console import Bar, log, progress
from dreamjax.errors import UserError
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel import processes, sharding, stragglers, threads
from dreamjax.training import checkpoints, compile_cache, goodput, preemption, program, reporting, workdir
from dreamjax.training.checkpoints import SaveFailed
from dreamjax.training.feeding import Feeder
from dreamjax.training.goodput import Ledger
from dreamjax.training.guard import Guard, RollBack
from dreamjax.training.metrics import Late, Sums, Window, means, read
from dreamjax.training.profiling import ProfilerWindow
from dreamjax.training.reporting import Clock, Reporter
from dreamjax.training.task import BatchSpec, State, Task
from dreamjax.training.train_config import TrainConfig

IMAGE_ROWS = 4
VERIFY_S = 3600.0  # for the first process to verify a large checkpoint


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
    step that went wrong where `config.guard` does not go on.
    """
    ledger = Ledger(epath.Path(path) / "goodput.json", processes.is_first())
    compile_cache.use(config.compile_cache)
    reporting.check(config.wandb, config.image_every)
    mesh = meshes.make(config.mesh, devices)
    if config.eval_every:
        task.data("val")  # where there is none, that is said now, not at the first evaluation
    spec = task.data("train")
    sharding.check_batch(spec.batch_size, mesh, config.microbatches or 1)
    with threads.single(), jax.set_mesh(mesh):
        compiled = program.build(task, mesh, guarded=config.guard)
        found = standing(path, spec.steps(config.steps))
        claim()
        changed = workdir.claim(path, config_json, defaults_json)
        run = Run(task, config, epath.Path(path), compiled, spec, seed, config_json, ledger)
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
        ledger: Ledger,
    ) -> None:
        self.task, self.config, self.folder, self.program, self.spec = task, config, folder, compiled, spec
        self.key = program.run_key(seed, b"init")
        self.total = spec.steps(config.steps)
        self.saver = checkpoints.Saver(folder / "checkpoints", config.checkpoint, config_json)
        self.ledger, self.guard = ledger, Guard(config.guard)
        self.profiler = ProfilerWindow(folder / "profile", config.profile_start, config.profile_steps)
        self.late = Late(self.on_metrics)
        self.pace = stragglers.Pace()
        self.clock = Clock(spec.batch_size, compiled.mesh.size, task.flops())
        self.held_out: BatchSpec | None = None
        self.last: dict[str, dict[str, float]] = {}
        self.best: float | None = None
        self.state: State
        self.step = self.examples = 0
        self.finished = False
        self.failed_saves = 0

    # --------------------------------------------------------------------------------------------------------- start
    def start(self, found: int | None, fresh_hyper: bool) -> None:
        """Restore the step `found` or create the state, in the resume order above; open the logs at that step."""
        self.resumed_from = found
        self.window = Window()
        if found is None:
            self.state = program.stream_in(self.program.init(self.key), self.task.weights())
        else:
            self.restore(found, fresh_hyper)
        self.ledger.stands_at(self.step)
        self.open_logs()

    def open_logs(self) -> None:
        self.reporter = Reporter(self.folder, self.step, tensorboard=self.config.tensorboard, wandb=self.config.wandb)

    def restore(self, step: int, fresh_hyper: bool) -> None:
        self.state = program.restored(self.program, self.task, self.saver.folder, step, self.key, fresh_hyper)
        run = checkpoints.read_json(self.saver.folder, step, "run")
        self.step, self.examples, self.best = run["step"], run["examples"], run["best"]
        self.window, self.finished = Window(run["window"]), run["finished"]
        self.guard.restored(run.get("guard", {}))
        processes.barrier("restored")  # everybody has read it before the first process may replace it
        log.info("%s: continued from step %d (%d examples)", self.folder, self.step, self.examples)

    # --------------------------------------------------------------------------------------------------------- drive
    def drive(self) -> dict[str, Any]:
        """Steps until the last one, the end of a finite stream, or a SIGTERM."""
        started, preempted = time.monotonic(), False
        with preemption.Watch() as watch, progress("train", self.total) as bar:
            bar.advance(self.step)
            while True:
                try:
                    preempted = self.until_done(watch, bar)
                    break
                except RollBack as back:
                    before = self.step
                    self.roll_back(back.step)
                    bar.advance(self.step - before)
        with self.tolerant():
            self.saver.wait()
        processes.barrier("end of training")
        self.ledger.write()
        leaves = jax.tree.leaves(self.program.shapes.params)
        stopped = preempted and not self.finished
        return {
            "workdir": str(self.folder),
            "step": self.step,
            "examples": self.examples,
            "resumed_from": self.resumed_from,
            "parameters": sum(leaf.size for leaf in leaves),
            "devices": self.program.mesh.size,
            "seconds": round(time.monotonic() - started, 2),
            "time": goodput.summary(self.ledger.attempts()),
            "compiled": compile_cache.counts(),
            "failed_saves": self.failed_saves,
            "guard": self.guard.count(),
            **self.last,
            "preempted": stopped,
            "exit_code": preemption.EXIT_CODE if stopped else 0,
        }

    def until_done(self, watch: preemption.Watch, bar: Bar) -> bool:
        """Steps from where the run stands; True where a SIGTERM ended them. Raises RollBack."""
        total, preempted = self.total, False
        self.first_step = self.step + 1
        with Feeder(self.spec, self.program.mesh, self.examples) as self.feeder:
            while self.step < total and not preempted:
                if not self.one_step():
                    break
                preempted = watch.requested()
                if self.step < total:
                    self.between(save=preempted)
                self.say(bar)
            if not preempted or self.step == total:
                self.end()
        return preempted

    def one_step(self) -> bool:
        """Dispatch one update; read the metrics of the one before. False at the end of the stream."""
        self.profiler.at(self.step, self.state)
        try:
            with self.ledger.on("input"):
                batch = self.feeder.next()
        except StopIteration:
            return False
        if self.step + 1 == self.first_step:
            self.ledger.becomes("compile")  # until this step's metrics are there
        self.state, metrics = self.program.step(self.state, batch)
        self.step += 1
        self.finished = False  # nor is a run that was, and has been given more steps
        self.examples += self.spec.batch_size
        self.late.push(self.step, metrics)
        self.ledger.stepped(self.step)
        with self.tolerant():
            self.saver.check()
        return True

    def roll_back(self, bad: int) -> None:
        """To the last saved step; the data goes on after step `bad`, whose batch is not seen again."""
        examples = self.examples - self.spec.batch_size * (self.step - bad)
        with self.tolerant():
            self.saver.wait()
        found = standing(self.folder, self.total)
        if found is None:
            raise UserError(f"step {bad} went wrong before a step was saved, so there is none to go back to")
        took = self.ledger.seconds_per_step * (self.step - found)
        self.late.drop()
        self.reporter.close()
        del self.state  # the room that the saved one takes
        guard = self.guard.count()
        with self.ledger.on("start"):
            self.restore(found, fresh_hyper=False)
            self.open_logs()
        self.guard.restored(guard)
        self.ledger.rolled_back(self.step, took)
        self.examples = examples

    def between(self, save: bool = False) -> None:
        """What is due after this step. Metrics are read first: nothing of a step that failed is shown or saved."""
        config = self.config
        evaluate = config.eval_every > 0 and self.step % config.eval_every == 0
        image = config.image_every > 0 and self.step % config.image_every == 0
        save = save or self.step % config.checkpoint.every == 0
        if not (evaluate or image or save):
            return
        self.late.flush()
        with self.ledger.on("evaluation"):
            score, improved = self.evaluate() if evaluate else (None, False)
            if image:
                self.image()
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
        with self.ledger.on("evaluation"):
            self.state = self.task.finish(self.state)
            self.finished = True
            score, _ = self.evaluate() if self.config.eval_every else (None, False)
            if self.config.image_every:
                self.image()
        self.save(score)
        with self.ledger.on("checkpoint"):
            self.saver.wait()  # what the run ends with has to be there

    # ------------------------------------------------------------------------------------------------ what is reported
    def on_metrics(self, step: int, sums: Sums) -> None:
        if step == self.first_step:  # it waited for the compiler
            self.ledger.becomes("step")
            self.ledger.write()
            self.clock.begin(step, self.feeder.waited)
            self.guard.check_system(sums)
        if self.guard.passes(step, sums):
            self.window.add({name: pair for name, pair in sums.items() if name not in ("finite", "spike")})
        if step % self.config.log_every == 0:
            self.log_window(step)

    def log_window(self, step: int) -> None:
        self.last["train"] = self.window.take()
        self.reporter.scalars(step, "train", self.last["train"])
        if step > self.first_step:
            values = self.clock.read(step, self.feeder.waited)
            self.reporter.clock(step, values | self.guard.told())
            self.pace.publish(step, values["seconds_per_step"], self.late.waited)

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

    def image(self) -> None:
        """Log the task's preview of a few held-out examples."""
        if self.held_out is None:
            self.held_out = self.task.data("val")
        rows = next(iter(self.held_out.stream.batches(start=0, batch_size=IMAGE_ROWS)))
        self.reporter.image(self.step, self.task.preview(self.state, rows))

    def say(self, bar: Bar) -> None:
        loss = self.last.get("train", {}).get("loss")
        bar.advance(1, note="" if loss is None else f"loss {loss:.4g}")

    # ---------------------------------------------------------------------------------------------------- save, close
    def save(self, score: float | None) -> None:
        run = {
            "examples": self.examples,
            "window": self.window.sums,
            "score": score,
            "best": self.best,
            "finished": self.finished,
            "guard": self.guard.count(),
        }
        with self.ledger.on("checkpoint"):
            self.reporter.sync()
            with self.tolerant():
                self.saver.wait()
            with contextlib.nullcontext() if self.finished else self.tolerant():
                self.saver.save(self.step, self.state, run)
        self.ledger.write()

    @contextlib.contextmanager
    def tolerant(self) -> Iterator[None]:
        """A save that fails costs a line and not the run; what a finished run ends with has to be saved."""
        try:
            yield
        except SaveFailed as failure:
            self.failed_saves += 1
            log.warning("%s; training goes on", failure)

    def close(self) -> None:
        self.profiler.stop()
        self.saver.close()
        self.reporter.close()
        self.ledger.write()
