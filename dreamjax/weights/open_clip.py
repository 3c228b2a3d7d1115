"""The vision transformers of OpenCLIP as its own files have them, such as ViT-H/14 and ViT-bigG/14.

A folder holds open_clip_config.json and the weights of both halves. CLIP's vision transformer is `models.CLIPVision`;
only names differ from the layout of transformers, and what the config says.
"""

from collections.abc import Mapping
from typing import Any

from etils import epath

from dreamjax.errors import UserError
from dreamjax.models.encoders import CLIPVision
from dreamjax.storage import presence, sniffing
from dreamjax.weights import config_json, weight_files
from dreamjax.weights.config_json import ANY, Arguments, Config, class_of
from dreamjax.weights.networks import CLASSES, HALVES, Network
from dreamjax.weights.table import IDENTITY, KERNEL, Table, Tensors, layer, layers

CONFIG = "open_clip_config.json"
FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
TEXT_HALF = (  # regex of its tensors
    r"(transformer|token_embedding|ln_final|text)\..*|positional_embedding|text_projection|logit_scale|logit_bias"
)
_BLOCK = "visual.transformer.resblocks.{i}"
TABLE = Table(
    ("visual.class_embedding", "cls_token", IDENTITY),
    ("visual.positional_embedding", "pos_embed", IDENTITY),
    *layers("visual", "", ("conv1", "patch_embed"), ("ln_pre", "pre_norm"), ("ln_post", "norm")),
    *layer(f"{_BLOCK}.ln_1", "blocks/norm1"),
    (f"{_BLOCK}.attn.in_proj_weight", "blocks/attn/qkv/kernel", KERNEL),
    (f"{_BLOCK}.attn.in_proj_bias", "blocks/attn/qkv/bias", IDENTITY),
    *layers(_BLOCK, "blocks", ("attn.out_proj", "attn.proj"), ("ln_2", "norm2")),
    *layers(_BLOCK, "blocks", ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")),
    ("visual.proj", "projection/kernel", IDENTITY),
    ignored=rf"{TEXT_HALF}|attn_mask",
)
DEFAULTS = {"image_size": 224, "layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16}
PLAIN = {  # other kinds of vision models, and of what follows the blocks
    **{"ls_init_value": (None,), "attentional_pool": (False,), "timm_model_name": (None,), "no_ln_pre": (False,)},
    **{"pool_type": ("tok",), "final_ln_after_pool": (False,), "pos_embed_type": ("learnable",)},
    **{"global_average_pool": (False,), "patch_dropout": ANY, "output_tokens": ANY, "act_kwargs": (None,)},
}


def is_folder(folder: epath.Path) -> bool:
    """Return whether a folder is OpenCLIP's and not, at the same time, one of transformers that can be read."""
    if not presence.exists(folder / CONFIG):
        return False
    other = folder / "config.json"
    return not presence.exists(other) or class_of(sniffing.read_json(other)) not in {*CLASSES, *HALVES}


def arguments(config: Config, source: str) -> Arguments:
    """Return the arguments of `CLIPVision`. Raise UserError for another kind of vision model."""
    model = _part(config, "model_cfg", source)
    vision = _part(model, "vision_cfg", source)
    if isinstance(vision.get("layers"), list):
        raise UserError(f"{source} describes a residual network; name its file of weights in place of the folder")
    fields = config_json.read(vision, f"{source}: vision_cfg", defaults=DEFAULTS, fixed=PLAIN)
    dim, image, patch = fields["width"], fields["image_size"], fields["patch_size"]
    if dim % fields["head_width"]:
        raise UserError(f"{source}: width {dim} does not divide by head_width {fields['head_width']}")
    if image < patch:
        raise UserError(f"{source}: image_size {image} is less than patch_size {patch}")
    both = config_json.read(model, f"{source}: model_cfg", defaults={"embed_dim": 512, "quick_gelu": False})
    return {
        **{"dim": dim, "depth": fields["layers"], "heads": dim // fields["head_width"]},
        **{"hidden": int(dim * fields["mlp_ratio"]), "activation": "quick_gelu" if both["quick_gelu"] else "gelu"},
        **{"image": image, "patch": patch, "channels": 3, "epsilon": 1e-5, "projection": both["embed_dim"]},
    }


def tensors(folder: epath.Path) -> Tensors:
    """Return the weights of a folder. Raise UserError where there are none."""
    name = next((name for name in FILES if presence.exists(folder / name)), None)
    if name is None:
        raise UserError(f"{folder} has no weights of OpenCLIP ({' or '.join(FILES)}); fetch them too")
    return weight_files.open_weights(folder / name)


def _part(config: Config, name: str, source: str) -> Mapping[str, Any]:
    part = config.get(name)
    if not isinstance(part, Mapping):
        raise UserError(f"{source}: {name} is {part!r:.80}, but it must hold the fields of a model")
    return part


NETWORK = Network(CLIPVision, arguments, TABLE)
