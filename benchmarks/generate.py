"""Stable Diffusion's U-Net forward, and a whole sampling loop, in dreamjax and in diffusers on PyTorch, side by side.

    python benchmarks/generate.py                               # half of Stable Diffusion 1.5, on this machine's CPU
    python benchmarks/generate.py --model sd15 --size 64        # the full size
    python benchmarks/generate.py --model sd15 --batch 8        # on a GPU: bfloat16, latents of 64 × 64

Prints one JSON object with two parts. `forward`: the U-Net once over `2 · batch` latents, as under guidance.
`sampling`: from noise to latents by DDIM under classifier-free guidance; ours is one compiled program, diffusers' its
scheduler's loop. Of each contestant: milliseconds (median, range over rounds), PyTorch's time / ours round by round
(above 1: we are faster), CPU time, TFLOP/s, MFU where the device's peak is known, the seconds until the first step was
done (compiling included), and the peak memory of its process. Contestants take turns, each in a separate process.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from typing import Any

import common
import diffusion_models as models
import numpy as np

STEPS, GUIDANCE = 30, 7.5


@dataclass(frozen=True)
class Sampler:
    """Ours as one compiled program, from noise to latents."""

    compiled: Any
    args: tuple[Any, ...]  # parameters, noise, context, and that of guidance
    compile_s: float

    def run(self, count: int) -> None:
        for _ in range(count):
            result = np.asarray(self.compiled(*self.args))
        assert np.isfinite(result).all()


def our_params(sizes: models.Sizes) -> Any:
    """Return random parameters, drawn on the host.

    Users load weights from files. A program that draws them compiles longer than the network, and its temporary arrays
    are 0.8 of the parameters' size.
    """
    network, arguments = models.ours(sizes)
    return in_compute_type(sizes, common.random_params(network.shapes(arguments)))


def in_compute_type(sizes: models.Sizes, params: Any) -> Any:
    """Return the parameters with matrices in the type that computes, as `LatentDiffusion` keeps them."""
    import jax
    import jax.numpy as jnp

    return jax.tree.map(lambda leaf: jnp.asarray(leaf, sizes.dtype if leaf.ndim > 1 else leaf.dtype), params)


def our_unet(sizes: models.Sizes) -> Any:
    """Return `unet(params, x, t, context)`."""
    import jax.numpy as jnp

    network, arguments = models.ours(sizes)

    def unet(params: Any, x: Any, t: Any, context: Any) -> Any:
        return network.bind(arguments, params)(x, jnp.full((len(x),), t), context)

    return unet


def plan_of(sizes: models.Sizes, steps: int) -> Any:
    from dreamjax.diffusion import sampling
    from dreamjax.runs import latent_diffusion

    return sampling.plan("ddim", latent_diffusion.schedule_of(sizes.parts["scheduler"], sizes.name), steps)


def our_sampler(sizes: models.Sizes, steps: int, params: Any, device: Any = None, options: Any = None) -> Sampler:
    """Compile sampling for a device, by default the first; `options`: of the compiler."""
    import jax
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    from dreamjax.diffusion import guidance, sampling
    from dreamjax.parallel import mesh as meshes

    plan, mesh = plan_of(sizes, steps), meshes.make(meshes.MeshConfig(), [device or jax.devices()[0]])
    place = NamedSharding(mesh, P())
    with jax.set_mesh(mesh):
        unet = our_unet(sizes)

        def sample(params: Any, x: Any, context: Any, unconditional: Any) -> Any:
            def predict(x: Any, t: Any, context: Any) -> Any:
                return unet(params, x, t, context)

            guided = guidance.guided(predict, context, unconditional, GUIDANCE)
            return sampling.sample(guided, sampling.starts(plan, x), plan)

        context = sizes.context()
        args = jax.device_put((params, sizes.latents(), context, np.zeros_like(context[:1])), place)
        started = time.monotonic()
        compiled = jax.jit(sample).lower(*args).compile(dict(options or {}))
        return Sampler(compiled, args, time.monotonic() - started)


def dreamjax_work(sizes: models.Sizes, steps: int) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    def forward() -> common.Step:
        params, unet = our_params(sizes), our_unet(sizes)
        both = replace(sizes, batch=2 * sizes.batch)
        args = (params, jnp.asarray(both.latents()), jnp.float32(500), jnp.asarray(both.context()))
        compiled = jax.jit(unet).lower(*args).compile()

        def step(count: int) -> None:
            for _ in range(count):
                jax.block_until_ready(compiled(*args))

        return step

    return {"forward": forward, "sampling": lambda: our_sampler(sizes, steps, our_params(sizes)).run}


def torch_work(sizes: models.Sizes, steps: int, *, compiled: bool) -> dict[str, Any]:
    import torch
    from diffusers import DDIMScheduler

    model, device = models.theirs(sizes, compiled=compiled)
    model.eval()
    dtype = getattr(torch, sizes.dtype)
    model.to(dtype)

    def forward() -> common.Step:
        both = replace(sizes, batch=2 * sizes.batch)
        x = models.channels_first(both.latents(), device).to(dtype)
        context, t = torch.from_numpy(both.context()).to(device, dtype), torch.tensor(500, device=device)

        @torch.inference_mode()
        def step(count: int) -> None:
            for _ in range(count):
                model(x, t, context, return_dict=False)
                models.wait(device)

        return step

    def loop() -> common.Step:
        fields = {name: value for name, value in sizes.parts["scheduler"].items() if name != "_class_name"}
        scheduler = DDIMScheduler.from_config(fields)
        noise = models.channels_first(sizes.latents(), device).to(dtype)
        context = torch.from_numpy(sizes.context()).to(device, dtype)
        both = torch.cat([torch.zeros_like(context), context])

        @torch.inference_mode()
        def step(count: int) -> None:
            for _ in range(count):
                scheduler.set_timesteps(steps, device=device)
                x = noise
                for t in scheduler.timesteps:
                    without, within = model(torch.cat([x, x]), t, both, return_dict=False)[0].chunk(2)
                    x = scheduler.step(without + GUIDANCE * (within - without), t, x, return_dict=False)[0]
                assert torch.isfinite(x.float().cpu()).all()

        return step

    return {"forward": forward, "sampling": loop}


def parsed() -> argparse.Namespace:
    parser = models.arguments(__doc__, batch=1)
    parser.add_argument("--steps", type=int, default=STEPS, help="of the sampler")
    parser.add_argument("--forwards", type=int, default=3, help="forward passes per round and contestant")
    return parser.parse_args()


def main() -> None:
    args = parsed()
    sizes = models.sizes_of(args)
    if args.only == "dreamjax":
        return common.serve(dreamjax_work(sizes, args.steps), models.our_peak)
    if args.only:
        work = torch_work(sizes, args.steps, compiled=args.only == "torch.compile")
        return common.serve(work, models.their_peak)
    from dreamjax.training import devices

    ceiling = common.matrix_product_rate(sizes.dtype, 8192 if common.on_gpu() else 1024)
    facts = common.machine() | sizes.facts() | {"steps": args.steps, "guidance": GUIDANCE}
    for work, count, repeats in (("forward", 1, args.forwards), ("sampling", args.steps, 1)):
        times, start_and_peak = common.compared(models.names_of(args), work, args.rounds, repeats, apart=args.apart)
        flops = 2 * count * sizes.flops()
        results = common.summary(times, flops, ceiling, devices.peak_flops())
        for name in results:
            results[name] |= start_and_peak[name] | {
                "images_per_s": round(1e3 * sizes.batch / results[name]["ms_per_step"], 4)
            }
        facts[work] = {"gflop": round(flops / 1e9, 2), "contestants": results}
    facts["matrix_product_tflop_per_s"] = round(ceiling / 1e12, 4)
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
