"""Name table of DINOv2: transformers' Dinov2Model and Dinov2WithRegistersModel."""

from dreamjax.errors import UserError
from dreamjax.models.dinov2 import DINOv2
from dreamjax.weights import transformer_table
from dreamjax.weights.config_json import ANY, Arguments, Config, class_of
from dreamjax.weights.networks import Network
from dreamjax.weights.table import IDENTITY, PyTree, Table, TensorSlot, layer, norm

_BLOCK = "encoder.layer.{i}"


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


TABLE = _SwigluTable(
    *transformer_table.image_tokens("embeddings"),
    ("embeddings.mask_token", "mask_token", transformer_table.batched(1)),
    ("embeddings.register_tokens", "register_tokens", transformer_table.batched(1)),
    *norm(f"{_BLOCK}.norm1", "blocks/norm1"),
    *transformer_table.bert_attention(_BLOCK),
    (f"{_BLOCK}.layer_scale1.lambda1", "blocks/scale1/scale", IDENTITY),
    *norm(f"{_BLOCK}.norm2", "blocks/norm2"),
    *layer(f"{_BLOCK}.mlp.fc1", "blocks/mlp/fc1"),
    *layer(f"{_BLOCK}.mlp.fc2", "blocks/mlp/fc2"),
    (f"{_BLOCK}.layer_scale2.lambda1", "blocks/scale2/scale", IDENTITY),
    *norm("layernorm", "norm"),
    aliases=transformer_table.BERT_ALIASES,
)


def arguments(config: Config, source: str) -> Arguments:
    """Return the arguments of `DINOv2`. Raise UserError for a config that is not supported."""
    registers = class_of(config) == "Dinov2WithRegistersModel"
    fields = transformer_table.read(
        config,
        source,
        defaults={
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "mlp_ratio": 4.0,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
            "image_size": (224,),
            "patch_size": (16 if registers else 14,),
            "num_channels": 3,
            "qkv_bias": True,
            "layerscale_value": 1.0,
            "use_swiglu_ffn": False,
            **({"num_register_tokens": 4} if registers else {"use_mask_token": True}),
        },
        fixed={
            **dict.fromkeys(("attention_probs_dropout_prob", "hidden_dropout_prob", "drop_path_rate"), ANY),
            **dict.fromkeys(("apply_layernorm", "reshape_hidden_states"), ANY),  # of a backbone
        },
    )
    if registers and not fields["num_register_tokens"]:
        raise UserError(f"{source}: num_register_tokens is 0; a model without registers is a Dinov2Model")
    return {
        **transformer_table.blocks(fields),
        **transformer_table.image(fields),
        "mlp_ratio": fields["mlp_ratio"],
        "swiglu": fields["use_swiglu_ffn"],
        "qkv_bias": fields["qkv_bias"],
        "layer_scale": fields["layerscale_value"],
        "registers": fields.get("num_register_tokens", 0),
        "mask_token": fields.get("use_mask_token", True),
        "resize": "bicubic_antialias" if registers else "bicubic",
    }


NETWORK = Network(DINOv2, arguments, TABLE)
