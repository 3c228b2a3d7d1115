"""DreamDiffusion's generative checkpoint, written from the list in its fact sheet: small, or as large as published.

What it holds are networks of diffusers and transformers; the names of the first two are turned into CompVis's by our
table, which `test_compvis` holds to diffusers' own converter.
"""

import collections
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers

from dreamjax.runs import shapes as architectures
from dreamjax.weights import compvis
from tests import parity
from tests.models.diffusers_models import coder, levels

from .support import Config, foreign_state

BUFFERS = (
    *("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"),
    *("log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"),
    *("posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"),
)
PUBLISHED = {"channels": 128, "patch": 4, "samples": 512, "dim": 1024, "depth": 24, "hidden": 64, "tokens": 77}
SMALL = {"channels": 6, "patch": 4, "samples": 32, "dim": 16, "depth": 2, "hidden": 4, "tokens": 10}


def networks(device: str = "cpu", full: bool = False) -> tuple[Any, Any, Any]:
    """(U-Net, autoencoder, CLIP's vision tower), with random weights or, on `meta`, none."""
    parts = architectures.get("sd15")
    sizes = levels(True, False, block_out_channels=(32, 64), cross_attention_dim=16)
    unet = parts["unet"] if full else {**sizes, "attention_head_dim": 8}
    vae = parts["vae"] if full else coder(32, 64, layers_per_block=1, scaling_factor=0.18215)
    tower = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = transformers.CLIPVisionConfig(
        **(parts["image_encoder"] if full else {**tower, "image_size": 16, "patch_size": 8, "projection_dim": 12})
    )
    with torch.device(device):
        made = (
            diffusers.UNet2DConditionModel.from_config(unet) if full else diffusers.UNet2DConditionModel(**unet),
            diffusers.AutoencoderKL.from_config(vae) if full else diffusers.AutoencoderKL(**vae),
            transformers.CLIPVisionModelWithProjection(vision),
        )
    return made if device == "meta" else tuple(parity.randomise(m, i) for i, m in enumerate(made))


def compvis_state(unet: Any, vae: Any) -> dict[str, Any]:
    """Both under CompVis's names, their prefixes included; the autoencoder's attention is of convolutions there."""
    own = unet.state_dict()
    names = compvis.unet_names(own, unet.config.layers_per_block)
    state = {f"model.diffusion_model.{names[name]}": tensor for name, tensor in own.items()}
    own = vae.state_dict()
    for name, theirs in compvis.vae_names(own, len(vae.config.block_out_channels)).items():
        pointwise = ".attn_1." in theirs and own[name].ndim == 2
        state[f"first_stage_model.{theirs}"] = own[name][:, :, None, None] if pointwise else own[name]
    return state


