"""Peak rate and memory use of devices.

Peaks are the makers' dense bfloat16 figures, in FLOP/s per JAX device, without sparsity.
"""

import re

import jax
import psutil

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
