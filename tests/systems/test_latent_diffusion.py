"""Text to image, image to image and inpainting are diffusers'; an image does not depend on its batch."""

import dataclasses
import json
import pickle
import shutil

import diffusers
import jax
import numpy as np
import pytest
import torch
from PIL import Image

from dreamjax.errors import UserError
from dreamjax.generation import from_prompts
from dreamjax.generation.from_prompts import TextRequest
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.runs.components import Components
from dreamjax.runs.latent_diffusion import LatentDiffusion
from tests import pipelines
from tests.pipelines import PROMPTS, psnr

SIZE = {"height": 16, "width": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pipelines.write(tmp_path_factory.mktemp("pipeline"), widths=(32,))


@pytest.fixture(scope="module")
def model(folder):
    return pipelines.ours(folder)


def made(model, request):
    return np.stack(list(from_prompts.images(model, request))) / 255.0


@pytest.fixture
def latents(tmp_path):
    np.save(tmp_path / "start.npy", pipelines.start(2))
    return str(tmp_path / "start.npy")


def test_the_same_noise_makes_the_same_images(folder, model, latents):
    """PLMS with guidance, as the folder's own scheduler says."""
    theirs = pipelines.images(
        pipelines.theirs(folder),
        prompt=list(PROMPTS),
        negative_prompt=["on the", "on the"],
        num_inference_steps=7,
        guidance_scale=5.0,
        latents=torch.from_numpy(pipelines.start(2)),
        **SIZE,
    )
    request = TextRequest(prompts=PROMPTS, negative="on the", steps=7, guidance=5.0, latents=latents, **SIZE)
    assert psnr(made(model, request), theirs) > 50


def test_velocity_prediction_with_rescaled_guidance(tmp_path, latents):
    """Stable Diffusion 2's way, sampled by DDIM."""
    scheduler = diffusers.DDIMScheduler(
        prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, **pipelines.SD_SCHEDULE
    )
    folder = pipelines.write(tmp_path, scheduler=scheduler, widths=(32,))
    theirs = pipelines.images(
        pipelines.theirs(folder),
        prompt=list(PROMPTS),
        num_inference_steps=5,
        guidance_scale=7.5,
        guidance_rescale=0.7,
        latents=torch.from_numpy(pipelines.start(2)),
        **SIZE,
    )
    request = TextRequest(prompts=PROMPTS, steps=5, rescale=0.7, latents=latents, **SIZE)
    assert psnr(made(pipelines.ours(folder), request), theirs) > 50


@pytest.fixture
def image(tmp_path):
    """(path of an image, path of a mask over its right half)."""
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(0, 255, (4, 4, 3), np.uint8), np.ones((4, 4, 1), np.uint8))
    mask = np.zeros((16, 16, 3), np.uint8)
    mask[:, 8:] = 255
    Image.fromarray(smooth).save(tmp_path / "image.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return str(tmp_path / "image.png"), str(tmp_path / "mask.png")


def edited(monkeypatch, folder, kind, module, **arguments):
    """What diffusers makes, started from our noise."""
    start = torch.from_numpy(pipelines.start(2))
    monkeypatch.setattr(module, "randn_tensor", lambda shape, **_: start[: shape[0]].expand(shape))
    opened = [Image.open(arguments.pop(name)) for name in ("image", "mask_image") if name in arguments]
    given = dict(zip(("image", "mask_image"), opened, strict=False))
    pipe = pipelines.theirs(folder, kind)
    return pipelines.images(pipe, prompt=list(PROMPTS), guidance_scale=5.0, **given, **arguments)


def test_changing_a_image(folder, model, image, latents, monkeypatch):
    from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_img2img as module

    kind = diffusers.StableDiffusionImg2ImgPipeline
    expected = edited(monkeypatch, folder, kind, module, image=image[0], num_inference_steps=6, strength=0.5)
    request = TextRequest(
        prompts=PROMPTS, steps=6, strength=0.5, guidance=5.0, init_image=image[0], latents=latents, **SIZE
    )
    assert psnr(made(model, request), expected) > 50


@pytest.mark.parametrize("channels", [4, 9])
def test_inpainting(folder, model, tmp_path, image, latents, monkeypatch, channels):
    """By blending with a U-Net of four channels, by further channels with one of nine."""
    from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_inpaint as module

    if channels == 9:
        folder = pipelines.write(tmp_path, inpaints=True, widths=(32,))
        model = pipelines.ours(folder)
    image, mask = image
    asked = {"num_inference_steps": 4, "strength": 1.0, **SIZE}
    kind = diffusers.StableDiffusionInpaintPipeline
    expected = edited(monkeypatch, folder, kind, module, image=image, mask_image=mask, **asked)
    request = TextRequest(
        prompts=PROMPTS, steps=4, guidance=5.0, init_image=image, mask_image=mask, latents=latents, **SIZE
    )
    assert psnr(made(model, request), expected) > 50


def test_a_image_does_not_depend_on_its_batch(folder, model):
    """At least 50 dB alike: nine at once and three at a time on one device, and on two."""
    request = {"prompts": tuple("abcdefghi"), "steps": 2, "sampler": "ddim", "guidance": 1.0, **SIZE}
    together = made(model, TextRequest(batch=9, **request))
    assert together.std() > 0.1
    assert psnr(together, made(model, TextRequest(batch=3, **request))) > 50
    assert psnr(together, made(pipelines.ours(folder, devices=2), TextRequest(batch=4, **request))) > 50


def test_changed_sampler_setting_does_not_recompile(model):
    request = {"prompts": PROMPTS, "steps": 2, "sampler": "ddim", **SIZE}
    made(model, TextRequest(**request))
    before = model.program._cache_size()
    made(model, TextRequest(seed=7, guidance=3.0, **request))
    made(model, TextRequest(eta=0.0, negative="b", **request))
    assert model.program._cache_size() == before


# ----------------------------------------------------------------------------------------------------------- bad input
def refused(model, **request):
    with pytest.raises(UserError) as problem:
        list(from_prompts.images(model, TextRequest(**{"prompts": PROMPTS, "steps": 2, **SIZE, **request})))
    assert "\n" not in str(problem.value)
    return str(problem.value)


def test_a_mask_of_another_size_is_refused(model, image, tmp_path):
    Image.fromarray(np.zeros((8, 16, 3), np.uint8)).save(tmp_path / "small.png")
    said = refused(model, init_image=image[0], mask_image=str(tmp_path / "small.png"))
    assert "the mask has 8 x 16 pixels and its image 16 x 16" in said


@pytest.mark.parametrize("shape", [(2, 4, 8, 9), (3, 4, 8, 8), (4, 8, 8)])
def test_latents_of_another_shape_are_refused(model, tmp_path, shape):
    np.save(tmp_path / "x.npy", np.zeros(shape, np.float32))
    assert str(tmp_path / "x.npy") in refused(model, latents=str(tmp_path / "x.npy"))


def test_rejects_initial_image_that_is_not_an_array(model, tmp_path):
    (tmp_path / "x.npy").write_bytes(pickle.dumps({"latents": [0.0]}))
    assert "x.npy: it does not hold an array" in refused(model, latents=str(tmp_path / "x.npy"))
    np.save(tmp_path / "three.npy", np.zeros((3, 4, 8, 8), np.float32))
    assert "it holds the noise of 3 images, and 2 are requested" in refused(model, latents=str(tmp_path / "three.npy"))


@pytest.mark.parametrize(("sample_size", "pixels"), [(None, [128, 128]), (12, [24, 24]), ([8, 12], [16, 24])])
def test_the_usual_size_is_the_unets(folder, tmp_path, sample_size, pixels):
    """One number, two (height and width, as diffusers takes them), or 64."""
    copy = configured(folder, tmp_path, "unet", {"sample_size": sample_size})
    model = from_prompts.open_model(copy, "float32")
    assert [side * model.factor for side in model.latent_size(None, None)] == pixels


def test_reports_other_wrong_arguments(model):
    assert "multiples of 2" in refused(model, height=15)
    assert "unknown sampler eulr; did you mean euler?" in refused(model, sampler="eulr")
    assert "a side has at most 16384 pixels" in refused(model, height=4_000_000)
    assert "steps is 1001" in refused(model, steps=1001)
    for wrong, said in (
        ({"prompts": ()}, "there is no prompt"),
        ({"mask_image": "m.png"}, "--init-image"),
        ({"strength": 0.5}, "--init-image"),
        ({"guidance": -1.0}, "must be 0 or more"),
        ({"init_image": "nowhere.png"}, "nowhere.png: no such file"),
        ({"latents": "nowhere.npy"}, "nowhere.npy: no such file"),
        ({"sampler": "plms", "eta": 0.5}, "plms has no option eta; ddim has it"),
        ({"prompts": (b"caf\xe9".decode("utf-8", "surrogateescape"),)}, "is not text: write it in UTF-8"),
    ):
        with pytest.raises(UserError, match=said):
            TextRequest(**{"prompts": PROMPTS, **wrong})


def test_a_model_of_parts_has_the_scheduler_of_its_architecture(folder):
    """As a run has that began from nothing: no folder says what its scheduler is."""
    named = ("unet", "vae", "text_encoder", "tokenizer")
    parts = Components.of("", architecture="sd21", parts={name: str(folder / name) for name in named})
    model = LatentDiffusion.open(parts, meshes.make(MeshConfig(), jax.devices()[:1]))
    assert model.schedule.sampler == "ddim"
    assert model.schedule.prediction_type == "v_prediction"


def test_a_unet_of_thirteen_channels_is_refused(folder, tmp_path):
    copy = configured(folder, tmp_path, "unet", {"in_channels": 13})
    with pytest.raises(UserError, match="a U-Net of 13 channels does not fit latents of 4"):
        from_prompts.open_model(copy, "float32")


def configured(folder, tmp_path, part, change):
    """A copy of the pipeline with other values in the config of a part."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = json.loads((copy / part / "config.json").read_text())
    (copy / part / "config.json").write_text(json.dumps(config | change))
    return copy


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("unet", {"sample_size": 0}, "sample_size is 0, but it must be one whole number, or two"),
        ("unet", {"sample_size": ["8", 8]}, "but it must be one whole number, or two"),
        ("vae", {"scaling_factor": 0}, "scaling_factor is 0, but it must be a positive number"),
        ("vae", {"scaling_factor": "a"}, "scaling_factor is 'a', but it must be a positive number"),
        ("vae", None, "the vae of a pipeline must be of class AutoencoderKL"),
        ("text_encoder", None, "the text_encoder of a pipeline must be of class CLIPTextModel"),
    ],
)
def test_rejects_wrong_or_unknown_component(folder, tmp_path, part, change, said):
    """`change` None: the part's folder holds the other one."""
    copy = configured(folder, tmp_path, part, change or {})
    if change is None:
        shutil.rmtree(copy / part)
        shutil.copytree(folder / {"vae": "text_encoder", "text_encoder": "vae"}[part], copy / part)
    with pytest.raises(UserError) as problem:
        from_prompts.open_model(copy, "float32")
    assert said in str(problem.value)
    assert str(copy / part) in str(problem.value)


def test_numbers_that_are_none_make_no_images(folder, model, tmp_path):
    """Neither from latents of NaN nor from a weight of NaN does a black image come with exit code 0."""
    np.save(tmp_path / "x.npy", np.full((1, 4, 8, 8), np.nan, np.float32))
    assert "NaN or infinite" in refused(model, latents=str(tmp_path / "x.npy"))
    params = jax.tree.map(lambda x: x * np.nan, model.unet.params)
    broken = dataclasses.replace(model, unet=dataclasses.replace(model.unet, params=params))
    with pytest.raises(UserError, match="came out as NaN"):
        from_prompts.generate(broken, TextRequest(prompts=PROMPTS, steps=1), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="--attention is cudnn, which needs an NVIDIA GPU"):
        from_prompts.open_model(folder, "bfloat16", attention="cudnn")


def test_long_prompts_are_cut_with_a_warning(model, caplog):
    import logging

    with caplog.at_level(logging.WARNING, logger="dreamjax"):
        states = model.context(["a red circle on the left " * 10])
    assert states.shape == (1, 16, 32)
    assert "lost" in caplog.text


def test_the_command_writes_images_a_grid_and_what_they_were_made_from(folder, tmp_path, capsys):
    from dreamjax.cli import main

    out = tmp_path / "out"
    words = ["generate", "--model", str(folder), "--prompt", *PROMPTS, "--steps", "2", "--sampler", "ddim"]
    assert main.main([*words, "--height", "16", "--width", "16", "--out", str(out), "--json"]) == 0
    assert sorted(entry.name for entry in out.iterdir()) == ["00000.png", "00001.png", "grid.png", "images.jsonl"]
    assert [json.loads(line)["prompt"] for line in (out / "images.jsonl").read_text().splitlines()] == list(PROMPTS)
    assert main.main([*words, "--out", str(out)]) == 2
    assert main.main([*words[:1], "--model", str(tmp_path / "nowhere"), *words[3:], "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err.splitlines()[-1]  # said before any weight is read
