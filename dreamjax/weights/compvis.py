"""Names of Stable Diffusion in its original code (CompVis's latent diffusion) and in diffusers.

    names = unet_names(diffusers_names, layers=2)          # diffusers → CompVis; injective, so it can be inverted
    config = unet_config(shapes, "checkpoint.pth")         # the config.json that the shapes of CompVis's tensors imply

CompVis (Rombach et al. 2022, arXiv 2112.10752) numbers blocks consecutively; diffusers counts levels and layers. With n
residual blocks a level on the way down, a level takes n + 1 numbers in both halves: n blocks and a downsampling, or
n + 1 blocks with an upsampling. Its autoencoder's decoder counts levels from the finest, diffusers' from the coarsest.
"""

import re
from collections.abc import Callable, Iterable, Mapping

from dreamjax.errors import UserError
from dreamjax.typing import JsonDict
from dreamjax.weights.config_json import Config

Shapes = Mapping[str, tuple[int, ...]]

# (diffusers, CompVis) prefixes of names; the rest of a name is the same, or among INSIDE
UNET = (
    ("conv_in", "input_blocks.0.0"),
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("down_blocks.{i}.resnets.{j}", "input_blocks.{down}.0"),
    ("down_blocks.{i}.attentions.{j}", "input_blocks.{down}.1"),
    ("down_blocks.{i}.downsamplers.0.conv", "input_blocks.{behind}.0.op"),
    ("mid_block.resnets.0", "middle_block.0"),
    ("mid_block.attentions.0", "middle_block.1"),
    ("mid_block.resnets.1", "middle_block.2"),
    ("up_blocks.{i}.resnets.{j}", "output_blocks.{up}.0"),
    ("up_blocks.{i}.attentions.{j}", "output_blocks.{up}.1"),
    ("up_blocks.{i}.upsamplers.0.conv", "output_blocks.{last}.{place}.conv"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
)
INSIDE_UNET = (  # of a residual block
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.conv_shortcut\.", ".skip_connection."),
)
VAE = (
    ("encoder.down_blocks.{i}.resnets.{j}", "encoder.down.{i}.block.{j}"),
    ("encoder.down_blocks.{i}.downsamplers.0.conv", "encoder.down.{i}.downsample.conv"),
    ("encoder.mid_block.resnets.0", "encoder.mid.block_1"),
    ("encoder.mid_block.attentions.0", "encoder.mid.attn_1"),
    ("encoder.mid_block.resnets.1", "encoder.mid.block_2"),
    ("encoder.conv_norm_out", "encoder.norm_out"),
    ("decoder.up_blocks.{i}.resnets.{j}", "decoder.up.{finer}.block.{j}"),
    ("decoder.up_blocks.{i}.upsamplers.0.conv", "decoder.up.{finer}.upsample.conv"),
    ("decoder.mid_block.resnets.0", "decoder.mid.block_1"),
    ("decoder.mid_block.attentions.0", "decoder.mid.attn_1"),
    ("decoder.mid_block.resnets.1", "decoder.mid.block_2"),
    ("decoder.conv_norm_out", "decoder.norm_out"),
)
INSIDE_VAE = (
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".proj_out."),
)


def unet_names(names: Iterable[str], layers: int) -> dict[str, str]:
    """Return diffusers' name of each tensor of a U-Net → CompVis's.

    `layers`: residual blocks of a level, on the way down.
    """
    names = list(names)

    def numbers(i: int, j: int) -> dict[str, int]:
        attends = any(name.startswith(f"up_blocks.{i}.attentions.") for name in names)
        level = i * (layers + 1)
        return {
            "down": 1 + level + j,
            "behind": level + layers + 1,
            "up": level + j,
            "last": level + layers,
            "place": 2 if attends else 1,  # behind the transformer, where there is one
        }

    return {name: _renamed(name, UNET, INSIDE_UNET, numbers, r"resnets\.\d+$") for name in names}


def vae_names(names: Iterable[str], levels: int) -> dict[str, str]:
    """Return diffusers' name of each tensor of an autoencoder of `levels` resolutions → CompVis's."""
    return {
        name: _renamed(name, VAE, INSIDE_VAE, lambda i, j: {"finer": levels - 1 - i}, r"(resnets|attentions)\.\d+$")
        for name in names
    }


