"""Meshes, and where arrays are put."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh
from jax.sharding import PartitionSpec as P

from dreamjax.errors import UserError
from dreamjax.parallel import mesh, sharding, tree_paths
from dreamjax.parallel.mesh import MeshConfig


def shape(*dims):
    return jax.ShapeDtypeStruct(dims, jnp.float32)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (MeshConfig(), (8, 1, 1)),
        (MeshConfig(data=2, fsdp=-1), (2, 4, 1)),
        (MeshConfig(data=-1, fsdp=2, tensor=2), (2, 2, 2)),
        (MeshConfig(data=1, fsdp=8, tensor=1), (1, 8, 1)),
    ],
)
def test_infers_the_size_of_minus_one(config, expected):
    assert mesh.sizes(config, 8) == expected
    made = mesh.make(config)
    assert tuple(made.shape.values()) == expected
    assert made.axis_names == ("data", "fsdp", "tensor")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MeshConfig(data=3), "takes 3 devices, but there are 8"),
        (MeshConfig(data=-1, fsdp=-1), "at most one of them is -1"),
        (MeshConfig(data=-1, fsdp=3), "a multiple of 3 devices, but there are 8"),
        (MeshConfig(data=0), "sizes are positive"),
    ],
)
def test_rejects_sizes_that_do_not_fit(config, message):
    with pytest.raises(UserError, match=message):
        mesh.sizes(config, 8)


def test_only_data_crosses_slices():
    assert mesh.sizes(MeshConfig(data=-1, fsdp=4), 16, slices=2) == (4, 4, 1)
    with pytest.raises(UserError, match="2 slices"):
        mesh.sizes(MeshConfig(data=1, fsdp=-1), 16, slices=2)


def test_fsdp_may_cross_slices_instead():
    across = MeshConfig(data=1, fsdp=-1, across="fsdp")
    assert mesh.sizes(across, 16, slices=2) == (1, 16, 1)
    with pytest.raises(UserError, match="fsdp is 1, but it must divide by the 2 slices that it crosses"):
        mesh.sizes(MeshConfig(data=-1, across="fsdp"), 16, slices=2)


TREE = {
    "params": {
        "qkv": {"kernel": shape(12, 128, 384)},
        "odd": {"kernel": shape(6, 250, 640)},
        "biases": shape(24, 1024),
        "bias": shape(320),
    },
    "opt": {"1": {"mu": {"qkv": {"kernel": shape(12, 128, 384)}}}},
}
RULES = ((r"qkv/kernel$", P(None, "fsdp", "tensor")), (r"fc1/kernel$", P("tensor")))


def specs(placed_on):
    placed = sharding.shardings(TREE, placed_on, RULES)
    return {name: place.spec for name, place in tree_paths.named_leaves(placed).items()}


def test_rules_come_first_then_the_longest_axis_that_divides():
    split = specs(mesh.make(MeshConfig(data=2, fsdp=2, tensor=2)))
    assert split["params/qkv/kernel"] == split["opt/1/mu/qkv/kernel"] == P(None, "fsdp", "tensor")
    assert split["params/odd/kernel"] == P(None, None, "fsdp")
    assert split["params/bias"] == P()  # below 64 KiB
    idle = specs(mesh.make(MeshConfig(data=2, fsdp=4)))  # no tensor axis: the fallback
    assert idle["params/qkv/kernel"] == P(None, None, "fsdp")


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_on_gpus_the_rows_of_a_kernel_are_split(platform):
    device = AbstractDevice("H200", None, platform)
    split = specs(AbstractMesh((2, 4, 1), mesh.AXES, abstract_device=device))
    assert split["params/qkv/kernel"] == (P(None, "fsdp") if platform == "cuda" else P(None, None, "fsdp"))
    assert split["params/biases"] == P(None, "fsdp")  # 24 layers are not the rows of a kernel
    assert split["params/odd/kernel"] == P(None, None, "fsdp")  # 4 does not divide 250


def test_rejects_more_than_two_per_cent_of_unsharded_bytes():
    """320 does not divide by 256; here 250 and 333 do not divide by 4: half of the bytes would stay whole."""
    made = mesh.make(MeshConfig(data=2, fsdp=4))
    tree = {"good": shape(256, 256), "bad": shape(250, 262 + 1), "small": shape(3, 3)}
    placed = sharding.shardings(tree, made)
    share, whole = sharding.unsharded_share(tree, placed)
    assert whole == ["bad"]
    assert share == pytest.approx(250 * 263 / (250 * 263 + 256 * 256))
    with pytest.raises(UserError, match=r"train.mesh.fsdp=4 leaves 50% .*\(bad\)"):
        sharding.check_sharded(tree, placed, made)


def test_batches_are_split_over_data_and_fsdp():
    made = mesh.make(MeshConfig(data=2, fsdp=2, tensor=2))
    rows = {"x": np.arange(8 * 3, dtype=np.float32).reshape(8, 3)}
    batch = sharding.to_devices(rows, made, 8)
    np.testing.assert_array_equal(batch["x"], rows["x"])
    assert batch["x"].addressable_shards[0].data.shape == (2, 3)
    assert sharding.process_rows(made, 8) == (0, 1)
    with pytest.raises(UserError, match="batch_size is 6"):
        sharding.check_batch(6, made)


def test_tree_names_round_trip():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert tree_paths.nested(tree_paths.named_leaves(tree)) == tree
