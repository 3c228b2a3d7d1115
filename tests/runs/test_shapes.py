"""The published sizes, counted from diffusers 0.42 and transformers 5.23, and that ours open in those libraries."""

import jax
import pytest

from dreamjax.diffusion import pipeline_config
from dreamjax.errors import UserError
from dreamjax.runs import shapes
from dreamjax.weights import networks


def count(config):
    network = networks.of(config, "test")
    return sum(leaf.size for leaf in jax.tree.leaves(network.shapes(network.arguments(config, "test"))))


@pytest.mark.parametrize(
    ("name", "part", "parameters"),
    [
        ("sd15", "unet", 859_520_964),
        ("sd15", "vae", 83_653_863),
        ("sd15", "text_encoder", 123_060_480),
        ("sd15", "image_encoder", 303_966_208),
        ("sd21", "unet", 865_910_724),
        ("sd21", "text_encoder", 340_387_840),
    ],
)
def test_published_parts_have_the_published_sizes(name, part, parameters):
    assert count(shapes.get(name)[part]) == parameters


@pytest.mark.parametrize("name", ["shapes", "tiny"])
def test_small_parts_fit_each_other(name):
    parts = shapes.get(name)
    factor = 2 ** (len(parts["vae"]["block_out_channels"]) - 1)
    assert parts["unet"]["sample_size"] * factor == parts["vae"]["sample_size"] == parts["image_encoder"]["image_size"]
    assert parts["unet"]["in_channels"] == parts["vae"]["latent_channels"]
    assert parts["unet"]["cross_attention_dim"] == parts["text_encoder"]["hidden_size"]
    assert parts["text_encoder"]["projection_dim"] == parts["image_encoder"]["projection_dim"]
    assert parts["text_encoder"]["eos_token_id"] == parts["text_encoder"]["vocab_size"] - 1


@pytest.mark.parametrize("name", ["shapes", "tiny"])
def test_the_libraries_build_the_small_parts_with_as_many_parameters(name):
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    parts = shapes.get(name)
    built = {
        "unet": diffusers.UNet2DConditionModel.from_config(parts["unet"]),
        "vae": diffusers.AutoencoderKL.from_config(parts["vae"]),
        "text_encoder": transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**parts["text_encoder"])),
        "image_encoder": transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(**parts["image_encoder"])
        ),
    }
    for part, model in built.items():
        assert sum(p.numel() for p in model.parameters()) == count(parts[part]), part


@pytest.mark.parametrize("name", list(shapes.ARCHITECTURES))
def test_schedules_are_latent_diffusions(name):
    schedule = pipeline_config.from_json(shapes.get(name)["scheduler"])
    assert (schedule.beta_schedule, schedule.beta_start, schedule.beta_end) == ("scaled_linear", 0.00085, 0.012)
    assert schedule.prediction_type == ("v_prediction" if name in ("sd21", "shapes") else "epsilon")


def test_returns_a_copy_and_rejects_unknown_name():
    shapes.get("tiny")["unet"]["block_out_channels"].append(0)
    assert shapes.get("tiny")["unet"]["block_out_channels"] == [8, 16]
    with pytest.raises(UserError, match="unknown architecture 'shape'; did you mean shapes"):
        shapes.get("shape")
