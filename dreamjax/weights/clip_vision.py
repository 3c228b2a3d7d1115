"""Name table of CLIP's vision model: transformers' CLIPVisionModel, …WithProjection, vision half of CLIPModel."""

from dreamjax.models.clip import CLIPVision
from dreamjax.weights import transformer_table
from dreamjax.weights.config_json import ANY, Arguments, Config
from dreamjax.weights.networks import Network
from dreamjax.weights.table import IDENTITY, KERNEL, Table, norm

TABLE = Table(
    ("vision_model.embeddings.class_embedding", "cls_token", IDENTITY),
    ("vision_model.embeddings.patch_embedding.weight", "patch_embed/kernel", KERNEL),
    ("vision_model.embeddings.position_embedding.weight", "pos_embed", IDENTITY),
    *norm("vision_model.pre_layrnorm", "pre_norm"),  # so spelt there
    *transformer_table.clip_blocks("vision_model"),
    *norm("vision_model.post_layernorm", "norm"),
    ("visual_projection.weight", "projection/kernel", KERNEL),
    aliases=((r"^(embeddings|encoder|pre_layrnorm|post_layernorm)\.", r"vision_model.\1."),),  # as clip_text
    ignored=r".*\.position_ids|logit_scale|text_model\..*|text_projection\..*",
)


def arguments(config: Config, source: str) -> Arguments:
    """Return the arguments of `CLIPVision`. Raise UserError for a config that is not supported."""
    config, projects = transformer_table.clip_half(config, "vision", source)
    fields = transformer_table.read(
        config,
        source,
        defaults={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "projection_dim": None,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "num_channels": 3,
            "image_size": (224,),
            "patch_size": (32,),
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
        },
        fixed={"attention_dropout": ANY},
    )
    return {
        **transformer_table.blocks(fields),
        **transformer_table.image(fields),
        "hidden": fields["intermediate_size"],
        "projection": transformer_table.projection(fields, source) if projects else 0,
    }


NETWORK = Network(CLIPVision, arguments, TABLE)
