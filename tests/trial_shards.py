"""Small datasets of trials with known images, for tests of retrieval: signals are linear in the images' vectors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dreamjax.signals.datasets import records
from dreamjax.signals.datasets.records import Window
from dreamjax.targets.banks import BankConfig


@dataclass(frozen=True)
class TrialShards:
    """A dataset folder, and the vectors of its images by name."""

    path: str
    vectors: dict[str, np.ndarray]

    @property
    def bank(self) -> str:
        return f"{self.path}/bank.npz"


def write(
    folder: Path,
    *,
    people: int = 2,
    concepts: int = 12,
    images: int = 3,
    tested: int = 8,
    channels: int = 6,
    samples: int = 40,
    width: int = 8,
    strength: float = 1.0,
    repeats: int = 2,
    test_repeats: int = 4,
    sessions: int = 2,
    tmin: float = -0.1,
    sfreq: float = 100.0,
    modality: str = "eeg",
    placed: bool = True,
    settings: Mapping[str, object] | None = None,
    seed: int = 0,
) -> TrialShards:
    """Write `concepts` concepts with `images` images each to train on, and one image of `tested` others to test.

    Samples before the onset hold noise alone. `settings`: more of those that the dataset states.
    """
    rng = np.random.default_rng(seed)
    trained = [f"{c:05d}_concept/image_{i}.jpg" for c in range(concepts) for i in range(images)]
    test = [f"{concepts + c:05d}_concept/image_0.jpg" for c in range(tested)]
    centres = rng.standard_normal((concepts + tested, width))
    vectors = {name: centres[int(name[:5])] + 0.7 * rng.standard_normal(width) for name in trained + test}
    after = samples - round(-tmin * sfreq)
    maps = rng.standard_normal((people, width, channels * after)) / np.sqrt(width)

    angle = np.linspace(0, 1.5 * np.pi, channels)
    at_scalp = 0.09 * np.stack([0.8 * np.cos(angle), 0.8 * np.sin(angle), np.full(channels, 0.6)], axis=1)

    def windows(names: list[str], count: int) -> Iterator[Window]:
        for person in range(people):
            order = [(name, number) for number in range(count) for name in names]
            for at, (name, number) in enumerate(order):
                signal = rng.standard_normal((channels, samples))
                signal[:, samples - after :] += strength * (vectors[name] @ maps[person]).reshape(channels, after)
                yield Window(
                    signal=signal,
                    ch_names=tuple(f"E{i + 1}" for i in range(channels)),
                    xyz=(at_scalp if placed else np.full((channels, 3), np.nan)).astype(np.float32),
                    sfreq=sfreq,
                    reference="average",
                    montage_rank=channels - 1,
                    dataset="simulated",
                    subject=f"person{person}",
                    session=f"session{number % sessions}",
                    recording=f"recording{person}{number % sessions}",
                    start=float(at),
                    valid=np.ones(samples, bool),
                    channel_ok=np.ones(channels, bool),
                    scale=1.0,
                    label=name.split("/")[0],
                    stimulus=name,
                    licence="CC0-1.0",
                    flags=(records.APART,),
                    modality=modality,
                )

    folder.mkdir(parents=True, exist_ok=True)
    splits = {"train": windows(trained, repeats), "test": windows(test, test_repeats)}
    shards = {split: records.write_split(folder, "simulated", split, each) for split, each in splits.items()}
    records.finish(folder, "simulated", shards, {"settings": {"tmin": tmin, "sfreq": sfreq} | dict(settings or {})})
    np.savez(folder / "bank.npz", vectors=np.stack(list(vectors.values())).astype(np.float32), names=list(vectors))
    return TrialShards(str(folder), vectors)


def bank_config(shards: TrialShards) -> BankConfig:
    """Return the config of the bank of the images' true vectors."""
    return BankConfig(path=shards.bank)
