"""Sampling from Stable Diffusion 1.5's U-Net: 30 steps of DDIM with guidance, from noise to latents of 512² pixels."""

from dataclasses import replace
from typing import Any, ClassVar

import diffusion_models as models
import generate

from gpu import unet_training, work

CHECKED = 3  # steps of the check


class Work:
    """8 images at once, so 16 for the U-Net."""

    most: ClassVar[dict[str, float]] = {"latents": 0.1}

    def __init__(self, smoke: bool, batch: int | None):
        training = unet_training.Work(smoke, 1)
        self.dtype = training.dtype
        self.batch, self.steps = batch or (1 if smoke else 8), 2 if smoke else generate.STEPS
        self.sizes, self.small = replace(training.sizes, batch=self.batch), replace(training.small, batch=1)

    def ours(self) -> work.Ours:
        at = work.device()
        sampler = generate.our_sampler(self.sizes, self.steps, generate.our_params(self.sizes), at, work.options(at))
        return work.Ours(sampler.run, sampler.compiled, sampler.compile_s, work.count(sampler.args[0]))

    def flops(self) -> float:
        return 2 * self.steps * self.sizes.flops()

    def check(self) -> dict[str, float]:
        import jax
        import numpy as np

        seen = []
        for dtype, at in ((self.dtype, work.device()), ("float32", jax.devices("cpu")[0])):
            sizes = replace(self.small, dtype=dtype)
            with jax.default_device(at):
                sampler = generate.our_sampler(sizes, CHECKED, generate.our_params(sizes), at, work.options(at))
            seen.append(np.asarray(sampler.compiled(*sampler.args)))
        return {"latents": work.relative(*seen)}

    def theirs(self, mode: str | None, *, compiled: bool) -> work.Theirs:
        import torch

        model, device = models.theirs(self.sizes, compiled=compiled, twin=True)
        model.eval().to(getattr(torch, self.dtype))
        step = torch_sampler(model, device, self.sizes, self.steps)
        return work.Theirs(step, sum(p.numel() for p in model.parameters()))


def torch_sampler(model: Any, device: Any, sizes: models.Sizes, steps: int) -> Any:
    """Return a step that samples, with the coefficients of dreamjax's plan; the result is left in `step.latents`."""
    import torch

    plan, dtype = generate.plan_of(sizes, steps), getattr(torch, sizes.dtype)
    names = ("image_of_x", "image_of_output", "of_image", "of_x", "of_output")
    rows = zip(plan.timesteps, *(getattr(plan.coefficients, name) for name in names), strict=True)
    table = [(torch.tensor(row[0], device=device), *map(float, row[1:])) for row in rows]
    start = models.channels_first(sizes.latents(), device) * float(plan.start_sigma)
    context = torch.from_numpy(sizes.context()).to(device, dtype)
    both = torch.cat([torch.zeros_like(context), context])

    @torch.inference_mode()
    def step(count: int) -> None:
        for _ in range(count):
            x = start
            for t, image_of_x, image_of_output, of_image, of_x, of_output in table:
                output = model(torch.cat([x, x]).to(dtype), t, both, return_dict=False)[0].float()
                without, within = output.chunk(2)
                output = without + generate.GUIDANCE * (within - without)
                x = of_x * x + of_output * output + of_image * (image_of_x * x + image_of_output * output)
            step.latents = x.cpu()
        assert torch.isfinite(step.latents).all()

    return step
