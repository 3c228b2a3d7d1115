"""The U-Net is diffusers' UNet2DConditionModel: outputs, gradients, names; however it is built and run."""

import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dreamjax.errors import UserError
from dreamjax.weights import latent_diffusion as weights
from dreamjax.weights.table import WeightMismatch
from tests import parity
from tests.models import diffusers_models as theirs

SD15 = {"block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768, "attention_head_dim": 8}
SD21 = {
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}


def inputs(model, size, rows=2):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, *size, model.config.in_channels)).astype(np.float32)
    context = rng.standard_normal((rows, 5, model.config.cross_attention_dim)).astype(np.float32)
    return x, np.array([3, 701])[:rows], context


def forward(network, arguments):
    return lambda params, *x: theirs.compiled(lambda p, *x: network.bind(arguments, p)(*x), params, *x)


@pytest.mark.parametrize("name", theirs.UNETS)
def test_output_and_names_are_diffusers(tmp_path, name):
    model, size = theirs.unet(name)
    network, arguments, params = theirs.ours(tmp_path, model)
    x, t, context = inputs(model, size)
    with torch.no_grad():
        theirs.check(
            lambda: forward(network, arguments)(params, x, t, context),
            lambda: theirs.nhwc(model(theirs.nchw(x), torch.tensor(t), torch.tensor(context)).sample),
            model,
            1e-4,
        )
    parity.same_tensors(network.table.to_torch(params), parity.saved(model, tmp_path)[1])


@pytest.mark.parametrize("name", ["deep", pytest.param("odd", marks=pytest.mark.long)])
def test_every_gradient_is_diffusers(tmp_path, name):
    """Of sum(weight · output) with respect to every parameter, to 1e-3 of each tensor's largest entry."""
    model, size = theirs.unet(name)
    network, arguments, params = theirs.ours(tmp_path, model)
    x, t, context = inputs(model, size)
    weight = np.random.default_rng(1).standard_normal((2, *size, 4)).astype(np.float32)
    out = model(theirs.nchw(x), torch.tensor(t), torch.tensor(context)).sample
    (out * theirs.nchw(weight)).sum().backward()
    wanted = {name: p.grad.numpy() for name, p in model.named_parameters()}

    def gradients(params):
        return jax.grad(lambda p: (network.bind(arguments, p)(x, t, context) * weight).sum())(params)

    found = network.table.to_torch(theirs.compiled(gradients, params))
    # a bias before a normalisation has the gradient 0 up to rounding: measured against the largest of all
    largest = max(np.abs(g).max() for g in wanted.values())
    for key, gradient in wanted.items():
        scale = max(np.abs(gradient).max(), 1e-3 * largest)
        assert np.abs(found[key] - gradient).max() <= 1e-3 * scale, key


@pytest.mark.parametrize(
    "options",
    [
        {"scan_layers": False, "remat": "full"},
        pytest.param({"remat": "names", "remat_names": ("qkv",)}, marks=pytest.mark.long),
    ],
    ids=["unrolled", "names"],
)
def test_how_it_runs_changes_nothing(options, tmp_path):
    model, size = theirs.unet("deep")
    network, arguments, params = theirs.ours(tmp_path, model)
    args = inputs(model, size)

    def value(arguments):
        def loss(kernel):  # the first one: its gradient comes through everything
            y = network.bind(arguments, params | {"conv_in": params["conv_in"] | {"kernel": kernel}})(*args)
            return (y**2).sum(), y

        (_, y), gradient = theirs.compiled(jax.value_and_grad(loss, has_aux=True), params["conv_in"]["kernel"])
        return y, gradient

    for ours, expected in zip(value(arguments | options), value(arguments), strict=True):
        assert parity.difference(ours, expected) < 1e-5


def test_bfloat16_is_near_float32(tmp_path):
    model, size = theirs.unet("deep")
    network, arguments, params = theirs.ours(tmp_path, model)
    args = inputs(model, size)
    exact = forward(network, arguments)(params, *args)
    rounded = forward(network, arguments | {"dtype": jnp.bfloat16})(params, *args)
    assert rounded.dtype == jnp.float32
    assert parity.difference(rounded, exact) < 0.05


@pytest.mark.parametrize(
    ("config", "whole", "cross"), [(SD15, 859_520_964, 43_962_560), (SD21, 865_910_724, None)], ids=["sd15", "sd21"]
)
def test_published_sizes(config, whole, cross):
    shapes = weights.UNET.shapes(weights.unet_arguments(config))
    slots = weights.UNET_TABLE.slots(shapes)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == whole
    assert sum(math.prod(place.shape) for place in slots.values()) == whole
    if cross:
        assert sum(math.prod(place.shape) for name, place in slots.items() if ".attn2." in name) == cross


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"block_out_channels": 320}, "block_out_channels is 320"),
        ({"block_out_channels": [320, 500, 1280, 1280]}, "norm_num_groups = 32 does not divide"),
        ({"down_block_types": ["AttnDownBlock2D"] * 4}, "'AttnDownBlock2D', which is not supported"),
        ({"down_block_types": ["DownBlock2D"]}, "one of CrossAttnDownBlock2D, DownBlock2D for each level"),
        ({"attention_head_dim": [8, 8]}, "one for each of 4 levels"),
        ({"attention_head_dim": 7}, "7 heads of 320 channels"),
        ({"cross_attention_dim": "wide"}, "cross_attention_dim is 'wide'"),
        ({"addition_embed_type": "text_time"}, "addition_embed_type is 'text_time', which is not supported"),
        ({"act_fn": "sin"}, "act_fn is 'sin'"),
        ({"norm_num_group": 32}, "did it mean norm_num_groups?"),
        ({"in_channels": -4}, "in_channels is -4"),
        ({"in_channels": 0}, "in_channels is 0, but it must be at least 1"),
        ({"attention_head_dim": 0}, "attention_head_dim is 0"),
        ({"layers_per_block": []}, "one for each of 4 levels"),
        ({"transformer_layers_per_block": 0}, "transformer_layers_per_block is 0"),
        ({"norm_eps": -1e-5}, "norm_eps is -1e-05, but it cannot be negative"),
    ],
    ids=str,
)
def test_reports_a_wrong_field(change, said):
    with pytest.raises(UserError, match=said.replace("?", r"\?")) as problem:
        weights.unet_arguments({**SD15, **change}, "unet/config.json")
    assert str(problem.value).startswith("unet/config.json")


def test_warns_about_an_unknown_field(caplog):
    """As diffusers does; it may come from a later version."""
    with caplog.at_level(logging.WARNING, logger="dreamjax"):
        weights.unet_arguments({**SD15, "_diffusers_version": "0.42.0"}, "unet/config.json")
        assert caplog.text == ""
        weights.unet_arguments({**SD15, "flux_capacitor": 1}, "unet/config.json")
    assert "unet/config.json has a field flux_capacitor, which is unknown and ignored" in caplog.text


def test_every_weight_that_does_not_fit_is_named(tmp_path):
    model, _ = theirs.unet("sd1")
    network, arguments, _ = theirs.ours(tmp_path, model)
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    tensors["conv_in.weight"] = tensors["conv_in.weight"][:, :3]
    tensors["conv_out.wieght"] = tensors.pop("conv_out.weight")
    with pytest.raises(WeightMismatch) as problem:
        network.table.to_dreamjax(tensors, network.shapes(arguments), "unet")
    assert problem.value.missing == ["conv_out.weight"]
    assert problem.value.extra == ["conv_out.wieght"]
    assert problem.value.misshapen == ["conv_in.weight is (32, 3, 3, 3) instead of (32, 4, 3, 3)"]
