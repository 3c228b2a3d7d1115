"""The autoencoder is diffusers' AutoencoderKL: moments, images, names."""

import jax
import numpy as np
import pytest
import torch

from dreamjax.errors import UserError
from dreamjax.models.autoencoder_kl import sample
from dreamjax.weights import latent_diffusion as weights
from tests import parity
from tests.models import diffusers_models as theirs

SD = {
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}


def images(size):
    return np.random.default_rng(0).uniform(-1, 1, (2, *size, 3)).astype(np.float32)


@pytest.mark.parametrize("name", theirs.AUTOENCODERS)
def test_moments_images_and_names_are_diffusers(tmp_path, name):
    model, size = theirs.autoencoder(name)
    network, arguments, params = theirs.ours(tmp_path, model)
    ours, x = network.bind(arguments, params), images(size)
    with torch.no_grad():
        posterior = model.encode(theirs.nchw(x)).latent_dist
        mean = theirs.nhwc(posterior.mean)
        theirs.check(lambda: theirs.compiled(ours.moments, x)[0], lambda: theirs.nhwc(posterior.mean), model, 1e-4)
        theirs.check(lambda: theirs.compiled(ours.moments, x)[1], lambda: theirs.nhwc(posterior.logvar), model, 1e-4)
        theirs.check(
            lambda: theirs.compiled(ours.decode, mean),
            lambda: theirs.nhwc(model.decode(posterior.mean).sample),
            model,
            1e-4,
        )
        noise = np.random.default_rng(1).standard_normal(mean.shape).astype(np.float32)
        drawn = theirs.nhwc(posterior.mean + posterior.std * theirs.nchw(noise))
    assert parity.difference(sample(*theirs.compiled(ours.moments, x), noise), drawn) < 1e-5
    parity.same_tensors(network.table.to_torch(params), parity.saved(model, tmp_path)[1])


def test_weights_from_before_attention_was_renamed_are_read(tmp_path):
    model, _ = theirs.autoencoder("sd")
    network, arguments, params = theirs.ours(tmp_path, model)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in parity.saved(model, tmp_path)[1].items():
        for new, before in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{before}.")
        renamed[name] = tensor
    read = network.table.to_dreamjax(renamed, network.shapes(arguments))
    jax.tree.map(np.testing.assert_array_equal, read, params)


def test_published_size():
    assert sum(leaf.size for leaf in jax.tree.leaves(weights.VAE.shapes(weights.vae_arguments(SD)))) == 83_653_863


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 4}, "DownEncoderBlock2D is supported"),
        ({"norm_num_groups": 0}, "norm_num_groups is 0, but it must be at least 1"),
        ({"layers_per_block": "two"}, "layers_per_block is 'two', but it must be a whole number"),
    ],
    ids=str,
)
def test_reports_a_wrong_field(change, said):
    with pytest.raises(UserError, match=said):
        weights.vae_arguments({**SD, **change}, "vae/config.json")
