"""Named sizes of latent diffusion models: the config.json of every component, as diffusers and transformers write it.

    parts = shapes.get("shapes")
    network = networks.of(parts["unet"], "shapes")
    arguments = network.arguments(parts["unet"], "shapes")

`sd15` and `sd21` are the published files of Stable Diffusion (Rombach et al. 2022, arXiv 2112.10752), without fields
that do not change the computation. `shapes` and `tiny` are the same classes with small numbers: images of
32 x 32 pixels → latents of 8 x 8 x 4 for the demo, 16 x 16 → 8 x 8 x 4 for tests.
"""

import copy
import functools

from dreamjax.errors import UserError, nearest
from dreamjax.typing import JsonDict

Configs = dict[str, JsonDict]  # component → its config.json
UNET, VAE, TEXT, VISION, SCHEDULER = "unet", "vae", "text_encoder", "image_encoder", "scheduler"


def get(name: str) -> Configs:
    """Return a copy of the configs of unet, vae, text_encoder, scheduler and, where there is one, image_encoder.

    `image_encoder` is the CLIP vision model that shares its space with the text encoder; brain encoders are aligned
    with it. `vae`'s scaling_factor is 1 where it is measured after training. Raise UserError for an unknown name.
    """
    if name not in ARCHITECTURES:
        guess = nearest(name, list(ARCHITECTURES))
        raise UserError(f"unknown architecture {name!r}; did you mean {guess or ', '.join(ARCHITECTURES)}?")
    return copy.deepcopy(ARCHITECTURES[name])


# -------------------------------------------------------------------------------------------------------- by the field
def _unet(widths: list[int], attends: list[bool], **rest: object) -> JsonDict:
    """Return a U-Net's config. `attends`: whether each level, the finest first, attends to the text."""
    return {
        "_class_name": "UNet2DConditionModel",
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": widths,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "act_fn": "silu",
        "norm_eps": 1e-5,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "center_input_sample": False,
        **rest,
    }


def _vae(widths: list[int], **rest: object) -> JsonDict:
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "act_fn": "silu",
        **rest,
    }


def _encoder(kind: str, width: int, layers: int, heads: int, **rest: object) -> JsonDict:
    """Return the config of CLIP's "text" or "vision" encoder."""
    return {
        "model_type": f"clip_{kind}_model",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        **rest,
    }


def _ends(begin: int, end: int, padding: int) -> JsonDict:
    return {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": padding}


def _small_text(width: int, layers: int, heads: int, positions: int, vocabulary: int) -> JsonDict:
    """Return a text encoder's config with a projection; as in CLIP, the last two tokens begin and end a text."""
    ends = _ends(vocabulary - 2, vocabulary - 1, vocabulary - 1)
    sizes = {"vocab_size": vocabulary, "max_position_embeddings": positions, "projection_dim": width}
    return _encoder("text", width, layers, heads, architectures=["CLIPTextModelWithProjection"], **sizes, **ends)


def _vision(width: int, layers: int, heads: int, image: int, patch: int, projection: int) -> JsonDict:
    sizes = {"num_channels": 3, "image_size": image, "patch_size": patch, "projection_dim": projection}
    return _encoder("vision", width, layers, heads, architectures=["CLIPVisionModelWithProjection"], **sizes)


def _scheduler(kind: str = "PNDMScheduler", **rest: object) -> JsonDict:
    return {
        "_class_name": kind,
        "num_train_timesteps": 1000,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "prediction_type": "epsilon",
        "skip_prk_steps": True,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "clip_sample": False,
        **rest,
    }


# ------------------------------------------------------------------------------------------------------------- by name
_SD: JsonDict = {"layers_per_block": 2, "norm_num_groups": 32}
_SD_TEXT: JsonDict = {"vocab_size": 49408, "max_position_embeddings": 77, "architectures": ["CLIPTextModel"]}
_sd_unet = functools.partial(_unet, [320, 640, 1280, 1280], [True, True, True, False], **_SD)
_sd_vae = functools.partial(_vae, [128, 256, 512, 512], scaling_factor=0.18215, **_SD)
# attention of "shapes" at 4 x 4 only: with attention at 8 x 8 too, at half the width, a step takes 1.5 times as long
_TINY: JsonDict = {"layers_per_block": 1, "norm_num_groups": 4}
_SHAPES: JsonDict = {"layers_per_block": 1, "norm_num_groups": 8}
_small_unet = functools.partial(_unet, attention_head_dim=2, sample_size=8)
_small_vae = functools.partial(_vae, scaling_factor=1.0)

ARCHITECTURES: dict[str, Configs] = {
    "tiny": {
        UNET: _small_unet([8, 16], [True, False], cross_attention_dim=16, **_TINY),
        VAE: _small_vae([8, 8], sample_size=16, **_TINY),
        TEXT: _small_text(16, 1, 2, positions=12, vocabulary=560),
        VISION: _vision(16, 1, 2, image=16, patch=8, projection=16),
        SCHEDULER: _scheduler(),
    },
    "shapes": {
        UNET: _small_unet([32, 64], [False, True], cross_attention_dim=64, **_SHAPES),
        VAE: _small_vae([16, 16, 32], sample_size=32, mid_block_add_attention=False, **_SHAPES),
        TEXT: _small_text(64, 2, 4, positions=16, vocabulary=768),
        VISION: _vision(64, 2, 4, image=32, patch=8, projection=64),
        SCHEDULER: _scheduler(prediction_type="v_prediction"),
    },
    # stable-diffusion-v1-5; its text encoder is that of CLIP ViT-L/14, whose vision half DreamDiffusion aligns with
    "sd15": {
        UNET: _sd_unet(cross_attention_dim=768, attention_head_dim=8, sample_size=64),
        VAE: _sd_vae(sample_size=512),
        TEXT: _encoder("text", 768, 12, 12, projection_dim=768, **_ends(49406, 49407, 49407), **_SD_TEXT),
        VISION: _vision(1024, 24, 16, image=224, patch=14, projection=768),
        SCHEDULER: _scheduler(),
    },
    # stable-diffusion-2-1: v-prediction at 768 pixels; OpenCLIP ViT-H's text model without its last block
    "sd21": {
        UNET: _sd_unet(
            cross_attention_dim=1024,
            attention_head_dim=[5, 10, 20, 20],
            use_linear_projection=True,
            upcast_attention=True,
            sample_size=96,
        ),
        VAE: _sd_vae(sample_size=768),
        TEXT: _encoder("text", 1024, 23, 16, projection_dim=512, hidden_act="gelu", **_ends(0, 2, 1), **_SD_TEXT),
        SCHEDULER: _scheduler("DDIMScheduler", prediction_type="v_prediction"),
    },
}
