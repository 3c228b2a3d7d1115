"""The name table: both directions, bit for bit, and every problem named at once."""

import numpy as np
import pytest
import torch

from dreamjax.parallel.tree_paths import named_leaves, nested
from dreamjax.weights.masked_autoencoder import TABLE, is_fixed, positions, with_positions
from dreamjax.weights.table import IDENTITY, KERNEL, Table, WeightMismatch


def autoencoder_params(rng, *, channels=3, patch=4, dim=8, depth=2, hidden=16, decoder_dim=6, decoder_depth=1):
    """A parameter tree of the masked autoencoder, random, by hand."""

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    def stack(depth, dim):
        def linear(n_in, n_out):
            return {"kernel": normal(depth, n_in, n_out), "bias": normal(depth, n_out)}

        def norm():
            return {"scale": normal(depth, dim), "bias": normal(depth, dim)}

        return {
            "norm1": norm(),
            "attn": {"qkv": linear(dim, 3 * dim), "proj": linear(dim, dim)},
            "norm2": norm(),
            "mlp": {"fc1": linear(dim, hidden), "fc2": linear(hidden, dim)},
        }

    return {
        "cls_token": normal(1, 1, dim),
        "mask_token": normal(1, 1, decoder_dim),
        "patch_embed": {"kernel": normal(patch, channels, dim), "bias": normal(dim)},
        "blocks": stack(depth, dim),
        "norm": {"scale": normal(dim), "bias": normal(dim)},
        "decoder_embed": {"kernel": normal(dim, decoder_dim), "bias": normal(decoder_dim)},
        "decoder_blocks": stack(decoder_depth, decoder_dim),
        "decoder_norm": {"scale": normal(decoder_dim), "bias": normal(decoder_dim)},
        "decoder_pred": {"kernel": normal(decoder_dim, patch * channels), "bias": normal(patch * channels)},
    }


def assert_same_tree(a, b):
    a, b = named_leaves(a), named_leaves(b)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert a[name].tobytes() == b[name].tobytes(), name


def test_a_round_trip_is_bit_exact():
    params = autoencoder_params(np.random.default_rng(0))
    params["norm"]["scale"][:3] = [-0.0, np.nan, np.inf]  # bits, not values
    tensors = TABLE.to_torch(params)
    assert_same_tree(TABLE.to_dreamjax(tensors, params), params)
    assert len(tensors) == 2 + 2 + 12 * 2 + 2 + 2 + 12 + 2 + 2


def test_transforms_agree_with_torch():
    """The linear layer and the strided convolution computed by torch with its weights, by NumPy with ours."""
    rng = np.random.default_rng(1)
    params = autoencoder_params(rng)
    tensors = {name: torch.from_numpy(array) for name, array in TABLE.to_torch(params).items()}
    x = rng.standard_normal((5, 8)).astype(np.float32)
    ours = x @ params["blocks"]["attn"]["qkv"]["kernel"][1] + params["blocks"]["attn"]["qkv"]["bias"][1]
    theirs = torch.nn.functional.linear(
        torch.from_numpy(x), tensors["blocks.1.attn.qkv.weight"], tensors["blocks.1.attn.qkv.bias"]
    )
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-5)

    signal = rng.standard_normal((1, 3, 12)).astype(np.float32)
    weight, bias = tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"]
    theirs = torch.nn.functional.conv1d(torch.from_numpy(signal), weight, bias, stride=4)
    patches = signal[0].T.reshape(3, 12)  # time-major: entry t · C + c
    ours = patches @ params["patch_embed"]["kernel"].reshape(12, 8) + params["patch_embed"]["bias"]
    np.testing.assert_allclose(ours, theirs.numpy()[0].T, rtol=1e-5, atol=1e-5)


def test_every_problem_is_named_at_once():
    params = autoencoder_params(np.random.default_rng(2))
    tensors = TABLE.to_torch(params)
    del tensors["cls_token"], tensors["blocks.1.norm1.bias"]
    tensors["stray"] = np.zeros(3)
    tensors["blocks.2.norm1.bias"] = np.zeros(8)
    tensors["decoder_pred.weight"] = np.zeros((12, 5))
    with pytest.raises(WeightMismatch) as caught:
        TABLE.to_dreamjax(tensors, params, "x.pth")
    problem = caught.value
    assert problem.missing == ["cls_token", "blocks.1.norm1.bias"]
    assert problem.extra == ["stray", "blocks.2.norm1.bias"]
    assert problem.misshapen == ["decoder_pred.weight is (12, 5) instead of (12, 6)"]
    for name in ("x.pth", *problem.missing, *problem.extra, *problem.misshapen):
        assert name in str(problem)


def test_an_index_in_torch_names_only_is_stacked():
    table = Table(
        ("down.{i}.res.{j}.conv.weight", "down/{i}/res/conv/kernel", KERNEL),
        ("head.weight", "head", KERNEL),
    )
    rng = np.random.default_rng(3)
    params = {
        "down": {
            str(i): {"res": {"conv": {"kernel": rng.standard_normal((n, 3, 3, 2, 5))}}} for i, n in ((0, 2), (1, 1))
        },
        "head": rng.standard_normal((4, 2)),
    }
    tensors = table.to_torch(params)
    assert {name: t.shape for name, t in tensors.items()} == {
        "down.0.res.0.conv.weight": (5, 2, 3, 3),
        "down.0.res.1.conv.weight": (5, 2, 3, 3),
        "down.1.res.0.conv.weight": (5, 2, 3, 3),
        "head.weight": (2, 4),
    }
    assert_same_tree(table.to_dreamjax(tensors, params), params)


def test_rejects_a_parameter_without_a_row():
    with pytest.raises(WeightMismatch, match="forgotten"):
        Table(("a", "a", IDENTITY)).to_torch({"a": np.zeros(1), "forgotten": np.zeros(1)})


def test_transforms_invert_themselves():
    array = np.arange(2 * 3 * 4 * 5)
    for transform, shape in ((KERNEL, (2, 3, 20)), (KERNEL, (2, 3, 4, 5)), (KERNEL, (6, 20)), (IDENTITY, (120,))):
        x = array.reshape(shape)
        assert transform.to_torch(transform.to_dreamjax(x)).tolist() == x.tolist()
        assert transform.torch_shape(transform.to_dreamjax(x).shape) == x.shape


def test_paths_and_trees_invert_each_other():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert named_leaves(tree) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert nested(named_leaves(tree)) == tree


def test_fixed_positions_are_recognised_and_trained_ones_are_not():
    """Row 1 + t is [sin(t w), cos(t w)], w = 10000^(-i / (D/2)); row 0 belongs to the cls token."""
    fixed = positions(16, 8)
    assert fixed.shape == (1, 17, 8)
    assert not fixed[0, 0].any()
    assert fixed[0, 1].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    np.testing.assert_allclose(fixed[0, 4, 1], np.sin(3 * 10000 ** (-1 / 4)), rtol=1e-6)
    assert is_fixed(fixed)
    trained = fixed.copy()
    trained[0, 5, 2] += 1e-3
    assert not is_fixed(trained)


def test_positions_complete_a_state_dict():
    params = autoencoder_params(np.random.default_rng(4))
    tensors = with_positions(TABLE.to_torch(params), 128)
    assert tensors["pos_embed"].shape == (1, 129, 8)
    assert tensors["decoder_pos_embed"].shape == (1, 129, 6)
