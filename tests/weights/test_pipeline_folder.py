"""Pipelines as diffusers saves them: which parts they have, and what is told where one is missing or damaged."""

import json

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dreamjax.errors import UserError
from dreamjax.weights.pipeline_folder import PipelineFolder


@pytest.fixture
def save(tmp_path):
    """Write a tiny pipeline of a class."""

    def written(kind=StableDiffusionPipeline, **options):
        torch.manual_seed(0)
        sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "b</w>"]
        (tmp_path / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(words)}))
        (tmp_path / "merges.txt").write_text("#version: 0.2\n")
        pipeline = kind(
            vae=AutoencoderKL(block_out_channels=(8,), layers_per_block=1, norm_num_groups=2, sample_size=8),
            text_encoder=CLIPTextModel(CLIPTextConfig(vocab_size=4, max_position_embeddings=7, **sizes)),
            tokenizer=CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")),
            unet=UNet2DConditionModel(
                block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
                down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), sample_size=8,
            ),
            scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        pipeline.save_pretrained(tmp_path / "pipeline", **options)
        return tmp_path / "pipeline"

    return written


@pytest.mark.parametrize(
    "kind", [StableDiffusionPipeline, StableDiffusionInpaintPipeline, StableDiffusionImg2ImgPipeline]
)
def test_finds_the_components_of_a_pipeline(kind, save):
    folder = save(kind)
    pipeline = PipelineFolder.open(folder)
    assert pipeline.pipeline_class == kind.__name__
    assert pipeline.components == {
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "unet": "UNet2DConditionModel",
        "scheduler": "DDIMScheduler",
    }
    assert pipeline.kept == {}
    assert pipeline.config("unet")["cross_attention_dim"] == 8
    assert pipeline.config("scheduler")["num_train_timesteps"] == 1000
    assert pipeline.config("tokenizer")["bos_token"]
    assert pipeline.path("tokenizer") == folder / "tokenizer"
    for part, name in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        wanted = load_file(folder / part / f"{name}.safetensors")
        found = pipeline.tensors(part)
        assert found.keys() == wanted.keys()
        assert all(np.array_equal(np.asarray(found[name]), wanted[name].numpy()) for name in wanted)


def test_a_variant_is_read_where_a_part_has_it(save, caplog):
    folder = save(variant="fp16")
    (folder / "vae" / "diffusion_pytorch_model.fp16.safetensors").rename(
        folder / "vae" / "diffusion_pytorch_model.safetensors"
    )
    pipeline = PipelineFolder.open(folder, variant="fp16")
    assert pipeline.tensors("unet")
    assert not caplog.text
    assert pipeline.tensors("vae")
    assert "has no weights of the variant fp16; the plain ones are read" in caplog.text


def test_parts_that_are_not_used_are_kept_where_they_are_there(save):
    folder = save()
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "safety_checker").mkdir()
    pipeline = PipelineFolder.open(folder)
    assert pipeline.kept == {"safety_checker": "StableDiffusionSafetyChecker"}
    assert pipeline.path("safety_checker") == folder / "safety_checker"


def test_a_pipeline_in_an_object_store_is_read(save, object_store):
    folder = save()
    for file in folder.rglob("*.*"):
        (object_store / "sd" / str(file.relative_to(folder))).write_bytes(file.read_bytes())
    pipeline = PipelineFolder.open(object_store / "sd")
    assert pipeline.config("vae")["latent_channels"] == 4
    assert np.asarray(pipeline.tensors("vae")["post_quant_conv.bias"]).shape == (4,)


def remove(name):
    def change(folder):
        path = folder / name
        if path.is_dir():
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
        else:
            path.unlink()

    return change


def put(name, text):
    return lambda folder: (folder / name).write_text(text)


def also(part):
    """A part that other pipelines have."""

    def change(folder):
        index = json.loads((folder / "model_index.json").read_text())
        index |= {"_class_name": "StableDiffusionXLPipeline", part: ["transformers", "CLIPTextModelWithProjection"]}
        (folder / "model_index.json").write_text(json.dumps(index))

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (remove("model_index.json"), "is not a pipeline: it has no model_index.json"),
        (put("model_index.json", "{"), "model_index.json: this is not JSON"),
        (put("model_index.json", "[1]"), "model_index.json: this is a JSON list, not an object"),
        (put("model_index.json", "{}"), "model_index.json names no components of a pipeline"),
        (put("model_index.json", '{"_class_name": "X", "../unet": ["a", "b"]}'), "names no components of a pipeline"),
        (also("text_encoder_2"), "StableDiffusionXLPipeline with text_encoder_2, which dreamjax does not have"),
        (remove("scheduler"), "lacks the folders scheduler that its model_index.json names"),
        (remove("unet/config.json"), "unet/config.json: No such file"),
        (put("unet/config.json", "<html>"), "unet/config.json: this is a web page, not JSON"),
        (put("unet/config.json", "\udcff".encode("utf-8", "surrogateescape").decode("latin1")), "this is not JSON"),
        (remove("unet/diffusion_pytorch_model.safetensors"), "unet has no weights"),
    ],
)
def test_reports_missing_and_damaged_files(change, told, save):
    folder = save()
    change(folder)
    with pytest.raises(UserError, match=told) as caught:  # noqa: PT012
        pipeline = PipelineFolder.open(folder)
        pipeline.config("unet")
        pipeline.tensors("unet")
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reports_a_missing_component(save):
    pipeline = PipelineFolder.open(save())
    with pytest.raises(UserError, match=r"StableDiffusionPipeline. has no unett; did you mean unet"):
        pipeline.tensors("unett")
    with pytest.raises(UserError, match="has no image_projector; it has scheduler, text_encoder, tokenizer, unet, vae"):
        pipeline.config("image_projector")
