"""Gradients are summed over devices in float32 though the network computes in bfloat16: read from the partitioned step.

The text is read right after partitioning: the CPU's own compiler later promotes every bfloat16 reduction to float32, so
that its final text could not show the mistake (a control below does show it).
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.systems.masked_pretraining import MaskedModelConfig, MaskedPretraining, MaskedPretrainingConfig
from dreamjax.training import program


def reductions(lowered, folder: Path) -> list[tuple[str, int]]:
    """(type, elements) of each operand summed over devices."""
    lowered.compile(
        compiler_options={
            "xla_dump_to": str(folder),
            "xla_dump_hlo_pass_re": "spmd.*",
            "xla_backend_optimization_level": 0,
        }
    )
    assert list(folder.iterdir()), "nothing was dumped"
    (text,) = (path.read_text() for path in folder.glob("*after_spmd-partitioning*"))
    found = []
    for line in text.splitlines():
        result = re.search(r" = (.*?) (?:all-reduce|reduce-scatter)\(", line)
        for kind, dims in re.findall(r"\b([a-z]+\d+)\[([\d,]*)\]", result.group(1)) if result else ():
            found.append((kind, int(np.prod([int(d) for d in dims.split(",") if d]))))
    return found


def test_a_cast_inside_the_loss_is_seen_as_a_bfloat16_reduction(tmp_path, freshly_compiled):
    """The control: what the rule forbids does show in this reading."""
    mesh = meshes.make(MeshConfig())

    def gradient(w, x):
        return jax.grad(lambda w: ((x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)).astype(jnp.float32) ** 2).sum())(w)

    w = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=NamedSharding(mesh, P()))
    x = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=NamedSharding(mesh, P(("data", "fsdp"))))
    lowered = jax.jit(gradient, out_shardings=NamedSharding(mesh, P())).lower(w, x)
    assert reductions(lowered, tmp_path) == [("bf16", 64 * 64)]


def test_gradients_are_reduced_in_float32(tmp_path, freshly_compiled):
    """The masked autoencoder on a data × fsdp mesh: float32 only, and at least every parameter once."""
    sizes = {"dim": 64, "depth": 1, "heads": 2, "decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2}
    config = MaskedPretrainingConfig(model=MaskedModelConfig(dtype="bfloat16", **sizes))
    task, mesh = MaskedPretraining(config), meshes.make(MeshConfig(data=2, fsdp=4))
    rows, channels, samples = 16, config.model.channels, config.data.samples
    shapes = {"signal": (channels, samples), "valid": (samples,), "channel_ok": (channels,), "weight": ()}
    batch = {name: jax.ShapeDtypeStruct((rows, *shape), jnp.float32) for name, shape in shapes.items()}
    batch["index"] = jax.ShapeDtypeStruct((rows, 2), jnp.uint32)
    with jax.set_mesh(mesh):
        built = program.build(task, mesh)
        found = reductions(built.step.lower(built.shapes, batch), tmp_path)
    floats = [(kind, size) for kind, size in found if kind.startswith(("f", "bf"))]
    assert {kind for kind, _ in floats} == {"f32"}, floats
    parameters = sum(leaf.size for leaf in jax.tree.leaves(built.shapes.params))
    assert sum(size for _, size in floats) >= parameters
