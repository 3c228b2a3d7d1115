"""Settings of the stream of windows (`config.data`)."""

import math
from dataclasses import dataclass
from typing import Literal

from dreamjax.config import check_seed


@dataclass(frozen=True)
class DataConfig:
    """The windows that a model reads, and their form: corpora, channels, time, scale, augmentation, speed."""

    path: tuple[str, ...] = ()  # dataset folders, as `dreamjax prepare` writes them
    weights: tuple[float, ...] = ()  # share of each dataset in training; empty: by number of windows
    fraction: float = 1.0  # of each dataset's training windows; a smaller share lies in a larger one
    montage: str = (
        "1020-19"  # template whose channels the model sees; "own": the records' channels, where all have the same
    )
    mapping: Literal["interpolate", "tile"] = "interpolate"  # tile: DreamDiffusion's repetition to `tile_channels`
    tile_channels: int = 128
    samples: int = 512  # per window
    sfreq: float = 256.0  # Hz
    stretch: bool = False  # resample in time to `samples` whatever the rate: DreamDiffusion's parity presets only
    scaling: Literal["divide", "robust", "zscore"] = "robust"
    divide: float = 10.0  # µV per unit, for scaling "divide"
    clip: float = 20.0  # largest scaled magnitude; 0: no limit
    mask_channels: float = 0.0  # share of real channels hidden before referencing and mapping; 0: no mask
    shuffle: bool = True
    shuffle_seed: int | None = None  # None: the run's seed
    workers: int = 0  # processes that read ahead; 0: threads of this one
    prefetch: int = 2  # batches that each worker holds ready
    amplitude_jitter: float = 0.0  # augmentation: gain drawn from exp(± this)
    flip_polarity: float = 0.0  # … probability of multiplying by -1
    reverse_time: float = 0.0  # … probability of playing backwards
    drop_channels: float = 0.0  # … probability, by channel, of reading zeros
    shift: bool = False  # … crops at any offset, reading into the next window of the same recording

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.path):
            raise ValueError(f"data.weights has {len(self.weights)} entries for {len(self.path)} paths")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"data.fraction is {self.fraction}, but it must be a share above 0 and at most 1")
        if self.fraction < 1 and self.shift:
            raise ValueError("data.shift reads into windows that data.fraction leaves out; set only one of them")
        for name in ("samples", "sfreq", "divide", "tile_channels"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise ValueError(f"data.{name} is {value}, but it must be positive")
        for name in ("clip", "workers", "prefetch", "amplitude_jitter"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"data.{name} is {value}, but it must be 0 or more")
        for name in ("flip_polarity", "reverse_time", "drop_channels"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"data.{name} is {value}, but it must be a probability from 0 to 1")
        check_seed("data.shuffle_seed", self.shuffle_seed)
        if not 0 <= self.mask_channels < 1:
            raise ValueError(f"data.mask_channels is {self.mask_channels}, but it must be a share from 0 to below 1")