def maps(sizes: dict[str, int], context: int, time: int, embedding: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what lies between the encoder and Stable Diffusion."""
    patches, half = sizes["samples"] // sizes["patch"], sizes["tokens"] // 2
    layers = {
        "cond_stage_model.channel_mapper.0": (sizes["hidden"], patches, 1),
        "cond_stage_model.channel_mapper.1": (sizes["tokens"], sizes["hidden"], 1),
        "cond_stage_model.dim_mapper": (context, sizes["dim"]),
        "cond_stage_model.mapping.maxpool": (1, patches, 1),
        "cond_stage_model.mapping.fc": (embedding, sizes["dim"]),
        "model.diffusion_model.time_embed_condtion.0": (half, sizes["tokens"], 1),
        "model.diffusion_model.time_embed_condtion.1": (1, half, 1),
        "model.diffusion_model.time_embed_condtion.2": (time, context),
    }
    weights = {f"{name}.weight": shape for name, shape in layers.items()}
    return weights | {f"{name}.bias": shape[:1] for name, shape in layers.items()}


def small(path: Path, *, time: bool = True, **changes: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Write a small checkpoint; (U-Net, autoencoder, its state dict). `changes`: name → tensor, or None to drop it."""
    unet, vae, vision = networks()
    generator = torch.Generator().manual_seed(5)
    state: dict[str, Any] = {name: torch.from_numpy(np.linspace(0.1, 0.2, 1000)).float() for name in BUFFERS}
    state["betas"] = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square().float()
    state |= compvis_state(unet, vae)
    encoder = foreign_state(
        decoder_depth=0, **{name: SMALL[name] for name in ("channels", "patch", "samples", "dim", "depth")}
    )
    encoder["pos_embed"] = encoder["pos_embed"] + 0.05 * torch.randn(encoder["pos_embed"].shape, generator=generator)
    encoder["mask_token"] = torch.zeros(1, 1, SMALL["dim"])
    state |= {f"cond_stage_model.mae.{name}": tensor for name, tensor in encoder.items()}
    for name, shape in maps(SMALL, 16, 128, 12).items():
        if time or "time_embed" not in name:
            state[name] = 0.3 * torch.randn(shape, generator=generator)
    state |= {f"image_embedder.transformer.{name}": tensor for name, tensor in vision.state_dict().items()}
    state |= changes
    state = {name: tensor for name, tensor in state.items() if tensor is not None}
    save(path, state, num_heads=4)
    return unet, vae, state


def save(path: Path, state: dict[str, Any], **settings: Any) -> Path:
    """As stage B saves it: a configuration of a class that nobody else has, and the generator's state, beside it."""
    whole = {"model_state_dict": collections.OrderedDict(state), "config": Config(**settings)}
    torch.save({**whole, "state": torch.get_rng_state()}, path)
    return path


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of the published checkpoint, buffers included."""
    unet, vae, vision = networks("meta", full=True)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(BUFFERS, (1000,))
    shapes |= {name: tuple(tensor.shape) for name, tensor in compvis_state(unet, vae).items()}
    sizes = {name: PUBLISHED[name] for name in ("channels", "patch", "samples", "dim", "depth")}
    with torch.device("meta"):
        encoder = encoder_shapes(**sizes)
    shapes |= {f"cond_stage_model.mae.{name}": shape for name, shape in encoder.items()}
    shapes |= maps(PUBLISHED, 768, 1280, 768)
    own = {name: tuple(parameter.shape) for name, parameter in vision.named_parameters()}
    return shapes | {f"image_embedder.transformer.{name}": shape for name, shape in own.items()}


def encoder_shapes(channels: int, patch: int, samples: int, dim: int, depth: int) -> dict[str, tuple[int, ...]]:
    """An encoder whose hidden layers are as wide as its tokens."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, dim),
        "mask_token": (1, 1, dim),
        "pos_embed": (1, samples // patch + 1, dim),
        "patch_embed.proj.weight": (dim, channels, patch),
        "patch_embed.proj.bias": (dim,),
        "norm.weight": (dim,),
        "norm.bias": (dim,),
    }
    for i in range(depth):
        for norm in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{norm}.weight": (dim,), f"blocks.{i}.{norm}.bias": (dim,)}
        for part, out in (("attn.qkv", 3 * dim), ("attn.proj", dim), ("mlp.fc1", dim), ("mlp.fc2", dim)):
            shapes |= {f"blocks.{i}.{part}.weight": (out, dim), f"blocks.{i}.{part}.bias": (out,)}
    return shapes


def published(path: Path, scratch: Path) -> int:
    """Write a checkpoint as large as the published one; how many numbers it holds.

    Every tensor is the beginning of one file of noise, mapped and never held: it takes time and disk, not memory.
    """
    shapes = published_shapes()
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    noise = np.random.default_rng(0).standard_normal(max(sizes.values()), np.float32)
    (0.02 * noise).tofile(scratch)
    state: dict[str, Any] = {
        name: torch.from_file(str(scratch), shared=False, size=sizes[name]).reshape(shape)
        for name, shape in shapes.items()
    }
    state["betas"] = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square().float()
    save(path, state, num_heads=16)
    return sum(size for name, size in sizes.items() if name not in BUFFERS)
