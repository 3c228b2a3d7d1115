"""CompVis's names beside diffusers': held to diffusers' own converter, at small sizes and the published one."""

import diffusers
import pytest
import torch
from diffusers.loaders import single_file_utils

from dreamjax.errors import UserError
from dreamjax.runs import shapes as architectures
from dreamjax.weights import compvis
from tests.models.diffusers_models import coder, levels

UNETS = {
    "two levels": levels(True, False, block_out_channels=(32, 64), cross_attention_dim=16, attention_head_dim=8),
    "three levels, the coarsest without attention": levels(
        *(True, True, False),
        block_out_channels=(32, 64, 64),
        layers_per_block=2,
        cross_attention_dim=24,
        attention_head_dim=8,
    ),
    "one level": levels(True, block_out_channels=(32,), cross_attention_dim=16, attention_head_dim=8),
    "linear": levels(
        *(False, True),
        block_out_channels=(32, 64),
        cross_attention_dim=16,
        attention_head_dim=8,
        use_linear_projection=True,
        transformer_layers_per_block=2,
    ),
    "published": architectures.get("sd15")["unet"],
}
VAES = {
    "two levels": coder(32, 64, layers_per_block=1),
    "bare": coder(
        *(32, 32, 64),
        layers_per_block=2,
        latent_channels=3,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ),
    "published": architectures.get("sd15")["vae"],
}


def state_of(kind, config):
    """Names and shapes of a network of diffusers; nothing is allocated."""
    with torch.device("meta"):
        return kind.from_config(config).state_dict()


@pytest.mark.parametrize("name", UNETS)
def test_diffusers_itself_finds_its_unet_under_these_names(name):
    config = UNETS[name]
    state = state_of(diffusers.UNet2DConditionModel, config)
    names = compvis.unet_names(state, config["layers_per_block"])
    assert len(set(names.values())) == len(names)
    stored = {f"model.diffusion_model.{names[n]}": tensor for n, tensor in state.items()}
    found = single_file_utils.convert_ldm_unet_checkpoint(stored, config)
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in state.items()}
    assert all(found[n] is stored[f"model.diffusion_model.{names[n]}"] for n in state)


@pytest.mark.parametrize("name", VAES)
def test_diffusers_itself_finds_its_autoencoder_under_these_names(name):
    config = VAES[name]
    state = state_of(diffusers.AutoencoderKL, config)
    names = compvis.vae_names(state, len(config["block_out_channels"]))
    assert len(set(names.values())) == len(names)
    stored = {f"first_stage_model.{names[n]}": tensor for n, tensor in state.items()}
    found = single_file_utils.convert_ldm_vae_checkpoint(stored, config)
    assert found.keys() == state.keys()
    assert all(found[n] is stored[f"first_stage_model.{names[n]}"] for n in state)


@pytest.mark.parametrize("name", UNETS)
def test_infers_the_config_of_a_unet_from_its_tensors(name):
    config = UNETS[name]
    state = state_of(diffusers.UNet2DConditionModel, config)
    names = compvis.unet_names(state, config["layers_per_block"])
    shapes = {names[n]: tuple(tensor.shape) for n, tensor in state.items()}
    told = compvis.unet_config(shapes, "a file", {"attention_head_dim": 8, "act_fn": "silu"})
    again = state_of(diffusers.UNet2DConditionModel, told)
    assert {n: t.shape for n, t in again.items()} == {n: t.shape for n, t in state.items()}


@pytest.mark.parametrize("name", VAES)
def test_infers_the_config_of_an_autoencoder_from_its_tensors(name):
    config = VAES[name]
    state = state_of(diffusers.AutoencoderKL, config)
    names = compvis.vae_names(state, len(config["block_out_channels"]))
    told = compvis.vae_config({names[n]: tuple(t.shape) for n, t in state.items()}, "a file", {})
    again = state_of(diffusers.AutoencoderKL, told)
    assert {n: t.shape for n, t in again.items()} == {n: t.shape for n, t in state.items()}


def test_reports_tensors_of_another_network():
    with pytest.raises(UserError, match="a file: there are no blocks of a U-Net"):
        compvis.unet_config({"out.2.weight": (4, 32, 3, 3)}, "a file", {})
    with pytest.raises(UserError, match=r"a file: input_blocks\.0\.0\.weight is missing"):
        compvis.unet_config({"input_blocks.1.0.in_layers.0.weight": (32,)}, "a file", {})
    with pytest.raises(UserError, match="a file: there are no blocks of an autoencoder"):
        compvis.vae_config({"quant_conv.weight": (8, 8, 1, 1)}, "a file", {})
    with pytest.raises(UserError, match="not numbered consecutively"):
        compvis.vae_config({"encoder.down.7.block.0.conv1.weight": (8, 8, 1, 1)}, "a file", {})
