"""Configs and name tables of latent diffusion: diffusers' UNet2DConditionModel and AutoencoderKL."""

from collections.abc import Mapping

from dreamjax.errors import UserError
from dreamjax.models.autoencoder_kl import AutoencoderKL
from dreamjax.models.unet import UNet
from dreamjax.weights import config_json
from dreamjax.weights.config_json import ANY, Arguments, Config, per_level
from dreamjax.weights.networks import Network
from dreamjax.weights.table import NameRows, Table, fused, layer, layers

DOWN = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
UP = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}
UNET_DEFAULTS: Config = {
    "in_channels": 4,
    "out_channels": 4,
    "flip_sin_to_cos": True,
    "freq_shift": 0.0,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": None,
    "downsample_padding": 1,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "cross_attention_dim": 1280,
    "transformer_layers_per_block": None,
    "attention_head_dim": None,
    "use_linear_projection": False,
}
UNET_FIXED = {
    **dict.fromkeys(("center_input_sample", "only_cross_attention", "dual_cross_attention"), (False,)),
    **dict.fromkeys(("resnet_skip_time_act", "class_embeddings_concat"), (False,)),
    **dict.fromkeys(("mid_block_scale_factor", "resnet_out_scale_factor"), (1,)),
    **dict.fromkeys(("conv_in_kernel", "conv_out_kernel"), (3,)),
    **dict.fromkeys(
        (
            *("encoder_hid_dim", "encoder_hid_dim_type", "num_attention_heads", "class_embed_type"),
            *("addition_embed_type", "addition_time_embed_dim", "num_class_embeds", "time_embedding_dim"),
            *("time_embedding_act_fn", "timestep_post_act", "time_cond_proj_dim", "cross_attention_norm"),
            *("projection_class_embeddings_input_dim", "reverse_transformer_layers_per_block"),
        ),
        (None,),
    ),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "resnet_time_scale_shift": ("default",),
    "time_embedding_type": ("positional",),
    "attention_type": ("default",),
    "dropout": (0,),
    "sample_size": ANY,  # what a pipeline makes by default
    "upcast_attention": ANY,  # logits are float32 anyway
    "addition_embed_type_num_heads": ANY,
}
VAE_DEFAULTS: Config = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (64,),
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
}
OF_THE_PIPELINE = ("scaling_factor", "shift_factor", "latents_mean", "latents_std", "sample_size", "force_upcast")
RENAMED = {  # field → argument
    **{"block_out_channels": "widths", "layers_per_block": "layers", "norm_num_groups": "groups"},
    **{"act_fn": "activation", "norm_eps": "epsilon", "attention_head_dim": "heads", "down_block_types": "attends"},
    **{"up_block_types": "up_attends", "cross_attention_dim": "context_dim", "transformer_layers_per_block": "depths"},
    **{"use_linear_projection": "linear_projection", "mid_block_add_attention": "mid_attention"},
    **{"use_quant_conv": "quant_conv", "use_post_quant_conv": "post_quant_conv"},
}


def unet_arguments(config: Config, source: str = "config.json") -> Arguments:
    """Return the arguments of `UNet` of a config.json. Raise UserError for a config that is not supported."""
    c = config_json.read(config, source, defaults=UNET_DEFAULTS, fixed=UNET_FIXED, complete=True)
    widths = config_json.widths(c["block_out_channels"], c["norm_num_groups"], source)
    levels = len(widths)
    attends, up_attends = (
        _kinds(c[name], known, levels, name, source)
        for name, known in (("down_block_types", DOWN), ("up_block_types", UP))
    )
    heads = per_level(c["attention_head_dim"], levels, "attention_head_dim", source, otherwise=8)
    for width, count, attending in zip(widths, heads, attends, strict=True):
        if attending and width % count:
            raise UserError(
                f"{source}: attention_head_dim makes {count} heads of {width} channels, which do not divide"
            )
    config_json.check_activation(c["act_fn"], "act_fn", source)
    c |= {"down_block_types": attends, "up_block_types": up_attends, "attention_head_dim": heads}
    for name, otherwise in (("layers_per_block", 2), ("transformer_layers_per_block", 1)):
        c[name] = per_level(c[name], levels, name, source, otherwise)
    return {RENAMED.get(name, name): value for name, value in c.items()}


def _kinds(types: object, known: Mapping[str, bool], levels: int, name: str, source: str) -> tuple[bool, ...]:
    """Return whether each level attends."""
    if not isinstance(types, tuple) or len(types) != levels:
        raise UserError(f"{source}: {name} is {types!r}, but it must have one of {', '.join(known)} for each level")
    if unknown := [kind for kind in types if kind not in known]:
        raise UserError(f"{source}: {name} has {unknown[0]!r}, which is not supported; it takes {', '.join(known)}")
    return tuple(known[kind] for kind in types)


