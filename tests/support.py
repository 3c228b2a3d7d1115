"""Small synthetic datasets, and another process, that tests share."""

import builtins
import contextlib
import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from scipy.signal import lfilter

from dreamjax.signals.datasets import records

TEN_TWENTY = "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2"
TEN_TEN = (
    "Fpz AF7 AF3 AFz AF4 AF8 F5 F1 F2 F6 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 C5 C1 C2 C6 TP7 CP5 CP3 CP1 CPz "
    "CP2 CP4 CP6 TP8 P5 P1 P2 P6 PO7 PO3 POz PO4 PO8 Oz Iz P9 P10"
)
NAMES = [*TEN_TWENTY.split(), *TEN_TEN.split()]


def sphere_points(n: int) -> np.ndarray:
    """n points spread over the upper part of a head of 95 mm radius; metres."""
    i = np.arange(n) + 0.5
    z = 1 - 1.3 * i / n
    angle = np.pi * (1 + 5**0.5) * i
    r = np.sqrt(1 - z**2)
    return 0.095 * np.stack([r * np.cos(angle), r * np.sin(angle), z], axis=1) + [0, 0, 0.04]


def positions(names: Sequence[str]) -> np.ndarray:
    from dreamjax.signals.recordings import montage

    return np.asarray(montage.standard_positions(names))


def ar_signal(rng: np.random.Generator, channels: int, samples: int, sfreq: float) -> np.ndarray:
    """Spatially mixed noise with a 10 Hz resonance, µV: past and neighbours predict it in part."""
    sources = max(2, channels // 2)
    pole = 0.97 * np.exp(2j * np.pi * 10 / sfreq)
    a = np.poly([pole, np.conj(pole)]).real
    drive = rng.normal(size=(sources + channels, samples + 256))
    signal = lfilter([1.0], a, drive, axis=1)[:, 256:]
    mixing = np.random.default_rng([channels, 7]).normal(size=(channels, sources))  # the same head for every subject
    mixed = mixing @ signal[:sources] / np.sqrt(sources) + 0.3 * signal[sources:]
    return 10 * mixed / mixed.std()


def make_windows(
    subject: int,
    *,
    channels: int = 19,
    windows: int = 8,
    samples: int = 512,
    sfreq: float = 256.0,
    labels: Sequence[str] = ("rest", "task"),
    reference: str = "average",
    dataset: str = "synthetic",
    seed: int = 0,
) -> Iterator[records.Window]:
    """Neighbouring windows of one recording. The subject and the seed determine every value."""
    rng = np.random.default_rng([seed, subject, channels])
    signal = ar_signal(rng, channels, windows * samples, sfreq)
    if reference == "average":
        signal -= signal.mean(axis=0)
    named = channels <= len(NAMES)
    names = tuple(NAMES[:channels]) if named else tuple(f"E{i + 1}" for i in range(channels))
    xyz = positions(names) if named else sphere_points(channels)
    for i in range(windows):
        yield records.Window(
            signal=signal[:, i * samples : (i + 1) * samples],
            ch_names=names,
            xyz=xyz,
            sfreq=sfreq,
            reference=reference,
            montage_rank=channels - (reference == "average"),
            dataset=dataset,
            subject=f"subject{subject:02d}",
            session="s1",
            recording=f"{dataset}-{subject:02d}",
            start=i * samples / sfreq,
            valid=np.ones(samples, bool),
            channel_ok=np.ones(channels, bool),
            scale=float(np.median(1.4826 * np.median(np.abs(signal - np.median(signal, 1)[:, None]), 1))),
            label=labels[i % len(labels)] if labels else "",
            stimulus="",
            licence="CC0-1.0",
            flags=(),
        )


def make_shards(
    folder: str | Path,
    *,
    subjects: int = 6,
    name: str = "synthetic",
    shard_bytes: int = 1 << 18,
    **windows: Any,
) -> str:
    """A dataset folder of `make_windows`; by subject, two thirds of them "train", then "val", the last "test"."""
    train = max(1, subjects * 2 // 3)
    split_of = ["train" if s < train else "test" if s == subjects - 1 else "val" for s in range(subjects)]
    splits = {}
    for split in ("train", "val", "test"):
        chosen = [s for s in range(subjects) if split_of[s] == split]
        made = (window for s in chosen for window in make_windows(s, dataset=name, **windows))
        splits[split] = records.write_split(folder, name, split, made, shard_bytes=shard_bytes)
    records.finish(folder, name, splits)
    return str(folder)


def abstract_of(values: Any, placed: Any) -> Any:
    """Shapes with shardings, as a checkpoint is restored into."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), values, placed)


@contextlib.contextmanager
def held_elsewhere(path: Path) -> Iterator[subprocess.Popen]:
    """Another process that holds the lock `path` until it is killed."""
    hold = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    words = [sys.executable, "-c", hold, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        yield process
        process.kill()


@contextlib.contextmanager
def unreadable(path: Path, code: int = errno.EACCES) -> Iterator[None]:
    """Let the operating system refuse `path` and what lies in it, as a mount does: permissions do not stop root."""
    refused = f"{path}"

    def refusing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(what: Any = ".", *words: Any, **options: Any) -> Any:
            if isinstance(what, str | os.PathLike) and os.fspath(what).startswith(refused):
                raise OSError(code, os.strerror(code), os.fspath(what))
            return real(what, *words, **options)

        return call

    with pytest.MonkeyPatch.context() as patched:
        for module, name in ((os, "stat"), (os, "listdir"), (os, "scandir"), (io, "open"), (builtins, "open")):
            patched.setattr(module, name, refusing(getattr(module, name)))
        yield
