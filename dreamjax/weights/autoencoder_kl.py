"""Config and name table of the autoencoder of latent diffusion: diffusers' AutoencoderKL."""

from dreamjax.errors import UserError
from dreamjax.models.autoencoder_kl import AutoencoderKL
from dreamjax.models.layers import ACTIVATIONS
from dreamjax.weights import config_json
from dreamjax.weights.config_json import ANY, Arguments, Config
from dreamjax.weights.networks import Network
from dreamjax.weights.table import IDENTITY, KERNEL, NameRows, Table, layer, norm

DEFAULTS: Config = {
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


def arguments(config: Config, source: str = "config.json") -> Arguments:
    """Return the arguments of `AutoencoderKL` of a config.json. Raise UserError for a config that is not supported."""
    of_the_pipeline = dict.fromkeys(OF_THE_PIPELINE, ANY)
    c = config_json.read(config, source, defaults=DEFAULTS, fixed=of_the_pipeline, complete=True)
    widths = config_json.widths(c["block_out_channels"], c["norm_num_groups"], source)
    for name, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if c[name] != (kind,) * len(widths):
            raise UserError(f"{source}: {name} is {c[name]!r}, but only {kind} is supported, once for each level")
    if c["act_fn"] not in ACTIVATIONS:
        raise UserError(f"{source}: act_fn is {c['act_fn']!r}; it must be one of {', '.join(ACTIVATIONS)}")
    return {
        "in_channels": c["in_channels"],
        "out_channels": c["out_channels"],
        "latent_channels": c["latent_channels"],
        "widths": widths,
        "layers": c["layers_per_block"],
        "groups": c["norm_num_groups"],
        "activation": c["act_fn"],
        "quant_conv": c["use_quant_conv"],
        "post_quant_conv": c["use_post_quant_conv"],
        "mid_attention": c["mid_block_add_attention"],
    }


def _resnets(torch: str, path: str) -> NameRows:
    rows = [*norm(f"{torch}.norm1", f"{path}/norm1"), *layer(f"{torch}.conv1", f"{path}/conv1")]
    rows += [*norm(f"{torch}.norm2", f"{path}/norm2"), *layer(f"{torch}.conv2", f"{path}/conv2")]
    return (*rows, *layer(f"{torch}.conv_shortcut", f"{path}/conv_shortcut"))


def _coder(coder: str, blocks: str, resample: str) -> NameRows:
    attention, ours = f"{coder}.mid_block.attentions.0", f"{coder}/mid_block/attention"
    rows = [*layer(f"{coder}.conv_in", f"{coder}/conv_in")]
    rows += _resnets(f"{coder}.{blocks}.{{i}}.resnets.{{j}}", f"{coder}/blocks/{{i}}/resnets/{{j}}")
    rows += layer(f"{coder}.{blocks}.{{i}}.{resample}.0.conv", f"{coder}/blocks/{{i}}/resample/conv")
    rows += _resnets(f"{coder}.mid_block.resnets.{{j}}", f"{coder}/mid_block/resnets/{{j}}")
    rows += norm(f"{attention}.group_norm", f"{ours}/norm")
    for i, name in enumerate("qkv"):
        rows.append((f"{attention}.to_{name}.weight", f"{ours}/attn/qkv/kernel", KERNEL, (i, 3)))
        rows.append((f"{attention}.to_{name}.bias", f"{ours}/attn/qkv/bias", IDENTITY, (i, 3)))
    rows += layer(f"{attention}.to_out.0", f"{ours}/attn/proj")
    return (
        *rows,
        *norm(f"{coder}.conv_norm_out", f"{coder}/conv_norm_out"),
        *layer(f"{coder}.conv_out", f"{coder}/conv_out"),
    )


TABLE = Table(
    *_coder("encoder", "down_blocks", "downsamplers"),
    *_coder("decoder", "up_blocks", "upsamplers"),
    *layer("quant_conv", "quant_conv"),
    *layer("post_quant_conv", "post_quant_conv"),
    aliases=(  # before diffusers 0.12
        (r"(mid_block\.attentions\.0)\.query\.", r"\1.to_q."),
        (r"(mid_block\.attentions\.0)\.key\.", r"\1.to_k."),
        (r"(mid_block\.attentions\.0)\.value\.", r"\1.to_v."),
        (r"(mid_block\.attentions\.0)\.proj_attn\.", r"\1.to_out.0."),
    ),
)
NETWORK = Network(AutoencoderKL, arguments, TABLE)
