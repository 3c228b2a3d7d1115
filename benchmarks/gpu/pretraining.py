"""Pretraining's step: DreamDiffusion's stage A with the paper's encoder, 329 M parameters (arXiv 2306.16934)."""

from dataclasses import replace
from typing import Any

import pretrain

from gpu import work


class Work:
    """Windows of 128 channels × 512 samples; the check has the widths, and 2 + 1 layers."""

    most = work.MOST

    def __init__(self, smoke: bool, batch: int | None):
        self.dtype = work.dtype_of(smoke)
        self.batch = batch or (8 if smoke else 100)
        self.config, self.small = self.configs(smoke)

    def configs(self, smoke: bool) -> tuple[Any, Any]:
        """Return the config of the timed step and that of the check."""
        preset = "tiny" if smoke else "dreamdiffusion_paper"
        config = pretrain.comparable(preset, self.batch, self.dtype, unroll=False)
        fewer = {} if smoke else {"depth": 2, "decoder_depth": 1}
        train = replace(config.train, batch_size=8)
        return config, replace(config, model=replace(config.model, **fewer), train=train)

    def ours(self) -> work.Ours:
        return work.step_of(*_sides(self.config))

    def flops(self) -> float:
        return self.batch * self.config.flops()["train"]

    def check(self) -> dict[str, float]:
        def sides(dtype: str) -> work.Sides:
            return _sides(replace(self.small, model=replace(self.small.model, dtype=dtype)))

        return work.compared(sides, self.dtype)

    def theirs(self, mode: str | None, *, compiled: bool) -> work.Theirs:
        device = "cuda" if compiled else "cpu"
        trainer = pretrain.twin_of(self.config, device, compiled=compiled, mode=mode)
        return work.Theirs(pretrain.steps_of(trainer, self.config), sum(p.numel() for p in trainer.model.parameters()))


def _sides(config: Any) -> work.Sides:
    from dreamjax.systems import registry

    data = pretrain.batch_of(config.model.channels, config.data.samples, config.train.batch_size)
    return work.filled(registry.build(config), "params"), data
