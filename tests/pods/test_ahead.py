"""Steps compiled by TPU's own compiler for pods that are not here; skipped where libtpu is not installed."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.models.attention import attend
from dreamjax.models.convolution import convolve
from dreamjax.parallel import compiler, sharding
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.pods import ahead, collectives, hlo
from dreamjax.systems import registry
from dreamjax.systems.text_to_image import TextToImage, TextToImageConfig, UNetModelConfig
from dreamjax.targets.latents import LatentConfig
from dreamjax.training.optimiser import OptimConfig
from tests.golden import REPOSITORY

RECIPE = str(REPOSITORY / "configs/image/text_to_image_sd15_pod.py")
needs_compiler = pytest.mark.skipif(
    not ahead.available(), reason="TPU's compiler is not installed (pip install libtpu; `make test-long` does)"
)


def compiled(pod):
    """(task, memory a chip, text, axes of the mesh) of the recipe for a pod."""
    config = configs.load(f"{RECIPE}:pod={pod}", [], registry.schema_of)
    task = registry.build(config)
    mesh = meshes.make(config.train.mesh, ahead.topology(pod))
    step = ahead.compile_step(task, mesh, config.train.batch_size, task.example(), effort=-1.0)
    return task, ahead.memory(step), step.as_text(), dict(mesh.shape)


def summed(text, axes):
    """(types of floating-point numbers, bytes of a step) of what is summed over devices."""
    found = collectives.find(hlo.read(text), axes)
    assert found.unknown == {}
    sums = [one for one in found.collectives if one.kind in ("all-reduce", "reduce-scatter")]
    floats = [one for one in sums if {"f32", "bf16"} & set(one.types)]
    types = {kind for one in floats for kind in one.types} & {"f32", "bf16"}
    return types, sum(one.payload * one.times for one in floats)


@needs_compiler
@pytest.mark.parametrize(
    ("topology", "slices", "mesh"),
    [
        ("v5e:4x4", 1, MeshConfig(data=1, fsdp=16)),
        ("v5e:8x8", 1, MeshConfig(data=8, fsdp=8)),
        ("v5e:16x16", 2, MeshConfig(data=32, fsdp=16)),
        ("v6e:16x16", 1, MeshConfig(data=16, fsdp=16)),
        ("v5p:4x4x4", 1, MeshConfig(data=4, fsdp=8, tensor=2)),
        ("tpu7x:4x4x4", 1, MeshConfig(data=-1, fsdp=8)),
    ],
)
def test_every_host_of_a_pod_reads_rows_of_its_own(topology, slices, mesh):
    """Along a torus they are not always neighbours; together they are all rows of the batch, and none is read twice."""
    made = meshes.make(mesh, ahead.topology(topology, slices))
    rows = 2 * made.shape["data"] * made.shape["fsdp"]
    hosts = {device.process_index for device in made.devices.flat}
    parts = [sharding.process_rows(made, rows, host) for host in hosts]
    assert sorted(parts) == [(host, len(hosts)) for host in sorted(hosts)]
    assert sorted(row for own in sharding.rows_by_process(made, rows).values() for row in own) == list(range(rows))


@pytest.mark.long
@needs_compiler
def test_a_small_step_compiles_and_sums_its_gradients_in_float32():
    """The whole step of the smallest U-Net on 16 chips; also on a mesh that cuts the pod's own axes."""
    config = TextToImageConfig(
        data=LatentConfig(resolution=16),
        model=UNetModelConfig(architecture="tiny", start="random", dtype="bfloat16"),
        optim=OptimConfig(ema_decay=0.999),
    )
    task = TextToImage(config)
    mesh = meshes.make(MeshConfig(data=8, fsdp=2), ahead.topology("v5e:4x4"))
    step = ahead.compile_step(task, mesh, 16, task.example())
    state = jax.eval_shape(lambda: task.init(jax.random.key(0)))
    types, size = summed(step.as_text(), dict(mesh.shape))
    assert types == {"f32"}
    # biases that are added to the same array have one gradient, which is summed once
    assert size >= 0.99 * 4 * sum(leaf.size for leaf in jax.tree.leaves(state.params))
    memory = ahead.memory(step)
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert whole <= memory["arguments"] <= memory["total"] < 1 << 30  # nothing of it is large enough to be split


