"""Write a run's numbers and images: JSON lines, TensorBoard, Weights & Biases.

`metrics.jsonl` holds only what is a function of the run: its bytes are equal whether or not the run was killed and
resumed. `timing.jsonl` holds what depends on the clock: rates, memory, waiting.
"""

import importlib.util
import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from types import ModuleType, SimpleNamespace, TracebackType
from typing import TYPE_CHECKING

from etils import epath

from dreamjax.console import log
from dreamjax.errors import missing_package, require
from dreamjax.parallel import processes
from dreamjax.reports import figures
from dreamjax.storage import atomic, presence

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from tensorboardX import SummaryWriter


class LogWriteErrors:
    """Context manager that turns an OSError (such as a full disk) into one warning, until a write succeeds again."""

    def __init__(self, target: object) -> None:
        self.target, self.failing = target, False

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, _: TracebackType | None
    ) -> bool:
        if isinstance(problem, OSError) and not self.failing:
            log.warning("%s could not be written (%s); training goes on", self.target, problem.strerror or problem)
        self.failing = isinstance(problem, OSError)
        return self.failing


class JsonLines:
    """A file of one JSON object per line, each with a `step`; opened for a run that is at `step`.

    Lines that could not be written (a full disk) are kept and written with the next line.
    """

    def __init__(self, path: epath.PathLike, step: int) -> None:
        self.path = epath.Path(path)
        self._log_errors = LogWriteErrors(self.path)
        text = self.path.read_text() if presence.exists(self.path) else ""
        kept = "".join(line for line in text.splitlines(keepends=True) if _is_up_to(line, step))
        if kept != text:
            atomic.write_text(self.path, kept)
        local = "://" not in str(path)
        self._lines = b"" if local else kept.encode()  # yet to be written; an object is written whole
        self._stream = io.FileIO(os.fspath(path), "ab") if local else None

    def write(self, record: Mapping[str, object]) -> None:
        """Hand one line to the operating system."""
        self._lines += (json.dumps(record) + "\n").encode()
        if self._stream is not None:
            with self._log_errors:
                self._append(self._stream)

    def _append(self, stream: io.FileIO) -> None:
        while self._lines:  # after a partial write, the rest follows
            self._lines = self._lines[stream.write(self._lines) :]

    def sync(self) -> None:
        """Flush all lines to disk, before a step directory that follows them is committed."""
        with self._log_errors:
            if self._stream is not None:
                self._append(self._stream)
                os.fsync(self._stream.fileno())
            else:  # objects of an object store cannot be appended to
                atomic.write_bytes(self.path, self._lines)

    def close(self) -> None:
        """Sync and close the file."""
        self.sync()
        if self._stream is not None:
            self._stream.close()


def _is_up_to(line: str, step: int) -> bool:
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False  # cut off by a kill: the step that wrote it will write it again


# -------------------------------------------------------------------------------------------------------- the run's log
def check(wandb: str | None, image_every: int) -> None:
    """Raise UserError where a log that is asked for needs a package that is not installed."""
    if wandb is not None:
        require("wandb", "train.wandb")
    if image_every:
        require("matplotlib", "train.image_every")


_NAMELESS = SimpleNamespace(gethostname=lambda: "dreamjax")


def _open_tensorboard(folder: str, step: int) -> "SummaryWriter":
    """Return tensorboardX's writer, which hides events that a killed run wrote from `step` on.

    Its module would import PyTorch where that is installed, which takes 2 s and is not needed. Its thread ends at the
    first write that fails, and the eleventh event after that would block for ever: so failed writes are dropped.
    """
    hidden = sys.modules.setdefault("torch", None) is None  # type: ignore[arg-type]  # importing it: ImportError
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    from tensorboardX import event_file_writer

    system, event_file_writer.socket = event_file_writer.socket, _NAMELESS  # the host's name would be in the file's
    try:
        board = SummaryWriter(folder, purge_step=step)
    finally:
        event_file_writer.socket = system
    events = board.file_writer.event_writer
    events._ev_writer = events._worker._record_writer = _TolerantEventWriter(events._ev_writer)
    return board


class _TolerantEventWriter:
    """An event writer whose failures to write are logged instead of raised."""

    def __init__(self, writer: object) -> None:
        self._writer, self._log_errors = writer, LogWriteErrors("TensorBoard's file")

    def __getattr__(self, name: str) -> Callable[..., object]:
        method = getattr(self._writer, name)

        def call(*args: object) -> object:
            with self._log_errors:
                return method(*args)
            return None

        return call


class RunLogger:
    """Write a run's numbers and images, in the first process only; every process may call it.

    It is at `step` when opened: later lines of earlier attempts are removed.
    """

    def __init__(
        self, workdir: epath.PathLike, step: int, *, tensorboard: bool = True, wandb: str | None = None
    ) -> None:
        self.workdir = epath.Path(workdir)
        self._log_errors = LogWriteErrors(self.workdir / "images")
        self._files: dict[str, JsonLines] = {}
        self._board: SummaryWriter | None = None
        self._wandb: ModuleType | None = None
        if not processes.is_first():
            return
        self._files = {name: JsonLines(self.workdir / f"{name}.jsonl", step) for name in ("metrics", "timing")}
        if tensorboard and importlib.util.find_spec("tensorboardX") is None:
            log.warning("%s", f"{missing_package('tensorboardX', 'report', 'train.tensorboard')}; no TensorBoard log")
        elif tensorboard:
            folder = str(self.workdir / "tensorboard")
            self._board = _open_tensorboard(folder, step + 1)
            log.info("curves and images: tensorboard --logdir %s (pip install tensorboard)", shlex.quote(folder))
        if wandb is not None:
            import wandb as package

            package.init(project=wandb, dir=str(self.workdir), id=self.workdir.name, resume="allow")
            self._wandb = package

    def metrics(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Log metrics, which are the same bytes on every repetition of the run."""
        self._write("metrics", step, {"split": split, **{name: values[name] for name in sorted(values)}}, split, values)

    def timing(self, step: int, values: Mapping[str, float]) -> None:
        """Log values that depend on the clock."""
        self._write("timing", step, values, "speed", values)

    def _write(
        self, file: str, step: int, record: Mapping[str, object], group: str, values: Mapping[str, float]
    ) -> None:
        if file in self._files:
            self._files[file].write({"step": step, **record})
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{group}/{name}", value, step)
        if self._wandb is not None:
            self._wandb.log({f"{group}/{name}": value for name, value in values.items()}, step=step)

    def image(self, step: int, figure: "Figure | None") -> None:
        """Write a figure to `images/00001000.png` and TensorBoard."""
        if not self._files or figure is None:
            return
        with self._log_errors:
            atomic.write_bytes(self.workdir / "images" / f"{step:08d}.png", figures.png(figure, 100))
        if self._board is not None:
            self._board.add_figure("image", figure, step, close=False)
        if self._wandb is not None:
            self._wandb.log({"image": self._wandb.Image(figure)}, step=step)

    def sync(self) -> None:
        """Flush the JSON lines to disk."""
        for file in self._files.values():
            file.sync()

    def close(self) -> None:
        """Close all logs."""
        for file in self._files.values():
            file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()
