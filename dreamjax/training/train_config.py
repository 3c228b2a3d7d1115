"""The settings of the loop, the same for all systems."""

from dataclasses import dataclass, field

from dreamjax.parallel.mesh import MeshConfig
from dreamjax.training.checkpoints import CheckpointConfig
from dreamjax.training.guard import GuardConfig


@dataclass(frozen=True)
class TrainConfig:
    """Lengths are in optimiser steps."""

    steps: int = 1000
    batch_size: int = 64  # global
    microbatches: int | None = None  # gradient accumulation: number of pieces; none: 1, on CPU as many as fit its cache
    mesh: MeshConfig = field(default_factory=MeshConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log_every: int = 10
    eval_every: int = 0  # 0: never; else also after the last step
    image_every: int | None = None  # 0: never; none: with each evaluation, where matplotlib is installed
    guard: GuardConfig = field(default_factory=GuardConfig)  # what becomes of a step that goes wrong
    profile_start: int = -1  # first step of the profiler's window; -1: no profile
    profile_steps: int = 5
    tensorboard: bool = True
    wandb: str | None = None  # project name; needs the package wandb
    compile_cache: str = "auto"  # a folder, "auto" ($XDG_CACHE_HOME/dreamjax/compiled) or "" (none)

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.microbatches or 1, self.log_every) < 1 or self.microbatches == 0:
            raise ValueError("train.steps, batch_size, microbatches and log_every must be at least 1")
        if self.eval_every < 0 or (self.image_every or 0) < 0:
            raise ValueError("train.eval_every and image_every must be at least 0 (0: never)")
        if self.profile_start < -1 or self.profile_steps < 1:
            raise ValueError("train.profile_start must be at least -1 (no profile), profile_steps at least 1")
        if self.microbatches and self.batch_size % self.microbatches:
            raise ValueError(
                f"train.batch_size is {self.batch_size}, but it must divide by train.microbatches = {self.microbatches}"
            )
