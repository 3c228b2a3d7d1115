"""Configs and name tables of transformers' encoders: CLIP's text and vision models, DINOv2, ViT."""

from collections.abc import Mapping

from dreamjax.errors import UserError
from dreamjax.models.encoders import CLIPText, CLIPVision, DINOv2, ViT
from dreamjax.weights import config_json
from dreamjax.weights.config_json import ANY, Arguments, Config, class_of
from dreamjax.weights.networks import Network
from dreamjax.weights.table import IDENTITY, NameRows, PyTree, Table, TensorSlot, Transform, fused, layer, layers

ARGUMENTS = {  # field of a config.json → argument of our classes
    **{"hidden_size": "dim", "num_hidden_layers": "depth", "num_attention_heads": "heads", "hidden_act": "activation"},
    **{"layer_norm_eps": "epsilon", "intermediate_size": "hidden", "qkv_bias": "qkv_bias", "mlp_ratio": "mlp_ratio"},
    **{"image_size": "image", "patch_size": "patch", "num_channels": "channels", "vocab_size": "vocabulary"},
    **{"max_position_embeddings": "positions", "eos_token_id": "eos", "use_swiglu_ffn": "swiglu"},
    **{"layerscale_value": "layer_scale"},
}
IMAGES = {  # defaults of every vision model
    **{"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    **{"num_channels": 3, "image_size": (224,)},
}


def _read(
    config: Config, source: str, defaults: Config, fixed: Mapping[str, object]
) -> tuple[dict[str, object], Arguments]:
    """Return (a config's fields, the arguments that follow from them). Raises UserError for sizes that do not fit."""
    fields = config_json.read(config, source, defaults=defaults, fixed=fixed)
    for name in ("image_size", "patch_size"):
        if name in fields:
            fields[name] = _side(fields[name], name, source)
    width, heads = fields["hidden_size"], fields["num_attention_heads"]
    if width % heads:
        raise UserError(f"{source}: hidden_size {width} does not divide by num_attention_heads {heads}")
    config_json.check_activation(fields["hidden_act"], "hidden_act", source)
    if "patch_size" in fields and fields["image_size"] < fields["patch_size"]:
        raise UserError(f"{source}: image_size {fields['image_size']} is less than patch_size {fields['patch_size']}")
    return fields, {ARGUMENTS[name]: value for name, value in fields.items() if name in ARGUMENTS}


def _side(value: object, name: str, source: str) -> int:
    """Return a side in pixels, which configs give once or twice (the default is a tuple, so `read` accepts both)."""
    sides = value if isinstance(value, tuple) else (value, value)
    if len(sides) not in (1, 2) or any(type(side) is not int or side < 1 for side in sides) or len(set(sides)) != 1:
        raise UserError(f"{source}: {name} is {value!r}, but it must be one whole number of pixels: images are square")
    return sides[0]


def _width(value: object, default: object, name: str, source: str) -> int:
    """Return a width, the default where the config does not give it."""
    width = default if value is None else value
    if type(width) is not int or width < 1:
        raise UserError(f"{source}: {name} is {width!r}, but it must be a whole number of at least 1")
    return width


ONCE, TWICE = (Transform(IDENTITY.axes, ones=n) for n in (1, 2))  # of tensors with a batch axis


# -------------------------------------------------------------------------------------------------------------- CLIP
def _clip_blocks(model: str) -> NameRows:
    block = model + ".encoder.layers.{i}"
    return (
        *layer(f"{block}.layer_norm1", "blocks/norm1"),
        *fused([f"{block}.self_attn.{name}_proj" for name in "qkv"], "blocks/attn/qkv"),
        *layers(block, "blocks", ("self_attn.out_proj", "attn.proj"), ("layer_norm2", "norm2"), "mlp.fc1", "mlp.fc2"),
    )


CLIP_TEXT_TABLE = Table(
    ("text_model.embeddings.token_embedding.weight", "token_embed", IDENTITY),
    ("text_model.embeddings.position_embedding.weight", "pos_embed", IDENTITY),
    *_clip_blocks("text_model"),
    *layer("text_model.final_layer_norm", "norm"),
    *layer("text_projection", "projection"),
    aliases=((r"^(embeddings|encoder|final_layer_norm)\.", r"text_model.\1."),),  # a CLIPTextModel of transformers 5
    ignored=r".*\.position_ids|logit_scale|vision_model\..*|visual_projection\..*",
)
CLIP_VISION_TABLE = Table(
    ("vision_model.embeddings.class_embedding", "cls_token", IDENTITY),
    *layer("vision_model.embeddings.patch_embedding", "patch_embed"),
    ("vision_model.embeddings.position_embedding.weight", "pos_embed", IDENTITY),
    *layer("vision_model.pre_layrnorm", "pre_norm"),  # so spelt there
    *_clip_blocks("vision_model"),
    *layer("vision_model.post_layernorm", "norm"),
    *layer("visual_projection", "projection"),
    aliases=((r"^(embeddings|encoder|pre_layrnorm|post_layernorm)\.", r"vision_model.\1."),),  # likewise
    ignored=r".*\.position_ids|logit_scale|text_model\..*|text_projection\..*",
)
CLIP_DEFAULTS = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "projection_dim": None}


