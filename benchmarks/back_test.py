"""The model of a GPU's time against steps that others measured: `python benchmarks/back_test.py`.

    GPT-2 of 124 M parameters on A100s: nanoGPT's README, "about 4 days" for 600,000 steps of 491,520 tokens on 8 A100s
    (config/train_gpt2.py): 576 ms, five micro-batches of 12 x 1,024 tokens on each; with evaluation and data.
    Stable Diffusion 2's U-Net on 8 H200s, 32 images on each: MLPerf Training v5.0, 1,126 to 1,155 images a second.

Steps are compiled here for those GPUs and timed by `dreamjax.pods.kernels` and `schedule`; they are this project's
programs and not the ones that were measured. It takes XLA's compiler for GPUs (`dreamjax plan` says which package).
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from common import say
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from dreamjax import config
from dreamjax.models.layers import LayerNorm
from dreamjax.models.transformer import TransformerBlock
from dreamjax.parallel import compiler
from dreamjax.parallel import mesh as meshes
from dreamjax.pods import ahead, gpus, hlo, jobs, kernels, plan, schedule, topologies
from dreamjax.systems import registry

TOKENS, MICRO_BATCHES, STEPS, DAYS = 1024, 5, 600_000, 4
CONFIGS = Path(__file__).resolve().parents[1] / "configs/image"
Backtest = dict[str, Any]


class Gpt2(nnx.Module):
    """GPT-2 (Radford et al. 2019) with tied embeddings and a padded vocabulary, as nanoGPT trains it."""

    def __init__(self, depth: int, dim: int, heads: int, vocabulary: int, rngs: nnx.Rngs):
        self.words = nnx.Param(0.02 * jax.random.normal(rngs.params(), (vocabulary, dim)))
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (TOKENS, dim)))
        same: dict[str, Any] = {"dtype": jnp.bfloat16, "implementation": "auto", "qkv_bias": False, "causal": True}
        self.blocks = nnx.List([TransformerBlock(dim, heads, rngs=rngs, **same) for _ in range(depth)])
        self.norm = LayerNorm(dim, dtype=jnp.bfloat16)

    def __call__(self, ids_BxT: jax.Array) -> jax.Array:
        words = self.words[...].astype(jnp.bfloat16)
        x = words[ids_BxT] + self.positions[...].astype(jnp.bfloat16)
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ words.T


def gpt2(small: bool) -> Backtest:
    """Five micro-batches on one A100, each with the optimiser's update, which the real step has once."""
    depth, rows = (1, 1) if small else (12, 12)
    pod = topologies.pod("a100-1")
    made = nnx.eval_shape(lambda: Gpt2(depth, 768, 12, 50_304, nnx.Rngs(0)))
    graph, params = nnx.split(made)
    optimiser = optax.adamw(6e-4, b2=0.95, weight_decay=0.1)

    def step(params: Any, state: Any, ids_BxT: jax.Array) -> tuple[Any, Any, jax.Array]:
        def loss(params: Any) -> jax.Array:
            logits = nnx.merge(graph, params)(ids_BxT)[:, :-1].astype(jnp.float32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, ids_BxT[:, 1:]).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimiser.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    with ahead.unattached(pod):
        mesh = meshes.make(meshes.MeshConfig(data=1), ahead.devices(pod))
        everywhere = NamedSharding(mesh, PartitionSpec())

        def placed(tree: Any) -> Any:
            return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), tree)

        given = placed((params, jax.eval_shape(optimiser.init, params), jax.ShapeDtypeStruct((rows, TOKENS), "int32")))
        with jax.set_mesh(mesh):
            made = jax.jit(step, donate_argnums=(0, 1), compiler_options=compiler.options("gpu")).trace(*given)
        program = hlo.read(ahead.compile_traced(made, mesh).as_text() or "")
    _, ends = schedule.of_gpus(program, kernels.read(program), [], pod, [(0,)])
    low, high = (1e3 * MICRO_BATCHES * end for end in ends)
    measured = 1e3 * DAYS * 24 * 3600 / STEPS
    what = "GPT-2 124M, 61,440 tokens on each A100, ms a step"
    return {"what": what, "predicted": [low, high], "measured": [measured, measured]}


def stable_diffusion(small: bool) -> Backtest:
    """Its plan on 8 H200s; `small`: of a text-to-image system that learns shapes, on one."""
    pod = topologies.pod("h200-1" if small else "h200-8")
    path = "text_to_image_shapes.py" if small else "text_to_image_sd15_pod.py:pod=h200-8"
    given = [] if small else [("model.architecture", "sd21")]
    step = jobs.TrainingStep(config.load(str(CONFIGS / path), given, registry.schema_of))
    low, high = plan.plan(step, pod).outlook["examples_per_second"]
    what = "text to image" if small else "Stable Diffusion 2, 32 images on each of 8 H200s, images a second"
    return {"what": what, "predicted": [low, high], "measured": [1126.0, 1155.0]}


CASES: dict[str, Callable[[bool], Backtest]] = {"gpt2": gpt2, "stable_diffusion": stable_diffusion}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--small", action="store_true", help="the smallest programs, whose figures mean nothing")
    args = parser.parse_args()
    if not gpus.available():
        parser.error(f"it takes XLA's compiler for GPUs: {gpus.remedy()}")
    result = {name: CASES[name](args.small) for name in args.cases}
    for one in result.values():
        predicted, measured = ([f"{end:,.0f}" for end in one[key]] for key in ("predicted", "measured"))
        say(f"{one['what']}: predicted {' to '.join(predicted)}, measured {' to '.join(dict.fromkeys(measured))}")
    print(json.dumps({"small": args.small, "cases": result}))


if __name__ == "__main__":
    main()