def _renamed(
    name: str,
    table: tuple[tuple[str, str], ...],
    inside: tuple[tuple[str, str], ...],
    numbers: Callable[[int, int], Mapping[str, int]],
    changes: str,
) -> str:
    """Return CompVis's name; `changes`: a regex of the prefixes after which names differ as in `inside`."""
    for diffusers, compvis in table:
        pattern = re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", re.escape(diffusers))
        if match := re.match(pattern + r"(?=\.)", name):
            given = {key: int(value) for key, value in match.groupdict().items()}
            rest = name[match.end() :]
            for pattern, replacement in inside if re.search(changes, match[0]) else ():
                rest = re.sub("^" + pattern, replacement, rest)
            return compvis.format(**{**given, **numbers(given.get("i", 0), given.get("j", 0))}) + rest
    return name


# ---------------------------------------------------------------------------------------------------- sizes of tensors
def unet_config(shapes: Shapes, source: str, like: Config) -> JsonDict:
    """Return the config.json of the U-Net whose tensors, under CompVis's names, have these shapes.

    `like`: a config with the fields that shapes do not determine (heads, activation, groups). Raises UserError for
    tensors of another network.
    """
    down = sorted(int(m[1]) for name in shapes if (m := re.fullmatch(r"input_blocks\.(\d{1,3})\.0\.op\.weight", name)))
    blocks = [int(m[1]) for name in shapes if (m := re.match(r"input_blocks\.(\d{1,3})\.", name))]
    layers = down[0] - 1 if down else max(blocks, default=0)
    if layers < 1:
        raise UserError(f"{source}: there are no blocks of a U-Net (input_blocks.1.0.…) in it")
    levels = range(len(down) + 1)
    firsts = [1 + i * (layers + 1) for i in levels]
    attends = [f"input_blocks.{first}.1.norm.weight" in shapes for first in firsts]
    up_attends = [f"output_blocks.{i * (layers + 1)}.1.norm.weight" in shapes for i in levels]
    middle = "middle_block.1.transformer_blocks"
    depth = len({m[1] for name in shapes if (m := re.match(rf"{re.escape(middle)}\.(\d{{1,3}})\.", name))})
    return {
        **like,
        "in_channels": _size(shapes, "input_blocks.0.0.weight", 1, source),
        "out_channels": _size(shapes, "out.2.weight", 0, source),
        "block_out_channels": [
            _size(shapes, f"input_blocks.{first}.0.out_layers.3.weight", 0, source) for first in firsts
        ],
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in up_attends],
        "cross_attention_dim": _size(shapes, f"{middle}.0.attn2.to_k.weight", 1, source),
        "transformer_layers_per_block": max(depth, 1),
        "use_linear_projection": len(shapes.get("middle_block.1.proj_in.weight", ())) == 2,
    }


def vae_config(shapes: Shapes, source: str, like: Config) -> JsonDict:
    """Return the config.json of an autoencoder of tensors of these shapes, under CompVis's names; see `unet_config`."""
    blocks = [
        (int(m[1]), int(m[2])) for n in shapes if (m := re.match(r"encoder\.down\.(\d{1,3})\.block\.(\d{1,3})", n))
    ]
    if not blocks:
        raise UserError(f"{source}: there are no blocks of an autoencoder (encoder.down.0.block.0.…) in it")
    levels, layers = max(i for i, _ in blocks) + 1, max(j for _, j in blocks) + 1
    if levels > len(blocks):
        raise UserError(f"{source}: the blocks encoder.down.N are not numbered consecutively")
    return {
        **like,
        "in_channels": _size(shapes, "encoder.conv_in.weight", 1, source),
        "out_channels": _size(shapes, "decoder.conv_out.weight", 0, source),
        "latent_channels": _size(shapes, "decoder.conv_in.weight", 1, source),
        "block_out_channels": [
            _size(shapes, f"encoder.down.{i}.block.0.conv1.weight", 0, source) for i in range(levels)
        ],
        "layers_per_block": layers,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        "mid_block_add_attention": "encoder.mid.attn_1.q.weight" in shapes,
    }


def _size(shapes: Shapes, name: str, axis: int, source: str) -> int:
    """Return one size of one tensor."""
    if name not in shapes:
        raise UserError(f"{source}: {name} is missing, which is needed for the sizes of the network")
    if len(shapes[name]) <= axis or shapes[name][axis] < 1:
        raise UserError(f"{source}: {name} has shape {tuple(shapes[name])}, which is not a shape of this network")
    return int(shapes[name][axis])
