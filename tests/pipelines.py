"""A small Stable Diffusion pipeline that diffusers itself writes, with random weights."""

from pathlib import Path
from typing import Any

import diffusers
import jax
import numpy as np
import torch
import transformers

from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.runs.latent_diffusion import LatentDiffusion
from dreamjax.targets import tokens
from dreamjax.weights.pipeline_folder import PipelineFolder
from tests import parity
from tests.models.diffusers_models import coder, levels

PROMPTS = ("a red circle on the left", "a blue star")
SD_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


def pipeline(
    inpaints: bool = False, scheduler: Any = None, widths: tuple[int, ...] = (32, 64), sample_size: int = 8
) -> Any:
    """The pipeline in memory; latents of 8 x 8, images of 16 x 16; only the finest level attends."""
    attends = [i == 0 for i in range(len(widths))]
    sizes = levels(*attends, block_out_channels=widths, cross_attention_dim=32, attention_head_dim=4)
    channels = 9 if inpaints else 4
    unet = diffusers.UNet2DConditionModel(**sizes, sample_size=sample_size, in_channels=channels)
    vae = diffusers.AutoencoderKL(**coder(8, 16, norm_num_groups=4, layers_per_block=1, sample_size=16))
    text = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=600,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=16,
            bos_token_id=598,
            eos_token_id=599,
        )
    )
    for i, network in enumerate((unet, vae, text)):
        parity.randomise(network, seed=i)
    with torch.no_grad():  # latents without a variance: whoever draws them gets the same
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[4:] = -30
    kind = diffusers.StableDiffusionInpaintPipeline if inpaints else diffusers.StableDiffusionPipeline
    return kind(
        vae=vae,
        text_encoder=text,
        tokenizer=None,
        unet=unet,
        scheduler=scheduler or diffusers.PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **SD_SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def write(folder: Path, **kind: Any) -> Path:
    """The pipeline on disk, with a tokenizer of 600 ids and 16 positions."""
    made = pipeline(**kind)
    tokens.train(PROMPTS, 600, length=16).write(folder / "tok")
    made.register_modules(tokenizer=transformers.CLIPTokenizer.from_pretrained(folder / "tok"))
    made.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def ours(folder: Path, devices: int = 1) -> LatentDiffusion:
    """What dreamjax opens of it."""
    return LatentDiffusion.open(PipelineFolder.open(folder), meshes.make(MeshConfig(), jax.devices()[:devices]))


def theirs(folder: Path, kind: Any = diffusers.StableDiffusionPipeline) -> Any:
    """What diffusers opens of it."""
    opened = kind.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    opened.set_progress_bar_config(disable=True)
    return opened


def start(count: int, channels: int = 4, size: int = 8) -> np.ndarray:
    """Noise to start from, as diffusers has it: (n, channels, h, w)."""
    return np.random.default_rng(5).standard_normal((count, channels, size, size)).astype(np.float32)


def images(pipe: Any, **arguments: Any) -> np.ndarray:
    """(n, H, W, 3) in [0, 1]."""
    with torch.no_grad():
        return pipe(output_type="np", **arguments).images


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of images in [0, 1], in dB."""
    return float(-10 * np.log10(np.mean((np.asarray(a, np.float64) - b) ** 2) + 1e-20))