@needs_compiler
def test_a_split_kernel_is_gathered_for_the_whole_product():
    """Forward and backward of a convolution of Stable Diffusion: no loop over the kernel's pieces; without the step's
    compiler options there is one (the control). Its gradient is summed in float32.
    """
    mesh = meshes.make(MeshConfig(data=1, fsdp=16), ahead.topology("v5e:4x4"))
    split = NamedSharding(mesh, P(None, None, None, "fsdp"))
    x = jax.ShapeDtypeStruct((16, 32, 32, 128), jnp.bfloat16, sharding=NamedSharding(mesh, sharding.BATCH))
    kernel = jax.ShapeDtypeStruct((3, 3, 128, 128), jnp.float32, sharding=split)

    def loss(kernel, x):
        y = convolve(x, kernel, 1, ((1, 1), (1, 1)), jnp.bfloat16)
        return jnp.square(y.astype(jnp.float32)).sum()

    def text_of(options):
        with jax.set_mesh(mesh):
            step = jax.jit(jax.grad(loss), out_shardings=split, compiler_options=options)
            return step.lower(kernel, x).compile().as_text()

    text = text_of(dict(compiler.TPU))
    assert " while(" not in text
    assert summed(text, dict(mesh.shape))[0] == {"f32"}
    assert "windowed_dot_general" in text_of(None)


@needs_compiler
@pytest.mark.parametrize(
    ("tokens", "width", "kernels"), [(4096, 40, 3), (256, 160, 0)], ids=["flash", "a width that it does not take"]
)
def test_pallas_attention_compiles_forward_and_backward(tokens, width, kernels):
    """At the sizes of Stable Diffusion 1.5, split over all chips: one kernel forward, two backward."""
    mesh = meshes.make(MeshConfig(data=1, fsdp=16), ahead.topology("v5e:4x4"))
    place = NamedSharding(mesh, sharding.BATCH)
    q = jax.ShapeDtypeStruct((16, tokens, 8, width), jnp.bfloat16, sharding=place)

    def loss(q, k, v):
        return attend(q, k, v, implementation="pallas").astype(jnp.float32).sum()

    with jax.set_mesh(mesh):
        text = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(q, q, q).compile().as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == kernels


@needs_compiler
def test_rejects_unknown_pod():
    with pytest.raises(UserError, match="unknown TPU topology 'v5e:5x5x5'"):
        ahead.topology("v5e:5x5x5")


def test_without_the_compiler_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(ahead, "available", lambda: False)
    with pytest.raises(UserError, match=r"takes the package libtpu: pip install 'dreamjax\[tpu\]'"):
        ahead.topology("v5e:4x4")


@needs_compiler
@pytest.mark.long
@pytest.mark.parametrize(("name", "microbatches"), [("dreamdiffusion", 1), ("dreamdiffusion_code", 2)])
def test_the_first_stage_of_dreamdiffusion_fits_a_chip(name, microbatches):
    """As the configs ship, on one chip of 16 GiB; the released encoder's 100 windows at once do not."""
    train = [("train.microbatches", str(microbatches)), ("train.mesh.data", "1"), ("train.mesh.fsdp", "1")]
    config = configs.load(f"{REPOSITORY}/configs/pretrain/{name}.py", train, registry.schema_of)
    task = registry.build(config)
    mesh = meshes.make(config.train.mesh, ahead.topology("v5e:4x4")[:1])
    memory = ahead.memory(ahead.compile_step(task, mesh, config.train.batch_size, task.example(), effort=-1.0))
    whole = sum(
        leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(task.init, jax.random.key(0)))
    )
    assert whole <= memory["arguments"] <= memory["peak"] <= 12 * 2**30


@needs_compiler
@pytest.mark.long
@pytest.mark.timeout(7200)
def test_the_second_stage_of_dreamdiffusion_fits_a_pod():
    """As published, eight trials a chip of v5e:4x4; gradients are of what is trained alone, and summed in float32."""
    config = configs.load(f"{REPOSITORY}/configs/image/dreamdiffusion_code.py:pod=v5e:4x4", [], registry.schema_of)
    task = registry.build(config)
    mesh = meshes.make(config.train.mesh, ahead.topology("v5e:4x4"))
    step = ahead.compile_step(task, mesh, config.train.batch_size, task.example(), effort=-1.0)
    memory = ahead.memory(step)
    print({name: f"{size / 2**30:.2f} GiB" for name, size in memory.items()})
    assert memory["total"] <= 4 * 2**30
    types, size = summed(step.as_text(), dict(mesh.shape))
    assert types == {"f32"}
    assert size < 1.2 * 4 * 198_330_697


@needs_compiler
@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("pod", "usable"), [("v5e:4x4", 15.75), ("v6e:16x16", 31.25)])
def test_the_step_of_stable_diffusion_fits_a_pod(pod, usable):
    """The recipe as it ships, U-Net, AdamW and average; memory within what the compiler may use of a chip's."""
    task, memory, text, axes = compiled(pod)
    print(pod, {name: f"{size / 2**30:.2f} GiB" for name, size in memory.items()})
    assert memory["total"] <= usable * 2**30
    shapes = jax.eval_shape(lambda: task.init(jax.random.key(0)))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
    assert parameters == 859_520_964
    assert summed(text, axes)[0] == {"f32"}
    assert "windowed_dot_general" not in text
    assert ".remat" not in text  # the compiler had no need to compute anything twice by itself
