"""The input pipeline: shards → batches on the host (docs/reference/records.md)."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DataConfig:
    """What a model is fed with: corpora, channels, time, scale, and how fast."""

    path: tuple[str, ...] = ()  # dataset folders, as `dreamjax prepare` writes them
    weights: tuple[float, ...] = ()  # share of each dataset in training; empty: by number of windows
    montage: str = "1020-19"  # template whose channels the model sees; "own": the records' own, where all have the same
    mapping: Literal["interpolate", "tile"] = "interpolate"  # tile: DreamDiffusion's repetition to `tile_channels`
    tile_channels: int = 128
    samples: int = 512  # per window
    sfreq: float = 256.0  # Hz
    stretch: bool = False  # resample in time to `samples` whatever the rate: DreamDiffusion's parity presets only
    scaling: Literal["divide", "robust", "zscore"] = "robust"
    divide: float = 10.0  # µV per unit, for scaling "divide"
    clip: float = 20.0  # largest scaled magnitude; 0: no limit
    mask_channels: float = 0.0  # share of real channels hidden before referencing and mapping; 0: no such mask
    shuffle: bool = True
    shuffle_seed: int | None = None  # None: the run's seed
    workers: int = 0  # processes that read ahead; 0: threads of this one
    prefetch: int = 2  # batches that each worker holds ready
    amplitude_jitter: float = 0.0  # augmentation: gain drawn from exp(± this)
    flip_polarity: float = 0.0  # … probability of multiplying by -1
    reverse_time: float = 0.0  # … probability of playing backwards
    drop_channels: float = 0.0  # … probability, by channel, of reading zeros
    shift: bool = False  # … crops at any offset, reading on into the next window of the same recording

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.path):
            raise ValueError(f"data.weights has {len(self.weights)} entries for {len(self.path)} paths")
        if self.samples <= 0 or self.sfreq <= 0 or self.divide <= 0 or self.tile_channels <= 0:
            raise ValueError("data.samples, data.sfreq, data.divide and data.tile_channels are positive")
        if not 0 <= self.mask_channels < 1:
            raise ValueError(f"data.mask_channels is {self.mask_channels}, but it is a share below 1")