def _clip_arguments(config: Config, half: str, source: str, defaults: Config, fixed: Mapping[str, object]) -> Arguments:
    """Return the arguments of the text or vision model, from its config.json or that of both.

    A CLIPModel's config nests the two, older ones a second time as `…_config_dict`, which counts where it is there.
    """
    projects = (class_of(config) or "").endswith("WithProjection")
    if "text_config" in config or "vision_config" in config:
        nested = config.get(f"{half}_config_dict") or config.get(f"{half}_config") or {}
        if not isinstance(nested, Mapping):
            raise UserError(f"{source}: {half}_config is {nested!r}, but it must hold the fields of a model")
        config, projects = {**nested, "projection_dim": config.get("projection_dim", 512)}, True
    fields, arguments = _read(config, source, {**CLIP_DEFAULTS, **defaults}, {"attention_dropout": ANY, **fixed})
    width = _width(fields["projection_dim"], 512, "projection_dim", source) if projects else 0
    return arguments | {"projection": width}


def clip_text_arguments(config: Config, source: str) -> Arguments:
    """Return the arguments of `CLIPText`. Raise UserError for a config that is not supported."""
    defaults = {
        "vocab_size": 49408,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "max_position_embeddings": 77,
        "eos_token_id": 49407,
    }
    return _clip_arguments(config, "text", source, defaults, {"bos_token_id": ANY, "pad_token_id": ANY})


def clip_vision_arguments(config: Config, source: str) -> Arguments:
    """Return the arguments of `CLIPVision`. Raise UserError for a config that is not supported."""
    return _clip_arguments(config, "vision", source, IMAGES | {"intermediate_size": 3072, "patch_size": (32,)}, {})


# --------------------------------------------------------------------------------------------------- DINOv2 and ViT
def _image_tokens(embeddings: str) -> NameRows:
    return (
        (f"{embeddings}.cls_token", "cls_token", TWICE),
        (f"{embeddings}.position_embeddings", "pos_embed", ONCE),
        *layer(f"{embeddings}.patch_embeddings.projection", "patch_embed"),
    )


def _bert_attention(block: str) -> NameRows:
    """Return the rows of an attention that has BERT's names in files."""
    names = [f"{block}.attention.attention.{name}" for name in ("query", "key", "value")]
    return *fused(names, "blocks/attn/qkv"), *layer(f"{block}.attention.output.dense", "blocks/attn/proj")


# the names of the same tensors in the state_dict of transformers 5
BERT_ALIASES = (
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
)


class _SwigluTable(Table):
    """The feed-forward part has other names where it is SwiGLU. As in our `fc1`, the gate comes first."""

    def slots(self, like: PyTree) -> dict[str, TensorSlot]:
        slots, mlp = super().slots(like), like["blocks"]["mlp"]
        if mlp["fc1"]["kernel"].shape[-1] == mlp["fc2"]["kernel"].shape[-2]:
            return slots
        renamed = ((".mlp.fc1.", ".mlp.weights_in."), (".mlp.fc2.", ".mlp.weights_out."))
        for old, new in renamed:
            slots = {name.replace(old, new): slot for name, slot in slots.items()}
        return slots


