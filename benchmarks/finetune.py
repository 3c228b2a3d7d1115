"""A training step of Stable Diffusion's U-Net on cached latents, in dreamjax and in diffusers on PyTorch, side by side.

    python benchmarks/finetune.py                               # half of Stable Diffusion 1.5, on this machine's CPU
    python benchmarks/finetune.py --model sd15 --apart          # the full size: 18 GiB at a time
    python benchmarks/finetune.py --model sd15 --batch 8        # on a GPU: bfloat16, latents of 64 × 64

The step is that of `dreamjax train` with the system text_to_image: latents and noise are drawn, the U-Net runs forward
and backward over all its parameters, gradients are clipped, AdamW steps. The twin does the same with fused AdamW.
Prints one JSON object with what `generate.py` prints of each contestant, a step being a batch.
"""

import argparse
import json
from typing import Any

import common
import diffusion_models as models
import numpy as np


def batch_of(sizes: models.Sizes) -> dict[str, np.ndarray]:
    """Return noise in every field of a batch of cached latents."""
    mean, rows = sizes.latents(), np.arange(sizes.batch)
    return {
        "mean": mean,
        "log_variance": np.full_like(mean, -4.0),
        "context": sizes.context(),
        "index": np.stack([0 * rows, rows], axis=1).astype(np.uint32),
        "weight": np.ones(sizes.batch, np.float32),
    }


def our_task(sizes: models.Sizes, *, remat: str) -> Any:
    """Return the real Task at these sizes."""
    from dreamjax.runs.components import Components
    from dreamjax.systems.text_to_image import TextToImage, TextToImageConfig, UNetModelConfig

    class Sized(TextToImage):
        parts = Components(architecture=sizes.parts)  # also of sizes that have no name

    return Sized(TextToImageConfig(model=UNetModelConfig(start="random", dtype=sizes.dtype, remat=remat)))


def dreamjax_work(sizes: models.Sizes, *, remat: str) -> dict[str, Any]:
    def train() -> common.Step:
        task = our_task(sizes, remat=remat)
        return common.training_step(task, task.config.train.mesh, batch_of(sizes))[0]

    return {"train": train}


def torch_step(model: Any, device: Any, sizes: models.Sizes, *, remat: str) -> common.Step:
    """Return a step of a U-Net of PyTorch: that of diffusers or of `unet_twin.py`."""
    import torch
    import torch.nn.functional as F

    from dreamjax.training.optimiser import OptimConfig

    model.train()
    if remat != "none":
        model.enable_gradient_checkpointing()
    optim = OptimConfig()
    optimiser = torch.optim.AdamW(
        model.parameters(),
        lr=optim.learning_rate,
        betas=(optim.beta1, optim.beta2),
        eps=optim.epsilon,
        weight_decay=optim.weight_decay,
        fused=True,
    )
    alphas, batch = models.alphas(sizes.parts, device), batch_of(sizes)
    mean, log_variance = (models.channels_first(batch[name], device) for name in ("mean", "log_variance"))
    context = torch.from_numpy(batch["context"]).to(device)
    scale = sizes.parts["vae"]["scaling_factor"]
    v = sizes.parts["scheduler"]["prediction_type"] == "v_prediction"

    def step(count: int) -> None:
        for _ in range(count):
            z = scale * (mean + (0.5 * log_variance).exp() * torch.randn_like(mean))
            noise = torch.randn_like(z)
            t = torch.randint(0, len(alphas), (len(z),), device=device)
            share = alphas[t].view(-1, 1, 1, 1)
            signal, rest = share.sqrt(), (1 - share).sqrt()
            target = signal * noise - rest * z if v else noise
            with torch.autocast(device.type, torch.bfloat16, enabled=sizes.dtype == "bfloat16"):
                output = model(signal * z + rest * noise, t, context, return_dict=False)[0]
            F.mse_loss(output.float(), target).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        models.wait(device)

    return step


def torch_work(sizes: models.Sizes, *, compiled: bool, remat: str) -> dict[str, Any]:
    def train() -> common.Step:
        return torch_step(*models.theirs(sizes, compiled=compiled), sizes, remat=remat)

    return {"train": train}


def parsed() -> argparse.Namespace:
    parser = models.arguments(__doc__, batch=2)
    parser.add_argument("--steps", type=int, default=2, help="per round and contestant")
    parser.add_argument("--remat", default="none", choices=["none", "full"], help="full: also the twin's checkpointing")
    return parser.parse_args()


def main() -> None:
    args = parsed()
    sizes = models.sizes_of(args)
    if args.only == "dreamjax":
        return common.serve(dreamjax_work(sizes, remat=args.remat), models.our_peak)
    if args.only:
        work = torch_work(sizes, compiled=args.only == "torch.compile", remat=args.remat)
        return common.serve(work, models.their_peak)
    from dreamjax.training import devices

    ceiling = common.matrix_product_rate(sizes.dtype, 8192 if common.on_gpu() else 1024)
    times, start_and_peak = common.compared(models.names_of(args), "train", args.rounds, args.steps, apart=args.apart)
    flops = 3 * sizes.flops()
    results = common.summary(times, flops, ceiling, devices.peak_flops())
    for name in results:
        results[name] |= start_and_peak[name] | {
            "images_per_s": round(1e3 * sizes.batch / results[name]["ms_per_step"], 4)
        }
    facts = common.machine() | sizes.facts() | {"apart": args.apart, "remat": args.remat}
    facts |= {"gflop_per_step": round(flops / 1e9, 2), "matrix_product_tflop_per_s": round(ceiling / 1e12, 4)}
    print(json.dumps(facts | {"contestants": results}, indent=1))


if __name__ == "__main__":
    main()
