"""One loop for every Task."""

from dataclasses import dataclass, field

from dreamjax.parallel.mesh import MeshConfig
from dreamjax.training.checkpoints import CheckpointConfig


@dataclass(frozen=True)
class TrainConfig:
    """What the loop does, whatever the system. Lengths are in optimiser steps."""

    steps: int = 1000
    batch_size: int = 64  # global
    microbatches: int = 1  # gradient accumulation: the batch is worked on in so many pieces
    mesh: MeshConfig = field(default_factory=MeshConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log_every: int = 10
    eval_every: int = 0  # 0: never; held-out metrics also after the last step
    picture_every: int = 0  # 0: never
    workers: int = 0  # processes that read and crop the data; 0: a thread
    profile_start: int = -1  # first step of the profiler's window; -1: no profile
    profile_steps: int = 5
    tensorboard: bool = True
    wandb: str | None = None  # project name; needs the package wandb
    compile_cache: str = "auto"  # a folder, "auto" ($XDG_CACHE_HOME/dreamjax/compiled) or "" (none)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.microbatches < 1 or self.log_every < 1:
            raise ValueError("train.steps, batch_size, microbatches and log_every must be at least 1")
        if self.batch_size % self.microbatches:
            raise ValueError(
                f"train.batch_size is {self.batch_size}, but it must divide by train.microbatches = {self.microbatches}"
            )
