"""Streams over small corpora, for tests of the pipeline."""

from pathlib import Path

import numpy as np

from dreamjax.signals.datasets import pipeline
from tests import support

TIME = 160  # samples of the stored windows; the model's are shorter, so that crops are drawn
CROP = 128
EVERYTHING = {
    "weights": (2.0, 1.0),
    "amplitude_jitter": 0.3,
    "flip_polarity": 0.5,
    "reverse_time": 0.5,
    "drop_channels": 0.1,
    "shift": True,
}


def make_corpora(folder: Path) -> dict[str, str]:
    """Two caps, several shards each."""
    make = support.make_shards
    return {
        "a": make(folder / "a", name="a", samples=TIME, windows=7, subjects=5, shard_bytes=1 << 15),
        "b": make(folder / "b", name="b", samples=TIME, windows=3, channels=32, labels=("task", "zeta"), subjects=4),
        "plain": make(folder / "plain", name="plain", samples=TIME, windows=4, labels=()),
        "raw": make(folder / "raw", name="raw", samples=512, windows=6, reference="A2", subjects=4),
    }


def config_of(corpora, *names, **changes) -> pipeline.DataConfig:
    return pipeline.DataConfig(**{"path": tuple(corpora[n] for n in names), "samples": CROP, **changes})


def stream_of(corpora, *names, split="train", training=True, seed=3, also=(), **changes) -> pipeline.WindowExamples:
    return pipeline.open_stream(config_of(corpora, *names, **changes), split, seed=seed, training=training, also=also)


def take(stream, n, **how) -> list[dict[str, np.ndarray]]:
    rows = stream.batches(**how)
    try:
        return [batch for _, batch in zip(range(n), rows, strict=False)]
    finally:
        rows.close()


def joined(batches) -> dict[str, np.ndarray]:
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}


def assert_same(a, b) -> None:
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
