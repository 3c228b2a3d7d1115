"""Config and name table of the U-Net: diffusers' UNet2DConditionModel."""

from collections.abc import Mapping

from dreamjax.errors import UserError
from dreamjax.models.layers import ACTIVATIONS
from dreamjax.models.unet import UNet
from dreamjax.weights import config_json
from dreamjax.weights.config_json import ANY, Arguments, Config, per_level
from dreamjax.weights.networks import Network
from dreamjax.weights.table import KERNEL, NameRows, Table, layer, norm

DOWN = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
UP = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}
DEFAULTS: Config = {
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
FIXED = {
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


def arguments(config: Config, source: str = "config.json") -> Arguments:
    """Return the arguments of `UNet` of a config.json. Raise UserError for a config that is not supported."""
    c = config_json.read(config, source, defaults=DEFAULTS, fixed=FIXED, complete=True)
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
    if c["act_fn"] not in ACTIVATIONS:
        raise UserError(f"{source}: act_fn is {c['act_fn']!r}; it must be one of {', '.join(ACTIVATIONS)}")
    return {
        "in_channels": c["in_channels"],
        "out_channels": c["out_channels"],
        "widths": widths,
        "layers": per_level(c["layers_per_block"], levels, "layers_per_block", source, otherwise=2),
        "heads": heads,
        "depths": per_level(c["transformer_layers_per_block"], levels, "transformer_layers_per_block", source),
        "attends": attends,
        "up_attends": up_attends,
        "context_dim": c["cross_attention_dim"],
        "linear_projection": c["use_linear_projection"],
        "groups": c["norm_num_groups"],
        "epsilon": c["norm_eps"],
        "activation": c["act_fn"],
        "flip_sin_to_cos": c["flip_sin_to_cos"],
        "freq_shift": c["freq_shift"],
        "downsample_padding": c["downsample_padding"],
    }


def _kinds(types: object, known: Mapping[str, bool], levels: int, name: str, source: str) -> tuple[bool, ...]:
    """Return whether each level attends."""
    if not isinstance(types, tuple) or len(types) != levels:
        raise UserError(f"{source}: {name} is {types!r}, but it must have one of {', '.join(known)} for each level")
    if unknown := [kind for kind in types if kind not in known]:
        raise UserError(f"{source}: {name} has {unknown[0]!r}, which is not supported; it takes {', '.join(known)}")
    return tuple(known[kind] for kind in types)


def _resnet(torch: str, path: str) -> NameRows:
    parts = [*norm(f"{torch}.norm1", f"{path}/norm1"), *layer(f"{torch}.conv1", f"{path}/conv1")]
    parts += layer(f"{torch}.time_emb_proj", f"{path}/time_emb_proj")
    parts += [*norm(f"{torch}.norm2", f"{path}/norm2"), *layer(f"{torch}.conv2", f"{path}/conv2")]
    return (*parts, *layer(f"{torch}.conv_shortcut", f"{path}/conv_shortcut"))


def _transformer(torch: str, path: str) -> NameRows:
    block, ours = f"{torch}.transformer_blocks.{{k}}", f"{path}/blocks"
    rows = [*norm(f"{torch}.norm", f"{path}/norm"), *layer(f"{torch}.proj_in", f"{path}/proj_in")]
    for i, name in enumerate("qkv"):
        rows.append((f"{block}.attn1.to_{name}.weight", f"{ours}/attn1/qkv/kernel", KERNEL, (i, 3)))
    rows += layer(f"{block}.attn1.to_out.0", f"{ours}/attn1/proj")
    rows.append((f"{block}.attn2.to_q.weight", f"{ours}/attn2/q/kernel", KERNEL))
    for i, name in enumerate("kv"):
        rows.append((f"{block}.attn2.to_{name}.weight", f"{ours}/attn2/kv/kernel", KERNEL, (i, 2)))
    rows += layer(f"{block}.attn2.to_out.0", f"{ours}/attn2/proj")
    for i in (1, 2, 3):
        rows += norm(f"{block}.norm{i}", f"{ours}/norm{i}")
    rows += [*layer(f"{block}.ff.net.0.proj", f"{ours}/ff/fc1"), *layer(f"{block}.ff.net.2", f"{ours}/ff/fc2")]
    return (*rows, *layer(f"{torch}.proj_out", f"{path}/proj_out"))


def _level(torch: str, path: str) -> NameRows:
    resnets = _resnet(f"{torch}.resnets.{{j}}", f"{path}/resnets/{{j}}")
    return (*resnets, *_transformer(f"{torch}.attentions.{{j}}", f"{path}/attentions/{{j}}"))


TABLE = Table(
    *layer("conv_in", "conv_in"),
    *layer("time_embedding.linear_1", "time_embedding/linear_1"),
    *layer("time_embedding.linear_2", "time_embedding/linear_2"),
    *_level("down_blocks.{i}", "down_blocks/{i}"),
    *layer("down_blocks.{i}.downsamplers.0.conv", "down_blocks/{i}/downsample/conv"),
    *_level("mid_block", "mid_block"),
    *_level("up_blocks.{i}", "up_blocks/{i}"),
    *layer("up_blocks.{i}.upsamplers.0.conv", "up_blocks/{i}/upsample/conv"),
    *norm("conv_norm_out", "conv_norm_out"),
    *layer("conv_out", "conv_out"),
)
NETWORK = Network(UNet, arguments, TABLE)
