"""One loop for every Task (docs/guides/train.md).

Resume order: (1) a run with an intact saved step continues from the newest one; (2) otherwise parameters are created,
sharded, from the seed; (3) then `task.weights()` are streamed over them; (4) the frozen parts, which no checkpoint
copies, are streamed in both cases.
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NotRequired, TypedDict

import jax
from etils import epath

from dreamjax.console import Bar, log, progress
from dreamjax.errors import UserError
from dreamjax.interruption import interruptible
from dreamjax.parallel import environment, processes, sharding, stragglers
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.hangs import HangWatch
from dreamjax.training import checkpoints, compile_cache, goodput, held_out, logging, preemption, program, workdir
from dreamjax.training.checkpoints import SaveFailed
from dreamjax.training.devices import ProfilerWindow, ThroughputMeter
from dreamjax.training.feeding import Feeder
from dreamjax.training.goodput import GoodputSummary, Ledger
from dreamjax.training.guard import Guard, RollBack
from dreamjax.training.logging import RunLogger
from dreamjax.training.step_metrics import DelayedMetrics, RunningMean, Sums, means, read
from dreamjax.training.task import BatchSpec, State, Task
from dreamjax.training.train_config import TrainConfig

IMAGE_ROWS = 4


class TrainSummary(TypedDict):
    """The result of `train`; `exit_code` is 0, or 75 where a signal ended the run. `train` and `val`: last metrics."""

    workdir: str
    step: int
    examples: int
    resumed_from: int | None
    parameters: int
    devices: int
    seconds: float
    time: GoodputSummary
    compiled: dict[str, int]
    failed_saves: int
    guard: dict[str, int]
    train: NotRequired[dict[str, float]]
    val: NotRequired[dict[str, float]]
    preempted: bool
    exit_code: int


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
) -> TrainSummary:
    """Train `task` in the work directory `path` until `config.steps`, continuing the directory's run if it has one.

    Args:
        task: the system to train.
        config: what the loop does, whatever the system.
        path: the work directory.
        seed: of the initial parameters.
        config_json: the whole run's config; a directory that holds a run of another config is refused.
        defaults_json: the config's defaults, so that a run of an older version that lacks a key can be continued.
        devices: all by default.
        claim: called once mesh, batch, data and an existing run have been checked, before the first file is written.

    Raises:
        UserError: for a config that cannot be trained, and for a bad step where `config.guard` ends the run.
        TryAgain: where another process trains in the work directory, and on a signal before the first step.
    """
    with contextlib.ExitStack() as stack, workdir.held(path), preemption.explained():
        with interruptible("training was being prepared"):
            ledger = Ledger(epath.Path(path) / "goodput.json", processes.is_first())
            compile_cache.use(config.compile_cache)
            image_every = held_out.image_every(config)
            logging.check(config.wandb, image_every)
            mesh = meshes.make(config.mesh, devices)
            if config.eval_every or image_every:
                held_out.check(task)
            spec = task.data("train")
            sharding.check_batch(spec.batch_size, mesh, config.microbatches or 1)
            stack.enter_context(environment.single_blas_thread())
            stack.enter_context(jax.set_mesh(mesh))
            compiled = program.build(task, mesh, guarded=config.guard)
            saved = workdir.resume_step(path, spec.steps(config.steps))
            claim()
            changed = workdir.claim(path, config_json, defaults_json)
            run = TrainingLoop(task, config, epath.Path(path), compiled, spec, seed, config_json, ledger)
            run.start(saved, fresh_hyper="train.steps" in changed)
        try:
            return run.drive()
        finally:
            run.close()


class TrainingLoop:
    """The state of the loop: its position, pending metrics and open files."""

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        folder: epath.Path,
        compiled: program.TrainingProgram,
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
        self.late = DelayedMetrics(self.on_metrics)
        self.pace = stragglers.StragglerMonitor()
        self.hangs = HangWatch(config.guard.hang, config.guard.hang_seconds)
        self.throughput = ThroughputMeter(spec.batch_size, compiled.mesh.size, task.flops())
        self.image_every = held_out.image_every(config)
        self.last: dict[str, dict[str, float]] = {}
        self.best: float | None = None
        self.state: State
        self.step = self.examples = 0
        self.finished = False
        self.failed_saves = 0

    # --------------------------------------------------------------------------------------------------------- start
    def start(self, saved: int | None, fresh_hyper: bool) -> None:
        """Restore the step `saved` or create the state, in the resume order above; open the logs at that step."""
        self.resumed_from = saved
        self.window = RunningMean()
        if saved is None:
            self.state = program.stream_in(self.program.init(self.key), self.task.weights())
        else:
            self.restore(saved, fresh_hyper)
        self.ledger.start_at(self.step)
        self.logger = self.open_logger()

    def open_logger(self) -> RunLogger:
        """Open the logs at the current step."""
        return RunLogger(self.folder, self.step, tensorboard=self.config.tensorboard, wandb=self.config.wandb)

    def restore(self, step: int, fresh_hyper: bool) -> None:
        """Restore a saved step; `fresh_hyper`: with the hyper-parameters of the config."""
        self.state = program.restored(self.program, self.task, self.saver.folder, step, self.key, fresh_hyper)
        run = checkpoints.read_json(self.saver.folder, step, "run")
        self.step, self.examples, self.best = run["step"], run["examples"], run["best"]
        self.window, self.finished = RunningMean(run["window"]), run["finished"]
        self.guard.restored(run.get("guard", {}))
        processes.barrier("restored")  # all have read it before the first process may replace it
        log.info("%s: continued from step %d (%d examples)", self.folder, self.step, self.examples)

    # --------------------------------------------------------------------------------------------------------- drive
    def drive(self) -> TrainSummary:
        """Train until the last step, the end of a finite stream, a SIGTERM or Control-C."""
        started, preempted = time.monotonic(), False
        with preemption.Watch() as watch:
            with self.hangs, progress("train", self.total) as bar:
                bar.advance(self.step)
                while True:
                    try:
                        preempted = self.until_done(watch, bar)
                        break
                    except RollBack as back:
                        before = self.step
                        with self.hangs.paused():
                            self.roll_back(back.step)
                        bar.advance(self.step - before)
            with self.tolerant():
                self.saver.wait()  # a second SIGTERM does not end it
        processes.barrier("end of training")
        self.ledger.write()
        stopped = preempted and not self.finished
        summary: TrainSummary = {
            "workdir": str(self.folder),
            "step": self.step,
            "examples": self.examples,
            "resumed_from": self.resumed_from,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(self.program.shapes.params)),
            "devices": self.program.mesh.size,
            "seconds": round(time.monotonic() - started, 2),
            "time": goodput.summary(self.ledger.attempts()),
            "compiled": compile_cache.counts(),
            "failed_saves": self.failed_saves,
            "guard": self.guard.count(),
            "preempted": stopped,
            "exit_code": preemption.EXIT_CODE if stopped else 0,
        }
        return {**summary, **self.last}  # type: ignore[typeddict-item]

    def until_done(self, watch: preemption.Watch, bar: Bar) -> bool:
        """Train from the current step on; return True where a signal ended it. Raise RollBack."""
        preempted, self.first_step = False, self.step + 1
        with Feeder(self.spec, self.program.mesh, self.examples) as self.feeder:
            while self.step < self.total and not preempted:
                if (went := self.one_step(lambda: watch.asked() or self.hangs.hung())) is None:
                    self.save_unsaved()
                    return True
                if not went:
                    break
                preempted = watch.requested()
                if self.step < self.total:
                    self.between(save=preempted)
                loss = self.last.get("train", {}).get("loss")
                bar.advance(1, note="" if loss is None else f"loss {loss:.4g}")
            with self.hangs.paused():
                if not preempted or self.step == self.total:
                    self.end()
        return preempted

    def one_step(self, stop: Callable[[], bool]) -> bool | None:
        """Dispatch one update and read the metrics of the one before.

        Return False at the end of the stream, None once `stop` returns True while there is no batch.
        """
        self.profiler.at(self.step, self.state)
        try:
            with self.ledger.on("input"), self.hangs.within("input"):
                batch = self.feeder.next_unless(stop)
        except StopIteration:
            return False
        if batch is None:
            return None
        if self.step + 1 == self.first_step:
            self.ledger.becomes("compile")  # until this step's metrics are read
        self.state, metrics = self.program.step(self.state, batch)
        self.step += 1
        self.finished = False  # also a finished run that was given more steps
        self.examples += self.spec.batch_size
        self.late.push(self.step, metrics)
        self.ledger.stepped(self.step)
        self.hangs.stepped(self.step)
        with self.tolerant():
            self.saver.check()
        return True

    def roll_back(self, bad: int) -> None:
        """Go back to the last saved step; the data continues after step `bad`, whose batch is not used again."""
        examples = self.examples - self.spec.batch_size * (self.step - bad)
        with self.tolerant():
            self.saver.wait()
        saved = workdir.resume_step(self.folder, self.total)
        if saved is None:
            raise UserError(f"step {bad} went wrong before a step was saved, so there is none to go back to")
        took = self.ledger.seconds_per_step * (self.step - saved)
        self.late.drop()
        self.logger.close()
        del self.state  # frees the memory that the restored one needs
        guard = self.guard.count()
        with self.ledger.on("start"):
            self.restore(saved, fresh_hyper=False)
            self.logger = self.open_logger()
        self.guard.restored(guard)
        self.ledger.rolled_back(self.step, took)
        self.examples = examples

    def between(self, save: bool = False) -> None:
        """Evaluate, log images and save where due. Metrics are read first, so that nothing of a bad step is saved."""
        every = (self.config.eval_every, self.image_every, self.config.checkpoint.every)
        evaluate, image, due = (n > 0 and self.step % n == 0 for n in every)
        save = save or due
        if not (evaluate or image or save):
            return
        self.late.flush()
        with self.hangs.paused():
            with self.ledger.on("evaluation"):
                score, improved = self.evaluate() if evaluate else (None, False)
                if image:
                    self.image()
            if save or improved:
                self.save(score)
        self.throughput.begin(self.step, self.feeder.waited)

    def end(self) -> None:
        """Finish the run once, after the last step: `task.finish`, held-out metrics, the last step directory."""
        self.late.flush()
        if self.finished:
            return
        if self.window.sums:
            self.log_window(self.step)
        with self.ledger.on("evaluation"):
            self.state = self.task.finish(self.state)
            self.finished = True
            score, _ = self.evaluate() if self.config.eval_every else (None, False)
            if self.image_every:
                self.image()
        self.save(score)
        with self.ledger.on("checkpoint"):
            self.saver.wait()  # the final step has to be saved

    # ---------------------------------------------------------------------------------------------------------- logging
    def on_metrics(self, step: int, sums: Sums) -> None:
        """Judge and accumulate the metrics of one step, which arrive one step late."""
        if step == self.first_step:  # it waited for the compiler
            self.ledger.becomes("step")
            self.ledger.write()
            self.throughput.begin(step, self.feeder.waited)
            self.guard.check_system(sums)
        if self.guard.passes(step, sums):
            self.window.add({name: pair for name, pair in sums.items() if name not in ("finite", "spike")})
        if step % self.config.log_every == 0:
            self.log_window(step)

    def log_window(self, step: int) -> None:
        """Log the means since the last logged line."""
        self.last["train"] = self.window.take()
        self.logger.metrics(step, "train", self.last["train"])
        if step > self.first_step:
            values = self.throughput.read(step, self.feeder.waited)
            self.logger.timing(step, values | self.guard.nonzero_counts())
            self.pace.publish(step, values["seconds_per_step"], self.late.waited)

    @functools.cached_property
    def held_out(self) -> BatchSpec:
        """Return the held-out data, opened when first needed."""
        return self.task.data("val")

    def evaluate(self) -> tuple[float | None, bool]:
        """Return (held-out score, whether it is the best so far)."""
        values = means(read(self.task.evaluate(self.state, self.held_out.stream)))
        self.last["val"] = values
        self.logger.metrics(self.step, "val", values)
        score = values.get(self.config.checkpoint.best_metric)
        if score is None:
            return None, False
        if not math.isfinite(score):
            log.warning("step %d: the held-out %s is %s", self.step, self.config.checkpoint.best_metric, score)
            return None, False
        sign = 1 if self.config.checkpoint.best_mode == "min" else -1
        improved = self.best is None or sign * score < sign * self.best
        self.best = score if improved else self.best
        return score, improved

    def image(self) -> None:
        """Log the task's preview of a few held-out examples."""
        rows = next(iter(self.held_out.stream.batches(start=0, batch_size=IMAGE_ROWS)))
        self.logger.image(self.step, self.task.preview(self.state, rows))

    # ---------------------------------------------------------------------------------------------------- save, close
    def save(self, score: float | None) -> None:
        """Begin to save the current step, with its held-out score."""
        run = {
            "examples": self.examples,
            "window": self.window.sums,
            "score": score,
            "best": self.best,
            "finished": self.finished,
            "guard": self.guard.count(),
        }
        with self.ledger.on("checkpoint"):
            self.logger.sync()
            with self.tolerant():
                self.saver.wait()
            with contextlib.nullcontext() if self.finished else self.tolerant():
                self.saver.save(self.step, self.state, run)
        self.ledger.write()

    def save_unsaved(self) -> None:
        """Save the last step where it is not saved; end the process where the input hangs, as threads of it may too."""
        with self.hangs.last_save() as hung:
            self.late.flush()
            if self.step not in (0, self.resumed_from, self.saver.step):
                self.save(None)
            with self.tolerant():
                self.saver.wait()
        if hung:
            saved = checkpoints.committed_steps(self.saver.folder)
            self.logger.close()
            self.hangs.end(note=f"step {saved[-1]} is saved" if saved else "no step was saved")

    @contextlib.contextmanager
    def tolerant(self) -> Iterator[None]:
        """Turn a failed save into a warning; only the last step of a run has to be saved."""
        try:
            yield
        except SaveFailed as failure:
            self.failed_saves += 1
            log.warning("%s; training goes on", failure)

    def close(self) -> None:
        """Close everything that is open."""
        self.profiler.stop()
        self.saver.close()
        self.logger.close()
        self.ledger.write()