def vae_arguments(config: Config, source: str = "config.json") -> Arguments:
    """Return the arguments of `AutoencoderKL` of a config.json. Raise UserError for a config that is not supported."""
    of_the_pipeline = dict.fromkeys(OF_THE_PIPELINE, ANY)
    c = config_json.read(config, source, defaults=VAE_DEFAULTS, fixed=of_the_pipeline, complete=True)
    widths = config_json.widths(c["block_out_channels"], c["norm_num_groups"], source)
    for name, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if (kinds := c.pop(name)) != (kind,) * len(widths):
            raise UserError(f"{source}: {name} is {kinds!r}, but only {kind} is supported, once for each level")
    config_json.check_activation(c["act_fn"], "act_fn", source)
    return {RENAMED.get(name, name): value for name, value in c.items()}


# ------------------------------------------------------------------------------------------------------- name tables
def _resnet(torch: str, path: str) -> NameRows:
    return layers(torch, path, "norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut")


def _level(torch: str, path: str) -> NameRows:
    """Return the rows of a level of the U-Net: residual blocks and transformers."""
    torch_transformer, transformer = f"{torch}.attentions.{{j}}", f"{path}/attentions/{{j}}"
    block, ours = f"{torch_transformer}.transformer_blocks.{{k}}", f"{transformer}/blocks"
    return (
        *_resnet(f"{torch}.resnets.{{j}}", f"{path}/resnets/{{j}}"),
        *layers(torch_transformer, transformer, "norm", "proj_in"),
        *fused([f"{block}.attn1.to_{name}" for name in "qkv"], f"{ours}/attn1/qkv"),
        *layers(block, ours, ("attn1.to_out.0", "attn1.proj"), ("attn2.to_q", "attn2.q")),
        *fused([f"{block}.attn2.to_{name}" for name in "kv"], f"{ours}/attn2/kv"),
        *layers(block, ours, ("attn2.to_out.0", "attn2.proj"), "norm1", "norm2", "norm3"),
        *layers(block, ours, ("ff.net.0.proj", "ff.fc1"), ("ff.net.2", "ff.fc2")),
        *layer(f"{torch_transformer}.proj_out", f"{transformer}/proj_out"),
    )


def _coder(coder: str, blocks: str, resample: str) -> NameRows:
    """Return the rows of the encoder or decoder of the autoencoder."""
    attention, ours = f"{coder}.mid_block.attentions.0", f"{coder}/mid_block/attention"
    return (
        *layer(f"{coder}.conv_in", f"{coder}/conv_in"),
        *_resnet(f"{coder}.{blocks}.{{i}}.resnets.{{j}}", f"{coder}/blocks/{{i}}/resnets/{{j}}"),
        *layer(f"{coder}.{blocks}.{{i}}.{resample}.0.conv", f"{coder}/blocks/{{i}}/resample/conv"),
        *_resnet(f"{coder}.mid_block.resnets.{{j}}", f"{coder}/mid_block/resnets/{{j}}"),
        *layer(f"{attention}.group_norm", f"{ours}/norm"),
        *fused([f"{attention}.to_{name}" for name in "qkv"], f"{ours}/attn/qkv"),
        *layer(f"{attention}.to_out.0", f"{ours}/attn/proj"),
        *layers(coder, coder, "conv_norm_out", "conv_out"),
    )


UNET_TABLE = Table(
    *layers("", "", "conv_in", "time_embedding.linear_1", "time_embedding.linear_2"),
    *_level("down_blocks.{i}", "down_blocks/{i}"),
    *layer("down_blocks.{i}.downsamplers.0.conv", "down_blocks/{i}/downsample/conv"),
    *_level("mid_block", "mid_block"),
    *_level("up_blocks.{i}", "up_blocks/{i}"),
    *layer("up_blocks.{i}.upsamplers.0.conv", "up_blocks/{i}/upsample/conv"),
    *layers("", "", "conv_norm_out", "conv_out"),
)
VAE_TABLE = Table(
    *_coder("encoder", "down_blocks", "downsamplers"),
    *_coder("decoder", "up_blocks", "upsamplers"),
    *layers("", "", "quant_conv", "post_quant_conv"),
    aliases=tuple(  # before diffusers 0.12
        (rf"(mid_block\.attentions\.0)\.{old}\.", rf"\1.{new}.")
        for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0"))
    ),
)
UNET = Network(UNet, unet_arguments, UNET_TABLE)
VAE = Network(AutoencoderKL, vae_arguments, VAE_TABLE)
