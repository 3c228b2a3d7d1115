"""The next batches, already on the devices when the step asks for them."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from dreamjax.parallel import sharding
from dreamjax.training.task import BatchSpec

AHEAD = 2  # batches
POLL_S = 0.2  # how often a loop that waits for a batch looks whether it should stop
Item = dict[str, jax.Array] | BaseException | None  # a batch, what the stream raised, or None at its end


class Feeder:
    """`with Feeder(spec, mesh, start) as feeder: batch = feeder.next()`: batches from global example `start` on.

    A thread reads this process's rows and puts them on its devices; `waited` counts the seconds that the caller waited
    for input. Errors of the thread are raised by `next`.
    """

    def __init__(self, spec: BatchSpec, mesh: Mesh, start: int) -> None:
        self._spec, self._mesh = spec, mesh
        process, processes = sharding.process_rows(mesh, spec.batch_size)
        self._rows = spec.stream.batches(start=start, batch_size=spec.batch_size, process=process, processes=processes)
        self._ready: queue.Queue[Item] = queue.Queue(maxsize=AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.waited = 0.0
        self._leave_s = 10.0  # for the thread to end

    def __enter__(self) -> "Feeder":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(self._leave_s)
        close = getattr(self._rows, "close", None)
        if close is not None and not self._thread.is_alive():
            close()

    def _work(self) -> None:
        try:
            for rows in self._rows:
                self._put(sharding.to_devices(rows, self._mesh, self._spec.batch_size))
                if self._stop.is_set():
                    return
            self._put(None)
        except BaseException as problem:
            self._put(problem)

    def _put(self, item: Item) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                return self._ready.put(item, timeout=0.1)

    def next(self) -> dict[str, jax.Array]:
        """Return the next batch. Raise StopIteration at the end of a finite stream, and whatever the stream raised."""
        batch = self.next_unless(lambda: False)
        assert batch is not None
        return batch

    def next_unless(self, stop: Callable[[], bool]) -> dict[str, jax.Array] | None:
        """Return the next batch as `next` does; None once `stop` returns True while there is none."""
        started = time.monotonic()
        while True:
            with contextlib.suppress(queue.Empty):
                item = self._ready.get(timeout=POLL_S)
                break
            if stop():
                self._leave_s = 1.0  # its thread reads and may go on to
                return None
        self.waited += time.monotonic() - started
        if isinstance(item, BaseException):
            raise item
        if item is None:
            raise StopIteration
        return item