_BLOCK, _VIT_BLOCK = "encoder.layer.{i}", "vit.encoder.layer.{i}"
DINOV2_TABLE = _SwigluTable(
    *_image_tokens("embeddings"),
    ("embeddings.mask_token", "mask_token", ONCE),
    ("embeddings.register_tokens", "register_tokens", ONCE),
    *layer(f"{_BLOCK}.norm1", "blocks/norm1"),
    *_bert_attention(_BLOCK),
    (f"{_BLOCK}.layer_scale1.lambda1", "blocks/scale1/scale", IDENTITY),
    *layers(_BLOCK, "blocks", "norm2", "mlp.fc1", "mlp.fc2"),
    (f"{_BLOCK}.layer_scale2.lambda1", "blocks/scale2/scale", IDENTITY),
    *layer("layernorm", "norm"),
    aliases=BERT_ALIASES,
)
VIT_TABLE = Table(  # in the names of a ViTForImageClassification
    *_image_tokens("vit.embeddings"),
    *layer(f"{_VIT_BLOCK}.layernorm_before", "blocks/norm1"),
    *_bert_attention(_VIT_BLOCK),
    *layers(_VIT_BLOCK, "blocks", ("layernorm_after", "norm2"), ("intermediate.dense", "mlp.fc1")),
    *layer(f"{_VIT_BLOCK}.output.dense", "blocks/mlp/fc2"),
    *layers("", "", ("vit.layernorm", "norm"), ("vit.pooler.dense", "pooler"), "classifier"),
    aliases=(
        (r"^(embeddings|encoder|layers|layernorm|pooler)\.", r"vit.\1."),  # a ViTModel
        (r"^vit\.layers\.", "vit.encoder.layer."),
        *BERT_ALIASES,
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    ),
)


def dinov2_arguments(config: Config, source: str) -> Arguments:
    """Return the arguments of `DINOv2`. Raise UserError for a config that is not supported."""
    registers = class_of(config) == "Dinov2WithRegistersModel"
    defaults = IMAGES | {
        "mlp_ratio": 4.0,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "patch_size": (16 if registers else 14,),
        "qkv_bias": True,
        "layerscale_value": 1.0,
        "use_swiglu_ffn": False,
        **({"num_register_tokens": 4} if registers else {"use_mask_token": True}),
    }
    unused = ("attention_probs_dropout_prob", "hidden_dropout_prob", "drop_path_rate")
    of_a_backbone = ("apply_layernorm", "reshape_hidden_states")
    fields, arguments = _read(config, source, defaults, dict.fromkeys((*unused, *of_a_backbone), ANY))
    if registers and not fields["num_register_tokens"]:
        raise UserError(f"{source}: num_register_tokens is 0; a model without registers is a Dinov2Model")
    return arguments | {
        "registers": fields.get("num_register_tokens", 0),
        "mask_token": fields.get("use_mask_token", True),
        "resize": "bicubic_antialias" if registers else "bicubic",
    }


def vit_arguments(config: Config, source: str) -> Arguments:
    """Return the arguments of `ViT`. Raise UserError for a config that is not supported.

    A ViTModel is assumed to have a pooler, which its config.json does not say; `arguments | {"pooler": 0}`: without.
    """
    defaults = IMAGES | {
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "patch_size": (16,),
        "qkv_bias": True,
        "pooler_output_size": None,
    }
    unused = ("attention_probs_dropout_prob", "hidden_dropout_prob", "encoder_stride")
    fields, arguments = _read(config, source, defaults, dict.fromkeys(unused, ANY) | {"pooler_act": ("tanh",)})
    pooler = _width(fields["pooler_output_size"], fields["hidden_size"], "pooler_output_size", source)
    if class_of(config) != "ViTForImageClassification":
        return arguments | {"classes": 0, "pooler": pooler}
    names = config.get("id2label")
    classes = len(names) if isinstance(names, Mapping) else config.get("num_labels", 2)
    if type(classes) is not int or classes < 1:
        raise UserError(f"{source}: the number of classes is {classes!r}, but a classifier has at least 1")
    return arguments | {"classes": classes, "pooler": 0}


CLIP_TEXT = Network(CLIPText, clip_text_arguments, CLIP_TEXT_TABLE)
CLIP_VISION = Network(CLIPVision, clip_vision_arguments, CLIP_VISION_TABLE)
DINOV2 = Network(DINOv2, dinov2_arguments, DINOV2_TABLE)
VIT = Network(ViT, vit_arguments, VIT_TABLE)
