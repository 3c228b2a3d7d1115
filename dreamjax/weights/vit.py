"""Name table of ViT: transformers' ViTForImageClassification and ViTModel, in the names of the first.

A ViTModel is assumed to have a pooler, as it has by default; its config.json does not say. Where a file has none, the
error names the missing tensors, and `arguments | {"pooler": 0}` is the model without it.
"""

from collections.abc import Mapping

from dreamjax.errors import UserError
from dreamjax.models.vit import ViT
from dreamjax.weights import transformer_table
from dreamjax.weights.config_json import ANY, Arguments, Config, class_of
from dreamjax.weights.networks import Network
from dreamjax.weights.table import Table, layer, norm

_BLOCK = "vit.encoder.layer.{i}"

TABLE = Table(
    *transformer_table.image_tokens("vit.embeddings"),
    *norm(f"{_BLOCK}.layernorm_before", "blocks/norm1"),
    *transformer_table.bert_attention(_BLOCK),
    *norm(f"{_BLOCK}.layernorm_after", "blocks/norm2"),
    *layer(f"{_BLOCK}.intermediate.dense", "blocks/mlp/fc1"),
    *layer(f"{_BLOCK}.output.dense", "blocks/mlp/fc2"),
    *norm("vit.layernorm", "norm"),
    *layer("vit.pooler.dense", "pooler"),
    *layer("classifier", "classifier"),
    aliases=(
        (r"^(embeddings|encoder|layers|layernorm|pooler)\.", r"vit.\1."),  # a ViTModel
        (r"^vit\.layers\.", "vit.encoder.layer."),
        *transformer_table.BERT_ALIASES,
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    ),
)


def arguments(config: Config, source: str) -> Arguments:
    """Return the arguments of `ViT`. Raise UserError for a config that is not supported."""
    classifies = class_of(config) == "ViTForImageClassification"
    fields = transformer_table.read(
        config,
        source,
        defaults={
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "image_size": (224,),
            "patch_size": (16,),
            "num_channels": 3,
            "qkv_bias": True,
            "pooler_output_size": None,
        },
        fixed={
            **dict.fromkeys(("attention_probs_dropout_prob", "hidden_dropout_prob", "encoder_stride"), ANY),
            "pooler_act": ("tanh",),
        },
    )
    pooler = fields["hidden_size"] if fields["pooler_output_size"] is None else fields["pooler_output_size"]
    if type(pooler) is not int or pooler < 1:
        raise UserError(f"{source}: pooler_output_size is {pooler!r}, but it must be a whole number of at least 1")
    return {
        **transformer_table.blocks(fields),
        **transformer_table.image(fields),
        "hidden": fields["intermediate_size"],
        "qkv_bias": fields["qkv_bias"],
        "classes": _classes(config, source) if classifies else 0,
        "pooler": 0 if classifies else pooler,
    }


def _classes(config: Config, source: str) -> int:
    """Return the number of classes: of their names, 2 where the config has none, or (rarely) `num_labels`."""
    names = config.get("id2label")
    count = len(names) if isinstance(names, Mapping) else config.get("num_labels", 2)
    if type(count) is not int or count < 1:
        raise UserError(f"{source}: the number of classes is {count!r}, but a classifier has at least 1")
    return count


NETWORK = Network(ViT, arguments, TABLE)
