"""The next batches, already on the devices when the step asks for them."""

import contextlib
import queue
import threading
import time

import jax
from jax.sharding import Mesh

from dreamjax.parallel import sharding
from dreamjax.training.task import BatchSpec

AHEAD = 2  # batches
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

    def __enter__(self) -> "Feeder":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)
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
        started = time.monotonic()
        item = self._ready.get()
        self.waited += time.monotonic() - started
        if isinstance(item, BaseException):
            raise item
        if item is None:
            raise StopIteration
        return item
