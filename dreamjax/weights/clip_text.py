"""CLIP's text model beside transformers' names: CLIPTextModel, …WithProjection, text half of CLIPModel."""

from collections.abc import Mapping
from typing import Any

from dreamjax.models.clip import CLIPText
from dreamjax.weights import transformer_table
from dreamjax.weights.config_json import ANY
from dreamjax.weights.networks import Network
from dreamjax.weights.table import IDENTITY, KERNEL, Table, norm

TABLE = Table(
    ("text_model.embeddings.token_embedding.weight", "token_embed", IDENTITY),
    ("text_model.embeddings.position_embedding.weight", "pos_embed", IDENTITY),
    *transformer_table.clip_blocks("text_model"),
    *norm("text_model.final_layer_norm", "norm"),
    ("text_projection.weight", "projection/kernel", KERNEL),
    aliases=((r"^(embeddings|encoder|final_layer_norm)\.", r"text_model.\1."),),  # a CLIPTextModel of transformers 5
    ignored=r".*\.position_ids|logit_scale|vision_model\..*|visual_projection\..*",
)


def arguments(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Of `CLIPText`. Raises UserError."""
    config, projects = transformer_table.clip_half(config, "text", source)
    found = transformer_table.read(
        config,
        source,
        defaults={
            "vocab_size": 49408,
            "hidden_size": 512,
            "intermediate_size": 2048,
            "projection_dim": None,
            "num_hidden_layers": 12,
            "num_attention_heads": 8,
            "max_position_embeddings": 77,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
            "eos_token_id": 49407,
        },
        fixed={"attention_dropout": ANY, "bos_token_id": ANY, "pad_token_id": ANY},
    )
    return {
        **transformer_table.blocks(found),
        "vocabulary": found["vocab_size"],
        "positions": found["max_position_embeddings"],
        "hidden": found["intermediate_size"],
        "eos": found["eos_token_id"],
        "projection": transformer_table.projection(found, source) if projects else 0,
    }


NETWORK = Network(CLIPText, arguments, TABLE)
