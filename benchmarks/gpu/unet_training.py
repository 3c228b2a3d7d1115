"""A training step of Stable Diffusion 1.5's whole U-Net on latents of 512² pixels, in dreamjax and in PyTorch."""

from dataclasses import replace
from typing import Any

import diffusion_models as models
import finetune

from gpu import work


def parts(*, smoke: bool, small: bool) -> dict[str, Any]:
    """Return the architecture; `small`: its first two resolutions with a layer each, whose heads have the real widths.

    The smoke test has one resolution.
    """
    whole, levels = models.parts_of("tiny" if smoke else "sd15"), 1 if smoke else 2
    if smoke or small:
        unet = whole["unet"]
        whole["unet"] = unet | {
            "block_out_channels": unet["block_out_channels"][:levels],
            "down_block_types": unet["down_block_types"][:levels],
            "up_block_types": unet["up_block_types"][-levels:],
            "layers_per_block": 1,
            "sample_size": min(unet["sample_size"], 32),
        }
    return whole


class Work:
    """32 images a step. The check: two images of 256² pixels, two levels."""

    most = work.MOST

    def __init__(self, smoke: bool, batch: int | None):
        self.dtype, self.batch = work.dtype_of(smoke), batch or (1 if smoke else 32)
        whole = parts(smoke=smoke, small=False)
        self.sizes = models.Sizes("sd15", whole, whole["unet"]["sample_size"], self.batch, self.dtype)
        small = parts(smoke=smoke, small=True)
        self.small = models.Sizes("sd15", small, small["unet"]["sample_size"], 1 if smoke else 2, self.dtype)

    def ours(self) -> work.Ours:
        return work.step_of(*_sides(self.sizes))

    def flops(self) -> float:
        return 3 * self.sizes.flops()

    def check(self) -> dict[str, float]:
        return work.compared(lambda dtype: _sides(replace(self.small, dtype=dtype)), self.dtype)

    def theirs(self, mode: str | None, *, compiled: bool) -> work.Theirs:
        model, device = models.theirs(self.sizes, compiled=compiled, twin=True)
        step = finetune.torch_step(model, device, self.sizes, remat="none")
        return work.Theirs(step, sum(p.numel() for p in model.parameters()))


def _sides(sizes: models.Sizes) -> work.Sides:
    return work.filled(finetune.our_task(sizes, remat="none"), "params"), finetune.batch_of(sizes)
