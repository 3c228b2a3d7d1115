"""Name table of CLIP's text model: transformers' CLIPTextModel, …WithProjection, text half of CLIPModel."""

from dreamjax.models.clip import CLIPText
from dreamjax.weights import transformer_table
from dreamjax.weights.config_json import ANY, Arguments, Config
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


def arguments(config: Config, source: str) -> Arguments:
    """Return the arguments of `CLIPText`. Raise UserError for a config that is not supported."""
    config, projects = transformer_table.clip_half(config, "text", source)
    fields = transformer_table.read(
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
        **transformer_table.blocks(fields),
        "vocabulary": fields["vocab_size"],
        "positions": fields["max_position_embeddings"],
        "hidden": fields["intermediate_size"],
        "eos": fields["eos_token_id"],
        "projection": transformer_table.projection(fields, source) if projects else 0,
    }


NETWORK = Network(CLIPText, arguments, TABLE)
