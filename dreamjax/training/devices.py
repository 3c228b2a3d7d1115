"""Measure how a run uses its devices: rates, memory, and a profile of some steps for TensorBoard and Perfetto.

Peaks are the makers' dense bfloat16 figures, in FLOP/s per JAX device, without sparsity.
"""

import os
import re
import time

import jax
import psutil
from etils import epath

from dreamjax.training.task import State

PEAKS = (  # (pattern on device_kind, FLOP/s)
    (r"TPU v4", 275e12),  # Google Cloud TPU documentation, system architecture pages
    (r"TPU v5( lite|e)", 197e12),
    (r"TPU v5p?$", 459e12),
    (r"TPU v6( lite|e)", 918e12),
    (r"TPU ?7x?", 1153.5e12),  # one of the chip's two cores: JAX lists each as a device; 2,307 TFLOP/s a chip
    (r"B200", 2250e12),  # NVIDIA data sheets
    (r"H200|H100 (SXM|80GB HBM3)|GH200", 989e12),
    (r"H100 (PCIe|NVL)", 756e12),
    (r"A100", 312e12),
    (r"L40S", 362e12),
    (r"L4\b", 121e12),
    (r"A10G", 70e12),
    (r"RTX 4090", 165e12),
)


def peak_flops(device: jax.Device | None = None) -> float | None:
    """Return the peak bfloat16 FLOP/s of a device, or None where it is not in the table (such as a CPU)."""
    kind = (device or jax.devices()[0]).device_kind
    return next((peak for pattern, peak in PEAKS if re.search(pattern, kind)), None)


def memory() -> dict[str, float]:
    """Return GiB in use, at peak and in all of this process's fullest device, or of the process where devices do not
    report it.
    """
    stats = [device.memory_stats() for device in jax.local_devices()]
    known = [s for s in stats if s and "bytes_in_use" in s]
    gib = float(1 << 30)
    if not known:
        return {"host_memory_gib": round(psutil.Process().memory_info().rss / gib, 3)}
    fullest = max(known, key=lambda s: s.get("peak_bytes_in_use", s["bytes_in_use"]))
    values = {"memory_gib": fullest["bytes_in_use"] / gib, "memory_peak_gib": fullest.get("peak_bytes_in_use", 0) / gib}
    if "bytes_limit" in fullest:
        values["memory_limit_gib"] = fullest["bytes_limit"] / gib
    return {name: round(value, 3) for name, value in values.items()}


def memory_bytes() -> int:
    """Return the memory that one device may use; that of the machine where the device does not report it."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return int(stats.get("bytes_limit") or psutil.virtual_memory().total)


class ThroughputMeter:
    """Rates over the steps since the last logged line."""

    def __init__(self, batch_size: int, devices_used: int, flops_per_example: float | None) -> None:
        self.batch_size, self.devices_used, self.flops = batch_size, devices_used, flops_per_example
        self.peak = peak_flops()
        self.begin(0, 0.0)

    def begin(self, step: int, waited: float) -> None:
        """Start counting at `step` (also after an evaluation or a save, whose time is not the step's)."""
        self._step, self._waited, self._started = step, waited, time.monotonic()

    def read(self, step: int, waited: float) -> dict[str, float]:
        """Return examples/s, s per step, share of time waiting for input, TFLOP/s in all and per device, MFU, memory.

        `waited` counts seconds of waiting for input since the start of the process.
        """
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
        return values | memory()


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
