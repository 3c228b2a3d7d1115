"""Where a run's numbers and images go: JSON lines, TensorBoard, Weights & Biases."""

import importlib.util
import sys
import time
from collections.abc import Mapping
from typing import Any

from etils import epath

from dreamjax.console import log
from dreamjax.errors import missing_package, require
from dreamjax.parallel import processes
from dreamjax.reports import figures
from dreamjax.storage import atomic
from dreamjax.training import devices
from dreamjax.training.metrics import JsonLines
from dreamjax.training.tolerance import Tolerant


def check(wandb: str | None, image_every: int) -> None:
    """Raise UserError where a package of the logs that are asked for is not installed."""
    if wandb is not None:
        require("wandb", "train.wandb")
    if image_every:
        require("matplotlib", "train.image_every")


def _board(folder: str, step: int) -> Any:
    """tensorboardX's writer. Its module imports PyTorch where that is installed, which takes 2 s and is of no use here.

    Its thread ends at the first write that fails, and whoever adds the eleventh event after that waits for ever: so
    what writes for it drops what a full disk does not take.
    """
    hidden = sys.modules.setdefault("torch", None) is None  # type: ignore[arg-type]  # importing it: ImportError
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    board = SummaryWriter(folder, purge_step=step)  # what a killed run wrote from there on is hidden by TensorBoard
    events = board.file_writer.event_writer
    events._ev_writer = events._worker._record_writer = _Forgiving(events._ev_writer)
    return board


class _Forgiving:
    """A writer of events, whose failures to write are tolerated."""

    def __init__(self, writer: Any) -> None:
        self._writer, self._tolerant = writer, Tolerant("TensorBoard's file")

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._writer, name)

        def call(*args: Any) -> Any:
            with self._tolerant:
                return method(*args)
            return None

        return call


class Reporter:
    """Writes for the first process only; every process may call it. Stands at `step` when opened."""

    def __init__(
        self, workdir: epath.PathLike, step: int, *, tensorboard: bool = True, wandb: str | None = None
    ) -> None:
        self.workdir = epath.Path(workdir)
        self.first = processes.is_first()
        self.lines = JsonLines(self.workdir / "metrics.jsonl", step, self.first)
        self._tolerant = Tolerant(self.workdir / "images")
        self.timing = JsonLines(self.workdir / "timing.jsonl", step, self.first)
        self._board: Any = None
        self._wandb: Any = None
        if self.first and tensorboard and importlib.util.find_spec("tensorboardX") is None:
            log.warning("%s", f"{missing_package('tensorboardX', 'report', 'train.tensorboard')}; no TensorBoard log")
        elif self.first and tensorboard:
            self._board = _board(str(self.workdir / "tensorboard"), step + 1)
        if self.first and wandb is not None:
            self._wandb = self._open_wandb(wandb)

    def _open_wandb(self, project: str) -> Any:
        import wandb

        wandb.init(project=project, dir=str(self.workdir), id=self.workdir.name, resume="allow")
        return wandb

    def scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """A line of what the run computed: the same bytes on every repetition."""
        self.lines.write({"step": step, "split": split, **{name: values[name] for name in sorted(values)}})
        self._show(step, {f"{split}/{name}": value for name, value in values.items()})

    def clock(self, step: int, values: Mapping[str, float]) -> None:
        """A line of what the clock said."""
        self.timing.write({"step": step, **values})
        self._show(step, {f"speed/{name}": value for name, value in values.items()})

    def _show(self, step: int, values: Mapping[str, float]) -> None:
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)

    def image(self, step: int, figure: Any) -> None:
        """A matplotlib figure → `images/00001000.png` and TensorBoard."""
        if not self.first or figure is None:
            return
        with self._tolerant:
            atomic.write_bytes(self.workdir / "images" / f"{step:08d}.png", figures.png(figure, 100))
        if self._board is not None:
            self._board.add_figure("image", figure, step, close=False)
        if self._wandb is not None:
            self._wandb.log({"image": self._wandb.Image(figure)}, step=step)

    def sync(self) -> None:
        self.lines.sync()
        self.timing.sync()

    def close(self) -> None:
        self.lines.close()
        self.timing.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


class Clock:
    """Rates over the steps since the last line."""

    def __init__(self, batch_size: int, devices_used: int, flops_per_example: float | None) -> None:
        self.batch_size, self.devices_used, self.flops = batch_size, devices_used, flops_per_example
        self.peak = devices.peak_flops()
        self.begin(0, 0.0)

    def begin(self, step: int, waited: float) -> None:
        """Start counting at `step` (also after an evaluation or a save, whose time is not the step's)."""
        self._step, self._waited, self._started = step, waited, time.monotonic()

    def read(self, step: int, waited: float) -> dict[str, float]:
        """examples/s, s per step, share of time waiting for input, TFLOP/s in all and of each device, MFU, memory."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        steps = step - self._step
        values = {
            "examples_per_second": round(steps * self.batch_size / seconds, 3),
            "seconds_per_step": round(seconds / max(steps, 1), 6),
            "input_wait_share": round((waited - self._waited) / seconds, 4),
        }
        if self.flops:
            achieved = steps * self.batch_size * self.flops / seconds
            values["tflop_per_second"] = round(achieved / 1e12, 5)
            values["tflop_per_second_per_device"] = round(achieved / 1e12 / self.devices_used, 5)
            if self.peak:
                values["mfu"] = round(achieved / (self.peak * self.devices_used), 4)
        self.begin(step, waited)
        return values | devices.memory()
