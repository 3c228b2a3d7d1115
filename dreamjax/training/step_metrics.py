"""Metrics of a step: (sum, weight) pairs, read from the device one step late."""

import math
import time
from collections.abc import Callable, Iterable, Mapping

import jax

from dreamjax.training.task import Metrics

Sums = dict[str, tuple[float, float]]


def read(metrics: Metrics) -> Sums:
    """Copy metrics to the host. This is the one place where the loop waits for the device."""
    host = jax.device_get(dict(metrics))
    return {name: (float(total), float(weight)) for name, (total, weight) in host.items()}


def means(sums: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Return sum / weight to 9 digits (the precision of float32), without metrics of weight 0."""
    return {name: float(f"{total / weight:.9g}") for name, (total, weight) in sums.items() if weight}


def not_finite(sums: Sums) -> list[str]:
    """Return the names of the metrics that are NaN or infinite."""
    return sorted(n for n, (total, weight) in sums.items() if not (math.isfinite(total) and math.isfinite(weight)))


class RunningMean:
    """Sums over the steps since the last logged line; a checkpoint keeps them, so that a resumed line is the same."""

    def __init__(self, sums: Mapping[str, Iterable[float]] | None = None) -> None:
        self.sums: Sums = {name: (float(a), float(b)) for name, (a, b) in (sums or {}).items()}

    def add(self, sums: Sums) -> None:
        """Add the sums of one step."""
        for name, (total, weight) in sums.items():
            before = self.sums.get(name, (0.0, 0.0))
            self.sums[name] = (before[0] + total, before[1] + weight)

    def take(self) -> dict[str, float]:
        """Return the means so far and start again from zero."""
        values, self.sums = means(self.sums), {}
        return values


class DelayedMetrics:
    """Hold one step's metrics back while the device works on the next step."""

    def __init__(self, on_read: Callable[[int, Sums], None]) -> None:
        self._on_read = on_read
        self._held: tuple[int, Metrics] | None = None
        self.waited = 0.0  # seconds, for the device

    def push(self, step: int, metrics: Metrics) -> None:
        """Start copying this step's metrics and read those of the step before."""
        jax.tree.map(lambda x: x.copy_to_host_async() if isinstance(x, jax.Array) else None, dict(metrics))
        before, self._held = self._held, (step, metrics)
        self._hand_over(before)

    def flush(self) -> None:
        """Read the held metrics: before anything is saved or evaluated."""
        before, self._held = self._held, None
        self._hand_over(before)

    def drop(self) -> None:
        """Discard the held metrics: the run has gone back to an earlier step."""
        self._held = None

    def _hand_over(self, held: tuple[int, Metrics] | None) -> None:
        if held is None:
            return
        started = time.monotonic()
        sums = read(held[1])
        self.waited += time.monotonic() - started
        self._on_read(held[0], sums)
