"""A window of steps that the profiler watches: WORKDIR/profile, for TensorBoard and Perfetto."""

import os

import jax
from etils import epath

from dreamjax.training.task import State


class ProfilerWindow:
    """Steps `first` … `first + steps - 1`; `first` -1: none."""

    def __init__(self, folder: epath.Path, first: int, steps: int) -> None:
        self.folder, self.first, self.last = folder, first, first + steps
        self.open = False

    def at(self, step: int, state: State) -> None:
        """Before step `step` + 1 is dispatched on `state`."""
        if not self.open and self.first >= 0 and step == self.first:
            jax.profiler.start_trace(os.fspath(self.folder))
            self.open = True
        elif self.open and step >= self.last:
            jax.block_until_ready(state.step)
            self.stop()

    def stop(self) -> None:
        if self.open:
            jax.profiler.stop_trace()
            self.open = False
