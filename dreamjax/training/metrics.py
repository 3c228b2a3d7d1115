"""Metrics are (sum, weight) pairs; they are read from the device one step late and written where they can be compared.

`metrics.jsonl` holds only what is a function of the run (equal bytes whether or not it was killed and resumed);
`timing.jsonl` holds the clock's part: rates, memory, waiting.
"""

import io
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from etils import epath

from dreamjax.storage import atomic
from dreamjax.training.task import Metrics
from dreamjax.training.tolerance import Tolerant

Sums = dict[str, tuple[float, float]]


def read(metrics: Metrics) -> Sums:
    """To the host: the one place where the loop waits for the device."""
    host = jax.device_get(dict(metrics))
    return {name: (float(total), float(weight)) for name, (total, weight) in host.items()}


def means(sums: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """sum / weight to 9 digits (all that float32 has), without the metrics of no weight."""
    return {name: float(f"{total / weight:.9g}") for name, (total, weight) in sums.items() if weight}


def not_finite(sums: Sums) -> list[str]:
    """The metrics that are no number."""
    return sorted(n for n, (total, weight) in sums.items() if not (math.isfinite(total) and math.isfinite(weight)))


class Window:
    """Sums over the steps since the last logged line; a checkpoint keeps it, so that a resumed line is the same."""

    def __init__(self, sums: Mapping[str, Iterable[float]] | None = None) -> None:
        self.sums: Sums = {name: (float(a), float(b)) for name, (a, b) in (sums or {}).items()}

    def add(self, sums: Sums) -> None:
        for name, (total, weight) in sums.items():
            before = self.sums.get(name, (0.0, 0.0))
            self.sums[name] = (before[0] + total, before[1] + weight)

    def take(self) -> dict[str, float]:
        """The means so far; starts anew."""
        values, self.sums = means(self.sums), {}
        return values


class Late:
    """Holds one step's metrics back while the device works on the next step."""

    def __init__(self, on_read: Callable[[int, Sums], None]) -> None:
        self._on_read = on_read
        self._held: tuple[int, Metrics] | None = None
        self.waited = 0.0  # seconds, for the device

    def push(self, step: int, metrics: Metrics) -> None:
        """Start copying this step's metrics; read those of the step before."""
        jax.tree.map(lambda x: x.copy_to_host_async() if isinstance(x, jax.Array) else None, dict(metrics))
        before, self._held = self._held, (step, metrics)
        self._hand_over(before)

    def flush(self) -> None:
        """Read what is held: before anything is saved or evaluated."""
        before, self._held = self._held, None
        self._hand_over(before)

    def drop(self) -> None:
        """Forget what is held: the run has gone back behind it."""
        self._held = None

    def _hand_over(self, held: tuple[int, Metrics] | None) -> None:
        if held is None:
            return
        started = time.monotonic()
        sums = read(held[1])
        self.waited += time.monotonic() - started
        self._on_read(held[0], sums)


class JsonLines:
    """A file of one JSON object a line, each with a `step`; opened for a run that stands at `step`.

    What a full disk does not take is kept and tried again with the next line: it costs a line on stderr, not the run.
    """

    def __init__(self, path: epath.PathLike, step: int, active: bool = True) -> None:
        self.path, self.active = epath.Path(path), active
        self._local = "://" not in str(path)
        self._tolerant = Tolerant(self.path)
        if not active:
            return
        text = self.path.read_text() if self.path.exists() else ""
        kept = "".join(line for line in text.splitlines(keepends=True) if _is_up_to(line, step))
        if kept != text:
            atomic.write_text(self.path, kept)
        self._lines = b"" if self._local else kept.encode()  # yet to be written; an object is written whole
        self._stream: Any = io.FileIO(os.fspath(path), "ab") if self._local else None

    def write(self, record: Mapping[str, Any]) -> None:
        """One line, handed to the operating system at once."""
        if not self.active:
            return
        self._lines += (json.dumps(record) + "\n").encode()
        if self._local:
            with self._tolerant:
                self._append()

    def _append(self) -> None:
        while self._lines:  # of a line that was torn, the rest follows
            self._lines = self._lines[self._stream.write(self._lines) :]

    def sync(self) -> None:
        """Safe on disk: called before a step directory that follows these lines is committed."""
        if not self.active:
            return
        with self._tolerant:
            if self._local:
                self._append()
                os.fsync(self._stream.fileno())
            else:  # objects cannot be appended to: they are written whole
                atomic.write_bytes(self.path, self._lines)

    def close(self) -> None:
        self.sync()
        if self.active and self._local:
            self._stream.close()


def _is_up_to(line: str, step: int) -> bool:
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False  # torn by a kill: the step that wrote it will write it again
