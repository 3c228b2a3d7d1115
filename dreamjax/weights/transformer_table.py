"""What the name tables and configs of transformers' encoders have in common."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dreamjax.errors import UserError
from dreamjax.models.layers import ACTIVATIONS
from dreamjax.weights import config_json
from dreamjax.weights.config_json import Arguments, Config
from dreamjax.weights.table import IDENTITY, KERNEL, NameRows, Transform, layer, norm


@dataclass(frozen=True)
class Batched(Transform):
    """PyTorch's tensor has `ones` axes of length 1 in front, as if it were a batch."""

    ones: int = 1

    def to_dreamjax(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(array.shape[self.ones :])

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        return array.reshape((1,) * self.ones + array.shape)

    def torch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (1,) * self.ones + shape


def batched(ones: int) -> Batched:
    """Return the transform of a tensor with `ones` leading axes of length 1."""
    return Batched(IDENTITY.axes, ones)


def attention(query: str, key: str, value: str, out: str, path: str) -> NameRows:
    """Return the rows of attention, whose three projections are thirds of our `qkv`."""
    thirds = [(name, (j, 3)) for j, name in enumerate((query, key, value))]
    return (
        *((f"{name}.weight", f"{path}/qkv/kernel", KERNEL, part) for name, part in thirds),
        *((f"{name}.bias", f"{path}/qkv/bias", IDENTITY, part) for name, part in thirds),
        *layer(out, f"{path}/proj"),
    )


def clip_blocks(model: str) -> NameRows:
    """Return the rows of the blocks of CLIP's text and vision model."""
    block = model + ".encoder.layers.{i}"
    q, k, v, out = (f"{block}.self_attn.{name}_proj" for name in ("q", "k", "v", "out"))
    return (
        *norm(f"{block}.layer_norm1", "blocks/norm1"),
        *attention(q, k, v, out, "blocks/attn"),
        *norm(f"{block}.layer_norm2", "blocks/norm2"),
        *layer(f"{block}.mlp.fc1", "blocks/mlp/fc1"),
        *layer(f"{block}.mlp.fc2", "blocks/mlp/fc2"),
    )


def image_tokens(embeddings: str) -> NameRows:
    """Return the rows of the embeddings of DINOv2 and ViT."""
    return (
        (f"{embeddings}.cls_token", "cls_token", batched(2)),
        (f"{embeddings}.position_embeddings", "pos_embed", batched(1)),
        *layer(f"{embeddings}.patch_embeddings.projection", "patch_embed"),
    )


def bert_attention(block: str) -> NameRows:
    """Return the rows of the attention of DINOv2 and ViT, which has BERT's names in files."""
    q, k, v = (f"{block}.attention.attention.{name}" for name in ("query", "key", "value"))
    return attention(q, k, v, f"{block}.attention.output.dense", "blocks/attn")


# the names of the same tensors in the state_dict of transformers 5
BERT_ALIASES = (
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
)


def read(config: Config, source: str, defaults: Config, fixed: Mapping[str, object]) -> Arguments:
    """Read a config (see `config_json.read`) and check what holds for every encoder.

    Raises UserError for widths that do not fit, an unknown activation, and images that are not square.
    """
    fields = config_json.read(config, source, defaults=defaults, fixed=fixed)
    for name in ("image_size", "patch_size"):
        if name in fields:
            fields[name] = _side(fields[name], name, source)
    width, heads, activation = fields["hidden_size"], fields["num_attention_heads"], fields["hidden_act"]
    if width % heads:
        raise UserError(f"{source}: hidden_size {width} does not divide by num_attention_heads {heads}")
    if activation not in ACTIVATIONS:
        raise UserError(f"{source}: hidden_act is {activation!r}; it must be one of {', '.join(ACTIVATIONS)}")
    if "patch_size" in fields and fields["image_size"] < fields["patch_size"]:
        raise UserError(f"{source}: image_size {fields['image_size']} is less than patch_size {fields['patch_size']}")
    return fields


def _side(value: object, name: str, source: str) -> int:
    """Return a side in pixels, which configs give once or twice (the default is a tuple, so `read` accepts both)."""
    sides = value if isinstance(value, tuple) else (value, value)
    if len(sides) not in (1, 2) or any(type(side) is not int or side < 1 for side in sides) or len(set(sides)) != 1:
        raise UserError(f"{source}: {name} is {value!r}, but it must be one whole number of pixels: images are square")
    return sides[0]


def blocks(fields: Config) -> Arguments:
    """Return the arguments that every encoder's module takes."""
    return {
        "dim": fields["hidden_size"],
        "depth": fields["num_hidden_layers"],
        "heads": fields["num_attention_heads"],
        "activation": fields["hidden_act"],
        "epsilon": fields["layer_norm_eps"],
    }


def image(fields: Config) -> Arguments:
    """Return the further arguments that every vision transformer takes."""
    return {"image": fields["image_size"], "patch": fields["patch_size"], "channels": fields["num_channels"]}


# ------------------------------------------------------------------------------------------------- the halves of CLIP
def clip_half(config: Config, half: str, source: str) -> tuple[Config, bool]:
    """Return (config of the text or vision model, whether it has a projection) from its config.json or that of both.

    A CLIPModel's config nests the two, older ones a second time as `…_config_dict`, which counts where it is there.
    """
    if "text_config" in config or "vision_config" in config:
        nested = config.get(f"{half}_config_dict") or config.get(f"{half}_config") or {}
        if not isinstance(nested, Mapping):
            raise UserError(f"{source}: {half}_config is {nested!r}, but it must hold the fields of a model")
        return {**nested, "projection_dim": config.get("projection_dim", 512)}, True
    return config, (config_json.class_of(config) or "").endswith("WithProjection")


def projection(fields: Config, source: str) -> int:
    """Return the width of the common space; transformers' default where the config does not give it."""
    width = 512 if fields["projection_dim"] is None else fields["projection_dim"]
    if type(width) is not int or width < 1:
        raise UserError(f"{source}: projection_dim is {width!r}, but it must be a whole number of at least 1")
    return width
