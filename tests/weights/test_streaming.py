"""Weights reach the devices in their places and types, and nothing is read where they do not fit."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from dreamjax.parallel.tree_paths import named_leaves
from dreamjax.training.program import stream_in
from dreamjax.training.task import State
from dreamjax.weights.loaded import aligned_empty, source
from dreamjax.weights.table import WeightMismatch
from dreamjax.weights.weight_files import open_weights, write_safetensors
from tests.conftest import REPOSITORY
from tests.training.children import free_port
from tests.weights.streaming_child import TABLE, placed, shapes

DEPTH, WIDTH = 2, 64


def values(depth=DEPTH, width=WIDTH):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(np.float32), shapes(depth, width))


@pytest.fixture
def folder(tmp_path):
    tensors = TABLE.to_torch(values())
    write_safetensors(tmp_path / "half", "model", {name: t.astype(np.float16) for name, t in tensors.items()})
    write_safetensors(tmp_path, "model", tensors, max_shard_bytes=200_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    return tmp_path


def test_every_leaf_arrives_in_its_place(folder):
    abstract = placed(shapes(DEPTH, WIDTH))
    found = named_leaves(source(TABLE, open_weights(folder), "small")(abstract))
    for path, wanted in named_leaves(values()).items():
        assert np.array_equal(np.asarray(found[path]), wanted), path
        assert found[path].sharding == named_leaves(abstract)[path].sharding
    split = found["head/kernel"]
    assert {shard.data.shape for shard in split.addressable_shards} == {(64, 128)}


@pytest.mark.parametrize("from_files", [True, False])
def test_reads_large_tensors_block_by_block(from_files, tmp_path):
    wanted = values(width=160)  # blocks of 64 rows do not divide it
    tensors = TABLE.to_torch(wanted)
    if from_files:
        write_safetensors(tmp_path, "model", tensors)
        tensors = open_weights(tmp_path)
    leaves = dict(TABLE.leaves(tensors, shapes(DEPTH, 160)))
    for path, leaf in named_leaves(wanted).items():
        assert np.array_equal(leaves[path], leaf), path


def test_cpu_shares_the_memory_of_weights_and_holds_them_once():
    hosts = []

    def empty(shape, dtype):
        hosts.append(aligned_empty(shape, dtype))
        return hosts[-1]

    arrays = jax.tree.leaves(source(TABLE, TABLE.to_torch(values()), "small", empty=empty)(shapes(DEPTH, WIDTH)))
    assert sorted(array.unsafe_buffer_pointer() for array in arrays) == sorted(host.ctypes.data for host in hosts)
    askew = aligned_empty((1025,), np.float32)[1:]  # as NumPy's own arrays are
    assert jax.device_put(askew).unsafe_buffer_pointer() != askew.ctypes.data


@pytest.mark.parametrize("kind", [np.float32, ml_dtypes.bfloat16, np.float16])
def test_the_type_is_that_of_the_parameters_and_not_of_the_file(kind, folder):
    abstract = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, kind), shapes(DEPTH, WIDTH))
    found = named_leaves(source(TABLE, open_weights(folder / "half"), "small")(abstract))
    for path, wanted in named_leaves(values()).items():
        assert found[path].dtype == kind
        assert np.array_equal(np.asarray(found[path]), wanted.astype(np.float16).astype(kind)), path


def test_a_leaf_without_a_place_goes_to_the_first_device(folder):
    found = source(TABLE, open_weights(folder), "small")(shapes(DEPTH, WIDTH))
    assert all(leaf.devices() == {jax.local_devices()[0]} for leaf in jax.tree.leaves(found))


def test_names_all_misfits_before_reading_a_tensor(folder):
    tensors = dict(open_weights(folder))
    tensors["extra"] = tensors.pop("head.weight")
    tensors["embed.weight"] = tensors["down.0.conv.weight"]

    class Unreadable:
        def __init__(self, tensor):
            self.shape = tensor.shape

    unreadable = {name: Unreadable(tensor) for name, tensor in tensors.items()}
    with pytest.raises(WeightMismatch, match=r"somebody/unet: the weights do not fit") as caught:
        source(TABLE, unreadable, "somebody/unet")(placed(shapes(DEPTH, WIDTH)))
    assert (caught.value.missing, caught.value.extra) == (["head.weight"], ["extra"])
    assert caught.value.misshapen == ["embed.weight is (64, 32, 3, 3) instead of (1024, 64)"]


def test_the_loop_streams_weights_from_it(folder):
    """`training.program.stream_in` asks with the subtree of a state, and puts what it gets there."""
    params = jax.tree.map(lambda s: jax.device_put(jnp.zeros(s.shape, s.dtype), s.sharding), placed(shapes(2, 64)))
    state = State(step=jnp.zeros((), jnp.int32), params={"w": jnp.ones(3)}, frozen={"vae": params})
    filled = stream_in(state, {"frozen/vae": source(TABLE, open_weights(folder), "small")})
    for path, wanted in named_leaves(values()).items():
        leaf = named_leaves(filled.frozen["vae"])[path]
        assert np.array_equal(np.asarray(leaf), wanted)
        assert leaf.sharding == named_leaves(params)[path].sharding
    assert filled.params["w"].tolist() == [1, 1, 1]


CHILD = """
import json, sys
from pathlib import Path
import jax, numpy as np
jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]))
from dreamjax.weights.weight_files import open_weights
from dreamjax.weights.loaded import source
from dreamjax.parallel.tree_paths import named_leaves
from tests.weights.streaming_child import TABLE, placed, shapes
found = named_leaves(source(TABLE, open_weights(sys.argv[1]), "small")(placed(shapes(2, 64))))
shards = {path: [[[s.indices(n)[:2] for s, n in zip(shard.index, leaf.shape)], np.asarray(shard.data).tolist()]
                 for shard in leaf.addressable_shards] for path, leaf in found.items()}
Path(sys.argv[1], f"process_{sys.argv[3]}").write_text(json.dumps(shards))
"""


def test_two_processes_place_what_their_devices_hold(folder):
    address = f"127.0.0.1:{free_port()}"
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder), address, str(index)],
            cwd=REPOSITORY,
            env=env,
        )
        for index in range(2)
    ]
    try:
        assert [child.wait(timeout=120) for child in children] == [0, 0]
    finally:
        for child in children:
            child.kill()
    said = [json.loads((folder / f"process_{index}").read_text()) for index in range(2)]
    for path, wanted in named_leaves(values()).items():
        seen = np.zeros(wanted.shape, bool)
        for index, data in (part for shards in said for part in shards[path]):
            where = tuple(slice(*bounds) for bounds in index)
            assert np.array_equal(np.float32(data), wanted[where]), path
            seen[where] = True
        assert seen.all()
    assert said[0]["head/kernel"][0][0] != said[1]["head/kernel"][0][0]
