"""Profile a window of steps into WORKDIR/profile, for TensorBoard and Perfetto."""

import os

import jax
from etils import epath

from dreamjax.training.task import State


class ProfilerWindow:
    """Profile steps `first` … `first + steps - 1`; none where `first` is -1."""

    def __init__(self, folder: epath.Path, first: int, steps: int) -> None:
        self.folder, self.first, self.last = folder, first, first + steps
        self.open = False

    def at(self, step: int, state: State) -> None:
        """Start or stop the profiler, before step `step` + 1 is dispatched on `state`."""
        if not self.open and self.first >= 0 and step == self.first:
            jax.profiler.start_trace(os.fspath(self.folder))
            self.open = True
        elif self.open and step >= self.last:
            jax.block_until_ready(state.step)
            self.stop()

    def stop(self) -> None:
        """Stop the profiler where it runs."""
        if self.open:
            jax.profiler.stop_trace()
            self.open = False
