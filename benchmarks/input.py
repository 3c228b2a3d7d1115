"""Measure the input pipeline alone: windows per second, and where the time of one window goes.

    python benchmarks/input.py                      # 19 and 128 channels × 512 samples, 0 and 2 workers; JSON to stdout
    python benchmarks/input.py --path runs/eeg      # the same on prepared recordings

Noise is written, so that compression has nothing to find: real recordings read a little faster.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SAMPLES = 512


def write_noise(folder: str, channels: int, windows: int) -> str:
    """Write a dataset of white noise: one recording of `windows` windows."""
    from dreamjax.signals.datasets import records
    from dreamjax.signals.recordings import montage

    rng = np.random.default_rng(0)
    names = montage.template("1020-19")[0] if channels == 19 else tuple(f"E{i + 1}" for i in range(channels))
    angle, z = np.arange(channels) * 2.4, 1 - 1.3 * (np.arange(channels) + 0.5) / channels
    r = np.sqrt(1 - z**2)
    xyz = 0.095 * np.stack([r * np.cos(angle), r * np.sin(angle), z], axis=1) + [0, 0, 0.04]

    def made() -> Any:
        for i in range(windows):
            yield records.Window(
                signal=rng.normal(0, 20, (channels, SAMPLES)),
                ch_names=names,
                xyz=xyz,
                sfreq=256.0,
                reference="average",
                montage_rank=channels - 1,
                dataset="noise",
                subject="s",
                session="1",
                recording="r",
                start=i * SAMPLES / 256,
                valid=np.ones(SAMPLES, bool),
                channel_ok=np.ones(channels, bool),
                scale=20.0,
                label="",
                stimulus="",
                licence="CC0-1.0",
                flags=(),
            )

    shards = records.write_split(folder, "noise", "train", made(), shard_bytes=16 << 20)
    records.finish(folder, "noise", {"train": shards})
    return folder


def stream_rate(stream: Any, batch_size: int, workers: int, seconds: float) -> dict[str, float]:
    """Return the windows per second that one consumer gets after the first batches, and this process's CPU seconds."""
    rows = stream.batches(batch_size=batch_size, workers=workers)
    try:
        for _ in range(4):
            next(rows)
        start, cpu, n = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - start < seconds:
            next(rows)
            n += batch_size
        took = time.perf_counter() - start
    finally:
        rows.close()
    return {"windows_per_s": n / took, "cpu_us_per_window_here": (time.process_time() - cpu) / n * 1e6}


def per_window(function: Callable[[], Any], windows: int, repeats: int = 7) -> float:
    """Return the microseconds of CPU per window, the best of several."""
    best = np.inf
    for _ in range(repeats):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return best / windows * 1e6


def stages(stream: Any, batch_size: int) -> dict[str, float]:
    """Return microseconds of one core per window: read and decompress, parse (ours and TFDS's decoder), assemble."""
    from dreamjax.signals.datasets import augment, record_view, records

    examples = stream
    index = np.arange(batch_size, dtype=np.uint64)
    keys = np.array([examples.order[int(i)] for i in index])
    raw = examples._read(keys)
    parsed = [record_view.unpack(record) for record in raw]
    features = records.tfds_features()

    def assembled() -> Any:
        return augment.assemble(stream.config, examples.target, parsed, index, seed=0, training=True)

    assembled()
    return {
        "order": per_window(lambda: [examples.order[int(i)] for i in index], batch_size),
        "read": per_window(lambda: examples._read(keys), batch_size),
        "parse": per_window(lambda: [record_view.unpack(record) for record in raw], batch_size),
        "parse_with_tfds": per_window(lambda: [features.deserialize_example_np(r) for r in raw], batch_size),
        "assemble": per_window(assembled, batch_size),
    }


def measure(path: str, config: dict[str, Any], batch_size: int, workers: list[int], seconds: float) -> dict[str, Any]:
    from dreamjax.signals.datasets import pipeline

    stream = pipeline.open_stream(pipeline.DataConfig(path=(path,), **config), "train", seed=0, training=True)
    channels, samples = stream.element()["signal"].shape
    return {
        "channels": channels,
        "samples": samples,
        "config": config,
        "batch_size": batch_size,
        "us_per_window_one_core": stages(stream, batch_size),
        "workers": {str(w): stream_rate(stream, batch_size, w, seconds) for w in workers},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", help="a prepared dataset instead of noise")
    parser.add_argument("--channels", default="19,128", help="of the noise, comma-separated")
    parser.add_argument("--windows", type=int, default=512, help="of noise to write")
    parser.add_argument("--workers", default="0,2", help="counts of worker processes, comma-separated")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0, help="of measuring, for each count of workers")
    options = parser.parse_args()
    workers = [int(w) for w in options.workers.split(",")]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        if options.path:
            cases: list[tuple[str, dict[str, Any]]] = [(options.path, {})]
        else:
            counts = [int(c) for c in options.channels.split(",")]
            paths = {c: write_noise(f"{folder}/noise{c}", c, options.windows) for c in counts}
            cases = [(paths[c], {"montage": "own"}) for c in counts]
            cases += [(paths[c], {"montage": "1010-64"}) for c in counts]
            cases += [(paths[counts[0]], {"mapping": "tile", "scaling": "divide"})]
            cases += [(paths[counts[0]], {"montage": "own", "mask_channels": 0.25})]
        for path, config in cases:
            results.append(measure(path, config, options.batch_size, workers, options.seconds))
    machine = {"cpus": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()}
    print(json.dumps({"benchmark": "input", "machine": machine, "results": results}, indent=1))


if __name__ == "__main__":
    main()
