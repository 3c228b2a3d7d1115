"""DreamDiffusion's stage-B step (arXiv 2306.16934, section 3.2): the published code's settings, in bfloat16.

Latents and embeddings are cached on both sides; gradient checkpointing is on in both, as published. The twin is the
careful one of `stage_b_twin.py`.
"""

from dataclasses import replace

import diffusion_models as models
import stage_b_sizes

from gpu import unet_training, work


class Work:
    """25 trials a step, the published batch."""

    most = work.MOST

    def __init__(self, smoke: bool, batch: int | None):
        self.smoke, self.batch = smoke, batch or (1 if smoke else 25)
        self.dtype = work.dtype_of(smoke)
        self.sizes = self._sizes(self.dtype)

    def _sizes(self, dtype: str, *, small: bool = False) -> stage_b_sizes.Sizes:
        """Return the sizes; those of the check, `small`, are one trial, two levels of the U-Net, and two layers."""
        sizes = stage_b_sizes.sizes_of("tiny" if self.smoke else "sd15", None, self.batch, "full", dtype=dtype)
        parts, config = unet_training.parts(smoke=self.smoke, small=small), sizes.config
        if small:
            fewer = replace(config.encoder.model, depth=min(config.encoder.model.depth, 2))
            config = replace(
                config,
                encoder=replace(config.encoder, model=fewer),
                train=replace(config.train, batch_size=1),
            )
        size = parts["unet"]["sample_size"]
        return replace(sizes, parts=parts, config=config, size=size, batch=config.train.batch_size)

    def ours(self) -> work.Ours:
        return work.step_of(*_sides(self.sizes))

    def flops(self) -> float:
        """Return the encoder's of a training step, and the U-Net's forward and backward to its inputs.

        Left out are the gradients of what is trained of the U-Net (44 of 860 M parameters), and the maps.
        """
        from dreamjax.models import flops

        task, (tokens, _), side = stage_b_sizes.task_of(self.sizes), self.sizes.context, self.sizes.size
        unet = flops.unet(task.unet.arguments, side, side, tokens)
        return self.batch * (3 * task.encoder.flops()["features"] + 2 * unet)

    def check(self) -> dict[str, float]:
        return work.compared(lambda dtype: _sides(self._sizes(dtype, small=True)), self.dtype)

    def theirs(self, mode: str | None, *, compiled: bool) -> work.Theirs:
        import stage_b_twin

        twin = stage_b_twin.made(self.sizes, published=False, remat=True, compiled=compiled, twin=True)
        positions = twin.networks.encoder.positions.numel()  # fixed in ours

        def step(count: int) -> None:
            for _ in range(count):
                twin.step()
            models.wait(twin.alphas.device)

        return work.Theirs(step, sum(p.numel() for p in twin.networks.parameters()) - positions)


def _sides(sizes: stage_b_sizes.Sizes) -> work.Sides:
    return work.filled(stage_b_sizes.task_of(sizes), "params", "frozen/unet"), stage_b_sizes.our_batch(sizes)
