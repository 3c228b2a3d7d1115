"""Pretraining's step of a network as small as NICE (Song et al. 2024, arXiv 2308.13234), with its input and its batch.

Kernels are short here, so what is measured is how fast steps are dispatched.
"""

from dataclasses import replace
from typing import Any

import pretrain

from gpu import pretraining


class Work(pretraining.Work):
    """2.4 M parameters; windows of 63 channels × 250 samples, 1,000 a step."""

    def __init__(self, smoke: bool, batch: int | None):
        super().__init__(smoke, batch or (8 if smoke else 1000))

    def configs(self, smoke: bool) -> tuple[Any, Any]:
        config = pretrain.comparable("tiny" if smoke else "small", self.batch, self.dtype, unroll=False)
        if not smoke:
            encoder = {"channels": 63, "patch": 10, "dim": 192, "depth": 4, "heads": 6}
            model = replace(config.model, **encoder, decoder_dim=128, decoder_depth=2, decoder_heads=4)
            config = replace(config, data=replace(config.data, samples=250), model=model)
        return config, replace(config, train=replace(config.train, batch_size=8))
